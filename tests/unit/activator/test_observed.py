"""What is known about a request when it is over, and the receipt its client gets if it asks."""

import re
import time

import pytest

from activator import observed
from activator.observed import ATTRIBUTES, Observer, wants_timing
from activator.telemetry import ABANDONED, COLD_STARTS, METRICS, ColdStarts
from activator.wakes import Wake
from kncore.net.requestlog import Identity
from kncore.telemetry.metrics import Distribution
from kncore.telemetry.traces import Span, Tracer

HOST = "hello.default.localhost"
ASKS = f"GET /x?y HTTP/1.1\r\nHost: {HOST}\r\nPrefer: server-timing\r\n\r\n".encode()
GET = f"GET /x?y HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
INGRESS = {
    "metadata": {"namespace": "default", "name": "hello"},
    "spec": {
        "rules": [{"hosts": [HOST], "http": {"paths": [{"splits": [{"serviceName": "hello-1", "percent": 100}]}]}}]
    },
}
TAGGED = {
    "metadata": {"namespace": "default", "name": "tagged"},
    "spec": {
        "rules": [
            {
                "hosts": ["blue." + HOST],
                "http": {
                    "paths": [
                        {
                            "appendHeaders": {"Knative-Serving-Tag": "blue"},
                            "splits": [{"serviceName": "hello-1", "percent": 100}],
                        }
                    ]
                },
            }
        ]
    },
}


@pytest.fixture
def routed(world):
    world.proxy.table.put(INGRESS)
    world.proxy.table.put(TAGGED)
    return world


class Clock:
    """Both clocks of a receipt, moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(observed, "perf_counter", lambda: self.now)
        monkeypatch.setattr(time, "time", lambda: self.now + 1.7e9)
        monkeypatch.setattr("activator.app.perf_counter", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def receipt(exchange) -> dict[str, float]:
    [line] = [line for line in exchange.lines if line.startswith(b"Server-Timing: ")]
    found = {name: float(ms) for name, ms in re.findall(r"(\w+);dur=([0-9.]+)", line.decode())}
    assert list(found) == ["route", "queue", "wake", "connect", "app"]
    return found


def test_a_warm_request_spends_its_time_in_the_app(routed, clock: Clock) -> None:
    [pod] = routed.pods(routed.revision(), "10.0.1.1:8012")
    exchange = routed.outside(ASKS)
    clock.now += 0.25
    pod.answer()
    assert receipt(exchange) == {"route": 0, "queue": 0, "wake": 0, "connect": 0, "app": 250}


def test_a_request_that_waits_for_its_turn_was_queued(routed, clock: Clock) -> None:
    [pod] = routed.pods(routed.revision(container_concurrency=1), "10.0.1.1:8012")
    routed.outside(GET)
    exchange = routed.outside(ASKS)
    clock.now += 0.5
    pod.answer()
    clock.now += 0.1
    pod.answer()
    assert receipt(exchange) == {"route": 0, "queue": 500, "wake": 0, "connect": 0, "app": 100}


def test_a_cold_start_says_which_part_took_how_long(routed, clock: Clock) -> None:
    revision = routed.revision()
    first, second = routed.outside(ASKS), routed.outside(ASKS)
    clock.now += 0.3
    revision.appeared("10.0.1.1:8012")
    clock.now += 0.05
    [pod] = routed.pods(revision, "10.0.1.1:8012")
    clock.now += 0.02
    pod.answer()
    pod.answer()
    for exchange in (first, second):
        assert receipt(exchange) == {"route": 0, "queue": 0, "wake": 350, "connect": 0, "app": 20}
        assert b'wake;dur=350.0;desc="start 300.0, probe 50.0"' in b"".join(exchange.lines)


def test_connecting_counts_every_attempt(routed, clock: Clock) -> None:
    one, two = routed.pods(routed.revision(), "10.0.1.1:8012", "10.0.1.2:8012")
    exchange = routed.outside(ASKS)
    clock.now += 0.1
    (one if one.sent else two).refuse()
    clock.now += 0.2
    (one if one.sent else two).answer()
    assert receipt(exchange) == {"route": 0, "queue": 0, "wake": 0, "connect": 100, "app": 200}


def test_nobody_gets_a_receipt_who_did_not_ask(routed) -> None:
    [pod] = routed.pods(routed.revision(), "10.0.1.1:8012")
    for head in (GET, GET.replace(b"Host", b"Prefer: respond-async\r\nHost")):
        exchange = routed.outside(head)
        pod.answer()
        assert not [line for line in exchange.lines if b"Timing" in line]


@pytest.mark.parametrize(
    ("prefer", "wanted"),
    [
        (b"server-timing", True),
        (b"Server-Timing", True),
        (b"respond-async, server-timing; x=1 ,wait=3", True),
        (b"server-timing2", False),
        (b"respond-async", False),
        (b"", False),
    ],
)
def test_how_it_is_asked_for(prefer: bytes, wanted: bool) -> None:
    assert wants_timing(prefer) is wanted


# -- observers --------------------------------------------------------------------------------------------------------


def table(observer: Observer) -> dict[tuple[str, ...], int]:
    """Attributes -> requests."""
    return {
        values: seen.count
        for known in observer.known.values()
        for metric, values, seen in known.requests.server()
        if metric.name == "http.server.request.duration" and isinstance(seen, Distribution)
    }


def test_requests_are_counted_by_revision_status_and_tag(routed) -> None:
    observer = routed.proxy.observer = Observer(measure=True)
    revision = routed.revision(service="hello", configuration="hello", container_concurrency=1)
    [pod] = routed.pods(revision, "10.0.1.1:8012")
    routed.outside(GET)
    pod.answer()
    routed.outside(GET)
    pod.hang_up(answered=True)
    routed.pods(revision, "10.0.1.1:8012")
    routed.outside(GET.replace(b"Host: ", b"Host: blue."))
    pod.answer()
    routed.outside(GET.replace(b"Host", b"Knative-Serving-Tag: green\r\nHost"))
    pod.answer()
    owner = ("hello", "hello", "hello-1", "default")
    assert table(observer) == {
        (*owner, "GET", "200", "http", "1.1", "kn:disabled"): 1,
        (*owner, "GET", "502", "http", "1.1", "kn:disabled"): 1,
        (*owner, "GET", "200", "http", "1.1", "blue"): 1,
        (*owner, "GET", "200", "http", "1.1", "green"): 1,
    }
    observer.forget(())
    assert table(observer) == {}


def test_a_revision_that_changes_keeps_its_counts(routed) -> None:
    observer = routed.proxy.observer = Observer(measure=True)
    revision = routed.revision(service="hello")
    [pod] = routed.pods(revision, "10.0.1.1:8012")
    for limit in (1, 2):
        revision.change(type(revision.settings)(service="hello", container_concurrency=limit))
        routed.outside(GET)
        pod.answer()
    assert sum(table(observer).values()) == 2


def test_lines_of_the_access_log(routed) -> None:
    lines: list[tuple[int, Identity, float]] = []
    routed.proxy.observer = Observer(log=lambda exchange, who, took: lines.append((exchange.status, who, took)))
    [pod] = routed.pods(routed.revision(service="hello", configuration="conf"), "10.0.1.1:8012")
    routed.outside(GET)
    pod.answer()
    [(status, who, took)] = lines
    assert (status, took >= 0) == (200, True)
    assert who == Identity(name="hello-1", namespace="default", service="hello", configuration="conf")


PARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_traces_go_on_through_us(routed) -> None:
    spans: list[Span] = []
    routed.proxy.observer = Observer(tracer=Tracer(0.5, spans.extend))
    [pod] = routed.pods(routed.revision(service="hello"), "10.0.1.1:8012")
    routed.outside(GET.replace(b"Host", b"Traceparent: " + PARENT + b"\r\nBaggage: a=b\r\nHost"))
    [sent] = pod.sent
    head = [*sent.head.passing(sent.drop), *sent.add]
    [line] = [line for line in head if line.lower().startswith(b"traceparent")]
    assert b"Baggage: a=b" in head
    pod.answer()
    handle, proxy, wait = spans
    assert [span.part.name for span in spans] == ["handle", "activator_proxy", "throttler_try"]
    assert line == b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-%016x-01" % proxy.id
    assert (handle.parent, proxy.parent, wait.parent) == (0x00F067AA0BA902B7, handle.id, handle.id)
    assert dict(handle.part.attributes) | {"kn.revision.name": "hello-1", "http.response.status_code": 200} == dict(
        handle.part.attributes
    )
    assert handle.part.start <= proxy.part.start <= proxy.part.end <= handle.part.end


def test_a_trace_that_is_not_sampled_goes_on_too_and_leaves_nothing(routed) -> None:
    spans: list[Span] = []
    routed.proxy.observer = Observer(tracer=Tracer(0.5, spans.extend))
    [pod] = routed.pods(routed.revision(), "10.0.1.1:8012")
    routed.outside(GET.replace(b"Host", b"Traceparent: " + PARENT[:-1] + b"0\r\nHost"))
    assert any(
        re.match(rb"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-\w{16}-00$", line) for line in pod.sent[0].add
    )
    pod.answer()
    assert spans == []


def test_without_tracing_trace_headers_pass_untouched_and_none_are_invented(routed) -> None:
    [pod] = routed.pods(routed.revision(), "10.0.1.1:8012")
    routed.outside(GET.replace(b"Host", b"Traceparent: " + PARENT + b"\r\nTracestate: x=y\r\nHost"))
    routed.outside(GET)
    with_, without = ([*sent.head.passing(sent.drop), *sent.add] for sent in pod.sent)
    assert {b"Traceparent: " + PARENT, b"Tracestate: x=y"} <= set(with_)
    assert not [line for line in without if b"trace" in line.lower()]


# -- cold starts ------------------------------------------------------------------------------------------------------


def test_cold_starts_are_timed_by_part() -> None:
    seen = ColdStarts()
    seen.ended(Wake("ns", "a", requested=10.0, endpoint=10.5, probed=10.6, first_byte=11.0))
    seen.ended(Wake("ns", "a", requested=10.0, probed=10.25, first_byte=10.5))  # its pod was there already
    seen.ended(Wake("ns", "a", requested=10.0, endpoint=10.5))
    found = {
        (metric.name, values[2:]): (value.count, round(value.sum, 6)) if isinstance(value, Distribution) else value
        for metric, values, value in seen.points()
    }
    assert found == {
        (COLD_STARTS.name, ("total",)): (2, 1.5),
        (COLD_STARTS.name, ("start",)): (1, 0.5),
        (COLD_STARTS.name, ("probe",)): (2, 0.35),
        (COLD_STARTS.name, ("app",)): (2, 0.65),
        (ABANDONED.name, ()): 1,
    }
    seen.forget(lambda key: key == ("ns", "a"))
    assert list(seen.points()) == []


def test_every_wake_up_is_told_once(routed) -> None:
    ended: list[Wake] = []
    routed.wakes.on_end = ended.append
    revision = routed.revision()
    routed.outside(GET)
    routed.outside(GET)
    [pod] = routed.pods(revision, "10.0.1.1:8012")
    pod.answer()
    pod.answer()
    [wake] = ended
    assert wake.first_byte is not None


def test_metrics_are_declared_once_and_well() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert (metric.kind == "histogram") == bool(metric.buckets), metric.name
        assert metric.help.endswith("."), metric.name
    assert METRICS[0].attributes[:4] == ATTRIBUTES
