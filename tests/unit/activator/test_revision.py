"""A request's way through a revision: waiting, trying again, giving up, and what is left behind (nothing)."""

import time

import pytest

from activator.backends import Mesh
from activator.revision import MAX_ATTEMPTS
from activator.tenants import Tenants
from kncore.breaker import QueueFull
from kncore.net.errors import ClientGone
from kncore.net.overload import Limits, Overloaded, Turns

KEY = ("default", "hello-1")


def at_rest(revision) -> bool:
    found = revision.throttler.statistics()
    return (found.in_flight, found.waiting, found.waiting_bytes) == (0, 0, 0)


def holder(pods):
    """The pod that has a request."""
    (found,) = [pod for pod in pods if pod.sent]
    return found


def test_request_goes_to_a_pod_and_leaves_nothing_behind(world) -> None:
    revision = world.revision()
    (pod,) = world.pods(revision, "10.1.0.1:8012")
    exchange = world.send()
    assert pod.sent == [exchange]
    assert revision.throttler.statistics().in_flight == 1
    pod.answer(b"hi")
    assert (exchange.status, exchange.text) == (200, b"hi")
    assert at_rest(revision)


def test_requests_wait_for_a_pod_and_go_in_order(world) -> None:
    revision = world.revision()
    waiting = [world.send() for _ in range(5)]
    assert revision.throttler.waiting == 5
    (pod,) = world.pods(revision, "10.1.0.1:8012")
    assert pod.sent == waiting
    for exchange in waiting:
        pod.answer()
        assert exchange.status == 200
    assert at_rest(revision)


def test_full_queue_is_refused_at_once(world) -> None:
    revision = world.revision()
    revision.throttler._queue_depth = 2
    first, second, third = world.send(), world.send(), world.send()
    assert (first.status, second.status) == (0, 0)
    assert (third.status, third.text) == (503, b"pending request queue full\n")
    assert b"Retry-After: 1" in third.lines
    assert isinstance(third.error, QueueFull)
    assert revision.throttler.statistics().refused == 1


def test_queue_is_bounded_in_bytes_too(world) -> None:
    revision = world.revision()
    revision.throttler._queue_bytes = 300_000
    large = [world.send(KEY, "POST", "Content-Length: 10000000") for _ in range(3)]
    assert [exchange.status for exchange in large] == [0, 0, 503]
    chunked = world.send(KEY, "POST", "Transfer-Encoding: chunked")
    assert chunked.status == 503, "a body of unknown length counts as a large one"
    assert world.send(KEY, "POST", "Content-Length: 10").status == 0
    assert world.send().status == 0
    large[0].gone()
    assert world.send(KEY, "POST", "Content-Length: 10000000").status == 0


def test_time_in_the_queue_counts(world) -> None:
    revision = world.revision(timeout=10.0)
    exchange = world.send()
    exchange.tick(9.9)
    assert not exchange.done
    exchange.tick(10.0)
    assert exchange.status == 504
    assert exchange.text.rstrip() == b"activator request timeout"
    assert at_rest(revision)
    (pod,) = world.pods(revision, "10.1.0.1:8012")
    assert pod.sent == []


def test_client_that_leaves_gives_its_place_to_the_next(world) -> None:
    revision = world.revision(container_concurrency=1)
    (pod,) = world.pods(revision, "10.1.0.1:8012")
    running, second, third = world.send(), world.send(), world.send()
    second.gone()
    assert isinstance(second.error, ClientGone)
    assert revision.throttler.waiting == 1
    running.gone()  # in flight: its place at the pod is free
    assert pod.sent == [third]
    pod.answer()
    assert at_rest(revision)


def test_refused_request_goes_to_another_pod(world) -> None:
    revision = world.revision(container_concurrency=10)
    one, other = world.pods(revision, "10.1.0.1:8012", "10.1.0.2:8012")
    exchange = world.send(KEY, "POST")
    one.refuse()
    assert other.sent == [exchange], "nothing was written, so even a POST may go elsewhere"
    assert world.taken == ["10.1.0.2:8012"], "the pod that refused is out of use"
    other.answer()
    assert exchange.status == 200
    assert at_rest(revision)


def test_idempotent_request_is_repeated_when_a_pod_dies(world) -> None:
    revision = world.revision(container_concurrency=10)
    pods = world.pods(revision, *(f"10.1.0.{n}:8012" for n in range(1, 4)))
    exchange = world.send()
    asked = []
    for pod_answers in (False, False, True):
        asked.append(holder(pods))
        asked[-1].answer() if pod_answers else asked[-1].hang_up()
    assert len({pod.address for pod in asked}) == 3
    assert exchange.status == 200
    assert at_rest(revision)


def test_written_post_is_never_repeated(world) -> None:
    revision = world.revision(container_concurrency=10)
    one, other = world.pods(revision, "10.1.0.1:8012", "10.1.0.2:8012")
    exchange = world.send(KEY, "POST")
    one.hang_up()
    assert exchange.status == 502
    assert other.sent == []
    assert at_rest(revision)


def test_request_that_was_answered_in_part_is_never_repeated(world) -> None:
    revision = world.revision(container_concurrency=10)
    one, other = world.pods(revision, "10.1.0.1:8012", "10.1.0.2:8012")
    exchange = world.send()
    one.hang_up(answered=True)
    assert exchange.status == 502
    assert other.sent == []
    assert len(world.taken) == 2, "the pod did answer; what was wrong is this answer"


def test_attempts_are_bounded(world) -> None:
    revision = world.revision(container_concurrency=10)
    pods = world.pods(revision, *(f"10.1.0.{n}:8012" for n in range(1, 9)))
    exchange = world.send()
    for _ in range(MAX_ATTEMPTS):
        assert exchange.status == 0
        holder(pods).refuse()
    assert exchange.status == 502
    assert b"connection refused" in exchange.text
    assert [pod for pod in pods if pod.sent] == []
    assert at_rest(revision)


def test_failed_request_waits_at_the_head_of_the_queue(world) -> None:
    revision = world.revision(container_concurrency=1)
    (pod,) = world.pods(revision, "10.1.0.1:8012")
    first, second = world.send(), world.send()
    pod.refuse()
    assert revision.throttler.waiters()[0].exchange is first
    assert revision.throttler.waiting == 2
    (pod,) = world.pods(revision, "10.1.0.1:8012")
    assert pod.sent == [first]
    pod.answer()
    assert pod.sent == [second]


def test_place_of_the_failed_pod_is_not_given_to_a_later_request(world) -> None:
    revision = world.revision(container_concurrency=1)
    revision._backends = type("Deaf", (), {"failed": lambda *a: None, "hurry": lambda *a: None})()  # the pod stays
    world.backends.add(KEY, revision, early=True)
    (pod,) = world.pods(revision, "10.1.0.1:8012")
    first, second = world.send(), world.send()
    pod.refuse()
    assert pod.sent == [first]
    assert revision.throttler.waiters()[0].exchange is second


def test_settings_change_while_requests_wait_and_run(world) -> None:
    revision = world.revision(container_concurrency=1)
    (pod,) = world.pods(revision, "10.1.0.1:8012")
    requests = [world.send() for _ in range(4)]
    revision.change(type(revision.settings)(container_concurrency=3))
    assert pod.sent == requests[:3], "what waited goes as soon as there is room"
    revision.change(type(revision.settings)(container_concurrency=1))
    pod.answer()
    pod.answer()
    assert pod.sent == [requests[2]], "what runs is above the new limit: nobody follows yet"
    pod.answer()
    pod.answer()
    assert [exchange.status for exchange in requests] == [200] * 4
    assert at_rest(revision)


def test_deleted_revision_answers_those_who_wait_and_leaves_the_rest_alone(world) -> None:
    revision = world.revision(container_concurrency=1)
    (pod,) = world.pods(revision, "10.1.0.1:8012")
    running, waiting = world.send(), world.send()
    del world.proxy.revisions[KEY]
    world.backends.remove(KEY)
    revision.close()
    assert (waiting.status, waiting.text) == (
        404,
        b'Error getting active endpoint: revision.serving.knative.dev "hello-1" not found\n',
    )
    assert running.status == 0
    pod.answer()
    assert running.status == 200
    assert at_rest(revision)
    assert world.taken == []
    assert world.wakes.statistics()["under_way"] == 0


def test_running_request_of_a_deleted_revision_is_not_sent_again(world) -> None:
    revision = world.revision()
    (pod,) = world.pods(revision, "10.1.0.1:8012")
    running = world.send()
    world.backends.remove(KEY)
    revision.close()
    pod.refuse()
    assert running.status == 502
    assert at_rest(revision)


# a mesh that routes to single pods -----------------------------------------------------------------------------------


def test_mesh_is_told_to_pass_on_to_the_pod_that_was_chosen(world) -> None:
    world.backends.mesh = Mesh(addressable=True)
    revision = world.revision(container_concurrency=10)
    one, other = world.pods(revision, "10.1.0.1:8012", "10.1.0.2:8012")
    exchange = world.send(KEY, "GET", "K-Passthrough-Lb: spoofed")
    assert one.sent == [exchange]
    one.refuse()
    assert other.sent == [exchange]
    assert exchange.authority == b"hello-1-private.default"
    assert b"k-passthrough-lb" in exchange.drop
    assert exchange.add.count(b"K-Passthrough-Lb: true") == 1
    assert exchange.add.count(b"K-Original-Host: hello.example.com") == 1
    other.answer()
    assert at_rest(revision)


def test_original_host_that_an_ingress_noted_stays(world) -> None:
    world.backends.mesh = Mesh(addressable=True)
    revision = world.revision()
    world.pods(revision, "10.1.0.1:8012")
    exchange = world.send(KEY, "GET", "K-Original-Host: first.example.com")
    assert not any(line.startswith(b"K-Original-Host") for line in exchange.add)
    assert b"k-original-host" not in exchange.drop


def test_without_such_a_mesh_nothing_is_added(world) -> None:
    revision = world.revision()
    world.pods(revision, "10.1.0.1:8012")
    exchange = world.send()
    assert exchange.authority == b"hello.example.com"
    assert not any(b"assthrough" in line for line in exchange.add)


# turns in a rush -----------------------------------------------------------------------------------------------------


class Loop:
    """An event loop that turns when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.soon = []

    def time(self) -> float:
        return self.now

    def call_soon(self, callback) -> None:
        self.soon.append(callback)

    def call_later(self, delay: float, callback):
        raise AssertionError("nobody is held up by a window here")

    def turn(self, passed: float = 0.0) -> None:
        self.now += passed
        due, self.soon = self.soon, []
        for callback in due:
            callback()


@pytest.fixture
def rush(world):
    """(loop, turns) of a world that starts ten requests per round."""
    loop = Loop()
    turns = Turns(loop, Limits(burst_alone=10, patience=0.5))
    world.tenants = Tenants(turns)
    return loop, turns


def test_rush_goes_in_order_and_ends(world, rush) -> None:
    loop, turns = rush
    revision = world.revision()
    (pod,) = world.pods(revision, "10.1.0.1:8012")
    requests = [world.send() for _ in range(100)]
    assert len(pod.sent) == 18
    assert revision.throttler.statistics().in_flight == 100, "who waits for a turn has a place in the pod"
    while loop.soon:
        loop.turn()
    assert pod.sent == requests
    for _ in requests:
        pod.answer()
    assert at_rest(revision)
    assert turns.statistics().queued == 0
    assert not revision.party.under_way


def test_crowd_that_waited_for_a_pod_takes_turns_too(world, rush) -> None:
    loop, _ = rush
    revision = world.revision()
    requests = [world.send() for _ in range(100)]
    assert loop.soon == [], "waiting for a pod takes no processor"
    loop.now += 3.0
    (pod,) = world.pods(revision, "10.1.0.1:8012")
    assert len(pod.sent) < 20
    while loop.soon:
        loop.turn()
    assert pod.sent == requests


def test_client_that_leaves_before_its_turn_gives_its_place_back(world, rush) -> None:
    loop, turns = rush
    revision = world.revision(container_concurrency=60)
    (pod,) = world.pods(revision, "10.1.0.1:8012")
    requests = [world.send() for _ in range(62)]
    assert revision.throttler.waiting == 2
    for request in requests[40:60]:
        request.gone()
    assert revision.throttler.statistics().in_flight == 42
    while loop.soon:
        loop.turn()
    assert pod.sent == requests[:40] + requests[60:]
    for _ in tuple(pod.sent):
        pod.answer()
    assert at_rest(revision)
    assert turns.statistics().queued == 0


def test_turn_that_comes_too_late_is_refused(world, rush) -> None:
    loop, turns = rush
    revision = world.revision()
    (pod,) = world.pods(revision, "10.1.0.1:8012")
    requests = [world.send() for _ in range(30)]
    loop.turn(1.0)
    refused = [request for request in requests if request.status]
    assert refused == requests[18:19], "one for six that are served"
    assert {(request.status, request.text) for request in refused} == {(503, b"overloaded\n")}
    assert all(any(line.startswith(b"Retry-After: ") for line in request.lines) for request in refused)
    assert isinstance(refused[0].error, Overloaded)
    while loop.soon:
        loop.turn()
    for _ in tuple(pod.sent):
        pod.answer()
    assert at_rest(revision)
    assert turns.statistics().shed == 1


def test_pod_that_fails_requests_in_a_rush(world, rush) -> None:
    loop, _ = rush
    revision = world.revision(container_concurrency=100)
    one, other = world.pods(revision, "10.1.0.1:8012", "10.1.0.2:8012")
    requests = [world.send() for _ in range(40)]
    while one.sent or loop.soon:
        if one.sent:
            one.refuse()
        loop.turn()
    while other.sent:
        other.answer()
    assert {request.status for request in requests} == {200}
    assert at_rest(revision)
    assert not revision.party.under_way


def test_request_that_failed_in_a_rush_is_not_under_way_any_more(world, rush) -> None:
    loop, _ = rush
    key = ("other", "hello-1")
    world.pods(world.revision(key), "10.1.0.9:8012")
    world.send(key)
    revision = world.revision()
    (pod,) = world.pods(revision, "10.1.0.1:8012")
    requests = [world.send(KEY, "POST") for _ in range(18)]
    assert revision.party.under_way
    while pod.sent or loop.soon:
        if pod.sent:
            pod.hang_up()
        loop.turn()
    assert {request.status for request in requests} == {502}
    assert not revision.party.under_way


def test_client_that_leaves_while_its_request_waits_for_another_pod_leaves_nothing(world, rush) -> None:
    revision = world.revision()
    (pod,) = world.pods(revision, "10.1.0.1:8012")
    requests = [world.send() for _ in range(18)]
    while pod.sent:
        pod.refuse()
    assert revision.throttler.waiting == 18
    for request in requests:
        request.gone()
    assert at_rest(revision)
    assert not revision.party.under_way


def test_client_that_leaves_while_its_request_waits_for_a_second_turn(world, rush) -> None:
    loop, turns = rush
    revision = world.revision()
    one, other = world.pods(revision, "10.1.0.1:8012", "10.1.0.2:8012")
    for _ in range(18):
        world.send()
    failing = one.sent[-1]
    one.sent.remove(failing)
    one.sent.insert(0, failing)
    waiting = world.send()  # no more may start in this round
    one.refuse()
    assert failing not in other.sent
    failing.gone()
    while loop.soon:
        loop.turn()
    assert waiting in one.sent + other.sent
    assert turns.statistics().queued == 0


def test_tenant_that_has_its_share_of_a_full_listener_is_refused_and_others_are_not(world) -> None:
    world.tenants = Tenants()
    other = ("other", "hello-1")
    revision = world.revision()
    world.revision(other)
    (pod,) = world.pods(revision, "10.1.0.1:8012")
    inside = [world.send() for _ in range(3)]
    world.tenants.share = 3
    refused = world.send()
    assert (refused.status, refused.text) == (503, b"too many requests of this namespace under way\n")
    assert any(line.startswith(b"Retry-After: ") for line in refused.lines)
    assert world.send(other).status == 0
    pod.answer()
    inside.append(world.send())
    assert inside[-1].status == 0
    while pod.sent:
        pod.answer()
    assert [exchange.status for exchange in inside] == [200] * 4
    assert at_rest(revision)


def test_revision_that_goes_leaves_its_tenant(world) -> None:
    world.tenants = Tenants()
    revision = world.revision()
    world.send()
    assert world.tenants.statistics().waiting == 1
    world.backends.remove(KEY)
    del world.proxy.revisions[KEY]
    revision.close()
    found = world.tenants.statistics()
    assert (found.tenants, found.waiting) == (0, 0)


# wake-ups ------------------------------------------------------------------------------------------------------------


def test_wake_is_timed_from_request_to_first_byte(world) -> None:
    revision = world.revision()
    exchange, other = world.send(), world.send()
    (wake,) = world.wakes.select()
    assert wake.poked is not None
    (pod,) = world.pods(revision, "10.1.0.1:8012")
    pod.answer()
    assert exchange.status == 200
    assert wake.requested <= wake.poked <= wake.endpoint <= wake.probed <= wake.first_byte
    assert (wake.pod, wake.waited) == ("10.1.0.1:8012", 2)
    assert world.wakes.current(KEY) is None
    assert set(wake.to_json()) >= {"requestedAt", "pokedAt", "endpointAt", "probedAt", "firstByteAt", "pod", "waited"}
    pod.answer()
    assert other.status == 200
    assert len(list(world.wakes.select())) == 1


def test_wake_given_up_makes_room_for_the_next(world) -> None:
    revision = world.revision()
    world.send().gone()
    assert world.wakes.current(KEY) is None
    exchange = world.send()
    assert len(list(world.wakes.select())) == 2
    (pod,) = world.pods(revision, "10.1.0.1:8012")
    pod.answer()
    assert exchange.status == 200
    assert world.wakes.current(KEY) is None


def test_late_end_of_an_old_wake_does_not_end_the_next(world) -> None:
    first = world.wakes.begin(KEY, 1.0)
    world.wakes.end(first)
    second = world.wakes.begin(KEY, 2.0)
    world.wakes.end(first)
    assert world.wakes.current(KEY) is second


def test_losing_all_pods_begins_a_wake_that_ends(world) -> None:
    revision = world.revision()
    (pod,) = world.pods(revision, "10.1.0.1:8012")
    exchange = world.send()
    pod.refuse()
    wake = world.wakes.current(KEY)
    assert wake is not None
    (pod,) = world.pods(revision, "10.1.0.1:8012")
    pod.answer()
    assert exchange.status == 200
    assert wake.first_byte is not None
    assert world.wakes.current(KEY) is None


def test_waiting_for_a_place_at_a_busy_pod_is_no_wake(world) -> None:
    revision = world.revision(container_concurrency=1)
    world.pods(revision, "10.1.0.1:8012")
    world.send()
    world.send()
    assert list(world.wakes.select()) == []


def test_wake_begins_before_anybody_is_told(world) -> None:
    """The autoscaler's own times must not lie before the request that it heard of."""
    told_at: list[float] = []
    plain = world.reporter._send

    def send(frame: bytes) -> bool:
        told_at.append(time.time())
        return plain(frame)

    world.reporter._send = send
    world.revision()
    world.send()
    (wake,) = world.wakes.select()
    assert wake.requested <= told_at[0] <= wake.poked


def test_autoscaler_is_told_of_who_waits_although_it_heard_of_the_revision_lately(world) -> None:
    revision = world.revision()
    world.pods(revision, "10.1.0.1:8012")
    world.send()
    assert len(world.told) == 1
    world.clock.advance(1)
    world.reporter.report()
    world.pods(revision)  # all gone
    assert len(world.told) == 2
    world.send()
    assert len(world.told) == 3, "without waiting for the next report"
    world.send()
    assert len(world.told) == 3


def test_poke_that_was_lost_is_repeated_by_the_next_request(world) -> None:
    world.revision()
    world.stream_up = False
    world.send()
    world.stream_up = True
    world.send()
    assert world.told == [{"key": KEY, "concurrency": 1.0, "count": 1.0}]
    (wake,) = world.wakes.select()
    assert wake.poked is None, "this one was not told of in time"


async def test_pods_of_a_revision_in_http2_are_taken_and_dropped_as_such(world) -> None:
    made = world.revision(http2=True)
    made.healthy(["10.1.0.1:8013"])
    assert world.taken == ["h2c://10.1.0.1:8013"]
    made.healthy([])
    assert world.taken == []
