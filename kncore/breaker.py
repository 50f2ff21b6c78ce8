"""Slots for concurrent requests and the bounded queue in front of them.

At most `capacity` requests hold a slot; up to `queue_depth + max_concurrency` may be here in all, the rest is refused
at once. Waiters are served in order of arrival, and nobody overtakes them. Capacity may be changed at any time, also
below what is in use: then nothing is handed out until enough was released.

Two ways in, one queue:

- `enter(waiter)` for the proxies' hot path. It returns True if a slot was free, and then nothing at all was
  allocated. Otherwise `waiter.admitted()` is called later, from within somebody's `release` or `resize`; until then
  `leave(waiter)` takes the waiter out again, in constant time. There are no timers here: whoever has a deadline calls
  `leave` when it passes.
- `await acquire(deadline)` and `async with slot(deadline)` for everything else.

Every True from `enter` or `try_acquire`, every `admitted()` and every return from `acquire` is paired with exactly
one `release()`. State changes are synchronous, so the breaker needs no lock; it belongs to one event loop.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import ClassVar, Protocol

from kncore.errors import ProxyError

__all__ = ["Breaker", "Expired", "QueueFull", "Statistics", "Waiter"]


class QueueFull(ProxyError):
    """No slot and no place to wait for one."""

    status: ClassVar[int] = 503

    def __init__(self, depth: int) -> None:
        super().__init__("pending request queue full")
        self.depth = depth


class Expired(ProxyError):
    """The deadline passed while waiting for a slot."""

    status: ClassVar[int] = 503

    def __init__(self) -> None:
        super().__init__("context deadline exceeded")


class Waiter(Protocol):
    """Something that wants a slot; compared by identity."""

    def admitted(self) -> None:
        """A slot is yours now; must not raise. May call back into the breaker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """A breaker at one moment."""

    in_use: int
    """Slots handed out."""
    waiting: int
    """Queued waiters."""
    capacity: int
    """Slots there are; less than in_use after a shrink."""
    limit: int
    """in_use + waiting never exceed it."""
    refused: int
    """Requests turned away since the start because the queue was full."""


class _Turn:
    """A waiter that wakes a coroutine."""

    __slots__ = ("future",)

    def __init__(self) -> None:
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def admitted(self) -> None:
        if not self.future.done():  # cancelled in this tick: acquire() gives the slot back when it runs
            self.future.set_result(None)


class Breaker:
    """Hands out slots in order of arrival.

    Args:
        max_concurrency: most slots there can ever be.
        queue_depth: places to wait beyond those.
        initial_capacity: slots to begin with, at most max_concurrency.
    """

    __slots__ = ("_capacity", "_dispatching", "_in_use", "_limit", "_max", "_refused", "_waiting")

    def __init__(self, *, max_concurrency: int, queue_depth: int, initial_capacity: int) -> None:
        if max_concurrency < 1 or queue_depth < 0 or not 0 <= initial_capacity <= max_concurrency:
            raise ValueError(
                f"no such breaker: max_concurrency={max_concurrency} queue_depth={queue_depth} "
                f"initial_capacity={initial_capacity}"
            )
        self._max = max_concurrency
        self._limit = max_concurrency + queue_depth
        self._capacity = initial_capacity
        self._in_use = 0
        self._refused = 0
        # An OrderedDict because both ends matter: serving takes the first, leaving takes any, each in constant time.
        self._waiting: OrderedDict[Waiter, None] = OrderedDict()
        self._dispatching = False

    @property
    def capacity(self) -> int:
        """Slots there are."""
        return self._capacity

    @property
    def in_use(self) -> int:
        """Slots handed out."""
        return self._in_use

    @property
    def waiting(self) -> int:
        """Queued waiters."""
        return len(self._waiting)

    @property
    def available(self) -> bool:
        """Whether `try_acquire` would succeed."""
        # Somebody may wait although a slot is free, for as long as one dispatch runs: the slot is theirs.
        return self._in_use < self._capacity and not self._waiting

    def try_acquire(self) -> bool:
        """Take a slot if one is free and nobody waits for it."""
        if self._in_use < self._capacity and not self._waiting:
            self._in_use += 1
            return True
        return False

    def enter(self, waiter: Waiter) -> bool:
        """Take a slot (True), or queue and have `waiter.admitted()` called once (False).

        Raises:
            QueueFull: neither is possible.
        """
        if self._in_use < self._capacity and not self._waiting:
            self._in_use += 1
            return True
        if self._in_use + len(self._waiting) >= self._limit:
            self._refused += 1
            raise QueueFull(self._limit - self._max)
        self._waiting[waiter] = None
        return False

    def leave(self, waiter: Waiter) -> bool:
        """Take a queued waiter out. False: it is not queued, so it was admitted (and must release) or never entered."""
        if waiter in self._waiting:
            del self._waiting[waiter]
            return True
        return False

    def release(self) -> None:
        """Give a slot back; the longest waiter gets it."""
        if not self._in_use:
            raise RuntimeError("a slot was released twice")
        self._in_use -= 1
        if self._waiting:
            self._dispatch()

    def resize(self, capacity: int) -> None:
        """Change how many slots there are, between 0 and max_concurrency (anything else becomes the nearer of the
        two).
        """
        self._capacity = max(0, min(capacity, self._max))
        if self._waiting:
            self._dispatch()

    def _dispatch(self) -> None:
        """Hand free slots to waiters. A waiter may release within admitted(): the loop below serves that, not a
        recursion.
        """
        if self._dispatching:
            return
        self._dispatching = True
        try:
            while self._waiting and self._in_use < self._capacity:
                waiter, _ = self._waiting.popitem(last=False)
                self._in_use += 1
                waiter.admitted()
        finally:
            self._dispatching = False

    async def acquire(self, deadline: float | None = None) -> None:
        """Take a slot, waiting for one until `deadline` (loop time; None waits forever). A free slot needs no await.

        Cancelling gives the place, or a slot that arrived in the same tick, to the next in line.

        Raises:
            QueueFull: no place to wait.
            Expired: the deadline passed.
        """
        if self.try_acquire():
            return
        turn = _Turn()
        if self.enter(turn):
            return
        got = False
        try:
            async with asyncio.timeout_at(deadline):
                await turn.future
            got = True
        except TimeoutError:
            raise Expired from None
        finally:
            if not got and not self.leave(turn):
                self.release()  # admitted and given up in one tick: pass it on

    @asynccontextmanager
    async def slot(self, deadline: float | None = None) -> AsyncIterator[None]:
        """Hold a slot for the length of the block; raises as `acquire`."""
        await self.acquire(deadline)
        try:
            yield
        finally:
            self.release()

    def statistics(self) -> Statistics:
        """What is in use and what waits."""
        return Statistics(
            in_use=self._in_use,
            waiting=len(self._waiting),
            capacity=self._capacity,
            limit=self._limit,
            refused=self._refused,
        )
