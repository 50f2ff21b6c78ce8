"""What an activator tells about itself and about requests, as config-observability says, live (serving §3.8, §5.8).

    config-observability -> Telemetry -> Proxy.observer      metrics, access log and traces of requests
                                      -> listeners           GET :9090/metrics, profiles on :8008
                                      -> Push                to a collector

A change of the ConfigMap ends what ran and starts what is wanted now; requests in flight keep the observer they have,
and what was counted stays. Everything but the metrics of requests and of cold starts is a view of some `statistics()`.

What is bounded: sets of attributes per revision, and revisions by those that exist.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final

from activator.backends import Backends
from activator.observed import ATTRIBUTES, Observer
from activator.reporter import Reporter
from activator.tenants import Tenants
from activator.wakes import Wake, Wakes
from kncore.config.observability import Metrics, Observability
from kncore.net import introspect
from kncore.net.exchange import Exchange, Handler
from kncore.net.pool import Pool
from kncore.net.requestlog import Identity, Writer, renderer
from kncore.net.server import Server
from kncore.net.statstream import StatStream
from kncore.net.ticker import Ticker
from kncore.telemetry.metrics import PROCESS, WAKE_BUCKETS, Distribution, Metric, Point, Registry, process
from kncore.telemetry.otlp import Push, Target
from kncore.telemetry.profile import Profiler
from kncore.telemetry.requests import Requests
from kncore.telemetry.traces import Tracer

if TYPE_CHECKING:
    from activator.app import Proxy

__all__ = ["METRICS", "ColdStarts", "Telemetry"]

log = logging.getLogger(__name__)

METRICS_PORT: Final = 9090
PROFILING_PORT: Final = 8008
KEPT: Final = 20_000
"""Series of cold starts, should nobody collect them."""
FLUSH: Final = 10.0
"""How long telemetry may take to leave at the end, seconds."""

_REVISION: Final = ("kn.revision.name", "k8s.namespace.name")
_PEER: Final = ("peer",)
CONCURRENCY: Final = Metric(
    "kn.revision.request.concurrency",
    "gauge",
    "{request}",
    "Requests in flight on average during the last second, waiting ones included.",
    ATTRIBUTES,
)
QUEUED: Final = Metric("kn.revision.request.queued", "gauge", "{request}", "Requests waiting for a pod.", _REVISION)
ACTIVE: Final = Metric("kn.revision.request.active", "gauge", "{request}", "Requests that have a pod.", _REVISION)
CAPACITY: Final = Metric("torpor.revision.capacity", "gauge", "{request}", "Places in the pods we use.", _REVISION)
PODS: Final = Metric("torpor.revision.pods", "gauge", "{pod}", "Pods that answer.", _REVISION)
QUEUED_BYTES: Final = Metric("torpor.revision.queued", "gauge", "By", "Bodies of waiting requests.", _REVISION)
REFUSED: Final = Metric(
    "torpor.revision.refused", "counter", "{request}", "Requests that there was no place to wait for.", _REVISION
)
REACHABLE: Final = Metric(
    "kn.activator.stats.conn.reachable", "gauge", "{connection}", "1 while stats reach the autoscaler.", _PEER
)
ERRORS: Final = Metric(
    "kn.activator.stats.conn.errors", "counter", "{error}", "Failures of the connection to the autoscaler.", _PEER
)
COLD_STARTS: Final = Metric(
    "torpor.coldstart.duration",
    "histogram",
    "s",
    "Wake-ups by part: start (until a pod exists), probe (until it answers), app (first byte), and total.",
    (*_REVISION, "torpor.part"),
    WAKE_BUCKETS,
)
ABANDONED: Final = Metric(
    "torpor.coldstart.abandoned", "counter", "{coldstart}", "Wake-ups that nobody waited for to the end.", _REVISION
)
ROUTED: Final = Metric("torpor.routes", "gauge", "{route}", "What the routing table holds, by kind.", ("torpor.kind",))
UNROUTED: Final = Metric("torpor.requests.unrouted", "counter", "{request}", "Requests for a host that nobody knows.")
BACKENDS: Final = Metric(
    "torpor.backends",
    "gauge",
    "{address}",
    "Addresses of pods: all, healthy ones, and those being probed.",
    ("torpor.state",),
)
TENANTS: Final = Metric("torpor.tenants", "gauge", "{tenant}", "Namespaces with revisions.")
TURNS_QUEUED: Final = Metric("torpor.turns.queued", "gauge", "{request}", "Requests that wait for the processor.")
TURNS_DEFERRED: Final = Metric("torpor.turns.deferred", "counter", "{request}", "Requests that did not go at once.")
TURNS_SHED: Final = Metric("torpor.turns.shed", "counter", "{request}", "Requests refused because of overload.")

METRICS: Final = (
    *Requests(ATTRIBUTES, ("",) * len(ATTRIBUTES)).metrics,
    CONCURRENCY,
    QUEUED,
    ACTIVE,
    CAPACITY,
    PODS,
    QUEUED_BYTES,
    REFUSED,
    REACHABLE,
    ERRORS,
    COLD_STARTS,
    ABANDONED,
    ROUTED,
    UNROUTED,
    BACKENDS,
    TENANTS,
    TURNS_QUEUED,
    TURNS_DEFERRED,
    TURNS_SHED,
    *introspect.METRICS,
    *PROCESS,
)
"""Everything an activator may tell."""


class ColdStarts:
    """Counts wake-ups and times their parts; `ended` is told of each."""

    def __init__(self) -> None:
        self._parts: dict[tuple[str, str, str], Distribution] = {}
        self._abandoned: dict[tuple[str, str], int] = {}

    def ended(self, wake: Wake) -> None:
        """A wake-up is over, or was given up."""
        key = (wake.revision, wake.namespace)
        if wake.first_byte is None:
            self._abandoned[key] = self._abandoned.get(key, 0) + 1
            _bound(self._abandoned)
            return
        self._observe(key, "total", wake.first_byte - wake.requested)
        begun = wake.requested
        for part, at in (("start", wake.endpoint), ("probe", wake.probed), ("app", wake.first_byte)):
            if at is not None:
                self._observe(key, part, max(at - begun, 0.0))
                begun = at
        _bound(self._parts)

    def _observe(self, key: tuple[str, str], part: str, seconds: float) -> None:
        series = self._parts.get((*key, part))
        if series is None:
            series = self._parts[*key, part] = Distribution(WAKE_BUCKETS)
        series.observe(seconds)

    def points(self) -> Iterator[Point]:
        """As metrics."""
        for values, seen in list(self._parts.items()):
            yield COLD_STARTS, values, seen
        for revision, count in list(self._abandoned.items()):
            yield ABANDONED, revision, count

    def forget(self, gone: Callable[[tuple[str, str]], bool]) -> None:
        """Drop revisions for which `gone((namespace, name))`."""
        for values in [values for values in self._parts if gone((values[1], values[0]))]:
            del self._parts[values]
        for name, namespace in [key for key in self._abandoned if gone((key[1], key[0]))]:
            del self._abandoned[name, namespace]


def _bound(kept: dict[Any, Any]) -> None:
    """Drop what is known longest."""
    while len(kept) > KEPT:
        del kept[next(iter(kept))]


def _ours(wanted: Observability) -> tuple[object, ...]:
    """What of the configuration concerns an activator."""
    log_template = wanted.request_log_template if wanted.enable_request_log else ""
    return wanted.metrics, wanted.tracing, wanted.runtime, wanted.enable_request_log, log_template


class Telemetry:
    """A part of the process: shows what is configured, and follows changes.

    Args:
        observability: what is in force now.
        host: where to listen unless configured otherwise.
        stream: the connection to the autoscaler.
        servers: the listeners whose statistics are shown.
    """

    name = "telemetry"

    def __init__(
        self,
        observability: Callable[[], Observability],
        *,
        proxy: "Proxy",
        wakes: Wakes,
        reporter: Reporter,
        stream: StatStream,
        backends: Backends,
        tenants: Tenants,
        pool: Pool,
        servers: Mapping[str, Server],
        ticker: Ticker,
        pod: str,
        host: str,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._observability = observability
        self._proxy = proxy
        self._reporter = reporter
        self._stream = stream
        self._backends = backends
        self._tenants = tenants
        self._ticker = ticker
        self._host = host
        self._environ = environ
        self._changed = asyncio.Event()
        self._profiler = Profiler()
        self._writer: Writer | None = None
        self._push: Push | None = None
        self._cold_starts = ColdStarts()
        wakes.on_end = self._cold_starts.ended
        resource = {"service.name": environ.get("OTEL_SERVICE_NAME") or "activator", "service.instance.id": pod}
        self.registry = Registry({**resource, "k8s.pod.name": pod})
        for source in (
            self._request_points,
            self._revision_points,
            self._stream_points,
            self._cold_starts.points,
            self._route_points,
            self._backend_points,
            self._tenant_points,
            lambda: introspect.server_points(servers),
            lambda: introspect.pool_points(pool),
            self._push_points,
            process(self.registry.started),
        ):
            self.registry.add(source)

    def changed(self) -> None:
        """The configuration says something else now."""
        self._changed.set()

    async def run(self) -> None:
        """Serve what is configured until cancelled."""
        while True:
            self._changed.clear()
            wanted = self._observability()
            async with AsyncExitStack() as stack:
                await self._start(wanted, stack)
                while _ours(self._observability()) == _ours(wanted):
                    await self._changed.wait()
                    self._changed.clear()

    async def flush(self) -> None:
        """Push what is left, at the end of the process."""
        if self._push is not None:
            await self._push.flush(FLUSH)

    async def _start(self, wanted: Observability, stack: AsyncExitStack) -> None:
        metrics, tracing = wanted.metrics, wanted.tracing
        pushes = metrics.protocol in ("http/protobuf", "grpc")
        traces = tracing.protocol != "none"
        self._push = None
        if pushes or traces:
            self._push = push = Push(
                self.registry,
                metrics=Target(protocol=metrics.protocol, endpoint=metrics.endpoint) if pushes else None,
                interval=metrics.export_interval,
                traces=Target(protocol=tracing.protocol, endpoint=tracing.endpoint) if traces else None,
            )
            group = await stack.enter_async_context(asyncio.TaskGroup())
            stack.callback(group.create_task(push.run(), name=push.name).cancel)
        if metrics.protocol == "prometheus":
            host, port = self._metrics_address(metrics)
            await self._listen(introspect.metrics(self.registry), host, port, "metrics", stack)
        if wanted.runtime.profiling == "enabled":
            handler = introspect.profiles(self._profiler)
            await self._listen(handler, self._host, PROFILING_PORT, "profiling", stack)
        self._observe(wanted, measure=pushes or metrics.protocol == "prometheus", traces=traces)
        stack.callback(self._stop_observing)

    def _observe(self, wanted: Observability, *, measure: bool, traces: bool) -> None:
        if not (measure or traces or wanted.enable_request_log):
            return
        before = self._proxy.observer
        tracer = None
        if traces and self._push is not None:
            tracer = Tracer(wanted.tracing.sampling_rate, self._push.put)
        observer = Observer(
            measure=measure,
            log=self._access_log(wanted),
            tracer=tracer,
            alive=self._proxy.revisions.keys,
        )
        if before is not None:
            observer.known = before.known
        self._proxy.observer = observer

    def _stop_observing(self) -> None:
        self._proxy.observer = None

    def _access_log(self, wanted: Observability) -> Callable[[Exchange, Identity, float], None] | None:
        if not wanted.enable_request_log:
            return None
        if self._writer is None:
            self._writer = Writer(1, asyncio.get_running_loop())
        render, writer = renderer(wanted.request_log_template), self._writer

        def line(exchange: Exchange, identity: Identity, seconds: float) -> None:
            writer.line(render(exchange, identity, seconds))

        return line

    def _metrics_address(self, metrics: Metrics) -> tuple[str, int]:
        """METRICS_PROMETHEUS_HOST and -PORT go before the ConfigMap, that before the defaults."""
        host, _, port = metrics.endpoint.rpartition(":")
        told = self._environ.get("METRICS_PROMETHEUS_PORT") or port
        number = int(told) if told.isascii() and told.isdigit() and len(told) < 6 else METRICS_PORT
        return self._environ.get("METRICS_PROMETHEUS_HOST") or host.strip("[]") or self._host, number

    async def _listen(self, handler: Handler, host: str, port: int, what: str, stack: AsyncExitStack) -> None:
        """Serve on a port of its own until the stack ends; requests go on without it if it cannot be had."""
        server = Server(handler, ticker=self._ticker)
        try:
            await server.listen(host, port)
        except OSError as exc:
            why = os.strerror(exc.errno) if exc.errno else str(exc)
            log.warning("cannot listen", extra={"for": what, "address": f"{host}:{port}", "error": why})
            return
        log.info("listening", extra={"for": what, "address": f"{host}:{port}"})
        loop = asyncio.get_running_loop()
        stack.push_async_callback(lambda: server.drain(loop.time() + 0.1))

    # sources ---------------------------------------------------------------------------------------------------------

    def _request_points(self) -> Iterator[Point]:
        revisions = self._proxy.revisions
        self._cold_starts.forget(lambda key: key not in revisions)
        observer = self._proxy.observer
        if observer is not None and observer.measure:
            observer.forget(revisions.keys())
            for known in list(observer.known.values()):
                yield from known.requests.server()

    def _revision_points(self) -> Iterator[Point]:
        averages = dict(self._reporter.averages())
        for (namespace, name), revision in list(self._proxy.revisions.items()):
            settings, seen, key = revision.settings, revision.throttler.statistics(), (name, namespace)
            owner = (settings.service, settings.configuration, name, namespace)
            yield CONCURRENCY, owner, averages.get((namespace, name), 0.0)
            yield QUEUED, key, seen.waiting
            yield ACTIVE, key, seen.in_flight
            yield CAPACITY, key, seen.capacity
            yield PODS, key, seen.pods
            yield QUEUED_BYTES, key, seen.waiting_bytes
            yield REFUSED, key, seen.refused

    def _stream_points(self) -> Iterator[Point]:
        seen = self._stream.statistics()
        yield REACHABLE, ("autoscaler",), float(seen.connected)
        yield ERRORS, ("autoscaler",), seen.failures

    def _route_points(self) -> Iterator[Point]:
        seen = self._proxy.statistics()
        yield UNROUTED, (), seen.pop("unrouted")
        for kind, count in seen.items():
            yield ROUTED, (kind,), count

    def _backend_points(self) -> Iterator[Point]:
        seen = self._backends.statistics()
        yield BACKENDS, ("all",), seen.addresses
        yield BACKENDS, ("healthy",), seen.healthy
        yield BACKENDS, ("probing",), seen.probing

    def _tenant_points(self) -> Iterator[Point]:
        yield TENANTS, (), self._tenants.statistics().tenants
        if self._tenants.turns is not None:
            turns = self._tenants.turns.statistics()
            yield TURNS_QUEUED, (), turns.queued
            yield TURNS_DEFERRED, (), turns.deferred
            yield TURNS_SHED, (), turns.shed

    def _push_points(self) -> Iterator[Point]:
        if self._push is not None:
            yield from introspect.push_points(self._push)
