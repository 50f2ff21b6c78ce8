"""Requests that somebody wants to know more about: measured, logged, traced, or with a receipt for their time.

`Proxy` makes an `Observed` instead of a plain `Passage` when an `Observer` is set (metrics, access log or traces are
on) or when the request itself asks, with `Prefer: server-timing` (RFC 7240: who does not know a preference ignores it).
Then the answer says where its time went, in milliseconds, as browsers' developer tools show it:

    Server-Timing: route;dur=0.1, queue;dur=0.0, wake;dur=412.3;desc="start 380.1, probe 32.2",
        connect;dur=0.4, app;dur=3.1

    route    host, path and headers to a revision
    queue    waiting for a place in a pod, or for a turn in a rush
    wake     waiting for the first pod of a revision that slept: until there was one, and until it answered a probe
    connect  for a connection to the pod, of all attempts
    app      from there to the first byte of the answer, the queue-proxy included

The parts follow each other without gaps, so their sum is the time to the first byte as seen from here.
"""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Final

from activator.revision import Key, Passage, Revision, Settings
from kncore.net.exchange import Exchange
from kncore.net.headers import value_of
from kncore.net.requestlog import Identity, facts, status_of
from kncore.telemetry.requests import Requests, route_tag
from kncore.telemetry.traces import Part, Trace, Tracer

if TYPE_CHECKING:
    from activator.wakes import Wake

__all__ = ["ATTRIBUTES", "Observed", "Observer", "wants_timing"]

ATTRIBUTES: Final = ("kn.service.name", "kn.configuration.name", "kn.revision.name", "k8s.namespace.name")
"""Whose request it is, in metrics."""
SERIES: Final = 100
"""Sets of attributes per revision."""
SPARE: Final = 100
_TAG: Final = b"knative-serving-tag"
_DEFAULT: Final = b"knative-serving-default-route"


@dataclass(frozen=True, slots=True)
class Known:
    """A revision to an observer."""

    settings: Settings
    requests: Requests
    identity: Identity


class Observer:
    """Where observations go; None for what nobody wants. The log's `.Revision.PodName` is empty, as in the original.

    Args:
        alive: the revisions there are; what was known of others is dropped once there is more of it than of them.
    """

    def __init__(
        self,
        *,
        measure: bool = False,
        log: Callable[[Exchange, Identity, float], None] | None = None,
        tracer: Tracer | None = None,
        alive: Callable[[], Collection[Key]] = tuple,
    ) -> None:
        self.measure = measure
        self._alive = alive
        self.log = log
        self.tracer = tracer
        self.known: dict[Key, Known] = {}

    def of(self, revision: Revision) -> Known:
        """What was observed of a revision."""
        known = self.known.get(revision.key)
        if known is None or known.settings is not revision.settings:
            settings, (namespace, name) = revision.settings, revision.key
            labels = (settings.service, settings.configuration, name, namespace)
            if known is not None and known.identity.service == settings.service:
                requests = known.requests
            else:
                requests = Requests(ATTRIBUTES, labels, limit=SERIES)
            identity = Identity(
                name=name, namespace=namespace, service=settings.service, configuration=settings.configuration
            )
            if known is None and len(self.known) > 2 * len(alive := self._alive()) + SPARE:
                self.forget(alive)
            known = self.known[revision.key] = Known(settings, requests, identity)
        return known

    def forget(self, keep: Collection[Key]) -> None:
        """Drop revisions that are no more."""
        for key in [key for key in self.known if key not in keep]:
            del self.known[key]


def wants_timing(prefer: bytes) -> bool:
    """Whether a `Prefer` header asks for `Server-Timing`."""
    return b"server-timing" in prefer.lower() and any(
        item.partition(b";")[0].strip() == b"server-timing" for item in prefer.lower().split(b",")
    )


class _Extra:
    """What only some observed requests need."""

    __slots__ = ("asked", "carried", "nap", "route", "trace")

    def __init__(self, route: float, *, asked: bool, trace: Trace | None) -> None:
        self.route = route
        self.asked = asked
        """The client wants a receipt."""
        self.trace = trace
        self.carried = 0.0
        """When a connection took the request."""
        self.nap: Wake | None = None
        """The wake-up that it waited for."""


class Observed(Passage):
    """A Passage that knows where its time went.

    Args:
        entered: `perf_counter` when routing began, 0 if the request has no `Prefer`.
    """

    __slots__ = ("_began", "_extra", "_observer", "_sent")

    def __init__(
        self,
        exchange: Exchange,
        revision: Revision,
        drop: Collection[bytes],
        add: Sequence[bytes],
        authority: bytes | None,
        observer: Observer | None,
        entered: float = 0.0,
    ) -> None:
        Passage.__init__(self, exchange, revision, drop, add, authority)
        self._observer = observer
        self._sent = 0.0
        self._began = began = perf_counter()
        tracer = None if observer is None else observer.tracer
        asked = bool(entered) and wants_timing(exchange.value(b"prefer"))
        if asked or tracer is not None:
            trace = None if tracer is None else self._join(tracer)
            self._extra: _Extra | None = _Extra(began - entered if entered else 0.0, asked=asked, trace=trace)
        else:
            self._extra = None

    def start(self) -> None:
        exchange, extra = self.exchange, self._extra
        if self._observer is not None:
            exchange.on_done(self._over)
        if extra is None or not extra.asked:
            Passage.start(self)
            return
        exchange.on_carry(self._connected)
        exchange.on_answer(self._answered)
        asleep = not self.revision.throttler.capacity
        Passage.start(self)
        if asleep:
            extra.nap = self.revision.waking()

    def proceed(self) -> None:
        if not self._sent:
            self._sent = perf_counter()
            if self._extra is not None and self._extra.trace is not None:
                self._extra.trace.turn = time.time()
        Passage.proceed(self)

    def _connected(self, _: Exchange) -> None:
        if self._extra is not None:
            self._extra.carried = perf_counter()

    def _answered(self, exchange: Exchange, status: int, lines: list[bytes]) -> None:
        Passage._answered(self, exchange, status, lines)
        if self._extra is not None and self._extra.asked:
            lines.append(b"Server-Timing: " + self._receipt(self._extra, perf_counter(), time.time()).encode())

    def _receipt(self, extra: _Extra, now: float, unix: float) -> str:
        sent = self._sent or now
        carried = extra.carried or sent
        waited = sent - self._began
        wake, detail = 0.0, ""
        if (nap := extra.nap) is not None and nap.probed is not None:
            began = unix - (now - self._began)
            wake = min(max(nap.probed - began, 0.0), waited)
            if nap.endpoint is not None:
                first = min(max(nap.endpoint - began, 0.0), wake)
                detail = f';desc="start {first * 1e3:.1f}, probe {(wake - first) * 1e3:.1f}"'
        elif nap is not None:
            wake = waited  # the pods were behind an address of their Service, or came back by themselves
        return (
            f"route;dur={extra.route * 1e3:.1f}, queue;dur={(waited - wake) * 1e3:.1f}, "
            f"wake;dur={wake * 1e3:.1f}{detail}, connect;dur={(carried - sent) * 1e3:.1f}, "
            f"app;dur={(now - carried) * 1e3:.1f}"
        )

    # for the observer ------------------------------------------------------------------------------------------------

    def _join(self, tracer: Tracer) -> Trace:
        fields = self.exchange.fields
        trace = tracer.begin(self.exchange.value(b"traceparent") if b"traceparent" in fields else b"")
        self._drop = frozenset((*self._drop, *trace.replaces))
        self._add = (*self._add, trace.line)
        return trace

    def _over(self, exchange: Exchange) -> None:
        observer, revision, sent = self._observer, self.revision, self._sent
        assert observer is not None
        now = perf_counter()
        total = now - self._began
        known = observer.known.get(revision.key)
        if known is None or known.settings is not revision.settings:
            known = observer.of(revision)
        if observer.measure:
            known.requests.record(
                (
                    exchange.method,
                    # what we refused counts as such also where a gRPC call got it as 200 with a `grpc-status`
                    exchange.own_status or exchange.status or status_of(exchange),
                    exchange.scheme,
                    "HTTP/1.0" if exchange.head.old else exchange.protocol,
                    self._tag(),
                ),
                total,
                now - sent if sent else -1.0,
                exchange.bytes_in,
                exchange.bytes_out,
            )
        if observer.log is not None:
            observer.log(exchange, known.identity, total)
        if self._extra is not None and (trace := self._extra.trace) is not None and trace.sampled:
            assert observer.tracer is not None
            self._tell(observer.tracer, trace, known.identity)

    def _tag(self) -> bytes:
        """The route tag: the client's headers, unless the route wrote its own."""
        fields, drop, add = self.exchange.fields, self._drop, self._add
        # a route's own lines come last
        written = () if add[-1][:12] == b"X-Forwarded-" else [line for line in add if line[:16] == b"Knative-Serving-"]
        if not written and _TAG not in fields and _DEFAULT not in fields:
            return b"kn:disabled"
        told = {line.partition(b":")[0].lower(): value_of(line) for line in written}
        for name in (_TAG, _DEFAULT):
            if name in fields and name not in drop:
                told[name] = value_of(fields[name])
        return route_tag(told.get(_TAG, b""), told.get(_DEFAULT, b""))

    def _tell(self, tracer: Tracer, trace: Trace, identity: Identity) -> None:
        end = time.time()
        attributes = facts(self.exchange)
        owner = (identity.service, identity.configuration, identity.name, identity.namespace)
        attributes |= zip(ATTRIBUTES, owner, strict=True)
        failed = f"status {attributes['http.response.status_code']}" if status_of(self.exchange) >= 500 else ""
        parts = [Part("handle", trace.began, end, attributes, failed)]
        if trace.turn:
            parts.append(Part("activator_proxy", trace.turn, end, {}, failed))
        tracer.finish(trace, parts, [(0, Part("throttler_try", trace.began, trace.turn or end))])
