"""Is the app ready? Who asks, how we find out, and who waits for the answer (serving §6.6).

Kubelet, activator and autoscaler ask us instead of the app. We run the user's probes (all containers' in parallel)
and everybody who asks meanwhile shares the run. Normally a run is one attempt and is answered at once, so that an
activator may ask every few milliseconds while an app starts. Two kinds of callers wait longer and are answered the
moment the app is ready: kubelet when the user set `periodSeconds: 0` (up to 10 s, as in the original), and whoever
sends `Prefer: wait=N` (RFC 7240; up to 10 s too).

Nothing here is remembered between runs except the count of consecutive successes that `successThreshold` wants.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from kncore.net import probe as probes
from kncore.net.exchange import Exchange, Handler
from queueproxy.config import Probe
from queueproxy.drain import Drainer
from queueproxy.proxy import Layer, Plan, plan_of

__all__ = ["Prober", "answer"]

AGGRESSIVE_FOR: Final = 10.0
AGGRESSIVE_TIMEOUT: Final = 0.1
RETRY: Final = 0.01
"""Pause between attempts while somebody waits; the original's 50 ms would add 25 ms to the average cold start."""


class Prober:
    """Runs the probes while somebody waits for their result."""

    name = "prober"

    def __init__(self, wanted: Sequence[Probe], *, detect_http2: bool = False) -> None:
        self._probes = wanted
        self._http2 = dict.fromkeys((probe for probe in wanted if probe.kind == "http" and not probe.tls), detect_http2)
        """Which http probes are tried in HTTP/2 first; what an app once answered, it is asked first again."""
        self._aggressive = any(probe.period == 0 for probe in wanted)
        self._threshold = max((probe.success_threshold for probe in wanted if probe.period == 0), default=1)
        self._successes = 0
        self._waiting: list[tuple[Exchange, float]] = []
        self._asked = asyncio.Event()

    def ask(self, exchange: Exchange, patience: float = 0.0) -> None:
        """Answer the exchange after the next attempt that passes, or after one that fails when patience (seconds)
        ends."""
        if not self._probes:
            exchange.respond(200, b"queue")
            return
        until = exchange.started + patience
        self._waiting.append((exchange, until))
        self._asked.set()

    def patience_of(self, exchange: Exchange) -> float:
        """How long this caller wants to wait."""
        if self._aggressive and exchange.value(b"user-agent").startswith(b"kube-probe/"):
            return AGGRESSIVE_FOR
        wish, _, seconds = exchange.value(b"prefer").partition(b"=")
        return min(float(seconds), AGGRESSIVE_FOR) if wish == b"wait" and seconds.isdigit() else 0.0

    async def run(self) -> None:
        """Attempt while anybody waits."""
        loop = asyncio.get_running_loop()
        while True:
            await self._asked.wait()
            ready = await self._attempt(loop.time())
            now = loop.time()
            asked, self._waiting = self._waiting, []
            for exchange, until in asked:
                if ready:
                    exchange.respond(200, b"queue")
                elif now >= until:
                    exchange.respond(503, b"")
                elif not exchange.done:
                    self._waiting.append((exchange, until))
            if not self._waiting:
                self._asked.clear()
            else:
                await asyncio.sleep(RETRY)

    async def _attempt(self, now: float) -> bool:
        if len(self._probes) == 1:
            results = [await self._run(self._probes[0], now)]
        else:
            results = await asyncio.gather(*(self._run(probe, now) for probe in self._probes))
        if any(results):
            self._successes = 0
            return False
        self._successes = min(self._successes + 1, self._threshold)
        return self._successes >= self._threshold

    async def _run(self, probe: Probe, now: float) -> str | None:
        """None if it passes, else why not."""
        deadline = now + (probe.timeout if probe.period else AGGRESSIVE_TIMEOUT)
        if probe.kind == "grpc":
            return await probes.grpc(probe.host, probe.port, probe.service, deadline)
        if probe.kind == "tcp":
            return await probes.tcp(probe.host, probe.port, deadline)
        headers = (*probe.headers, ("User-Agent", "kube-probe//"))
        if self._http2.get(probe):
            # half of the time, so that an app that swallows what it does not understand is asked in HTTP/1 too
            middle = now + (deadline - now) / 2
            failed = await probes.http2(probe.host, probe.port, probe.path, middle, headers=headers)
            if failed is None or failed == "connection refused":
                return failed
        failed = await probes.http(probe.host, probe.port, probe.path, deadline, headers=headers, tls=probe.tls)
        if failed is None:
            self._http2[probe] = False
        return failed


def answer(prober: Prober, drainer: Drainer) -> Layer:
    """Answer probes: the layers below, the app and the stats never see them."""

    def layer(inner: Handler) -> Handler:
        def handle(exchange: Exchange) -> None:
            plan: Plan = exchange.head.plan or plan_of(exchange)
            if plan.health:
                _health(exchange, prober, drainer)
            elif plan.network:
                _network(exchange, drainer)
            else:
                inner(exchange)

        return handle

    return layer


def _health(exchange: Exchange, prober: Prober, drainer: Drainer) -> None:
    asked = exchange.value(b"k-network-probe")
    if asked != b"queue":
        exchange.respond(400, b"unexpected probe header value: " + asked + b"\n")
    elif drainer.draining:
        exchange.respond(503, b"shutting down\n")
    else:
        prober.ask(exchange, prober.patience_of(exchange))


def _network(exchange: Exchange, drainer: Drainer) -> None:
    digest = exchange.value(b"k-network-hash")
    if drainer.draining:
        exchange.respond(503, b"shutting down\n")
    elif not digest:
        exchange.respond(400, b'a probe request must contain a non-empty "K-Network-Hash" header\n')
    else:
        exchange.respond(200, b"", (b"K-Network-Hash: " + digest,))
