"""What a process shows of itself to those who look after it: metrics to scrape, profiles to take.

Handlers for listeners of their own, apart from the request path. Both are off unless configured (`metrics-protocol`,
`request-metrics-protocol` and `runtime-profiling` in config-observability), and neither listener is meant for the
world.

    GET /metrics                            what the registry collects, as text for Prometheus
    GET /debug/pprof/profile?seconds=30     sampled stacks, for flame graph tools
    GET /debug/pprof/tasks                  what waits where
"""

import asyncio
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final
from urllib.parse import parse_qs

from kncore.net.exchange import Exchange, Handler
from kncore.net.heads import read_response
from kncore.net.pool import Pool
from kncore.net.server import Server
from kncore.telemetry.exposition import content_type, pieces, wants_openmetrics
from kncore.telemetry.metrics import Metric, Point, Registry
from kncore.telemetry.otlp import Push
from kncore.telemetry.profile import LONGEST, Profiler, tasks

__all__ = ["METRICS", "metrics", "pool_points", "profiles", "push_points", "server_points"]

_LISTENER: Final = ("torpor.listener",)
CONNECTIONS: Final = Metric("torpor.server.connections", "gauge", "{connection}", "Open connections.", _LISTENER)
ACCEPTED: Final = Metric(
    "torpor.server.connections.accepted", "counter", "{connection}", "Connections accepted.", _LISTENER
)
TURNED_AWAY: Final = Metric(
    "torpor.server.connections.turned_away", "counter", "{connection}", "Connections beyond the limit.", _LISTENER
)
EVICTED: Final = Metric(
    "torpor.server.connections.evicted", "counter", "{connection}", "Idle connections that made room.", _LISTENER
)
ENDED: Final = Metric(
    "torpor.server.http2.ended",
    "counter",
    "{connection}",
    "HTTP/2 connections and streams ended for what their client did.",
    (*_LISTENER, "error.type"),
)
HANDSHAKING: Final = Metric(
    "torpor.server.handshakes.pending", "gauge", "{connection}", "TLS handshakes that are not complete.", _LISTENER
)
HANDSHAKES: Final = Metric(
    "torpor.server.handshakes",
    "counter",
    "{connection}",
    "TLS handshakes: completed, failed, timed_out, pushed_out (to make room), or plain (no TLS at all).",
    (*_LISTENER, "torpor.state"),
)
MALFORMED: Final = Metric(
    "torpor.server.requests.malformed",
    "counter",
    "{request}",
    "Requests answered before any handler saw them.",
    (*_LISTENER, "http.response.status_code"),
)
POOLED: Final = Metric(
    "torpor.pool.connections", "gauge", "{connection}", "Connections to upstreams, idle or used.", ("torpor.state",)
)
DIALLED: Final = Metric("torpor.pool.dials", "counter", "{connection}", "Connections to upstreams that were opened.")
REUSED: Final = Metric("torpor.pool.reuses", "counter", "{request}", "Requests that found a connection.")
UNCONNECTED: Final = Metric("torpor.pool.waiting", "gauge", "{request}", "Requests that wait for a connection.")
PUSHED: Final = Metric(
    "torpor.push.count", "counter", "{push}", "Pushes of telemetry, ok or failed.", ("torpor.state",)
)
SPANS_DROPPED: Final = Metric("torpor.push.spans.dropped", "counter", "{span}", "Spans that no collector got.")

METRICS: Final = (
    CONNECTIONS,
    ACCEPTED,
    TURNED_AWAY,
    EVICTED,
    ENDED,
    HANDSHAKING,
    HANDSHAKES,
    MALFORMED,
    POOLED,
    DIALLED,
    REUSED,
    UNCONNECTED,
    PUSHED,
    SPANS_DROPPED,
)
"""Of every process with listeners and upstreams."""

SLICE: Final = 0.001
"""Seconds of writing a scrape between which requests have their turn."""
SCRAPES: Final = 4
"""Scrapes at once, of those that take more than a slice."""
_TEXT: Final = (b"Content-Type: text/plain; charset=utf-8",)
_INDEX: Final = b"profile?seconds=30\ntasks\n"


class _Scrape:
    """One text on its way; to the exchange it is the upstream that answers, so a slow reader holds it up."""

    def __init__(self, exchange: Exchange, registry: Registry, *, modern: bool, under_way: "set[_Scrape]") -> None:
        self._exchange = exchange
        self._under_way = under_way
        self._modern = modern
        self._parts: list[str] = []
        self._work = self._write(registry)
        self._paused = self._streaming = self._scheduled = False
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        """Answer at once if a slice of time is enough, as it usually is, else little by little."""
        kind = b"Content-Type: " + content_type(modern=self._modern).encode()
        if self._exchange.method == b"HEAD":
            self._exchange.respond(200, b"", (kind,))
        elif self._slice():
            self._exchange.respond(200, "".join(self._parts).encode(), (kind,))
        else:
            self._under_way.add(self)
            self._streaming = True
            self._exchange.carry(self)
            self._exchange.answer(read_response(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % kind), b"", end=False)
            self._go_on()

    def _write(self, registry: Registry) -> Generator[None, None, None]:
        families = yield from registry.collecting()
        for piece in pieces(registry, families, modern=self._modern):
            self._parts.append(piece)
            yield

    def _slice(self) -> bool:
        """Write for a while; whether that was all."""
        end = time.perf_counter() + SLICE
        return all(time.perf_counter() < end for _ in self._work)

    def _go_on(self) -> None:
        self._scheduled = False
        if self._paused or not self._streaming:
            return
        over = self._slice()
        body = "".join(self._parts).encode()
        self._parts.clear()
        if body:
            self._exchange.answer_body(body)
        if self._exchange.done:
            return  # the client left just now
        if over:
            self._streaming = False
            self._under_way.discard(self)
            self._exchange.answer_end()
        else:
            self._soon()

    def _soon(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._go_on)

    # as a carrier ----------------------------------------------------------------------------------------------------

    def send_body(self, data: bytes, *, end: bool, trailers: Sequence[bytes] = ()) -> None:
        """A scrape has none that anybody wants."""

    def send_raw(self, data: bytes) -> None:
        """Nothing is upgraded here."""

    def end_raw(self) -> None:
        """Nothing is upgraded here."""

    def pause(self) -> None:
        """The client does not keep up."""
        self._paused = True

    def resume(self) -> None:
        """It takes bytes again."""
        self._paused = False
        self._soon()

    def cancel(self) -> None:
        """It left."""
        self._streaming = False
        self._under_way.discard(self)
        self._work.close()


def metrics(registry: Registry) -> Handler:
    """`/metrics`, for Prometheus; a thousand revisions are 37 MB of text, written a millisecond at a time."""
    under_way: set[_Scrape] = set()

    def handle(exchange: Exchange) -> None:
        if exchange.target.partition(b"?")[0] != b"/metrics":
            exchange.respond(404, b"404 page not found\n")
        elif len(under_way) >= SCRAPES:
            exchange.respond(503, b"%d scrapes are under way already\n" % SCRAPES)
        else:
            modern = wants_openmetrics(exchange.value(b"accept").decode("latin-1"))
            _Scrape(exchange, registry, modern=modern, under_way=under_way).start()

    return handle


def profiles(profiler: Profiler) -> Handler:
    """`/debug/pprof/...`; must be called inside the running loop."""
    loop = asyncio.get_running_loop()

    def handle(exchange: Exchange) -> None:
        path, _, query = exchange.target.partition(b"?")
        if path == b"/debug/pprof/":
            exchange.respond(200, _INDEX, _TEXT)
        elif path == b"/debug/pprof/tasks":
            exchange.respond(200, tasks().encode(), _TEXT)
        elif path == b"/debug/pprof/profile":
            _take(exchange, parse_qs(query.decode("latin-1")).get("seconds", ["30"])[0])
        else:
            exchange.respond(404, b"404 page not found\n")

    def _take(exchange: Exchange, seconds: str) -> None:
        if not (seconds.isascii() and seconds.isdigit() and 0 < len(seconds) < 5) or not 0 < int(seconds) <= LONGEST:
            exchange.respond(400, b"seconds must be a whole number from 1 to %d\n" % LONGEST)
            return

        def done(text: str) -> None:
            with suppress(RuntimeError):  # the loop ended meanwhile
                loop.call_soon_threadsafe(exchange.respond, 200, text.encode(), _TEXT)

        if profiler.take(float(seconds), done):
            exchange.on_done(lambda _: profiler.cancel())
        else:
            exchange.respond(409, b"a profile is being taken already\n")

    return handle


def server_points(servers: Mapping[str, Server]) -> Iterator[Point]:
    """Listeners by name."""
    for name, server in servers.items():
        seen = server.statistics()
        yield CONNECTIONS, (name,), seen.connections
        yield ACCEPTED, (name,), seen.accepted
        yield TURNED_AWAY, (name,), seen.turned_away
        yield EVICTED, (name,), seen.evicted
        for reason, count in seen.ended.items():
            yield ENDED, (name, reason), count
        if seen.handshakes:
            yield HANDSHAKING, (name,), seen.handshaking
            for state, count in seen.handshakes.items():
                yield HANDSHAKES, (name, state), count
        for status, count in seen.refused.items():
            yield MALFORMED, (name, str(status)), count


def pool_points(pool: Pool) -> Iterator[Point]:
    """Connections to upstreams."""
    seen = pool.statistics()
    yield POOLED, ("idle",), seen.idle
    yield POOLED, ("used",), seen.in_use
    yield DIALLED, (), seen.dialled
    yield REUSED, (), seen.reused
    yield UNCONNECTED, (), seen.waiting


def push_points(push: Push) -> Iterator[Point]:
    """What became of pushes."""
    seen = push.statistics()
    yield PUSHED, ("ok",), seen.pushed
    yield PUSHED, ("failed",), seen.failed
    yield SPANS_DROPPED, (), seen.dropped
