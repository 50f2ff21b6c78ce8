"""Who may use the processor next: turns for requests when more come than one event loop can start at once.

    handler -> turns.admit(turn, party, now) -> True: go on                     (always, while there is no rush)
                                             -> False: turn.proceed() later     in order, each party in its turn
                                                    or turn.shed()              it waited longer than is of use

A proxy on one thread does whatever epoll reports, in whatever order. So a tenant with a thousand busy connections gets
a thousand shares of every round, and a tenant with one waits for all of them; and a round that takes a second makes
every clock, probe and report late by a second. Here a round is kept short instead: each party may start a few requests
per round, the rest queues, and between two rounds the loop looks at all sockets again. A queued connection reads
nothing new, so what a busy tenant sends stays in the kernel, not here; and the answers that come back are as many as
were let go. Who has nothing queued passes at once.

With several parties in the last seconds a round is `burst_shared` requests of those who queue, taken in turn by
weight; with one alone only the round's length matters, and it is `burst_alone`.

Overload is when a turn waits longer than `patience`: then the oldest is refused rather than served, as often as the
loop gets to it. The work that waits is never more than `patience` seconds of what the process can do, and a refusal
costs a fraction of a request; so what is served stays near the most that can be served. (Refusing newcomers at once
would be kinder to each of them, but clients that are refused at once come back at once, and then refusing is all that
the process does.)

What it costs: a call and three comparisons per request while there is no rush; the loop's turning is only counted once
`RUSH` requests came within the same millisecond.

What is bounded: turns queued per party and in all, by the listeners' connections and streams, and by `depth`. What dies
when: `leave` takes out a turn whose client left; nothing is left when the queues are empty, not even a callback.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol

from kncore.errors import ProxyError

__all__ = ["Limits", "Overloaded", "Party", "Statistics", "Turn", "Turns"]

RUSH: Final = 8
"""Requests within a millisecond from which on rounds are counted; at less, a round cannot be long."""
MIXED_FOR: Final = 10.0
"""Seconds for which two parties count as meeting after the last time one followed the other."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Requests and seconds."""

    burst_alone: int = 128
    """Requests started per round of the loop when one party is alone: about 5 ms of work."""
    burst_shared: int = 4
    """The same when parties share the loop. It is what somebody else has to wait for; each round costs a few
    microseconds beyond its requests."""
    patience: float = 0.5
    """A turn that waited longer is refused. Ten times the timer of a ticker, and far below what clients wait."""
    depth: int = 20_000
    """Turns queued in all; more are refused at once."""


class Overloaded(ProxyError):
    """More work than the process can do in time."""

    status: ClassVar[int] = 503

    def __init__(self) -> None:
        super().__init__("overloaded")


class Turn(Protocol):
    """A request that wants the processor; compared by identity."""

    def proceed(self) -> None:
        """Go on now; must not raise."""

    def shed(self) -> None:
        """It waited too long, or too many wait: refuse it. Must not raise."""


class Party:
    """Whose requests share a queue, and their due against other parties.

    Args:
        weight: turns it gets for each one that a party of weight 1 gets, when both wait; at least 1.
    """

    __slots__ = ("_count", "_listed", "_round", "queue", "weight")

    def __init__(self, weight: int = 1) -> None:
        self.weight = max(1, weight)
        self.queue: OrderedDict[Turn, float] = OrderedDict()
        """Turns waiting, oldest first, with the time they came."""
        self._round = -1
        self._count = 0
        self._listed = False


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Now, and since the start."""

    queued: int
    parties: int
    """Parties with something queued."""
    deferred: int
    """Turns that did not go at once, ever."""
    shed: int
    """Turns refused, ever."""


class Turns:
    """The processor of one event loop.

    Args:
        now: the loop's time, seconds.
        call_soon: the loop's; what it is given runs once the sockets were looked at.
    """

    __slots__ = (
        "_call_soon",
        "_count",
        "_deferred",
        "_last",
        "_limits",
        "_met",
        "_moment",
        "_parties",
        "_queued",
        "_round",
        "_rush",
        "_shed",
        "now",
    )

    def __init__(
        self,
        now: Callable[[], float],
        call_soon: Callable[[Callable[[], None]], object],
        limits: Limits | None = None,
    ) -> None:
        self.now = now
        self._call_soon = call_soon
        self._limits = limits or Limits()
        self._last: Party | None = None
        self._met = float("-inf")  # when two parties last followed each other
        self._moment = 0.0
        self._count = 0
        self._rush = False  # rounds are counted, `_turned` is on its way
        self._round = 0
        self._parties: deque[Party] = deque()
        self._queued = self._deferred = self._shed = 0

    def admit(self, turn: Turn, party: Party, now: float) -> bool:
        """Let a request go at once (True), or have it told later (False), maybe before this returns.

        Args:
            now: the loop's time when the request came, or now.
        """
        if party is not self._last:
            if self._last is not None:
                self._met = now
            self._last = party
        if self._rush:
            return self._in_rush(turn, party, now)
        if now != self._moment:
            self._moment = now
            self._count = 1
            return True
        self._count += 1
        if self._count >= RUSH:
            self._rush = True
            self._call_soon(self._turned)
        return True

    def leave(self, turn: Turn, party: Party) -> None:
        """A request gives up; no harm if it does not wait."""
        if turn in party.queue:
            del party.queue[turn]
            self._queued -= 1

    def _in_rush(self, turn: Turn, party: Party, now: float) -> bool:
        limits = self._limits
        if not party.queue:
            if party._round != self._round:
                party._round = self._round
                party._count = 0
            party._count += 1
            if party._count <= (limits.burst_shared if now - self._met < MIXED_FOR else limits.burst_alone):
                return True
        if self._queued >= limits.depth:
            self._shed += 1
            turn.shed()
            return False
        if not party._listed:
            party._listed = True
            self._parties.append(party)
        party.queue[turn] = now
        self._queued += 1
        self._deferred += 1
        return False

    def _turned(self) -> None:
        """The loop has been round: let the next ones go."""
        self._round += 1
        self._count = 0
        parties = self._parties
        if not parties:
            self._rush = False
            return
        self._call_soon(self._turned)
        now = self.now()
        limits = self._limits
        left = limits.burst_shared if now - self._met < MIXED_FOR else limits.burst_alone
        too_old = now - limits.patience
        while left > 0 and parties:
            party = parties.popleft()
            queue = party.queue
            for _ in range(min(party.weight, left)):
                if not queue:
                    break
                turn, came = queue.popitem(last=False)
                self._queued -= 1
                left -= 1
                if came < too_old:
                    self._shed += 1
                    turn.shed()
                else:
                    turn.proceed()
            if queue:
                parties.append(party)
            else:
                party._listed = False

    def statistics(self) -> Statistics:
        """What waits, and what became of those before."""
        return Statistics(
            queued=self._queued,
            parties=sum(bool(party.queue) for party in self._parties),
            deferred=self._deferred,
            shed=self._shed,
        )
