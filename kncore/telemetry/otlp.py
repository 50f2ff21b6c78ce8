"""Metrics and spans pushed to an OpenTelemetry collector, through OpenTelemetry's own exporters.

Counting and tracing are ours (`metrics`, `traces`); here their results are turned into the SDK's data classes and given
to its exporter, in a thread, because the exporter blocks. The libraries are the optional extra `otlp`, and are imported
in that thread when the first push is due: a process that pushes nothing never loads them (they are 20 MB).

    push = Push(registry, metrics=Target(endpoint="http://collector:4318"), interval=60.0)
    tracer = Tracer(0.1, push.put)
    ... push.run() ...                  # a part of the process
    await push.flush(10.0)              # at its end

What is bounded: spans kept for the next push (`SPANS`, the rest is counted as dropped), each push in time. A collector
that is not there costs one warning, and another when it is back. `stdout` as the protocol of traces writes each span as
a line of JSON instead.
"""

import asyncio
import importlib
import json
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from kncore.telemetry.metrics import Distribution, Family, Metric, Registry
from kncore.telemetry.traces import Span

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricExporter, MetricsData
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

__all__ = ["INTERVAL", "SPANS", "Push", "Statistics", "Target"]

log = logging.getLogger(__name__)

INTERVAL: Final = 60.0
"""Seconds between pushes of metrics if none are configured; OpenTelemetry's default."""
SPAN_INTERVAL: Final = 5.0
"""Seconds between pushes of spans; the default of OpenTelemetry's batch processor."""
SPANS: Final = 2048
"""Spans kept for the next push; the same."""
BATCH: Final = 512
TIMEOUT: Final = 10.0
"""One push, repetitions included, seconds."""
SCOPE: Final = "torpor"

Snapshot = list[tuple[Metric, list[tuple[tuple[str, ...], float | tuple[list[int], float]]]]]


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where to push."""

    protocol: str = "http/protobuf"
    """`http/protobuf`, `grpc` (needs opentelemetry-exporter-otlp-proto-grpc) or, for spans, `stdout`."""
    endpoint: str = ""
    """URL; without a path the usual one is used. OpenTelemetry's own environment variables go before it."""

    def url(self, signal: str) -> str | None:
        """For `metrics` or `traces`; None to let the environment decide."""
        if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or os.environ.get(
            f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"
        ):
            return None
        url = self.endpoint if "://" in self.endpoint else f"http://{self.endpoint}"
        if self.protocol == "grpc" or urlsplit(url).path not in ("", "/"):
            return url
        return f"{url.rstrip('/')}/v1/{signal}"


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Counted since the start, but for `kept`."""

    pushed: int
    """Pushes that a collector took."""
    failed: int
    kept: int
    """Spans that wait for the next push."""
    dropped: int
    """Spans lost because too many waited, or because their push failed."""


class Push:
    """Pushes what a process measured.

    Args:
        registry: source of the metrics, and of the resource of both.
        metrics: None to push none.
        interval: seconds between pushes of metrics; 0 is the default.
        traces: None to push none.
    """

    name = "telemetry push"

    def __init__(
        self,
        registry: Registry,
        *,
        metrics: Target | None = None,
        interval: float = 0.0,
        traces: Target | None = None,
    ) -> None:
        self._registry = registry
        self._metrics = metrics
        self._interval = interval or INTERVAL
        self._traces = traces
        self._spans: deque[Span] = deque()
        self._full = asyncio.Event()
        self._turn = asyncio.Lock()
        self._exporters: dict[str, Any] = {}
        self._down: set[str] = set()
        self._pushed = self._failed = self._dropped = 0

    def put(self, spans: Sequence[Span]) -> None:
        """Push these soon; the sink of a Tracer."""
        if self._traces is None:
            return
        if self._traces.protocol == "stdout":
            for span in spans:
                sys.stdout.write(json.dumps({"resource": self._registry.resource, **_readable(span)}) + "\n")
            sys.stdout.flush()
            return
        for span in spans:
            if len(self._spans) >= SPANS:
                self._dropped += 1
            else:
                self._spans.append(span)
        if len(self._spans) >= BATCH:
            self._full.set()

    async def run(self) -> None:
        """Push until cancelled."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self._interval
        tracing = self._traces is not None and self._traces.protocol != "stdout"
        while True:
            wait = due - loop.time() if self._metrics is not None else float("inf")
            if tracing:
                wait = min(wait, SPAN_INTERVAL)
            try:
                async with asyncio.timeout(max(wait, 0.0) if wait < float("inf") else None):
                    await self._full.wait()
            except TimeoutError:
                pass
            self._full.clear()
            if self._metrics is not None and loop.time() >= due:
                due = max(due + self._interval, loop.time())
                await self._push_metrics()
            if tracing:
                await self._push_spans()

    async def flush(self, within: float) -> None:
        """Push what is left, for at most so many seconds."""
        try:
            async with asyncio.timeout(within):
                if self._metrics is not None:
                    await self._push_metrics()
                while self._spans:
                    await self._push_spans()
        except TimeoutError:
            log.warning("telemetry not flushed in time", extra={"seconds": within})
            for exporter in self._exporters.values():
                exporter.shutdown()  # ends the pauses between its repetitions, which would hold up the process's end

    def statistics(self) -> Statistics:
        """What was pushed and what was lost."""
        return Statistics(pushed=self._pushed, failed=self._failed, kept=len(self._spans), dropped=self._dropped)

    async def _push_metrics(self) -> None:
        assert self._metrics is not None
        async with self._turn:
            work = self._registry.collecting()
            while True:
                try:
                    next(work)
                except StopIteration as end:
                    families: list[Family] = end.value
                    break
                await asyncio.sleep(0)  # requests go first
            snapshot: Snapshot = [
                (
                    metric,
                    [
                        (attributes, (list(value.counts), value.sum) if isinstance(value, Distribution) else value)
                        for attributes, value in points
                    ],
                )
                for metric, points in families
            ]
            await self._send("metrics", lambda: self._send_metrics(snapshot))

    async def _push_spans(self) -> None:
        if not self._spans:
            return
        async with self._turn:
            batch = [self._spans.popleft() for _ in range(min(len(self._spans), BATCH))]
            if batch and not await self._send("traces", lambda: self._send_spans(batch)):
                self._dropped += len(batch)

    async def _send(self, signal: str, send: Callable[[], bool]) -> bool:
        """Run the exporter in a thread; whether the collector took it."""
        try:
            sent = await asyncio.to_thread(send)
            why = "refused, or not in time"
        except ImportError as exc:
            grpc = "grpc" in (exc.name or "")
            sent, why = False, f"{exc}; install {'opentelemetry-exporter-otlp-proto-grpc' if grpc else 'torpor[otlp]'}"
        except Exception as exc:  # a library of others, at the edge: it must not take the process down
            sent, why = False, str(exc) or type(exc).__name__
        if sent:
            self._pushed += 1
            if signal in self._down:
                self._down.discard(signal)
                log.info("telemetry is pushed again", extra={"signal": signal})
        else:
            self._failed += 1
            if signal not in self._down:
                self._down.add(signal)
                log.warning("telemetry not pushed", extra={"signal": signal, "error": why})
        return sent

    # in the thread ---------------------------------------------------------------------------------------------------

    def _exporter(self, signal: str, kind: str, target: Target) -> Any:
        if signal not in self._exporters:
            # it logs every repetition, and we say once that nobody is there
            logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
            transport = "grpc" if target.protocol == "grpc" else "http"
            single = signal.removesuffix("s")
            module = importlib.import_module(f"opentelemetry.exporter.otlp.proto.{transport}.{single}_exporter")
            self._exporters[signal] = getattr(module, kind)(endpoint=target.url(signal), timeout=TIMEOUT)
        return self._exporters[signal]

    def _send_metrics(self, snapshot: Snapshot) -> bool:
        assert self._metrics is not None
        exporter: MetricExporter = self._exporter("metrics", "OTLPMetricExporter", self._metrics)
        from opentelemetry.sdk.metrics.export import MetricExportResult

        data = _metrics_data(self._registry, snapshot)
        return exporter.export(data, timeout_millis=TIMEOUT * 1000) is MetricExportResult.SUCCESS

    def _send_spans(self, batch: Sequence[Span]) -> bool:
        assert self._traces is not None
        exporter: SpanExporter = self._exporter("traces", "OTLPSpanExporter", self._traces)
        from opentelemetry.sdk.trace.export import SpanExportResult

        resource = _resource(self._registry)
        return exporter.export([_span(span, resource) for span in batch]) is SpanExportResult.SUCCESS


def _resource(registry: Registry) -> "Resource":
    from opentelemetry.sdk.resources import Resource

    return Resource.get_empty().merge(Resource(dict(registry.resource)))


def _metrics_data(registry: Registry, snapshot: Snapshot) -> "MetricsData":
    from opentelemetry.sdk.metrics import export
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    began, now = _nanoseconds(registry.started), time.time_ns()
    made: list[export.Metric] = []
    for metric, points in snapshot:
        data: Any
        cumulative = export.AggregationTemporality.CUMULATIVE
        if metric.kind == "histogram":
            histograms = [
                export.HistogramDataPoint(
                    attributes=_attributes(metric, values),
                    start_time_unix_nano=began,
                    time_unix_nano=now,
                    count=sum(value[0]),
                    sum=value[1],
                    bucket_counts=value[0],
                    explicit_bounds=metric.buckets,
                    min=None,  # type: ignore[arg-type]  # optional in the protocol, and nobody kept it
                    max=None,  # type: ignore[arg-type]
                )
                for values, value in points
                if isinstance(value, tuple)
            ]
            data = export.Histogram(data_points=histograms, aggregation_temporality=cumulative)
        else:
            numbers = [
                export.NumberDataPoint(_attributes(metric, values), began, now, value)
                for values, value in points
                if not isinstance(value, tuple)
            ]
            if metric.kind == "counter":
                data = export.Sum(data_points=numbers, aggregation_temporality=cumulative, is_monotonic=True)
            else:
                data = export.Gauge(data_points=numbers)
        made.append(export.Metric(name=metric.name, description=metric.help, unit=metric.unit, data=data))
    scope = export.ScopeMetrics(scope=InstrumentationScope(SCOPE), metrics=made, schema_url="")
    resource = export.ResourceMetrics(resource=_resource(registry), scope_metrics=[scope], schema_url="")
    return export.MetricsData(resource_metrics=[resource])


def _attributes(metric: Metric, values: Sequence[str]) -> dict[str, str | int]:
    """Those that have a value; status codes are numbers."""
    return {
        name: int(value) if name.endswith("status_code") else value
        for name, value in zip(metric.attributes, values, strict=True)
        if value
    }


def _span(span: Span, resource: "Resource") -> "ReadableSpan":
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

    part, flags = span.part, TraceFlags(TraceFlags.SAMPLED)
    return ReadableSpan(
        name=part.name,
        context=SpanContext(span.trace, span.id, is_remote=False, trace_flags=flags),
        parent=SpanContext(span.trace, span.parent, is_remote=span.remote, trace_flags=flags) if span.parent else None,
        resource=resource,
        attributes=part.attributes,
        kind=SpanKind.SERVER if span.server else SpanKind.INTERNAL,
        status=Status(StatusCode.ERROR, part.failed) if part.failed else Status(StatusCode.UNSET),
        start_time=_nanoseconds(part.start),
        end_time=_nanoseconds(part.end),
        instrumentation_scope=InstrumentationScope(SCOPE),
    )


def _readable(span: Span) -> dict[str, Any]:
    made = asdict(span)
    part = made.pop("part")._asdict()
    ids = {"trace": f"{span.trace:032x}", "id": f"{span.id:016x}", "parent": f"{span.parent:016x}"}
    return {**made, **ids, **part, "attributes": dict(part["attributes"])}


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1_000_000_000)
