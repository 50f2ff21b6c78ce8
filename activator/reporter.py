"""What this activator carries for each revision, pushed to the autoscaler (serving §5.6).

Once a second a report of every revision seen; at once, when a request comes for a revision that nobody reported
lately, a message of one request in flight, for that may be what wakes it. The next report subtracts what was told
already. A revision that was idle for a whole period is reported once with zero, so that its windows see the end of
the load, and then dropped.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from kncore.clock import Clock
from kncore.stats import RequestStats
from kncore.wire import Stat, encode_messages

__all__ = ["PERIOD", "Reporter", "Send", "Statistics"]

PERIOD = 1.0  # seconds

Key = tuple[str, str]
Send = Callable[[bytes], bool]
"""Hands a frame to the stream; False if it had to drop it."""


@dataclass(frozen=True)
class Statistics:
    revisions: int
    sent: int
    """Frames handed to the stream."""
    lost: int
    """Frames the stream did not take; stats are not repeated."""


class _Counted:
    __slots__ = ("stats", "told")

    def __init__(self, now: float) -> None:
        self.stats = RequestStats(now)
        self.told = False
        """One request in flight was reported ahead of the period's end."""


class Reporter:
    """Counts requests per revision and reports them.

    Args:
        pod: name of this activator.
        on_poke: told when a revision was reported ahead of time.
    """

    name = "reporter"

    def __init__(self, pod: str, send: Send, clock: Clock, on_poke: Callable[[Key], None] = lambda key: None) -> None:
        self._pod = pod
        self._send = send
        self._clock = clock
        self._on_poke = on_poke
        self._revisions: dict[Key, _Counted] = {}
        self._sent = self._lost = 0

    def arrive(self, key: Key) -> None:
        """A request for a revision came in; it counts until `leave`, also while it waits."""
        now = self._clock.monotonic()
        counted = self._revisions.get(key)
        if counted is None:
            counted = self._revisions[key] = _Counted(now)
            counted.told = True
            first = Stat(pod_name=self._pod, average_concurrent_requests=1, request_count=1)
            self._push([(*key, first)])
            self._on_poke(key)
        counted.stats.arrive(now)

    def leave(self, key: Key) -> None:
        """A request that arrived is over."""
        counted = self._revisions.get(key)
        if counted is not None:
            counted.stats.leave(self._clock.monotonic())

    def report(self) -> None:
        """Send one report of everything, and forget what was idle."""
        now = self._clock.monotonic()
        messages: list[tuple[str, str, Stat | None]] = []
        for key, counted in list(self._revisions.items()):
            made = counted.stats.report(now)
            concurrency, count = made.average_concurrency, float(made.request_count)
            if made.average_concurrency == 0 and counted.stats.concurrency == 0:
                del self._revisions[key]
            if counted.told:
                counted.told = False
                concurrency, count = max(0.0, concurrency - 1), count - 1
            stat = Stat(pod_name=self._pod, average_concurrent_requests=concurrency, request_count=count)
            messages.append((*key, stat))
        if messages:
            self._push(messages)

    async def run(self) -> None:
        """Report every period until cancelled."""
        while True:
            await asyncio.sleep(PERIOD)
            self.report()

    def statistics(self) -> Statistics:
        return Statistics(len(self._revisions), self._sent, self._lost)

    def _push(self, messages: list[tuple[str, str, Stat | None]]) -> None:
        if self._send(encode_messages(messages)):
            self._sent += 1
        else:
            self._lost += 1
