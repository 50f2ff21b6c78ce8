import pytest

from kncore.telemetry.metrics import Histogram, Registry, Sample, prometheus_name


def render(registry: Registry) -> list[str]:
    content_type, body = registry.render("text/plain")
    assert content_type.startswith("text/plain")
    return [line for line in body.decode().splitlines() if not line.startswith("#")]


def test_sources_are_read_when_scraped() -> None:
    registry = Registry(process=False)
    pods = {"hello": 1}
    registry.add(
        lambda: [Sample("kn.revision.pods.desired", count, {"kn.revision.name": name}) for name, count in pods.items()]
    )
    registry.add(lambda: [Sample("kn.breaker.refused", 2, kind="counter")])
    assert render(registry) == [
        'kn_revision_pods_desired{kn_revision_name="hello"} 1.0',
        "kn_breaker_refused_total 2.0",
    ]
    pods["hello"] = 3
    assert render(registry)[0].endswith(" 3.0")


def test_histograms_count_cumulatively() -> None:
    registry = Registry(process=False)
    histogram = registry.histogram(Histogram("kn.request.duration", "d", ["code"], buckets=(0.1, 1)))
    for value in (0.1, 0.5, 7):
        histogram.observe(value, "200")
    assert render(registry) == [
        'kn_request_duration_seconds_bucket{code="200",le="0.1"} 1.0',
        'kn_request_duration_seconds_bucket{code="200",le="1"} 2.0',
        'kn_request_duration_seconds_bucket{code="200",le="+Inf"} 3.0',
        'kn_request_duration_seconds_count{code="200"} 3.0',
        'kn_request_duration_seconds_sum{code="200"} 7.6',
    ]
    histogram.forget("200")
    assert render(registry) == []


def test_clients_cannot_fill_memory_with_attributes() -> None:
    histogram = Histogram("h", "h", ["path"], limit=2)
    for i in range(100):
        histogram.observe(0, f"/{i}")
    series = {attributes: buckets[-1][1] for attributes, buckets, _ in histogram.series()}
    assert series == {("/0",): 1, ("/1",): 1, ("",): 98}


def test_attributes_must_fit() -> None:
    with pytest.raises(ValueError, match="wants 1 attributes"):
        Histogram("h", "h", ["path"]).observe(0)


def test_names_are_spelled_as_prometheus_wants_them() -> None:
    assert prometheus_name("http.server.request.duration", "seconds") == "http_server_request_duration_seconds"
    assert prometheus_name("up_seconds", "seconds") == "up_seconds"


def test_openmetrics_is_spoken_when_asked() -> None:
    registry = Registry()
    content_type, body = registry.render("application/openmetrics-text; version=1.0.0")
    assert "openmetrics" in content_type
    assert body.endswith(b"# EOF\n")
    assert b"process_resident_memory_bytes" in body
