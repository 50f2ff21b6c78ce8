"""What is pushed, received by an HTTP server that decodes it with OpenTelemetry's own message classes."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from kncore.telemetry.metrics import Distribution, Metric, Registry
from kncore.telemetry.otlp import SPANS, Push, Target
from kncore.telemetry.traces import Part, Tracer
from tests.otlp import Collector

DEPTH = Metric("kn.serving.queue.depth", "gauge", "{request}", "Depth.")
REFUSED = Metric("torpor.refused", "counter", "{request}", "Refused.", ("reason",))
DURATION = Metric("kn.d", "histogram", "s", "d", ("http.response.status_code", "kn.route.tag"), (0.1, 1.0))


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with Collector() as made:
        yield made


def registry() -> Registry:
    made = Registry({"service.name": "hello", "k8s.pod.name": "p"})
    seen = Distribution(DURATION.buckets)
    for value in (0.05, 0.5, 5.0):
        seen.observe(value)
    made.add(lambda: [(DEPTH, (), 3.0), (REFUSED, ("full",), 2.0), (DURATION, ("200", ""), seen)])
    return made


async def test_metrics_arrive_as_they_are(collector: Collector) -> None:
    push = Push(registry(), metrics=Target(endpoint=collector.url))
    await push.flush(5.0)
    [request] = collector.metrics
    assert isinstance(request, ExportMetricsServiceRequest)
    [resource] = request.resource_metrics
    assert {a.key: a.value.string_value for a in resource.resource.attributes} == {
        "service.name": "hello",
        "k8s.pod.name": "p",
    }
    [scope] = resource.scope_metrics
    depth, refused, duration = scope.metrics
    assert (depth.name, depth.unit, depth.gauge.data_points[0].as_double) == ("kn.serving.queue.depth", "{request}", 3)
    assert refused.sum.is_monotonic
    assert refused.sum.data_points[0].as_double == 2
    [point] = duration.histogram.data_points
    assert [(a.key, a.value.int_value) for a in point.attributes] == [("http.response.status_code", 200)]
    assert (list(point.bucket_counts), list(point.explicit_bounds)) == ([1, 1, 1], [0.1, 1.0])
    assert (point.count, point.sum, point.HasField("min")) == (3, 5.55, False)
    assert point.start_time_unix_nano < point.time_unix_nano
    assert push.statistics().pushed == 1


async def test_spans_arrive_nested(collector: Collector) -> None:
    push = Push(Registry({"service.name": "hello"}), traces=Target(endpoint=collector.url + "/v1/traces"))
    tracer = Tracer(1.0, push.put)
    trace = tracer.begin(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    inner = Part("kn.queueproxy.proxy", 1.0, 2.5, {"http.response.status_code": 502}, "connection refused")
    tracer.finish(trace, [Part("queue", 1.0, 3.0), inner])
    await push.flush(5.0)
    [request] = collector.traces
    assert isinstance(request, ExportTraceServiceRequest)
    outer, second = request.resource_spans[0].scope_spans[0].spans
    assert (outer.name, outer.kind, outer.parent_span_id.hex()) == ("queue", 2, "00f067aa0ba902b7")
    assert (second.name, second.parent_span_id, second.status.code) == ("kn.queueproxy.proxy", outer.span_id, 2)
    assert second.trace_id.hex() == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert second.end_time_unix_nano - second.start_time_unix_nano == 1_500_000_000
    assert second.attributes[0].value.int_value == 502
    assert push.statistics().kept == 0


async def test_pushes_again_and_again_and_when_a_batch_is_full(collector: Collector) -> None:
    push = Push(
        registry(), metrics=Target(endpoint=collector.url), interval=0.05, traces=Target(endpoint=collector.url)
    )
    tracer = Tracer(1.0, push.put)
    running = asyncio.ensure_future(push.run())
    for _ in range(600):
        tracer.finish(tracer.begin(b""), [Part("queue", 1.0, 2.0)])
    async with asyncio.timeout(10):
        while len(collector.metrics) < 2 or not collector.traces:  # noqa: ASYNC110  # the collector is a server
            await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_collector_that_is_not_there_costs_one_line(caplog: pytest.LogCaptureFixture) -> None:
    async with Collector() as collector:
        url = collector.url
    push = Push(registry(), metrics=Target(endpoint=url), traces=Target(endpoint=url))
    tracer = Tracer(1.0, push.put)
    for _ in range(SPANS + 10):
        tracer.finish(tracer.begin(b""), [Part("queue", 1.0, 2.0)])
    assert (push.statistics().kept, push.statistics().dropped) == (SPANS, 10)
    await push.flush(0.5)
    await push.flush(0.5)
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("kncore")]
    assert set(lines) <= {"telemetry not pushed", "telemetry not flushed in time"}
    assert lines.count("telemetry not pushed") <= 1


async def test_a_library_that_is_missing_is_named(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for protocol, missing, wanted in (
        ("grpc", "opentelemetry.exporter.otlp.proto.grpc.metric_exporter", "opentelemetry-exporter-otlp-proto-grpc"),
        ("http/protobuf", "opentelemetry.exporter.otlp.proto.http.metric_exporter", "torpor[otlp]"),
    ):
        monkeypatch.setitem(sys.modules, missing, None)
        caplog.clear()
        push = Push(registry(), metrics=Target(protocol=protocol, endpoint="http://127.0.0.1:1"))
        await push.flush(5.0)
        await push.flush(5.0)
        [record] = caplog.records
        assert record.getMessage() == "telemetry not pushed"
        assert record.error.endswith(f"install {wanted}")
        assert push.statistics().failed == 2


async def test_spans_as_lines(capsys: pytest.CaptureFixture[str]) -> None:
    push = Push(Registry({"service.name": "hello"}), traces=Target(protocol="stdout"))
    Tracer(1.0, push.put).finish(Tracer(1.0, push.put).begin(b""), [Part("queue", 1.0, 2.0, {"a": 1})])
    line = json.loads(capsys.readouterr().out)
    assert (line["name"], line["parent"], line["attributes"]) == ("queue", "0" * 16, {"a": 1})
    assert line["resource"] == {"service.name": "hello"}


@pytest.mark.parametrize(
    ("endpoint", "protocol", "url"),
    [
        ("http://c:4318", "http/protobuf", "http://c:4318/v1/metrics"),
        ("http://c:4318/", "http/protobuf", "http://c:4318/v1/metrics"),
        ("http://c:9090/api/v1/otlp/v1/metrics", "http/protobuf", "http://c:9090/api/v1/otlp/v1/metrics"),
        ("c:4318", "http/protobuf", "http://c:4318/v1/metrics"),
        ("https://c:4317", "grpc", "https://c:4317"),
    ],
)
def test_where_to(endpoint: str, protocol: str, url: str) -> None:
    assert Target(protocol=protocol, endpoint=endpoint).url("metrics") == url


def test_opentelemetry_s_environment_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://elsewhere")
    assert Target(endpoint="http://c:4318").url("traces") is None
    assert Target(endpoint="http://c:4318").url("metrics") == "http://c:4318/v1/metrics"
