"""The breaker against a list: capacity, order, and nothing left behind whatever is cancelled when."""

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kncore.breaker import Breaker, Expired, QueueFull

if TYPE_CHECKING:
    from collections.abc import Callable

MAX, DEPTH = 3, 4


class Ticket:
    """A waiter that notes in which order it was admitted."""

    def __init__(self, number: int, log: list[int]) -> None:
        self.number = number
        self.log = log
        self.then: Callable[[], None] | None = None

    def admitted(self) -> None:
        self.log.append(self.number)
        if self.then is not None:
            self.then()


class BreakerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(max_concurrency=MAX, queue_depth=DEPTH, initial_capacity=1)
        self.capacity = 1
        self.in_use = 0
        self.queue: list[Ticket] = []
        self.gone: list[Ticket] = []
        self.admitted: list[int] = []
        self.expected: list[int] = []
        self.number = 0

    def settle(self) -> None:
        """What the model says must have happened after slots became free."""
        while self.queue and self.in_use < self.capacity:
            ticket = self.queue.pop(0)
            self.expected.append(ticket.number)
            self.gone.append(ticket)
            if ticket.then is None:
                self.in_use += 1

    @rule(at_once=st.booleans())
    def enter(self, at_once: bool) -> None:
        self.number += 1
        ticket = Ticket(self.number, self.admitted)
        if at_once:
            ticket.then = self.breaker.release  # a request that fails the moment it is sent
        if self.in_use < self.capacity:
            assert self.breaker.enter(ticket)
            self.in_use += 1
        elif self.in_use + len(self.queue) >= MAX + DEPTH:
            with pytest.raises(QueueFull):
                self.breaker.enter(ticket)
        else:
            assert not self.breaker.enter(ticket)
            self.queue.append(ticket)

    @rule()
    def try_acquire(self) -> None:
        free = self.in_use < self.capacity
        assert self.breaker.available == free
        assert self.breaker.try_acquire() == free
        self.in_use += free

    @precondition(lambda self: self.in_use)
    @rule()
    def release(self) -> None:
        self.in_use -= 1
        queue = self.queue
        self.breaker.release()
        assert queue is self.queue
        self.settle()

    @rule(capacity=st.integers(-1, MAX + 1))
    def resize(self, capacity: int) -> None:
        self.capacity = max(0, min(capacity, MAX))
        self.breaker.resize(capacity)
        self.settle()

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        ticket = self.queue.pop(data.draw(st.integers(0, len(self.queue) - 1)))
        assert self.breaker.leave(ticket)
        assert not self.breaker.leave(ticket)

    @precondition(lambda self: self.gone)
    @rule()
    def leave_after_admission(self) -> None:
        assert not self.breaker.leave(self.gone[-1])

    @invariant()
    def agrees(self) -> None:
        seen = self.breaker.statistics()
        assert (seen.in_use, seen.waiting, seen.capacity) == (self.in_use, len(self.queue), self.capacity)
        assert self.admitted == self.expected
        assert seen.in_use + seen.waiting <= seen.limit


TestBreaker = BreakerMachine.TestCase
TestBreaker.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

STEPS = st.lists(
    st.one_of(
        st.just(("start", 0)),
        st.tuples(st.just("cancel"), st.integers(0, 20)),
        st.tuples(st.just("finish"), st.integers(0, 20)),
        st.tuples(st.just("resize"), st.integers(0, MAX)),
        st.just(("tick", 0)),
    ),
    max_size=40,
)


@given(steps=STEPS)
@settings(max_examples=80, deadline=None)
async def test_cancelling_at_any_await_leaves_nothing_behind(steps: list[tuple[str, int]]) -> None:
    breaker = Breaker(max_concurrency=MAX, queue_depth=DEPTH, initial_capacity=1)
    holding = 0
    tasks: list[asyncio.Task[None]] = []
    done: list[asyncio.Event] = []

    async def request(finished: asyncio.Event) -> None:
        nonlocal holding
        async with breaker.slot():
            holding += 1
            try:
                assert holding <= breaker.in_use <= MAX
                await finished.wait()
            finally:
                holding -= 1

    for step, n in steps:
        match step:
            case "start":
                done.append(asyncio.Event())
                tasks.append(asyncio.ensure_future(request(done[-1])))
            case "cancel" if tasks:
                tasks[n % len(tasks)].cancel()
            case "finish" if done:
                done[n % len(done)].set()
            case "resize":
                breaker.resize(n)
            case "tick":
                await asyncio.sleep(0)
    breaker.resize(1)
    for event in done:
        event.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(r is None or isinstance(r, (asyncio.CancelledError, QueueFull, Expired)) for r in results), results
    assert (breaker.in_use, breaker.waiting, holding) == (0, 0, 0)
