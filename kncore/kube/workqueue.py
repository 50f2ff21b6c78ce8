"""Keys waiting to be worked on: each at most once, never two workers on the same one.

    add -----------> ready (fast, slow) --get--> processing --done--> gone, or ready again if added meanwhile
    add_after ----->  heap + one timer ----^

A key added while it is being processed is remembered and becomes ready when its worker says `done`, so no change is
lost and no object is reconciled twice at once. The slow lane is for reminders (resync): it is served when the fast lane
is empty, and every eighth time otherwise, so that ten thousand reminders do not delay one change.

Retries wait for the longer of two limits: per key 5 ms doubling to 1000 s, and over all keys 10 a second after a burst
of 100. First attempts are never limited. Memory is bounded by the number of different keys.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["Statistics", "TokenBucket", "WorkQueue"]

K = TypeVar("K", bound=Hashable)

_BASE = 0.005  # seconds; client-go's DefaultTypedControllerRateLimiter, as are the three below
_CAP = 1000.0
_RATE = 10.0
_BURST = 100
_SLOW_TURN = 8


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Depths now and totals since the start."""

    ready: int
    processing: int
    delayed: int
    """Keys whose time has not come, retries included."""
    failing: int
    """Keys that failed at least once since they last succeeded."""
    added: int
    retried: int


class TokenBucket:
    """A rate with a burst, by reservation: says how long to wait instead of waiting."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._tokens = float(burst)
        self._updated: float | None = None

    def reserve(self, now: float) -> float:
        """Take one token, in advance if need be; the result is in how many seconds it is good, 0.0 at once."""
        self._refill(now)
        self._tokens -= 1.0
        return max(0.0, -self._tokens / self._rate)

    def take(self, now: float) -> bool:
        """Take one token if there is one."""
        self._refill(now)
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def _refill(self, now: float) -> None:
        if self._updated is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._updated) * self._rate)
        self._updated = now


class WorkQueue(Generic[K]):
    """A queue of distinct keys for any number of workers on one event loop."""

    def __init__(self, *, base: float = _BASE, cap: float = _CAP, rate: float = _RATE, burst: int = _BURST) -> None:
        self._base = base
        self._cap = cap
        self._bucket = TokenBucket(rate, burst)
        self._fast: deque[K] = deque()
        self._slow: deque[K] = deque()
        # Ready keys and their lane (True: slow). A key promoted to the fast lane leaves its entry in the slow deque,
        # which is recognised by the lane and skipped.
        self._ready: dict[K, bool] = {}
        self._processing: set[K] = set()
        self._again: dict[K, bool] = {}
        self._turns = 0
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._order = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._failures: dict[K, int] = {}
        self._added = self._retried = 0

    def add(self, key: K, *, slow: bool = False) -> None:
        """Have the key processed as soon as a worker is free; once more if it is being processed now."""
        self._added += 1
        if key in self._processing:
            self._again[key] = slow and self._again.get(key, True)
            return
        lane = self._ready.get(key)
        if lane is None or (lane and not slow):
            self._ready[key] = slow
            (self._slow if slow else self._fast).append(key)
            self._wake()

    def add_after(self, key: K, delay: float) -> None:
        """Have the key processed in `delay` seconds; the earliest of several such wishes counts."""
        if delay <= 0.0:
            self.add(key)
            return
        when = asyncio.get_running_loop().time() + delay
        if when >= self._due.get(key, float("inf")):
            return
        self._due[key] = when
        self._order += 1
        if len(self._heap) > 2 * len(self._due) + 64:  # superseded entries are dropped lazily; do not let them pile up
            self._heap = [entry for entry in self._heap if self._due.get(entry[2]) == entry[0]]
            heapq.heapify(self._heap)
        heapq.heappush(self._heap, (when, self._order, key))
        self._arm()

    def retry(self, key: K) -> float:
        """Have the key processed again after a failure; returns in how many seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        self._retried += 1
        now = asyncio.get_running_loop().time()
        delay = max(min(self._cap, self._base * 2.0 ** min(failures, 64)), self._bucket.reserve(now))
        self.add_after(key, delay)
        return delay

    def forget(self, key: K) -> None:
        """The key succeeded: its next failure starts again with the shortest wait."""
        self._failures.pop(key, None)

    def failures(self, key: K) -> int:
        """How often the key failed since it last succeeded."""
        return self._failures.get(key, 0)

    async def get(self) -> K:
        """The next key, marked as being processed until `done`."""
        while not self._ready:
            turn = asyncio.get_running_loop().create_future()
            self._waiters.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._wake()  # we were woken and cancelled in one tick: wake another worker instead
                else:
                    with suppress(ValueError):  # a key that became ready meanwhile may have skipped us already
                        self._waiters.remove(turn)
                raise
        key = self._take()
        self._processing.add(key)
        return key

    def done(self, key: K) -> None:
        """The worker is finished with the key, whatever came of it."""
        self._processing.discard(key)
        if (slow := self._again.pop(key, None)) is not None:
            self._added -= 1
            self.add(key, slow=slow)

    def close(self) -> None:
        """Drop the timer; delayed keys stay where they are. For shutdown, after the workers have gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def statistics(self) -> Statistics:
        """Depths and totals."""
        return Statistics(
            ready=len(self._ready),
            processing=len(self._processing),
            delayed=len(self._due),
            failing=len(self._failures),
            added=self._added,
            retried=self._retried,
        )

    def _take(self) -> K:
        self._turns += 1
        lanes = (self._slow, self._fast) if self._turns % _SLOW_TURN == 0 else (self._fast, self._slow)
        for lane in lanes:
            while lane:
                key = lane.popleft()
                if self._ready.get(key) is (lane is self._slow):
                    del self._ready[key]
                    return key
        raise AssertionError("a ready key is in neither lane")

    def _wake(self) -> None:
        while self._ready and self._waiters:
            turn = self._waiters.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _arm(self) -> None:
        """Keep one timer, set to the earliest delayed key."""
        if not self._heap:
            return
        when = self._heap[0][0]
        if self._timer is not None:
            if self._timer_at <= when:
                return
            self._timer.cancel()
        self._timer_at = when
        self._timer = asyncio.get_running_loop().call_at(when, self._ripen)

    def _ripen(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._heap:
            when, _, key = self._heap[0]
            if self._due.get(key) != when:
                heapq.heappop(self._heap)
                continue
            # The loop may fire a timer up to its clock's resolution early; such a key is due, not worth another timer.
            if when > now + 0.001:
                break
            heapq.heappop(self._heap)
            del self._due[key]
            self.add(key)
        self._arm()
