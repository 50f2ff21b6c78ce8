"""Policies in words; the golden data in tests/vectors has the numbers."""

from collections import Counter

import pytest

from activator.balance import Pod, assign, first_available, policy_for, random_choice_of_2, round_robin


def pods(count: int, limit: int = 0) -> list[Pod]:
    return [Pod(f"10.1.0.{number}:8012", upstream=None, limit=limit) for number in range(count)]


def test_first_available_fills_one_pod_before_the_next() -> None:
    three = pods(3, limit=2)
    taken = [first_available(three, 0)[0] for _ in range(7)]
    assert [three.index(pod) if pod else None for pod in taken] == [0, 0, 1, 1, 2, 2, None]


def test_round_robin_takes_turns_and_skips_full_ones() -> None:
    three = pods(3, limit=2)
    three[1].in_flight = 2
    position, order = 0, []
    for _ in range(5):
        pod, position = round_robin(three, position)
        order.append(three.index(pod) if pod else None)
    assert order == [0, 2, 0, 2, None]


def test_round_robin_survives_a_shrinking_list() -> None:
    _, position = round_robin(pods(5, limit=9), 4)
    assert position == 5
    pod, position = round_robin(pods(2, limit=9), position)
    assert (pod.address, position) == ("10.1.0.0:8012", 1)


def test_random_choice_prefers_the_lighter_and_never_herds() -> None:
    ten = pods(10)
    for _ in range(1000):
        random_choice_of_2(ten, 0)
    loads = [pod.in_flight for pod in ten]
    assert sum(loads) == 1000
    assert max(loads) - min(loads) < 20, "two choices keep loads within a few of each other"


def test_random_choice_reaches_every_pair() -> None:
    seen = Counter()
    for _ in range(300):
        three = pods(3)
        three[0].in_flight = three[1].in_flight = 1  # the third wins whenever it is looked at
        seen[random_choice_of_2(three, 0)[0].address] += 1
    assert len(seen) == 3
    assert seen["10.1.0.2:8012"] > 150


@pytest.mark.parametrize("policy", [first_available, round_robin, random_choice_of_2])
def test_no_pods_no_choice(policy) -> None:
    assert policy([], 3)[0] is None


def test_policy_follows_the_limit() -> None:
    assert [policy_for(limit) for limit in (0, 1, 3, 4)] == [
        random_choice_of_2,
        first_available,
        first_available,
        round_robin,
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
