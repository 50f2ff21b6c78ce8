"""The throttler against a model: no pod above its limit, first come first served, and nothing left behind."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from activator.balance import Pod
from activator.throttler import Throttler
from kncore.breaker import QueueFull

ADDRESSES = [f"10.1.0.{n}:8012" for n in range(1, 7)]
DEPTH = 6
BYTES = 40


class Request:
    """A waiter; `pod` is where it is."""

    def __init__(self, number: int, machine: "ThrottlerMachine", *, brief: bool) -> None:
        self.number = number
        self.machine = machine
        self.brief = brief
        self.pod: Pod | None = None

    def go(self, pod: Pod) -> None:
        assert self.pod is None, "sent twice"
        self.machine.went.append(self.number)
        if self.brief:  # over the moment it is sent
            self.machine.throttler.release(pod)
        else:
            self.pod = pod
            self.machine.running.append(self)


class ThrottlerMachine(RuleBasedStateMachine):
    """Requests come, go, fail, leave; pods appear, vanish and change their limit, in any order."""

    @initialize(limit=st.sampled_from([0, 1, 2, 5]))
    def begin(self, limit: int) -> None:
        self.limit = limit
        self.throttler = Throttler(limit, "10.0.0.1", queue_depth=DEPTH, queue_bytes=BYTES)
        self.number = 0
        self.went: list[int] = []
        self.queue: list[Request] = []
        self.sizes: dict[int, int] = {}
        self.running: list[Request] = []
        self.pods: dict[str, Pod] = {}
        self.retired: list[Pod] = []

    def make(self, address: str) -> Pod:
        assert address not in self.pods
        self.pods[address] = made = Pod(address, upstream=None)  # type: ignore[arg-type]
        return made

    def settle(self) -> None:
        """Whoever went must be those at the head of the queue, in order."""
        expected = [request.number for request in self.queue[: len(self.went)]]
        assert self.went == expected, f"{self.went} went, {expected} had waited longest"
        del self.queue[: len(self.went)]
        self.went.clear()

    @rule(brief=st.booleans(), size=st.sampled_from([0, 1, 30]))
    def arrive(self, brief: bool, size: int) -> None:
        self.number += 1
        request = Request(self.number, self, brief=brief)
        held = sum(self.sizes[one.number] for one in self.queue)
        try:
            went = self.throttler.enter(request, size)
        except QueueFull:
            assert len(self.queue) == DEPTH or held + size > BYTES
            return
        self.sizes[request.number] = size
        assert went == bool(self.went)
        if went:
            assert not self.queue, "overtook somebody"
            self.went.clear()
        else:
            assert len(self.queue) < DEPTH
            assert held + size <= BYTES
            self.queue.append(request)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        request = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        assert request.pod is not None
        self.throttler.release(request.pod)
        self.settle()

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        """A pod fails a request, which wants another one before anybody else."""
        request = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        pod, request.pod = request.pod, None
        assert pod is not None
        self.queue.insert(0, request)
        self.sizes[request.number] = 0
        if not self.throttler.reenter(request):
            assert not self.went
        self.throttler.release(pod)
        self.settle()

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        request = self.queue.pop(data.draw(st.integers(0, len(self.queue) - 1)))
        self.throttler.leave(request)
        self.throttler.leave(request)

    @rule(addresses=st.sets(st.sampled_from(ADDRESSES)))
    def pods_change(self, addresses: set[str]) -> None:
        gone = self.throttler.update(sorted(addresses), self.make)
        for pod in gone:
            assert self.pods.pop(pod.address) is pod
            self.retired.append(pod)
        assert set(self.pods) == addresses
        self.settle()

    @rule(limit=st.sampled_from([0, 1, 2, 5]))
    def limit_changes(self, limit: int) -> None:
        self.limit = limit
        self.before = {address: pod.in_flight for address, pod in self.pods.items()}
        self.throttler.limit(limit)
        self.settle()

    @rule(count=st.integers(1, 4), listed=st.booleans())
    def activators_change(self, count: int, listed: bool) -> None:
        others = [f"10.0.0.{n}" for n in range(2, count + 1)]
        self.throttler.update_activators([*others, *(["10.0.0.1"] if listed else [])])
        self.settle()

    @invariant()
    def in_step(self) -> None:
        if not hasattr(self, "throttler"):
            return
        found = self.throttler.statistics()
        assert found.waiting == len(self.queue)
        assert found.waiting_bytes == sum(self.sizes[one.number] for one in self.queue)
        assert found.in_flight == len(self.running)
        for pod in (*self.pods.values(), *self.retired):
            assert pod.in_flight == sum(one.pod is pod for one in self.running)

    @invariant()
    def nobody_waits_beside_a_free_place(self) -> None:
        if not hasattr(self, "throttler") or not self.queue:
            return
        for pod in self.throttler.assigned:
            assert self.limit, "without a limit nobody waits for a pod that answers"
            assert pod.in_flight >= self.limit

    def teardown(self) -> None:
        if not hasattr(self, "throttler"):
            return
        for request in list(self.queue):
            self.throttler.leave(request)
        self.queue.clear()
        for request in self.running:
            assert request.pod is not None
            self.throttler.release(request.pod)
        found = self.throttler.statistics()
        assert (found.in_flight, found.waiting, found.waiting_bytes) == (0, 0, 0)


TestThrottler = ThrottlerMachine.TestCase
TestThrottler.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


class Watched:
    """A request that checks the limit the moment it is sent."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.pod: Pod | None = None

    def go(self, pod: Pod) -> None:
        self.pod = pod
        assert pod.in_flight <= self.limit, "above the limit"


@given(st.integers(1, 6), st.integers(1, 5), st.lists(st.booleans(), max_size=80))
def test_no_pod_is_ever_above_its_limit(limit: int, pods: int, steps: list[bool]) -> None:
    throttler = Throttler(limit, "10.0.0.1")
    throttler.update(ADDRESSES[:pods], lambda address: Pod(address, upstream=None))  # type: ignore[arg-type]
    inside: list[Watched] = []
    for come in steps:
        if come:
            inside.append(Watched(limit))
            throttler.enter(inside[-1])
        elif (done := next((one for one in inside if one.pod), None)) is not None:
            inside.remove(done)
            assert done.pod is not None
            throttler.release(done.pod)
    assert sum(one.pod is not None for one in inside) == min(len(inside), limit * pods)


def test_long_queue_drains_one_by_one() -> None:
    """Ten thousand waiters, each let in by the one before; a queue that scans or shifts would need minutes."""
    throttler = Throttler(1, "10.0.0.1")
    waiters = [Watched(1) for _ in range(10_000)]
    for waiter in waiters:
        throttler.enter(waiter)
    throttler.update(ADDRESSES[:1], lambda address: Pod(address, upstream=None))  # type: ignore[arg-type]
    for waiter in waiters:
        assert waiter.pod is not None
        throttler.release(waiter.pod)
    assert throttler.statistics().waiting == 0
