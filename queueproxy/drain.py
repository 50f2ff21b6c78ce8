"""Leaving without losing a request (serving §6.9).

    serving --preStop of the app asks GET :8022/wait-for-drain, or SIGTERM--> draining --quiet for 30 s--> drained
       ^                                                                          |
       +-----------------  no SIGTERM within 1 s of the preStop  -----------------+

While draining, readiness answers 503 `shutting down` and requests are still served: whoever has not noticed yet gets
good answers, and each request restarts the quiet period. When it is over, those who wait are answered and a
terminating process closes its listeners. A preStop without SIGTERM to us means that kubelet restarts the app alone
(its liveness failed): then serving goes on.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from kncore.net.exchange import Exchange, Handler
from kncore.net.ticker import Ticker
from queueproxy.proxy import Layer

__all__ = ["Drainer", "admin", "watch"]

SIGTERM_WITHIN: Final = 1.0


class Drainer:
    """Knows whether we are leaving, and for how long nobody has asked anything. Pure but for the callbacks.

    Args:
        quiet: seconds without a request that end the draining.
    """

    def __init__(self, quiet: float) -> None:
        self.draining = False
        self.last = 0.0
        """Time of the last request."""
        self._quiet = quiet
        self._began = 0.0
        self._terminating = False
        self._waiting: list[Callable[[], None]] = []

    def begin(self, now: float, *, terminating: bool) -> None:
        """Start draining, or learn that the process was told to end."""
        self._terminating = self._terminating or terminating
        if not self.draining:
            self.draining = True
            self._began = now
            self.last = now

    def wait(self, told: Callable[[], None]) -> None:
        """Call back when drained, or when serving goes on."""
        self._waiting.append(told)

    def visit(self, now: float) -> bool:
        """Compare the clocks with now; for the ticker, True keeps it fast."""
        if not self.draining:
            return False
        if not self._terminating and now - self._began > SIGTERM_WITHIN:
            self.draining = False
            self._tell()
        elif now - self.last >= self._quiet:
            self._tell()
        return bool(self._waiting)

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, []
        for told in waiting:
            told()

    async def drained(self, now: float, ticker: Ticker) -> None:
        """Begin because the process must end; returns when the quiet period is over."""
        quiet = asyncio.Event()
        self.begin(now, terminating=True)
        self.wait(quiet.set)
        ticker.wake()
        await quiet.wait()


def watch(drainer: Drainer) -> Layer:
    """Every request that is no probe restarts the quiet period."""

    def layer(inner: Handler) -> Handler:
        def handle(exchange: Exchange) -> None:
            drainer.last = exchange.started
            inner(exchange)

        return handle

    return layer


def admin(drainer: Drainer, ticker: Ticker) -> Handler:
    """The admin port: `/wait-for-drain`."""

    def handle(exchange: Exchange) -> None:
        if exchange.target.partition(b"?")[0] != b"/wait-for-drain":
            exchange.respond(404, b"404 page not found\n")
            return
        drainer.begin(exchange.started, terminating=False)
        drainer.wait(lambda: exchange.respond(200))
        ticker.wake()

    return handle
