"""The throttler by example; tests/property has the machine."""

from activator.balance import UNLIMITED, Pod
from activator.throttler import Throttler


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
