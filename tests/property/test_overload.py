"""Turns for the processor against a model: order within a party, nobody starved, nothing lost and nothing left."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kncore.net.overload import Limits, Party, Turns

PARTIES = 4


class Request:
    def __init__(self, machine: "TurnsMachine", party: int, number: int) -> None:
        self.machine = machine
        self.party = party
        self.number = number
        self.came = machine.now

    def proceed(self) -> None:
        self.machine.left(self)
        self.machine.started(self)

    def shed(self) -> None:
        assert self.machine.now - self.came > self.machine.limits.patience, "refused although its time was not up"
        self.machine.shed += 1
        self.machine.left(self, refused=True)


class Timer:
    def __init__(self, machine: "TurnsMachine", at: float, callback) -> None:
        self.machine = machine
        self.at = at
        self.callback = callback

    def cancel(self) -> None:
        self.machine.timers.remove(self)


class TurnsMachine(RuleBasedStateMachine):
    @initialize(
        alone=st.integers(1, 12),
        shared=st.integers(1, 6),
        window=st.integers(1, 9),
        weights=st.lists(st.integers(1, 3), min_size=4, max_size=4),
        instant=st.booleans(),
    )
    def begin(self, alone: int, shared: int, window: int, weights: list[int], instant: bool) -> None:
        self.now = 50.0
        self.soon: list = []
        self.timers: list[Timer] = []
        self.instant = instant
        self.running: list[Request] = []
        self.limits = Limits(burst_alone=alone, burst_shared=shared, patience=0.05, window=window)
        self.turns = Turns(self, self.limits)
        self.parties = [Party(weight) for weight in weights]
        self.waiting: list[list[Request]] = [[] for _ in range(PARTIES)]
        self.number = 0
        self.rounds_since: list[int] = [0] * PARTIES
        self.went = self.shed = 0

    def time(self) -> float:
        return self.now

    def call_soon(self, callback) -> None:
        self.soon.append(callback)

    def call_later(self, delay: float, callback) -> Timer:
        assert delay > 0
        self.timers.append(Timer(self, self.now + delay, callback))
        return self.timers[-1]

    def left(self, request: Request, *, refused: bool = False) -> None:
        """It was at the head of its queue; or, once the head has waited too long, at its end."""
        queue = self.waiting[request.party]
        late = self.now - queue[0].came > self.limits.patience
        assert queue.pop(-1 if late and not refused else 0) is request, "out of order"
        self.rounds_since[request.party] = 0
        self.went += 1

    def started(self, request: Request) -> None:
        self.running.append(request)
        if self.instant:
            self.end(request)

    def end(self, request: Request) -> None:
        self.running.remove(request)
        party = self.parties[request.party]
        if party.queue or party.under_way:
            self.turns.over(request, party)

    @rule(party=st.integers(0, PARTIES - 1), count=st.integers(1, 30))
    def arrive(self, party: int, count: int) -> None:
        for _ in range(count):
            self.number += 1
            request = Request(self, party, self.number)
            self.waiting[party].append(request)
            if self.turns.admit(request, self.parties[party], self.now):
                assert len(self.waiting[party]) == 1, "overtook somebody of its own party"
                self.waiting[party].clear()
                self.started(request)

    @precondition(lambda self: any(self.waiting))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        party = data.draw(st.sampled_from([n for n, queue in enumerate(self.waiting) if queue]))
        queue = self.waiting[party]
        request = queue.pop(data.draw(st.integers(0, len(queue) - 1)))
        self.turns.over(request, self.parties[party])
        self.turns.over(request, self.parties[party])

    @precondition(lambda self: self.running)
    @rule(data=st.data(), count=st.integers(1, 20))
    def finish(self, data: st.DataObject, count: int) -> None:
        for _ in range(min(count, len(self.running))):
            self.end(self.running[data.draw(st.integers(0, len(self.running) - 1))])

    @rule(passed=st.sampled_from([0.0, 0.001, 0.02, 0.1]))
    def turn(self, passed: float) -> None:
        self.now += passed
        due, self.soon = self.soon, []
        late = [timer for timer in self.timers if timer.at <= self.now]
        self.timers = [timer for timer in self.timers if timer.at > self.now]
        before = self.went
        fits = any(party.queue and len(party.under_way) < party.window for party in self.parties)
        for callback in [*due, *(timer.callback for timer in late)]:
            callback()
        most = max(self.limits.burst_alone, self.limits.burst_shared)
        assert self.went - before <= most + (most + 5) // 6, "more than a round and its refusals"
        assert self.shed * 6 <= self.went, "refusing instead of serving"
        if due or late:
            assert self.went > before or not fits, "a round that served nobody"
            for party, queue in enumerate(self.waiting):
                self.rounds_since[party] = self.rounds_since[party] + 1 if queue else 0
                if self.instant:  # then no window holds anybody up, only the turns of others, each by its weight
                    assert self.rounds_since[party] <= sum(one.weight for one in self.parties) + PARTIES

    @invariant()
    def counted(self) -> None:
        if hasattr(self, "turns"):
            found = self.turns.statistics()
            assert found.queued == sum(map(len, self.waiting))
            assert found.parties == sum(map(bool, self.waiting))
            assert len(self.soon) + len(self.timers) <= 1
            if found.queued:
                assert self.soon or self.timers, "somebody waits and nothing is going to happen"

    def teardown(self) -> None:
        if hasattr(self, "turns"):
            for _ in range(20_000):
                for request in tuple(self.running):
                    self.end(request)
                if not self.soon and not self.timers:
                    break
                self.turn(0.001)
            assert not any(self.waiting)
            assert not self.soon
            assert not self.timers
            assert not any(party.under_way for party in self.parties)


TestTurns = TurnsMachine.TestCase
TestTurns.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
