"""Policies in words; the golden data in tests/vectors has the numbers, tests/property compares with plain scans."""

from collections import Counter

import pytest

from activator.balance import FirstAvailable, LeastLoaded, Pod, RoundRobin, assign, choice_for


def pods(count: int, limit: int = 0) -> list[Pod]:
    return [Pod(f"10.1.0.{number}:8012", upstream=None, limit=limit) for number in range(count)]


def test_first_available_fills_one_pod_before_the_next() -> None:
    three = pods(3, limit=2)
    choice = FirstAvailable(three)
    taken = [choice.take() for _ in range(7)]
    assert [three.index(pod) if pod else None for pod in taken] == [0, 0, 1, 1, 2, 2, None]
    choice.give(three[1])
    assert choice.take() is three[1]


def test_round_robin_takes_turns_and_skips_full_ones() -> None:
    three = pods(3, limit=2)
    three[1].in_flight = 2
    choice = RoundRobin(three)
    taken = [choice.take() for _ in range(5)]
    assert [three.index(pod) if pod else None for pod in taken] == [0, 2, 0, 2, None]
    choice.give(three[1])
    assert choice.take() is three[1]


def test_round_robin_goes_on_where_it_was_and_survives_a_shrinking_list() -> None:
    five = pods(5, limit=9)
    choice = RoundRobin(five, 4)
    assert choice.take() is five[4]
    two = pods(2, limit=9)
    choice = choice_for(9, two, choice)
    assert [choice.take() for _ in range(3)] == [two[0], two[1], two[0]]


def test_least_loaded_keeps_all_pods_even() -> None:
    ten = pods(10)
    choice = LeastLoaded(ten)
    for _ in range(1005):
        choice.take()
    assert sorted(pod.in_flight for pod in ten) == [100] * 5 + [101] * 5


def test_least_loaded_has_no_favourite() -> None:
    """One request at a time: all are equally free, and each gets its part."""
    five = pods(5)
    choice = LeastLoaded(five)
    seen: Counter[str] = Counter()
    for _ in range(1000):
        pod = choice.take()
        seen[pod.address] += 1
        choice.give(pod)
    assert len(seen) == 5
    assert max(seen.values()) < 2 * min(seen.values())


def test_new_pod_takes_what_comes_until_it_is_level() -> None:
    two = pods(2)
    choice = LeastLoaded(two)
    for _ in range(20):
        choice.take()
    more = [*two, *pods(3)[2:]]
    choice = choice_for(0, more, choice)
    assert [choice.take() for _ in range(10)] == [more[2]] * 10
    assert {pod.in_flight for pod in more} == {10}


@pytest.mark.parametrize("limit", [0, 1, 4])
def test_place_in_a_pod_that_is_gone_is_only_counted(limit: int) -> None:
    two = pods(2, limit)
    choice = choice_for(limit, two)
    taken = [choice.take(), choice.take()]
    for pod in two:
        pod.index = -1
    one = pods(1, limit)
    choice = choice_for(limit, one, choice)
    for pod in taken:
        choice.give(pod)
    assert [pod.in_flight for pod in two] == [0, 0]
    assert choice.take() is one[0]


@pytest.mark.parametrize("choice", [FirstAvailable, RoundRobin, LeastLoaded])
def test_no_pods_no_choice(choice) -> None:
    assert choice([]).take() is None


def test_policy_follows_the_limit() -> None:
    assert [type(choice_for(limit, ())) for limit in (0, 1, 3, 4)] == [
        LeastLoaded,
        FirstAvailable,
        FirstAvailable,
        RoundRobin,
    ]


@pytest.mark.parametrize(("count", "activators"), [(1, 1), (5, 2), (7, 3), (3, 3), (100, 7)])
def test_every_pod_belongs_to_exactly_one_activator(count: int, activators: int) -> None:
    all_pods = pods(count)
    shares = [assign(all_pods, index, activators) for index in range(activators)]
    assert sorted(pod.address for share in shares for pod in share) == sorted(pod.address for pod in all_pods)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_more_activators_than_pods_share_them() -> None:
    two = pods(2)
    assert [assign(two, index, 3)[0].address for index in range(3)] == [two[0].address, two[1].address, two[0].address]
