"""Where activators and queue-proxies push their stats: a websocket server (serving §4.2, §4.12).

Each binary frame is one WireStatMessages, whose stats go to `on_stat` at once. Nothing is queued here, so memory is
bounded by the open connections (limited) and one message each (limited). Any path is accepted, as Knative's clients
use several; kubelet probes get 200. On shutdown every stream is closed with code 1012, which makes its client
reconnect elsewhere at once.

The same listener answers `GET /explain/<namespace>/<revision>`: the decisions kept by `autoscaler.explain`.

Whoever can reach it may connect, so a peer is trusted with nothing: a frame that is none is dropped and counted, one
that is too large ends its stream, a connection that sends no request is closed.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import aiohttp
import orjson
from aiohttp import web

from autoscaler.explain import Explanations
from kncore.clock import Clock
from kncore.wire import Stat, WireError, decode_messages

__all__ = ["OnStat", "StatServer", "Statistics"]

OnStat = Callable[[tuple[str, str], Stat], None]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MAX_MESSAGE_BYTES: Final = 256 * 1024
"""An activator's report of more than a thousand revisions; ours are cut into frames far smaller."""
MAX_STREAMS: Final = 20_000
MAX_PODS: Final = 50_000
"""Pods whose last stat is remembered."""
REMEMBERED: Final = 60.0
"""Seconds for which it is."""
HEAD_TIMEOUT: Final = 60.0
"""Seconds a new connection has for its first request, as in the original."""
CLOSE_TIMEOUT: Final = 5.0
"""Seconds given to clients to answer the closing handshake, as in the original."""
SWEEP: Final = 10.0
"""Seconds between looks at what is too old."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Statistics:
    """Streams and connections now, and what came of messages since the start."""

    streams: int
    waiting: int
    """Connections that have not sent a request yet."""
    messages: int
    malformed: int
    refused: int
    """Requests for a stream that were turned away."""
    pods: int
    """Pods heard of lately."""


class StatServer:
    """The listener; `run` serves until cancelled.

    Args:
        on_stat: called on the loop for each stat, must not block.
        owns: whether requests for this host name are ours; asked for each stream, with the `Host` it came for.
    """

    name = "stat server"

    def __init__(
        self,
        listen: tuple[str, int],
        on_stat: OnStat,
        explanations: Explanations,
        clock: Clock,
        *,
        owns: Callable[[str], bool] = lambda host: True,
    ) -> None:
        self._listen = listen
        self._on_stat = on_stat
        self._explanations = explanations
        self._clock = clock
        self._owns = owns
        self._streams: set[web.WebSocketResponse] = set()
        self._fresh: dict[web.RequestHandler, float] = {}
        self._last_seen: dict[str, float] = {}
        self._messages = self._malformed = self._refused = 0
        self.port = 0
        """Of the listener, once `ready`."""
        self.ready = asyncio.Event()

    def streaming(self, pod: str, within: float) -> bool:
        """Whether a pod has pushed a stat in the last `within` seconds, and so needs no scraping."""
        return self._clock.monotonic() - self._last_seen.get(pod, float("-inf")) <= within

    def statistics(self) -> Statistics:
        """Streams, messages, and what was refused."""
        return Statistics(
            streams=len(self._streams),
            waiting=len(self._fresh),
            messages=self._messages,
            malformed=self._malformed,
            refused=self._refused,
            pods=len(self._last_seen),
        )

    async def run(self) -> None:
        """Listen, and close every stream with 1012 when cancelled.

        Raises:
            OSError: the address is taken.
        """
        app = web.Application(middlewares=[self._heard])
        app.router.add_get("/explain/{namespace}/{revision}", self._explain)
        app.router.add_get("/{path:.*}", self._serve)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=CLOSE_TIMEOUT)
        await runner.setup()
        make = runner.server
        assert make is not None

        def accept() -> web.RequestHandler:
            handler = make()
            self._fresh[handler] = self._clock.monotonic()
            return handler

        listener: asyncio.Server | None = None
        try:
            listener = await asyncio.get_running_loop().create_server(accept, *self._listen, backlog=1024)
            self.port = listener.sockets[0].getsockname()[1]
            self.ready.set()
            while True:
                await asyncio.sleep(SWEEP)
                self._sweep()
        finally:
            if listener is not None:
                listener.close()
            await self.drop_streams()
            await runner.cleanup()

    async def drop_streams(self) -> None:
        """Send everybody elsewhere; those that do not say goodbye in time are cut."""
        streams, self._streams = self._streams, set()

        async def close(stream: web.WebSocketResponse) -> None:
            await stream.close(code=aiohttp.WSCloseCode.SERVICE_RESTART, message=b"Restarting")

        try:
            async with asyncio.timeout(CLOSE_TIMEOUT), asyncio.TaskGroup() as group:
                for stream in streams:
                    group.create_task(close(stream), name="close stream")
        except TimeoutError:
            log.debug("streams cut", extra={"streams": len(streams)})

    @web.middleware
    async def _heard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The connection's first request is here; from now on the HTTP server's own clocks watch it."""
        self._fresh.pop(request.protocol, None)
        return await handler(request)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("User-Agent", "").startswith("kube-probe/") or request.headers.get("K-Kubelet-Probe"):
            return web.Response()
        if not self._owns(request.host.partition(":")[0]):
            # Somebody else's: dropping the connection makes the sender look up the owner again.
            self._refused += 1
            if request.transport is not None:
                request.transport.close()
            return web.Response(status=421)
        stream = web.WebSocketResponse(max_msg_size=MAX_MESSAGE_BYTES, heartbeat=10.0, compress=False)
        if not stream.can_prepare(request).ok:
            return web.Response(status=400, text="expected a websocket upgrade\n")
        if len(self._streams) >= MAX_STREAMS:
            self._refused += 1
            return web.Response(
                status=503, text=f"too many stat streams ({MAX_STREAMS})\n", headers={"Retry-After": "1"}
            )
        await stream.prepare(request)
        self._streams.add(stream)
        malformed = 0
        try:
            async for message in stream:
                if message.type is aiohttp.WSMsgType.BINARY and not self._receive(message.data):
                    malformed += 1
                    if malformed == 1:
                        log.warning("malformed stat message dropped", extra={"peer": request.remote})
        finally:
            self._streams.discard(stream)
        return stream

    def _receive(self, frame: bytes) -> bool:
        """Hand on what a frame says; False if it says nothing."""
        self._messages += 1
        try:
            messages = decode_messages(frame)
        except WireError:
            self._malformed += 1
            return False
        now = self._clock.monotonic()
        for namespace, name, stat in messages:
            if stat is None:
                continue
            if stat.pod_name in self._last_seen or len(self._last_seen) < MAX_PODS:
                self._last_seen[stat.pod_name] = now
            self._on_stat((namespace, name), stat)
        return True

    def _sweep(self) -> None:
        """Forget pods that fell silent, close connections on which nothing was asked."""
        now = self._clock.monotonic()
        for pod in [pod for pod, seen in self._last_seen.items() if seen < now - REMEMBERED]:
            del self._last_seen[pod]
        for handler, since in list(self._fresh.items()):
            if handler.transport is None:
                del self._fresh[handler]
            elif since < now - HEAD_TIMEOUT:
                handler.transport.abort()

    async def _explain(self, request: web.Request) -> web.Response:
        key = (request.match_info["namespace"], request.match_info["revision"])
        shown = self._explanations.show(key)
        if shown is None:
            return web.Response(status=404, text=f"no decision yet for revision {key[0]}/{key[1]}\n")
        return web.Response(body=orjson.dumps(shown), content_type="application/json")
