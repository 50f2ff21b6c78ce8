"""What a queue-proxy measures about requests, and how that leaves it (serving §6.11).

    time_requests ( ... limit ( note_turn ( forward )))      layers; only there when metrics or traces are wanted
          |                         |
          at the end: one record in `Requests`, and the spans of a sampled trace

    registry -> GET :9091/metrics            request-metrics-protocol: prometheus
             -> Push -> collector            request-metrics-protocol: http/protobuf, tracing-protocol

Everything else in the registry is a view of some `statistics()`. With nothing configured none of this exists, and a
request pays nothing. What each costs is in docs/reference/metrics.md.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from kncore.breaker import Breaker
from kncore.net import introspect
from kncore.net.exchange import Exchange, Handler, Upstream
from kncore.net.pool import Pool
from kncore.net.requestlog import facts, proto, status_of
from kncore.net.server import Server
from kncore.stats import RequestStats
from kncore.telemetry.metrics import PROCESS, Metric, Point, Registry, process
from kncore.telemetry.otlp import Push, Target
from kncore.telemetry.requests import INVOCATION, SERVER, Requests, route_tag
from kncore.telemetry.traces import Part, Trace, Tracer
from queueproxy.config import Config, Export
from queueproxy.proxy import Layer

__all__ = ["METRICS", "Telemetry", "Traced", "note_turn", "time_requests"]

DEPTH: Final = Metric(
    "kn.serving.queue.depth", "gauge", "{request}", "Requests in the app and waiting for a place in it."
)
ACTIVE: Final = Metric("torpor.requests.active", "gauge", "{request}", "Requests that are here, waiting or not.")
WAITING: Final = Metric("torpor.queue.waiting", "gauge", "{request}", "Requests waiting for a place in the app.")
CAPACITY: Final = Metric("torpor.queue.capacity", "gauge", "{request}", "Places in the app.")
REFUSED: Final = Metric("torpor.queue.refused", "counter", "{request}", "Requests refused because the queue was full.")
METRICS: Final = (
    *SERVER,
    *INVOCATION,
    ACTIVE,
    DEPTH,
    WAITING,
    CAPACITY,
    REFUSED,
    *introspect.METRICS,
    *PROCESS,
)
"""Everything a queue-proxy may tell."""


class Telemetry:
    """The parts that a configuration asks for.

    Args:
        environ: for OTEL_SERVICE_NAME.
    """

    def __init__(self, config: Config, environ: Mapping[str, str]) -> None:
        self.registry = Registry(_resource(config, environ))
        self.registry.add(process(self.registry.started))
        self.requests: Requests | None = None
        self.push: Push | None = None
        self.tracer: Tracer | None = None
        self.scraped = config.request_metrics.protocol == "prometheus"
        if self.scraped or config.request_metrics.pushes:
            self.requests = Requests()
            self.registry.add(self.requests.server)
            self.registry.add(self.requests.invocation)
        if config.request_metrics.pushes or config.tracing.pushes:
            push = self.push = Push(
                self.registry,
                metrics=_target(config.request_metrics),
                interval=config.request_metrics.interval,
                traces=_target(config.tracing),
            )
            self.registry.add(lambda: introspect.push_points(push))
        if config.tracing.pushes and self.push is not None:
            self.tracer = Tracer(config.sampling_rate, self.push.put)

    def watch(self, servers: Mapping[str, Server], pool: Pool, breaker: Breaker | None, counted: RequestStats) -> None:
        """Show the statistics of what is bounded; listeners may be added later."""
        self.registry.add(lambda: ((ACTIVE, (), counted.concurrency),))
        self.registry.add(lambda: introspect.server_points(servers))
        self.registry.add(lambda: introspect.pool_points(pool))
        if breaker is not None:
            self.registry.add(lambda: _breaker_points(breaker))


def _target(export: Export) -> Target | None:
    return Target(protocol=export.protocol, endpoint=export.endpoint) if export.pushes else None


def _resource(config: Config, environ: Mapping[str, str]) -> dict[str, str]:
    service = environ.get("OTEL_SERVICE_NAME") or config.service or config.configuration or config.revision
    made = {
        "service.name": service or config.pod,
        "service.instance.id": config.pod,
        "k8s.namespace.name": config.namespace,
        "k8s.pod.name": config.pod,
        "k8s.container.name": "queue-proxy",
        "kn.service.name": config.service,
        "kn.configuration.name": config.configuration,
        "kn.revision.name": config.revision,
    }
    return {name: value for name, value in made.items() if value}


def _breaker_points(breaker: Breaker) -> Iterator[Point]:
    seen = breaker.statistics()
    yield DEPTH, (), seen.in_use + seen.waiting
    yield WAITING, (), seen.waiting
    yield CAPACITY, (), seen.capacity
    yield REFUSED, (), seen.refused


# -- layers ---------------------------------------------------------------------------------------------------------


def time_requests(requests: Requests, clock: Callable[[], float]) -> Layer:
    """Record every request that reaches this layer, when it is over.

    Args:
        clock: the loop's time, as in `Exchange.started`: milliseconds are enough for buckets of five and more.
    """
    record = requests.record

    def done(exchange: Exchange) -> None:
        total = clock() - exchange.started
        admitted = exchange.admitted
        fields = exchange.fields
        if b"knative-serving-tag" in fields or b"knative-serving-default-route" in fields:
            tag = route_tag(exchange.value(b"knative-serving-tag"), exchange.value(b"knative-serving-default-route"))
        else:
            tag = b"kn:disabled"
        record(
            (
                exchange.method,
                # what we refused counts as such also where a gRPC call got it as 200 with a `grpc-status`
                exchange.own_status or exchange.status or status_of(exchange),
                exchange.scheme,
                proto(exchange),
                tag,
            ),
            total,
            total - (admitted - exchange.started) if admitted else -1.0,
            exchange.bytes_in,
            exchange.bytes_out,
        )

    def layer(inner: Handler) -> Handler:
        def handle(exchange: Exchange) -> None:
            exchange.on_done(done)
            inner(exchange)

        return handle

    return layer


def note_turn(clock: Callable[[], float]) -> Layer:
    """Note when a request had its turn: innermost, behind the limit."""

    def layer(inner: Handler) -> Handler:
        def handle(exchange: Exchange) -> None:
            exchange.admitted = clock()
            inner(exchange)

        return handle

    return layer


class Traced:
    """Puts requests into traces: a layer on their way in, and around the app as the upstream that gets them.

    The span `queue` is ours as a server, `kn.queueproxy.proxy` within it everything we do, and `kn.queueproxy.wait`
    within that the wait for a place in the app, if there is a limit. The app's parent is `kn.queueproxy.proxy`.

    Args:
        limited: there is a limit.
    """

    def __init__(self, tracer: Tracer, app: Upstream, *, limited: bool) -> None:
        self._tracer = tracer
        self._app = app
        self._limited = limited
        self._traces: dict[Exchange, Trace] = {}

    def layer(self, inner: Handler) -> Handler:
        """The layer; outermost of those that can delay a request."""

        def handle(exchange: Exchange) -> None:
            parent = exchange.value(b"traceparent") if b"traceparent" in exchange.fields else b""
            self._traces[exchange] = self._tracer.begin(parent)
            exchange.on_done(self._done)
            inner(exchange)

        return handle

    def submit(self, exchange: Exchange, *, fresh: bool = False) -> None:
        """Hand the request to the app, as a part of its trace."""
        trace = self._traces.get(exchange)
        if trace is not None and not trace.turn:
            trace.turn = time.time()
            exchange.drop = frozenset((*exchange.drop, *trace.replaces))
            exchange.add = (*exchange.add, trace.line)
        self._app.submit(exchange, fresh=fresh)

    def withdraw(self, exchange: Exchange) -> None:
        """It does not want to be answered any more."""
        self._app.withdraw(exchange)

    def statistics(self) -> dict[str, int]:
        """Requests that are part of a trace now."""
        return {"traces": len(self._traces)}

    def _done(self, exchange: Exchange) -> None:
        trace = self._traces.pop(exchange)
        if not trace.sampled:
            return
        end = time.time()
        attributes = facts(exchange)
        failed = f"status {attributes['http.response.status_code']}" if status_of(exchange) >= 500 else ""
        parts = (
            Part("queue", trace.began, end, attributes, failed),
            Part("kn.queueproxy.proxy", trace.began, end, {}, failed),
        )
        wait = Part("kn.queueproxy.wait", trace.began, trace.turn or end)
        self._tracer.finish(trace, parts, [(1, wait)] if self._limited else ())
