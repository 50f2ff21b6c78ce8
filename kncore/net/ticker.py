"""Coarse time for everything that waits on a connection: one timer per process instead of one per request.

A proxy at full speed starts tens of thousands of requests a second and nearly none of them ever times out. So nobody
arms a timer: participants are visited a few times a second and compare their own deadlines with *now*. A deadline is
met up to one period late, which is what timeouts in whole seconds allow. With nothing in flight the visits slow down
to one a second, so a sleeping sidecar costs next to nothing.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

__all__ = ["Ticker"]

FAST: Final = 0.05
"""Period while some participant has requests in flight, seconds."""
SLOW: Final = 1.0

Visit = Callable[[float], bool]
"""Called with the loop's time; True keeps the fast pace."""


class Ticker:
    """Visits its participants until closed."""

    def __init__(self) -> None:
        self._visits: list[Visit] = []
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.slow = True
        """Nobody has requests in flight; who begins one calls `wake`."""

    def add(self, visit: Visit) -> None:
        """Visit this one from now on; must be called inside the running loop."""
        self._visits.append(visit)
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._timer = self._loop.call_later(SLOW, self._tick)

    def discard(self, visit: Visit) -> None:
        """Visit this one no longer."""
        if visit in self._visits:
            self._visits.remove(visit)

    def wake(self) -> None:
        """Something may be due soon: keep the fast pace."""
        if self.slow:
            self.slow = False
            self._rearm(FAST)

    def close(self) -> None:
        """Stop; no participant is visited again."""
        self._visits.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop = None

    def _rearm(self, period: float) -> None:
        if self._loop is not None:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(period, self._tick)

    def _tick(self) -> None:
        assert self._loop is not None
        now = self._loop.time()
        started = time.perf_counter()  # the loop's own clock stands still within an iteration
        busy = [True]
        try:
            busy = [visit(now) for visit in tuple(self._visits)]
        finally:  # a participant with a bug must not stop everybody's clocks
            self.slow = not any(busy)
            # a visit of very many connections takes its time: never spend more than 2 % of a core on looking
            spent = time.perf_counter() - started
            self._rearm(SLOW if self.slow else max(FAST, 50 * spent))
