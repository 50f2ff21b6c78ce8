"""Who may use the processor next: turns for requests when more come than one event loop can start at once.

    handler -> turns.admit(turn, party, now) -> True: go on                     (always, while there is no rush)
                                             -> False: turn.proceed() later     in order, each party in its turn
                                                    or turn.shed()              it waited longer than is of use
    done -> turns.over(turn, party)             it is over, or its client left

A proxy on one thread does whatever epoll reports, in whatever order. So a tenant with a thousand busy connections gets
a thousand shares of every round, and a tenant with one waits for all of them; and a round that takes a second makes
every clock, probe and report late by a second. Here a round is kept short instead: each party may start a few requests
per round, the rest queues, and between two rounds the loop looks at all sockets again. A queued connection reads
nothing new, so what a busy tenant sends stays in the kernel, not here; and the answers that come back are as many as
were let go. Who has nothing queued passes at once.

Answers cannot be put off like requests: they come in whatever lumps an app sends them, and each brings the next request
of its client. So while parties share the loop, a party has a window of requests under way. It grows by one whenever it
is what holds a request up, and shrinks when more ended in one round than a round should hold: an app that answers
evenly, however slowly, gets all it can use, one that answers in lumps gets smaller ones.

With several parties in the last seconds a round is `burst_shared` requests of those who queue, taken in turn by
weight; with one alone only the round's length matters, and it is `burst_alone`.

Overload is when the oldest turn of a party has waited longer than `patience`. Served in order, all would be as late as
that, and soon too late for their clients. So the newest goes next then, and of the oldest one is refused for every
`SERVED_PER_REFUSED` that are served: what is served is served in time, and refusing, which costs half of serving,
takes less than a tenth of the processor. (Refusing whoever comes while it is too much would be kinder to each of
them, but clients that are refused at once are back at once, and then refusing is all that the process does.) The others
wait on, and nothing of their connections is read.

What it costs: a call and three comparisons per request while there is no rush; the loop's turning is only counted once
`RUSH` requests came within the same millisecond.

What is bounded: turns queued, by the listeners' connections and streams and by `depth`; refusals per round, like
requests. What dies when: `over` takes out a turn whose client left; when the queues are empty nothing is left, not even
a callback.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol

from kncore.errors import ProxyError

__all__ = ["Limits", "Overloaded", "Party", "Statistics", "Turn", "Turns"]

RUSH: Final = 8
MOMENT: Final = 0.001
"""So many requests within so many seconds (uvloop tells no smaller part) begin a rush, in which rounds are counted; at
less, a round cannot be long."""
START: Final = 32
"""A party's window when it first needs one."""
LUMP: Final = 4
"""A window shrinks when more ended in a round than so many times the requests that one starts."""
SHRINK: Final = 0.75
BLOCKED: Final = 0.001
"""Seconds until the next round when all who wait have their windows full."""
STALLED: Final = 0.125
"""How much of themselves windows grow by when nothing has ended for so long: many requests for an app that takes its
time are no lump, and within a twentieth of a second it has thousands of them."""
SERVED_PER_REFUSED: Final = 6
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
    """A party whose oldest turn waited longer is overloaded. Ten ticks of a ticker, and far below what clients wait."""
    depth: int = 40_000
    """Turns queued in all; more are refused at once. It is there for memory (some 4 KiB each) and more than all
    connections of three listeners: refusing at once is no way to serve many."""
    window: int = 16
    """Least requests that a party may have under way while others are there too."""


class Overloaded(ProxyError):
    """More work than the process can do in time."""

    status: ClassVar[int] = 503

    def __init__(self) -> None:
        super().__init__("overloaded")


class Loop(Protocol):
    """What is used of an event loop."""

    def time(self) -> float: ...
    def call_soon(self, callback: Callable[[], None], /) -> object:
        """Run it once the sockets were looked at."""

    def call_later(self, delay: float, callback: Callable[[], None], /) -> "_Handle": ...


class _Handle(Protocol):
    def cancel(self) -> object: ...


class Turn(Protocol):
    """A request that wants the processor; compared by identity."""

    def proceed(self) -> None:
        """Go on now; must not raise."""

    def shed(self) -> None:
        """It waited too long, or too many wait: refuse it. Must not raise."""


class _Nobody:
    def proceed(self) -> None:
        raise AssertionError

    def shed(self) -> None:
        raise AssertionError


_NOBODY: Final = _Nobody()
"""A turn that nobody keeps."""


class Party:
    """Whose requests share a queue, and their due against other parties.

    Args:
        weight: turns it gets for each one that a party of weight 1 gets, when both wait; at least 1.
    """

    __slots__ = (
        "ended",
        "ended_in",
        "judged_in",
        "listed",
        "queue",
        "started",
        "started_in",
        "under_way",
        "weight",
        "window",
    )

    def __init__(self, weight: int = 1) -> None:
        self.weight = max(1, weight)
        self.queue: OrderedDict[Turn, float] = OrderedDict()
        """Turns waiting, oldest first, with the time they came."""
        self.under_way: set[Turn] = set()
        """Turns that went on during a rush of several parties and are not over."""
        self.window = START
        """Most of those while others share the loop and some of ours wait."""
        self.listed = False
        self.started = self.ended = 0
        self.started_in = self.ended_in = self.judged_in = -1
        """The round in which so many started without waiting, so many ended, and the window was judged."""


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
    """The processor of one event loop."""

    __slots__ = (
        "_blocked",
        "_burst",
        "_count",
        "_deferred",
        "_last",
        "_limits",
        "_loop",
        "_met",
        "_moment",
        "_parties",
        "_queued",
        "_round",
        "_rush",
        "_served",
        "_shed",
        "_stalled",
        "now",
    )

    def __init__(self, loop: Loop, limits: Limits | None = None) -> None:
        self.now = loop.time
        self._loop = loop
        self._limits = limits or Limits()
        self._burst = self._limits.burst_alone
        self._last: Party | None = None
        self._met = float("-inf")  # when two parties last followed each other
        self._moment = 0.0
        self._count = 0
        self._rush = False  # rounds are counted, and `_turned` is on its way
        self._blocked: _Handle | None = None  # the timer that will call it, rather than the loop's turning
        self._round = 0
        self._parties: deque[Party] = deque()
        self._stalled = False  # the timer called it
        self._queued = self._deferred = self._shed = self._served = 0

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
            if party.started_in == self._round and party.started < self._burst and not party.queue:
                if now - self._met >= MIXED_FOR:  # alone, and this round is not long yet: the usual case
                    party.started += 1
                    return True
            return self._in_rush(turn, party, now)
        if now - self._moment >= MOMENT:
            self._moment = now
            self._count = 1
            return True
        self._count += 1
        if self._count >= RUSH:
            self._rush = True
            self._loop.call_soon(self._turned)
        return True

    def over(self, turn: Turn, party: Party) -> None:
        """A request is over, or gives up waiting; need not be called while the party has neither `queue` nor
        `under_way`.
        """
        if turn in party.under_way:
            party.under_way.remove(turn)
            if party.ended_in != self._round:
                party.ended_in = self._round
                party.ended = 0
            party.ended += 1
            if party.queue:
                self._unblock()
        if turn in party.queue:
            del party.queue[turn]
            self._queued -= 1

    def passes(self, party: Party, now: float) -> bool:
        """Whether a request may go without having to be remembered, which is all but those in the rush of a party
        that is not alone or has started enough; those must ask `admit`. For whoever makes a turn only when needed.
        """
        if self._rush:
            return party is self._last and self._alone(party, now)
        return self.admit(_NOBODY, party, now)

    def _alone(self, party: Party, now: float) -> bool:
        """Let a request start if nobody else shares the loop: then the length of the round is all that matters."""
        if party.queue or now - self._met < MIXED_FOR:
            return False
        if party.started_in != self._round:
            party.started_in = self._round
            party.started = 0
        party.started += 1
        return party.started <= self._limits.burst_alone

    def _in_rush(self, turn: Turn, party: Party, now: float) -> bool:
        limits = self._limits
        if self._alone(party, now):
            return True
        if not party.queue and now - self._met < MIXED_FOR:
            if party.started_in != self._round:
                party.started_in = self._round
                party.started = 0
            if party.started < limits.burst_shared and len(party.under_way) < party.window:
                party.started += 1
                party.under_way.add(turn)
                return True
        if self._queued >= limits.depth:
            self._shed += 1
            turn.shed()
            return False
        if not party.listed:
            party.listed = True
            self._parties.append(party)
        party.queue[turn] = now
        self._queued += 1
        self._deferred += 1
        if len(party.under_way) < party.window:
            self._unblock()
        return False

    def _turned(self) -> None:
        """The loop has been round: let the next ones go."""
        self._stalled = self._blocked is not None
        self._blocked = None
        self._count = 0
        if not self._parties:
            self._round += 1
            self._rush = False
            return
        idle = 0
        try:
            idle = self._hand_out(self.now())
        finally:  # a request with a bug must not stop everybody's rounds
            self._round += 1
            if idle:
                self._blocked = self._loop.call_later(BLOCKED, self._turned)
            else:
                self._loop.call_soon(self._turned)

    def _hand_out(self, now: float) -> int:
        """Let a round's worth of turns go; returns how many parties at the end could not start anything, in a row."""
        parties = self._parties
        limits = self._limits
        shared = now - self._met < MIXED_FOR
        left = limits.burst_shared if shared else limits.burst_alone
        idle = 0
        while left > 0 and idle < len(parties):
            party = parties.popleft()
            try:
                count = min(left, len(party.queue))
                if parties:
                    count = min(count, party.weight)
                if shared:
                    count = min(count, self._room(party))
                if count > 0:
                    self._start(party, count, now - limits.patience, shared=shared)
                    left -= count
                    idle = 0
                elif party.queue:
                    idle += 1
            finally:
                if party.queue:
                    parties.append(party)
                else:
                    party.listed = False
        return idle

    def _room(self, party: Party) -> int:
        """How many more a party may have under way; judges its window, once in a round."""
        if party.judged_in != self._round:
            party.judged_in = self._round
            if party.ended_in == self._round and party.ended > LUMP * self._limits.burst_shared:
                party.window = max(self._limits.window, int(party.window * SHRINK))
            elif len(party.under_way) >= party.window:
                party.window += max(1, int(party.window * STALLED)) if self._stalled else 1
        return party.window - len(party.under_way)

    def _start(self, party: Party, count: int, too_old: float, *, shared: bool) -> None:
        """Let so many go, and refuse some if it is too much."""
        queue = party.queue
        for _ in range(count):
            late = next(iter(queue.values())) < too_old
            turn, _ = queue.popitem(last=late)
            self._queued -= 1
            self._served += 1
            if shared:
                party.under_way.add(turn)
            turn.proceed()
            if late and queue and self._served % SERVED_PER_REFUSED == 0:
                turn, _ = queue.popitem(last=False)
                self._queued -= 1
                self._shed += 1
                turn.shed()
            if not queue:
                return

    def _unblock(self) -> None:
        if self._blocked is not None:
            self._blocked.cancel()
            self._blocked = None
            self._loop.call_soon(self._turned)

    def statistics(self) -> Statistics:
        """What waits, and what became of those before."""
        return Statistics(
            queued=self._queued,
            parties=sum(bool(party.queue) for party in self._parties),
            deferred=self._deferred,
            shed=self._shed,
        )
