"""Where activators and queue-proxies push their stats: a websocket server (serving §4.2, §4.12).

Each binary frame is one WireStatMessages. A stat without a timestamp gets the time of arrival, then goes to
`on_stat`; nothing is queued here, so memory is bounded by the open connections (limited) and one message each
(limited). Any path is accepted, as Knative's clients use several; kubelet probes get 200. On shutdown every stream is
closed with code 1012, which makes its client reconnect elsewhere at once.

The same listener answers `GET /explain/<namespace>/<revision>`: the decisions kept by `autoscaler.explain`.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from weakref import WeakSet

import aiohttp
import orjson
from aiohttp import web

from autoscaler.explain import Explanations
from kncore.clock import Clock
from kncore.wire import Stat, WireError, decode_messages

__all__ = ["OnStat", "StatServer", "Statistics"]

OnStat = Callable[[tuple[str, str], Stat], None]

MAX_MESSAGE_BYTES = 1 << 20  # an activator's report of about 10,000 revisions
MAX_STREAMS = 20_000
CLOSE_TIMEOUT = 5.0  # seconds given to clients to answer the closing handshake, as in the original

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Statistics:
    streams: int
    messages: int
    malformed: int
    refused: int


class StatServer:
    """The listener; `run` serves until cancelled.

    Args:
        on_stat: called on the loop for each stat, must not block.
        owns: whether a bucket host name is served here; anything not starting with `autoscaler-bucket` always is.
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
        self._streams: WeakSet[web.WebSocketResponse] = WeakSet()
        self._last_seen: dict[str, float] = {}
        self._messages = self._malformed = self._refused = 0
        self.ready = asyncio.Event()

    def streaming(self, pod: str, within: float) -> bool:
        """Whether a pod has pushed a stat in the last `within` seconds, and so needs no scraping."""
        return self._clock.monotonic() - self._last_seen.get(pod, float("-inf")) <= within

    def statistics(self) -> Statistics:
        return Statistics(len(self._streams), self._messages, self._malformed, self._refused)

    async def run(self) -> None:
        """Listen, and close every stream with 1012 when cancelled.

        Raises:
            OSError: the address is taken.
        """
        app = web.Application()
        app.router.add_get("/explain/{namespace}/{revision}", self._explain)
        app.router.add_get("/{path:.*}", self._serve)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=CLOSE_TIMEOUT)
        await runner.setup()
        try:
            await web.TCPSite(runner, *self._listen).start()
            self.ready.set()
            while True:
                await asyncio.sleep(60)
                self._forget_silent_pods()
        finally:
            for stream in list(self._streams):
                await stream.close(code=aiohttp.WSCloseCode.SERVICE_RESTART, message=b"Restarting")
            await runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("User-Agent", "").startswith("kube-probe/") or request.headers.get("K-Kubelet-Probe"):
            return web.Response()
        host = request.host.partition(":")[0]
        if host.startswith("autoscaler-bucket") and not self._owns(host):
            # Not our bucket any more: dropping the connection makes the sender look up the owner again.
            if request.transport is not None:
                request.transport.close()
            return web.Response(status=421)
        if len(self._streams) >= MAX_STREAMS:
            self._refused += 1
            return web.Response(
                status=503, text=f"too many stat streams ({MAX_STREAMS})\n", headers={"Retry-After": "1"}
            )
        stream = web.WebSocketResponse(max_msg_size=MAX_MESSAGE_BYTES, heartbeat=10.0, compress=False)
        if not stream.can_prepare(request).ok:
            return web.Response(status=400, text="expected a websocket upgrade\n")
        await stream.prepare(request)
        self._streams.add(stream)
        async for message in stream:
            if message.type is aiohttp.WSMsgType.BINARY:
                self._receive(message.data)
        return stream

    def _receive(self, frame: bytes) -> None:
        self._messages += 1
        try:
            messages = decode_messages(frame)
        except WireError as exc:
            self._malformed += 1
            log.warning("malformed stat message dropped", extra={"error": str(exc)})
            return
        now = self._clock.wall()
        for namespace, name, stat in messages:
            if stat is None:
                continue
            if not stat.timestamp:
                stat = replace(stat, timestamp=int(now))
            self._last_seen[stat.pod_name] = self._clock.monotonic()
            self._on_stat((namespace, name), stat)

    def _forget_silent_pods(self) -> None:
        horizon = self._clock.monotonic() - 60
        for pod in [pod for pod, seen in self._last_seen.items() if seen < horizon]:
            del self._last_seen[pod]

    async def _explain(self, request: web.Request) -> web.Response:
        key = (request.match_info["namespace"], request.match_info["revision"])
        shown = self._explanations.show(key)
        if shown is None:
            return web.Response(status=404, text=f"no decision yet for revision {key[0]}/{key[1]}\n")
        return web.Response(body=orjson.dumps(shown), content_type="application/json")
