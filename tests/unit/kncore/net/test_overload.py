"""Turns for the processor: who goes at once, who waits, in which order, and who is refused. The loop is the test."""

import pytest

from kncore.net.overload import MIXED_FOR, RUSH, Limits, Party, Statistics, Turns


class Timer:
    def __init__(self, at: float, callback) -> None:
        self.at = at
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """Time that stands still until it is moved, and callbacks that run when the loop turns."""

    def __init__(self) -> None:
        self.now = 100.0
        self.soon: list = []

        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_soon(self, callback) -> None:
        self.soon.append(callback)

    def call_later(self, delay: float, callback) -> "Timer":
        self.timers.append(Timer(self.now + delay, callback))
        return self.timers[-1]

    def turn(self, passed: float = 0.001) -> None:
        """Time passes, what is due runs."""
        self.now += passed
        due, self.soon = self.soon, []
        due += [timer.callback for timer in self.timers if timer.at <= self.now and not timer.cancelled]
        self.timers = [timer for timer in self.timers if timer.at > self.now and not timer.cancelled]
        for callback in due:
            callback()

    @property
    def pending(self) -> int:
        """Callbacks that will run."""
        return len(self.soon) + sum(not timer.cancelled for timer in self.timers)


class Request:
    """A turn that keeps what became of it, and the order in which all went. It is over as soon as it goes, unless its
    app is `slow`.
    """

    def __init__(self, proxy: "Proxy", party: Party, name: object, then=None) -> None:
        self.proxy = proxy
        self.party = party
        self.log = proxy.log
        self.name = name
        self.then = then
        self.refused = False

    def proceed(self) -> None:
        self.log.append(self.name)
        if self.then is not None:
            self.then()
        if self.proxy.slow:
            self.proxy.running.append(self)
        else:
            self.over()

    def over(self) -> None:
        self.proxy.turns.over(self, self.party)

    def shed(self) -> None:
        self.refused = True
        self.log.append(("shed", self.name))


class Proxy:
    """Sends requests through turns."""

    def __init__(self, **limits) -> None:
        self.loop = Loop()
        self.limits = Limits(**limits)
        self.turns = Turns(self.loop, self.limits)
        self.log: list = []
        self.slow = False
        self.running: list[Request] = []

    def send(self, party: Party, name: object, then=None) -> Request:
        request = Request(self, party, name, then)
        if self.turns.admit(request, party, self.loop.now):
            request.proceed()
        return request

    def rush(self, party: Party, count: int, tag: str) -> list[Request]:
        return [self.send(party, (tag, number)) for number in range(count)]

    def settle(self, turns: int = 10_000) -> int:
        """Let the loop turn until nothing is left; returns how often it did."""
        for turned in range(turns):
            if not self.loop.pending:
                return turned
            self.loop.turn()
        raise AssertionError("never at rest")


def test_without_a_rush_everybody_goes_and_the_loop_is_left_alone() -> None:
    proxy, party, other = Proxy(), Party(), Party()
    for number in range(1000):
        proxy.send(party if number % 3 else other, number)
        if number % (RUSH - 1) == 0:
            proxy.loop.now += 0.001
    assert proxy.log == list(range(1000))
    assert proxy.loop.soon == []
    assert proxy.turns.statistics() == Statistics(queued=0, parties=0, deferred=0, shed=0)


def test_party_alone_starts_a_burst_per_round_and_the_rest_in_order() -> None:
    proxy, party = Proxy(burst_alone=50), Party()
    proxy.rush(party, 200, "a")
    assert 50 <= len(proxy.log) <= 50 + RUSH
    assert proxy.turns.statistics().queued == 200 - len(proxy.log)
    assert proxy.settle() <= 5
    assert proxy.log == [("a", number) for number in range(200)]
    assert proxy.turns.statistics().queued == 0


def test_who_has_nothing_queued_passes_a_crowd() -> None:
    proxy, hot, victim = Proxy(), Party(), Party()
    proxy.send(victim, "seen before")
    proxy.rush(hot, 1000, "hot")
    assert proxy.turns.statistics().queued > 900
    proxy.send(victim, "victim")
    assert proxy.log[-1] == "victim"
    proxy.loop.turn()
    began = len(proxy.log)
    proxy.loop.turn()
    assert len(proxy.log) - began == proxy.limits.burst_shared, "rounds are short while two meet"


def test_two_crowds_take_turns() -> None:
    proxy, one, two = Proxy(patience=60), Party(), Party()
    proxy.rush(one, 300, "one")
    proxy.rush(two, 100, "two")
    before = len(proxy.log)
    proxy.settle()
    assert sorted(proxy.log) == sorted([*(("one", n) for n in range(300)), *(("two", n) for n in range(100))])
    both = [name for name, _ in proxy.log[before : before + 150]]
    assert abs(both.count("one") - both.count("two")) <= 1
    for tag in ("one", "two"):
        mine = [number for name, number in proxy.log if name == tag]
        assert mine == sorted(mine), "each in its own order"


def test_weight_is_turns_for_each_turn_of_others() -> None:
    proxy, light, heavy = Proxy(patience=60), Party(), Party(weight=3)
    proxy.rush(light, 300, "light")
    proxy.rush(heavy, 300, "heavy")
    before = len(proxy.log)
    for _ in range(40):
        proxy.loop.turn()
    went = [name for name, _ in proxy.log[before:]]
    assert went.count("heavy") == pytest.approx(3 * went.count("light"), rel=0.1)


def test_many_parties_with_a_little_each_are_all_served_soon() -> None:
    proxy, hot = Proxy(), Party()
    others = [Party() for _ in range(50)]
    proxy.rush(hot, 500, "hot")
    for number, party in enumerate(others):
        proxy.send(party, ("other", number))
    assert {name for name in proxy.log if name[0] == "other"} == {("other", number) for number in range(50)}


def test_overloaded_the_newest_are_served_and_of_the_oldest_one_is_refused_for_six_of_those() -> None:
    proxy, party = Proxy(burst_alone=12, patience=0.5), Party()
    old = proxy.rush(party, 100, "old")
    waiting = [request for request in old if request.name not in proxy.log]
    proxy.loop.now += 0.6
    new = proxy.rush(party, 12, "new")
    proxy.log.clear()
    proxy.loop.turn()
    served = [name for name in proxy.log if name[0] != "shed"]
    assert served == [request.name for request in reversed(new)]
    assert [request for request in old if request.refused] == waiting[:2]
    proxy.settle()
    found = proxy.turns.statistics()
    assert found.queued == 0
    assert found.shed == sum(request.refused for request in old)
    assert found.shed * 6 <= len([name for name in proxy.log if name[0] != "shed"])


def test_after_an_overload_it_is_first_come_first_served_again() -> None:
    proxy, party = Proxy(burst_alone=8, patience=0.5), Party()
    proxy.rush(party, 60, "old")
    proxy.loop.now += 0.6
    proxy.settle()
    proxy.log.clear()
    proxy.rush(party, 60, "new")
    proxy.settle()
    assert proxy.log == [("new", number) for number in range(60)]


def test_queue_is_bounded() -> None:
    proxy, party = Proxy(burst_alone=10, depth=20, patience=60), Party()
    requests = proxy.rush(party, 100, "a")
    assert proxy.turns.statistics().queued == 20
    assert sum(request.refused for request in requests) == proxy.turns.statistics().shed >= 60
    proxy.settle()
    assert proxy.turns.statistics().queued == 0


def test_who_leaves_is_never_called_and_makes_room() -> None:
    proxy, party = Proxy(burst_alone=10, patience=60), Party()
    requests = proxy.rush(party, 40, "a")
    for request in requests[20:]:
        proxy.turns.over(request, party)
        proxy.turns.over(request, party)
    proxy.settle()
    assert proxy.log == [("a", number) for number in range(20)]
    assert proxy.turns.statistics() == Statistics(queued=0, parties=0, deferred=30 - RUSH, shed=0)


def test_party_whose_turns_all_left_is_not_listed_twice() -> None:
    proxy, party, other = Proxy(burst_alone=4, burst_shared=4, patience=60), Party(), Party()
    proxy.rush(other, 200, "other")
    for _ in range(5):
        for request in proxy.rush(party, 30, "gone"):
            proxy.turns.over(request, party)
    proxy.log.clear()
    proxy.rush(party, 100, "a")
    for _ in range(20):
        proxy.loop.turn()
    names = [name for name, _ in proxy.log]
    assert abs(names.count("a") - names.count("other")) <= 8


def test_request_that_brings_another_is_no_recursion_and_ends() -> None:
    proxy, party = Proxy(burst_alone=5), Party()
    left = [2000]

    def again() -> None:
        if left[0]:
            left[0] -= 1
            proxy.send(party, left[0], again)

    proxy.rush(party, 20, "a")
    proxy.send(party, "first", again)
    proxy.settle()
    assert left[0] == 0
    assert proxy.turns.statistics().queued == 0


def test_parties_that_met_long_ago_do_not_shorten_the_rounds() -> None:
    proxy, party, other = Proxy(burst_alone=50, burst_shared=2, patience=600), Party(), Party()
    proxy.send(other, "other")
    proxy.send(party, "party")
    proxy.loop.now += MIXED_FOR + 1
    proxy.rush(party, 200, "a")
    assert proxy.settle() <= 5


def test_answers_that_come_in_lumps_make_the_window_small_and_even_ones_let_it_grow() -> None:
    proxy, hot, other = Proxy(patience=600), Party(), Party()
    proxy.slow = True
    proxy.send(other, "other")
    proxy.rush(hot, 1000, "hot")
    for _ in range(2000):  # an app that answers one request per round, a while after it came
        proxy.loop.turn()
        if len(proxy.running) > 60:
            proxy.running.pop(0).over()
            proxy.rush(hot, 1, "hot")
    even = hot.window
    assert even >= 60
    for _ in range(100):  # one that answers all at once
        proxy.loop.turn()
        for _ in range(20):
            if proxy.running:
                proxy.running.pop(0).over()
                proxy.rush(hot, 1, "hot")
    assert proxy.limits.window <= hot.window < 30


def test_app_that_never_answers_gets_more_slowly_and_holds_up_nobody() -> None:
    proxy, hung, other = Proxy(patience=600), Party(), Party()
    proxy.slow = True
    proxy.send(other, "first")
    proxy.rush(hung, 500, "hung")
    for _ in range(50):
        proxy.loop.turn()
    for number in range(20):
        proxy.send(other, ("other", number))
        assert proxy.log[-1] == ("other", number) or proxy.loop.turn() is None
    for _ in range(5):
        proxy.loop.turn()
    assert [name for name in proxy.log if name[0] == "other"] == [("other", number) for number in range(20)]
    for _ in range(100):
        proxy.loop.turn()
    assert len(proxy.log) == 501 + 20, "within a tenth of a second it has them all"


def test_end_of_a_request_lets_the_next_go_without_the_timer() -> None:
    proxy, hot, other = Proxy(patience=600), Party(), Party()
    proxy.slow = True
    proxy.send(other, "other")
    proxy.rush(hot, 100, "hot")
    while proxy.loop.soon:
        proxy.loop.turn(0.0)
    assert proxy.loop.pending == 1, "a timer"
    went = len(proxy.log)
    proxy.running[-1].over()
    proxy.loop.turn(0.0)
    assert len(proxy.log) == went + 1


def test_turn_that_is_under_way_and_waits_for_a_second_one_is_over_for_good() -> None:
    proxy, party, other = Proxy(patience=60), Party(), Party()
    proxy.slow = True
    proxy.send(other, "other")
    requests = proxy.rush(party, 30, "a")
    again = next(request for request in requests if request in party.under_way)
    assert not proxy.turns.admit(again, party, proxy.loop.now), "its attempt failed, and it waits again"
    again.over()
    assert again not in party.under_way
    assert again not in party.queue
    for _ in range(50):
        proxy.loop.turn()
        while proxy.running:
            proxy.running.pop().over()
    assert proxy.turns.statistics().queued == 0


def test_who_need_not_be_remembered_passes_and_the_others_ask() -> None:
    proxy, party = Proxy(burst_alone=5), Party()
    passed = 0
    while proxy.turns.passes(party, proxy.loop.now):
        passed += 1
    assert passed == RUSH + 5
    assert not party.under_way
    request = proxy.send(party, "queued")
    assert proxy.turns.statistics().queued == 1
    proxy.loop.turn()
    assert proxy.log == [request.name]
    assert proxy.turns.passes(party, proxy.loop.now)


def test_request_that_raises_costs_nobody_else_a_turn() -> None:
    def fail() -> None:
        raise LookupError

    proxy, party = Proxy(burst_alone=10), Party()
    names = [*range(40)]
    for name in names:
        proxy.send(party, name, fail if name == 25 else None)
    with pytest.raises(LookupError):
        proxy.settle()
    proxy.settle()
    assert proxy.log == names
    assert proxy.turns.statistics().queued == 0
