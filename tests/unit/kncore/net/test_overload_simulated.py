"""Fairness and goodput of one event loop in simulated time: what a busy machine would not let us measure in a test.

Every step of a request costs the loop what it costs on a real processor, and sockets that became readable meanwhile
are served in the next iteration, in the order in which they became so; apps and clients cost nothing.
"""

import heapq
import itertools
import random
from collections import deque

import pytest

from kncore.net.overload import Limits, Party, Turns

READ, FORWARD, ANSWER, REFUSE = 7e-6, 8e-6, 9e-6, 5e-6
"""Seconds of the loop for a request's head, its way to the app, its answer, or a refusal."""
ITERATION = 6e-6
PEAK = 1 / (READ + FORWARD + ANSWER)


class Loop:
    """Events at times, callbacks between the iterations, and a clock that advances by work."""

    def __init__(self) -> None:
        self.now = 0.0
        self.soon: deque = deque()
        self.events: list = []
        self.world: list = []
        """What others do: it takes no time here."""
        self.order = itertools.count()

    def time(self) -> float:
        return self.now

    def call_soon(self, callback) -> None:
        self.soon.append(callback)

    def call_later(self, delay: float, callback) -> "Timer":
        timer = Timer()
        self.at(self.now + delay, lambda: None if timer.cancelled else callback())
        return timer

    def at(self, when: float, callback) -> None:
        heapq.heappush(self.events, (when, next(self.order), callback))

    def elsewhere(self, when: float, callback) -> None:
        """Call `callback(when)` once that time has come, however late this loop is."""
        heapq.heappush(self.world, (when, next(self.order), callback))

    def spend(self, seconds: float) -> None:
        self.now += seconds

    def run(self, until: float) -> None:
        while self.now < until and (self.events or self.soon or self.world):
            if not self.soon:
                self.now = max(self.now, min(heap[0][0] for heap in (self.events, self.world) if heap))
            self.spend(ITERATION)
            horizon = self.now
            while self.world and self.world[0][0] <= horizon:
                when, _, callback = heapq.heappop(self.world)
                callback(when)
            ready = []
            while self.events and self.events[0][0] <= horizon and len(ready) < 1024:
                ready.append(heapq.heappop(self.events)[2])
            for callback in ready:
                callback()
            for _ in range(len(self.soon)):
                self.soon.popleft()()


class Timer:
    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Proxy:
    """An activator: reads, takes turns or not, forwards to an app that takes `delay`, answers."""

    def __init__(self, loop: Loop, *, turns: bool = True, **limits) -> None:
        self.loop = loop
        self.turns = Turns(loop, Limits(**limits)) if turns else None

    def read(self, request: "Request") -> None:
        self.loop.spend(READ)
        if self.turns is None or self.turns.admit(request, request.party, self.loop.now):
            request.proceed()


class Request:
    def __init__(self, proxy: Proxy, party: Party, app, then) -> None:
        self.proxy, self.party, self.app, self.then = proxy, party, app, then
        self.asked = proxy.loop.now

    def proceed(self) -> None:
        self.proxy.loop.spend(FORWARD)
        self.app(self)

    def answered(self) -> None:
        self.proxy.loop.spend(ANSWER)
        self.end(200)

    def shed(self) -> None:
        self.proxy.loop.spend(REFUSE)
        self.end(503)

    def end(self, status: int) -> None:
        if self.proxy.turns is not None:
            self.proxy.turns.over(self, self.party)
        self.then(self, status)


def even(loop: Loop, delay: float):
    """An app that takes the same time for each."""
    return lambda request: loop.at(loop.now + delay, request.answered)


def lumpy(loop: Loop, every: float):
    """An app that gets a processor now and then, and answers all that came at once."""
    return lambda request: loop.at((loop.now // every + 1) * every, request.answered)


def neighbours(*, turns: bool, delay: float, hot: int, hot_app, seconds: float = 2.0) -> list[float]:
    """Latencies of a tenant with 100 requests/s beside one with so many connections that are always busy; without the
    first, when all of them are there at once.
    """
    loop = Loop()
    proxy = Proxy(loop, turns=turns)
    small, large = Party(), Party()
    app, latencies, chance = even(loop, delay), [], random.Random(7)

    def ask(due: float) -> None:
        request = Request(proxy, small, app, lambda one, _: latencies.append(loop.now - due) if due > 0.2 else None)
        loop.at(due, lambda: proxy.read(request))
        loop.elsewhere(due + chance.expovariate(100), ask)

    def again(request: Request | None, _: int = 0) -> None:
        when = loop.now + 50e-6
        loop.at(when, lambda: proxy.read(Request(proxy, large, hot_app(loop), again)))

    loop.elsewhere(0.01, ask)
    for _ in range(hot):
        again(None)
    loop.run(seconds)
    assert len(latencies) > 60 * seconds
    return sorted(latencies)


def rank(sorted_samples: list[float], share: float) -> float:
    return sorted_samples[int(len(sorted_samples) * share)]


@pytest.mark.parametrize("hot_app", [lambda loop: even(loop, 0.0002), lambda loop: even(loop, 0.02)])
@pytest.mark.parametrize("connections", [64, 1000])
def test_neighbour_that_is_always_busy_costs_less_than_a_fifth(hot_app, connections: int) -> None:
    alone = neighbours(turns=True, delay=0.005, hot=0, hot_app=hot_app)
    beside = neighbours(turns=True, delay=0.005, hot=connections, hot_app=hot_app)
    assert rank(beside, 0.99) <= 1.2 * rank(alone, 0.99)


def test_neighbour_whose_answers_come_in_lumps_costs_less_than_a_fifth() -> None:
    alone = neighbours(turns=True, delay=0.005, hot=0, hot_app=lambda loop: lumpy(loop, 0.003))
    beside = neighbours(turns=True, delay=0.005, hot=256, hot_app=lambda loop: lumpy(loop, 0.003))
    assert rank(beside, 0.99) <= 1.2 * rank(alone, 0.99)


def test_without_turns_it_costs_several_times_as_much() -> None:
    """That the simulation shows what the turns are for."""
    alone = neighbours(turns=False, delay=0.005, hot=0, hot_app=lambda loop: even(loop, 0.0002))
    beside = neighbours(turns=False, delay=0.005, hot=1000, hot_app=lambda loop: even(loop, 0.0002))
    assert rank(beside, 0.99) > 3 * rank(alone, 0.99)


def flood(*, times: float, connections: int, seconds: float = 1.0, **limits) -> tuple[float, float]:
    """(good answers per second, refusals per second) of an open loop at so many times the peak; good is 200 within a
    second. Who finds no free connection is turned away.
    """
    loop = Loop()
    proxy, party = Proxy(loop, **limits), Party()
    app, chance = even(loop, 0.001), random.Random(11)
    free = connections
    good = refused = 0

    def ended(request: Request, status: int) -> None:
        nonlocal free, good, refused
        free += 1
        if loop.now > 0.8:
            good += status == 200 and loop.now - request.asked <= 1.0
            refused += status == 503

    def come(due: float) -> None:
        nonlocal free
        if free:
            free -= 1
            request = Request(proxy, party, app, ended)
            request.asked = due
            loop.at(due, lambda: proxy.read(request))
        loop.elsewhere(due + chance.expovariate(times * PEAK), come)

    loop.elsewhere(0.0, come)
    loop.run(0.8 + seconds)
    return good / seconds, refused / seconds


@pytest.mark.parametrize("connections", [500, 5_000, 30_000])
def test_three_times_too_much_leaves_nine_tenths_of_what_can_be_served(connections: int) -> None:
    good, _ = flood(times=3.0, connections=connections)
    assert good >= 0.9 * PEAK


def test_who_is_refused_is_told() -> None:
    _, refused = flood(times=2.0, connections=25_000)
    assert refused > 0.1 * PEAK
