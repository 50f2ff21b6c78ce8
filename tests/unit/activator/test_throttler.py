"""The throttler by example; tests/property has the machine."""

from contextlib import suppress

import pytest

from activator.balance import UNLIMITED, Pod
from activator.tenants import Tenants
from activator.throttler import Throttler, TooLong
from kncore.breaker import QueueFull


class Request:
    """A waiter that keeps where it was sent."""

    def __init__(self, then=None) -> None:
        self.pod: Pod | None = None
        self.then = then

    def go(self, pod: Pod) -> None:
        self.pod = pod
        if self.then is not None:
            self.then(pod)


def make(address: str) -> Pod:
    return Pod(address, upstream=None)


def enter(throttler: Throttler, count: int) -> list[Request]:
    made = [Request() for _ in range(count)]
    for request in made:
        throttler.enter(request)
    return made


def addresses(pods) -> list[str]:
    return [pod.address for pod in pods]


def test_ten_thousand_that_are_over_at_once_need_no_recursion() -> None:
    throttler = Throttler(1, "10.0.0.1")
    requests = [Request(throttler.release) for _ in range(10_000)]
    for request in requests:
        throttler.enter(request)
    throttler.update(["a"], make)
    assert all(request.pod is not None for request in requests)
    assert throttler.statistics().in_flight == 0


# behind a Service's address -------------------------------------------------------------------------------------------


def test_service_address_takes_as_many_as_all_its_pods() -> None:
    throttler = Throttler(2, "10.0.0.1")
    waiting = enter(throttler, 7)
    assert throttler.use_cluster_ip("svc", 3, make) == []
    assert throttler.capacity == 6
    assert [request.pod.address if request.pod else None for request in waiting] == ["svc"] * 6 + [None]
    throttler.release(waiting[0].pod)
    assert waiting[6].pod is waiting[1].pod
    for request in waiting[1:]:
        throttler.release(request.pod)
    assert throttler.cluster_ip.in_flight == throttler.statistics().in_flight == 0


def test_service_address_without_a_limit_takes_everything() -> None:
    throttler = Throttler(0, "10.0.0.1")
    throttler.use_cluster_ip("svc", 1, make)
    assert throttler.capacity == UNLIMITED
    assert all(request.pod for request in enter(throttler, 100))


def test_several_activators_share_a_service_address() -> None:
    throttler = Throttler(4, "10.0.0.1")
    throttler.update_activators(["10.0.0.2", "10.0.0.1"])
    throttler.use_cluster_ip("svc", 3, make)
    assert throttler.capacity == 6


def test_more_pods_behind_the_same_address_are_more_room() -> None:
    throttler = Throttler(1, "10.0.0.1")
    throttler.use_cluster_ip("svc", 1, make)
    running = enter(throttler, 2)
    assert running[1].pod is None
    assert throttler.use_cluster_ip("svc", 2, make) == []
    assert running[1].pod is running[0].pod, "it is the same place, with what is in flight"


def test_what_is_not_used_any_more_is_handed_back() -> None:
    throttler = Throttler(1, "10.0.0.1")
    assert throttler.update(["a", "b"], make) == []
    assert addresses(throttler.update(["b", "c"], make)) == ["a"]
    assert sorted(addresses(throttler.use_cluster_ip("svc", 2, make))) == ["b", "c"]
    assert addresses(throttler.use_cluster_ip("other", 2, make)) == ["svc"]
    assert addresses(throttler.update(["a"], make)) == ["other"]
    assert addresses(throttler.update([], make)) == ["a"]
    assert throttler.update([], make) == []


# shares of several activators -----------------------------------------------------------------------------------------


def test_each_activator_uses_its_share() -> None:
    throttler = Throttler(1, "10.0.0.2")
    throttler.update(["a", "b", "c", "d", "e"], make)
    assert addresses(throttler.assigned) == ["a", "b", "c", "d", "e"]
    throttler.update_activators(["10.0.0.1", "10.0.0.2"])
    assert (throttler.index, throttler.activators, throttler.capacity) == (1, 2, 2)
    assert addresses(throttler.assigned) == ["c", "d"]


def test_growing_share_lets_waiters_go() -> None:
    throttler = Throttler(1, "10.0.0.1")
    throttler.update_activators(["10.0.0.1", "10.0.0.2"])
    throttler.update(["a", "b"], make)
    one, two = enter(throttler, 2)
    assert two.pod is None
    throttler.update_activators(["10.0.0.1"])
    assert (one.pod.address, two.pod.address) == ("a", "b")


def test_without_a_limit_everybody_uses_all_pods() -> None:
    throttler = Throttler(0, "10.0.0.1")
    throttler.update_activators(["10.0.0.1", "10.0.0.2"])
    throttler.update(["a", "b"], make)
    assert len(throttler.assigned) == 2


def test_activators_among_which_we_are_not_change_nothing() -> None:
    throttler = Throttler(1, "10.0.0.1")
    throttler.update(["a", "b"], make)
    throttler.update_activators(["10.0.0.7"])
    assert (throttler.index, throttler.activators, throttler.capacity) == (-1, 0, 2)


# bounds ---------------------------------------------------------------------------------------------------------------


class Clock:
    """Seconds that the test lets pass."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_tenants_share_the_room_of_all_revisions() -> None:
    tenants = Tenants(requests=30)
    greedy = tenants.enter("greedy")
    several = [Throttler(1, "10.0.0.1", tenant=greedy) for _ in range(10)]
    waiting = []
    for throttler in several:
        with suppress(QueueFull):
            waiting.append((throttler, enter(throttler, 1)[0]))
            waiting.append((throttler, enter(throttler, 1)[0]))
    assert tenants.waiting == 15
    other = Throttler(1, "10.0.0.1", tenant=tenants.enter("other"))
    (mine,) = enter(other, 1)
    for throttler, request in waiting:
        throttler.leave(request)
        throttler.leave(request)
    other.update(["a"], make)
    assert mine.pod is not None
    assert tenants.waiting == 0


def served_one_by_one(throttler: Throttler, clock: Clock, seconds: float, count: int, then: int) -> None:
    """One pod that serves one request at a time, with `then` more waiting in the end."""
    throttler.update(["a"], make)
    requests = enter(throttler, count + then + 1)
    for request in requests[:count]:
        clock.now += seconds
        throttler.release(request.pod)


def test_who_would_wait_for_nothing_is_refused_at_once() -> None:
    clock = Clock()
    throttler = Throttler(1, "10.0.0.1", clock=clock)
    served_one_by_one(throttler, clock, 1.0, count=20, then=50)
    assert throttler.waiting == 50
    assert throttler.expected_wait() == pytest.approx(51, rel=0.01)
    with pytest.raises(TooLong, match="too long: 50 wait, about 50 s") as refused:
        throttler.enter(Request(), patience=12.0)
    assert refused.value.wait == pytest.approx(50, rel=0.01)
    assert not throttler.enter(Request(), patience=13.0), "four times as many pods may come meanwhile"
    assert not throttler.enter(Request()), "who has time has time"
    assert throttler.statistics().refused == 1


def test_few_departures_or_none_refuse_nobody() -> None:
    clock = Clock()
    throttler = Throttler(1, "10.0.0.1", clock=clock)
    served_one_by_one(throttler, clock, 60.0, count=10, then=50)
    assert throttler.expected_wait() is None
    assert not throttler.enter(Request(), patience=1.0)


def test_time_to_start_is_not_taken_for_the_time_to_serve() -> None:
    clock = Clock()
    throttler = Throttler(1, "10.0.0.1", clock=clock)
    waiting = enter(throttler, 40)
    clock.now += 100.0
    throttler.update(["a"], make)
    for request in waiting[:20]:
        clock.now += 0.1
        throttler.release(request.pod)
    assert throttler.expected_wait() == pytest.approx(20 * 0.1, rel=0.2)


def test_queue_that_stands_still_is_as_slow_as_that() -> None:
    clock = Clock()
    throttler = Throttler(1, "10.0.0.1", clock=clock)
    served_one_by_one(throttler, clock, 0.01, count=20, then=10)
    clock.now += 30.0
    with pytest.raises(TooLong):
        throttler.enter(Request(), patience=10.0)


def test_without_pods_nobody_is_refused_for_the_pace_of_old() -> None:
    clock = Clock()
    throttler = Throttler(1, "10.0.0.1", clock=clock)
    served_one_by_one(throttler, clock, 10.0, count=20, then=5)
    throttler.update([], make)
    assert throttler.expected_wait() is None
    assert not throttler.enter(Request(), patience=1.0)
