"""What this activator carries for each revision, pushed to the autoscaler (serving §5.6).

Once a second a report of every revision seen. Ahead of it, a message of one request in flight when that may be what
wakes a revision: when a request comes for one that nobody reported lately, when one has to wait for a revision without
pods, and for all that is in flight when the stream is connected again. The next report subtracts what was told
already. A revision that was idle for a whole period is reported once with zero, so that its windows see the end of
the load, and then dropped.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from kncore.clock import Clock
from kncore.stats import RequestStats
from kncore.wire import Stat, encode_messages

__all__ = ["FRAME", "PERIOD", "Counted", "Reporter", "Send", "Statistics"]

PERIOD: Final = 1.0
"""Seconds between reports: the width of the autoscaler's buckets."""
FRAME: Final = 500
"""Revisions in one message: about 100 kB, far from what the stat server refuses."""

Key = tuple[str, str]
Send = Callable[[bytes], bool]
"""Hands a frame to the stream; False if it had to drop it."""


@dataclass(frozen=True)
class Statistics:
    """What is counted now, and what was sent since the start."""

    revisions: int
    sent: int
    """Frames handed to the stream."""
    lost: int
    """Frames the stream did not take; stats are not repeated."""
    pokes: int
    """Of those sent, the ones ahead of time."""


class Counted:
    """One revision's requests; whoever arrives leaves through the same one."""

    __slots__ = ("_now", "average", "key", "stats", "told")

    def __init__(self, key: Key, now: Callable[[], float]) -> None:
        self.key = key
        self.stats = RequestStats(now())
        self.average = 0.0
        """Requests in flight during the last period."""
        self.told = False
        """One request in flight was reported ahead of the period's end."""
        self._now = now

    def leave(self) -> None:
        """A request that arrived is over."""
        self.stats.leave(self._now())


class Reporter:
    """Counts requests per revision and reports them.

    Args:
        pod: name of this activator.
    """

    name = "reporter"

    def __init__(self, pod: str, send: Send, clock: Clock) -> None:
        self._pod = pod
        self._send = send
        self._now = clock.monotonic
        self._revisions: dict[Key, Counted] = {}
        self._sent = self._lost = self._pokes = 0

    def arrive(self, key: Key) -> Counted:
        """A request for a revision came in; it counts until its `leave`, also while it waits."""
        counted = self._revisions.get(key)
        if counted is None:
            counted = self._revisions[key] = Counted(key, self._now)
            self.poke(counted)
        counted.stats.arrive(self._now())
        return counted

    def poke(self, counted: Counted) -> bool:
        """Tell the autoscaler now that somebody is there, if that was not done in this period; whether it was told."""
        if not counted.told:
            first = Stat(pod_name=self._pod, average_concurrent_requests=1, request_count=1)
            counted.told = self._push([(*counted.key, first)])
            self._pokes += counted.told
        return counted.told

    def connected(self, up: bool) -> None:
        """The stream was connected (again): what is in flight may be waiting for an autoscaler that never heard of
        it.
        """
        if up:
            for counted in self._revisions.values():
                if counted.stats.concurrency:
                    self.poke(counted)

    def report(self) -> None:
        """Send one report of everything, and forget what was idle."""
        now = self._now()
        messages: list[tuple[str, str, Stat | None]] = []
        for counted in list(self._revisions.values()):
            made = counted.stats.report(now)
            concurrency, count = made.average_concurrency, float(made.request_count)
            counted.average = concurrency
            if concurrency == 0 and not counted.stats.concurrency:
                del self._revisions[counted.key]
            if counted.told:
                counted.told = False
                concurrency, count = max(0.0, concurrency - 1), max(0.0, count - 1)
            stat = Stat(pod_name=self._pod, average_concurrent_requests=concurrency, request_count=count)
            messages.append((*counted.key, stat))
        for first in range(0, len(messages), FRAME):
            self._push(messages[first : first + FRAME])

    def averages(self) -> Iterator[tuple[Key, float]]:
        """Requests in flight during the last period, of every revision that had any."""
        for key, counted in self._revisions.items():
            yield key, counted.average

    async def run(self) -> None:
        """Report every period until cancelled."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            # A fixed beat: were each period a little longer than a second, some of the autoscaler's seconds would
            # get no report and read as zero.
            due = max(due + PERIOD, loop.time())
            await asyncio.sleep(due - loop.time())
            self.report()

    def statistics(self) -> Statistics:
        """Revisions counted, frames sent and lost."""
        return Statistics(len(self._revisions), self._sent, self._lost, self._pokes)

    def _push(self, messages: list[tuple[str, str, Stat | None]]) -> bool:
        sent = self._send(encode_messages(messages))
        self._sent += sent
        self._lost += not sent
        return sent
