from collections import Counter

import pytest

from kncore.telemetry.exposition import render
from kncore.telemetry.metrics import Distribution, Registry
from kncore.telemetry.requests import Key, Requests, route_tag


def key(method: bytes = b"GET", status: int = 200, protocol: str = "HTTP/1.1", tag: bytes = b"kn:disabled") -> Key:
    return method, status, b"http", protocol, tag


def table(requests: Requests) -> dict[str, dict[tuple[str, ...], tuple[int, float]]]:
    found: dict[str, dict[tuple[str, ...], tuple[int, float]]] = {}
    for metric, values, seen in (*requests.server(), *requests.invocation()):
        assert isinstance(seen, Distribution)
        assert len(values) == len(metric.attributes)
        assert values not in found.setdefault(metric.name, {}), "two points with the same attributes"
        found[metric.name][values] = (seen.count, round(seen.sum, 6))
    return found


def test_one_record_is_in_every_metric() -> None:
    requests = Requests()
    requests.record(key(), 0.5, 0.2, 10, 1000)
    requests.record(key(), 0.1, 0.1, 0, 0)
    requests.record(key(status=503), 3.0, -1.0, 0, 27)
    ok = ("GET", "200", "http", "1.1", "kn:disabled")
    refused = ("GET", "503", "http", "1.1", "kn:disabled")
    assert table(requests) == {
        "http.server.request.duration": {ok: (2, 0.6), refused: (1, 3.0)},
        "http.server.request.body.size": {ok: (2, 10), refused: (1, 0)},
        "http.server.response.body.size": {ok: (2, 1000), refused: (1, 27)},
        "torpor.request.queue.duration": {("kn:disabled",): (2, 0.3)},
        "kn.serving.invocation.duration": {("200",): (2, 0.3)},
        "http.client.request.duration": {("GET", "200"): (2, 0.3)},
    }


def test_buckets() -> None:
    requests = Requests()
    requests.record(key(), 0.005, 0.004, 0, 5)
    requests.record(key(), 11.0, 10.0, 1, 10_001)
    counts = {metric.name: seen.counts for metric, _, seen in requests.server() if isinstance(seen, Distribution)}
    assert counts["http.server.request.duration"] == [1, *[0] * 13, 1]
    assert counts["http.server.request.body.size"] == [1, 1, *[0] * 14]
    assert counts["http.server.response.body.size"] == [0, 1, *[0] * 13, 1]


@pytest.mark.parametrize(("protocol", "shown"), [("HTTP/1.0", "1.0"), ("HTTP/1.1", "1.1"), ("HTTP/2.0", "2")])
def test_versions_are_spelled_as_opentelemetry_does(protocol: str, shown: str) -> None:
    requests = Requests()
    requests.record(key(protocol=protocol), 1, 1, 0, 0)
    [values] = table(requests)["http.server.request.duration"]
    assert values[3] == shown


def test_made_up_methods_share_a_series() -> None:
    requests = Requests()
    for method in (b"BREW", b"_OTHER", b"WHEN", b"BREW"):
        requests.record(key(method), 1, 1, 0, 0)
    assert table(requests)["http.server.request.duration"] == {("_OTHER", "200", "http", "1.1", "kn:disabled"): (4, 4)}


def test_clients_cannot_fill_memory_with_attributes() -> None:
    requests = Requests(limit=10)
    for i in range(1000):
        requests.record(key(b"M%d" % i, tag=b"t%d" % i), 1, 1, 0, 0)
    found = table(requests)["http.server.request.duration"]
    assert requests.statistics()["series"] <= 11
    assert sum(count for count, _ in found.values()) == 1000
    assert found["", "", "", "", "kn:overflow"][0] == 1000 - sum(c for k, (c, _) in found.items() if k[0])


def test_attributes_of_the_revision_come_first() -> None:
    requests = Requests(("kn.revision.name",), ("hello-1",))
    requests.record(key(), 1, 0.5, 0, 0)
    names = Counter(metric.attributes[0] for metric, _, _ in requests.server())
    assert names == {"kn.revision.name": 4}
    registry = Registry()
    registry.add(requests.server)
    assert b'torpor_request_queue_duration_seconds_count{kn_revision_name="hello-1",' in render(registry)[1]


@pytest.mark.parametrize(
    ("tag", "default", "told"),
    [
        (b"", b"", b"kn:disabled"),
        (b"", b"true", b"kn:default"),
        (b"", b"false", b"kn:default"),
        (b"blue", b"", b"blue"),
        (b"blue", b"false", b"blue"),
        (b"blue", b"true", b"kn:undefined"),
    ],
)
def test_route_tags(tag: bytes, default: bytes, told: bytes) -> None:
    assert route_tag(tag, default) == told
