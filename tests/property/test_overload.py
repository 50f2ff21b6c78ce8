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
        self.came = machine.time

    def proceed(self) -> None:
        self.machine.ended(self)

    def shed(self) -> None:
        assert self.machine.time - self.came > self.machine.limits.patience, "refused although its time was not up"
        self.machine.ended(self)


class TurnsMachine(RuleBasedStateMachine):
    @initialize(
        alone=st.integers(1, 12), shared=st.integers(1, 6), weights=st.lists(st.integers(1, 3), min_size=4, max_size=4)
    )
    def begin(self, alone: int, shared: int, weights: list[int]) -> None:
        self.time = 50.0
        self.soon: list = []
        self.limits = Limits(burst_alone=alone, burst_shared=shared, patience=0.05)
        self.turns = Turns(lambda: self.time, self.soon.append, self.limits)
        self.parties = [Party(weight) for weight in weights]
        self.waiting: list[list[Request]] = [[] for _ in range(PARTIES)]
        self.number = 0
        self.rounds_since: list[int] = [0] * PARTIES
        self.went = 0

    def ended(self, request: Request) -> None:
        queue = self.waiting[request.party]
        assert queue.pop(0) is request, "out of order"
        self.rounds_since[request.party] = 0
        self.went += 1

    @rule(party=st.integers(0, PARTIES - 1), count=st.integers(1, 30))
    def arrive(self, party: int, count: int) -> None:
        for _ in range(count):
            self.number += 1
            request = Request(self, party, self.number)
            if self.turns.admit(request, self.parties[party], self.time):
                assert not self.waiting[party], "overtook somebody of its own party"
            else:
                self.waiting[party].append(request)

    @precondition(lambda self: any(self.waiting))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        party = data.draw(st.sampled_from([n for n, queue in enumerate(self.waiting) if queue]))
        queue = self.waiting[party]
        request = queue.pop(data.draw(st.integers(0, len(queue) - 1)))
        self.turns.leave(request, self.parties[party])
        self.turns.leave(request, self.parties[party])

    @rule(passed=st.sampled_from([0.0, 0.001, 0.02, 0.1]))
    def turn(self, passed: float) -> None:
        self.time += passed
        due = list(self.soon)
        self.soon.clear()
        before = self.went
        waited = any(self.waiting)
        for callback in due:
            callback()
        assert self.went - before <= max(self.limits.burst_alone, self.limits.burst_shared)
        if waited:
            assert self.went > before, "a round that served nobody"
        # a party waits for at most one turn of every other, by weight, each round serving one request at least
        for party, queue in enumerate(self.waiting):
            self.rounds_since[party] = self.rounds_since[party] + 1 if queue else 0
            assert self.rounds_since[party] <= sum(one.weight for one in self.parties) + PARTIES

    @invariant()
    def counted(self) -> None:
        if hasattr(self, "turns"):
            found = self.turns.statistics()
            assert found.queued == sum(map(len, self.waiting))
            assert found.parties == sum(map(bool, self.waiting))
            if found.queued:
                assert len(self.soon) == 1, "somebody waits and nothing is going to happen"
            assert len(self.soon) <= 1

    def teardown(self) -> None:
        if hasattr(self, "turns"):
            for _ in range(10_000):
                if not self.soon:
                    break
                self.turn(0.001)
            assert not any(self.waiting)
            assert not self.soon


TestTurns = TurnsMachine.TestCase
TestTurns.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
