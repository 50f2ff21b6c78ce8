"""What a process shows of itself to those who look after it: metrics to scrape, profiles to take.

Handlers for listeners of their own, apart from the request path. Both are off unless configured (`metrics-protocol`,
`request-metrics-protocol` and `runtime-profiling` in config-observability), and neither listener is meant for the
world.

    GET /metrics                            what the registry collects, as text for Prometheus
    GET /debug/pprof/profile?seconds=30     sampled stacks, for flame graph tools
    GET /debug/pprof/tasks                  what waits where
"""

import asyncio
from contextlib import suppress
from typing import Final
from urllib.parse import parse_qs

from kncore.net.exchange import Exchange, Handler
from kncore.telemetry.exposition import render
from kncore.telemetry.metrics import Registry
from kncore.telemetry.profile import LONGEST, Profiler, tasks

__all__ = ["metrics", "profiles"]

_TEXT: Final = (b"Content-Type: text/plain; charset=utf-8",)
_INDEX: Final = b"profile?seconds=30\ntasks\n"


def metrics(registry: Registry) -> Handler:
    """`/metrics`, for Prometheus."""

    def handle(exchange: Exchange) -> None:
        if exchange.target.partition(b"?")[0] != b"/metrics":
            exchange.respond(404, b"404 page not found\n")
            return
        content_type, body = render(registry, exchange.value(b"accept").decode("latin-1"))
        exchange.respond(200, body, (b"Content-Type: " + content_type.encode(),))

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
