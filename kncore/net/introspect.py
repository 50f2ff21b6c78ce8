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
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Final
from urllib.parse import parse_qs

from kncore.net.exchange import Exchange, Handler
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
_TEXT: Final = (b"Content-Type: text/plain; charset=utf-8",)
_INDEX: Final = b"profile?seconds=30\ntasks\n"


class _Scrape:
    """One text in the making, and who waits for it: who asks meanwhile gets the same."""

    def __init__(self, registry: Registry, *, modern: bool) -> None:
        self.waiting: list[Exchange] = []
        self.over = False
        self._modern = modern
        self._parts: list[bytes] = []
        self._work = self._write(registry)
        self._loop = asyncio.get_running_loop()

    def _write(self, registry: Registry) -> Iterator[None]:
        families = yield from registry.collecting()
        for piece in pieces(registry, families, modern=self._modern):
            self._parts.append(piece.encode())
            yield

    def go_on(self) -> None:
        """Write for a slice of time, and let requests have their turn."""
        end = time.perf_counter() + SLICE
        for _ in self._work:
            if time.perf_counter() >= end:
                self._loop.call_soon(self.go_on)
                return
        self.over = True
        lines = (b"Content-Type: " + content_type(modern=self._modern).encode(),)
        body = b"".join(self._parts)
        self._parts.clear()
        for exchange in self.waiting:
            exchange.respond(200, body, lines)
        self.waiting.clear()


def metrics(registry: Registry) -> Handler:
    """`/metrics`, for Prometheus; a thousand revisions are 30 MB of text, written a millisecond at a time."""
    under_way: dict[bool, _Scrape] = {}

    def handle(exchange: Exchange) -> None:
        if exchange.target.partition(b"?")[0] != b"/metrics":
            exchange.respond(404, b"404 page not found\n")
            return
        modern = wants_openmetrics(exchange.value(b"accept").decode("latin-1"))
        scrape = under_way.get(modern)
        if scrape is None or scrape.over:
            scrape = under_way[modern] = _Scrape(registry, modern=modern)
            scrape.waiting.append(exchange)
            scrape.go_on()
        else:
            scrape.waiting.append(exchange)

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
