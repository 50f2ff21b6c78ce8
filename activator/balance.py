"""Which pod takes the next request, and which pods are this activator's (serving §5.4).

Policies are functions of the pods and a position: first available for a small limit, where spreading would waste
places; round robin for a larger one; the lighter of two random pods without a limit. A policy takes a place in the
pod it returns.

With several activators and a limit, each pod belongs to one activator, so that together they keep the limit without
talking to each other.

Source: knative/serving pkg/activator/net/lb_policy.go and throttler.go.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kncore.net.exchange import Upstream

__all__ = [
    "UNLIMITED",
    "Pod",
    "Policy",
    "assign",
    "capacity",
    "first_available",
    "infer_index",
    "pick_indices",
    "policy_for",
    "random_choice_of_2",
    "round_robin",
]

UNLIMITED = 2**31 - 1


@dataclass(slots=True, eq=False)
class Pod:
    """A place requests can go: a pod's queue-proxy, or a Service's cluster address."""

    address: str
    """`ip:port`."""
    upstream: Upstream
    limit: int = 0
    """Requests at once; 0 is no limit."""
    in_flight: int = 0

    def reserve(self) -> bool:
        """Take a place if there is one."""
        if self.limit and self.in_flight >= self.limit:
            return False
        self.in_flight += 1
        return True

    def release(self) -> None:
        """Give a place back."""
        self.in_flight -= 1


Policy = Callable[[Sequence[Pod], int], tuple[Pod | None, int]]
"""(pods, position) -> (pod with a place taken, or None; next position)."""


def first_available(pods: Sequence[Pod], position: int) -> tuple[Pod | None, int]:
    """The first pod, in address order, with a place free."""
    for pod in pods:
        if pod.reserve():
            return pod, 0
    return None, 0


def round_robin(pods: Sequence[Pod], position: int) -> tuple[Pod | None, int]:
    """The next pod with a place free, starting after the last one taken."""
    count = len(pods)
    if position >= count:
        position = 0
    for step in range(count):
        index = (position + step) % count
        if pods[index].reserve():
            return pods[index], index + 1
    return None, position


def random_choice_of_2(pods: Sequence[Pod], position: int) -> tuple[Pod | None, int]:
    """The lighter of two random pods: nearly as even as looking at all, and no herd runs to the same one."""
    count = len(pods)
    if count == 0:
        return None, 0
    chosen = pods[0]
    if count > 1:
        first = int(random.random() * count)  # as even as randrange, at a fifth of its time
        second = int(random.random() * (count - 1))
        chosen, other = pods[first], pods[second + (second >= first)]
        if other.in_flight < chosen.in_flight:
            chosen = other
    chosen.in_flight += 1
    return chosen, 0


def policy_for(container_concurrency: int) -> Policy:
    """The policy for a limit per pod."""
    if container_concurrency == 0:
        return random_choice_of_2
    return first_available if container_concurrency <= 3 else round_robin


def infer_index(activators: Sequence[str], own: str) -> int:
    """Position of this activator among all of a revision's (sorted), -1 if it is not one of them."""
    try:
        return list(activators).index(own)
    except ValueError:
        return -1


def pick_indices(pods: int, index: int, activators: int) -> tuple[int, int, int]:
    """Which of `pods` pods are activator number `index`'s: (begin, end, number left over for the first activators)."""
    if activators > pods:
        begin = index % pods
        return begin, begin + 1, 0
    share, left = divmod(pods, activators)
    return index * share, (index + 1) * share, left


def assign(pods: Sequence[Pod], index: int, activators: int) -> list[Pod]:
    """This activator's pods: all of them when alone or not listed, else a slice, plus one of those left over."""
    count = len(pods)
    if index == -1 or count <= 1 or activators <= 1:
        return list(pods)
    begin, end, left = pick_indices(count, index, activators)
    mine = list(pods[begin:end])
    if index < left:
        mine.append(pods[count - left + index])
    return mine


def capacity(container_concurrency: int, backends: int, assigned: int, activators: int) -> int:
    """Requests of a revision that may be in flight from this activator.

    Args:
        backends: pods that answer.
        assigned: pods of this activator; 0 when requests go to the cluster address instead.
    """
    if assigned:
        places = container_concurrency * assigned
    else:
        places = container_concurrency * backends
        if places:
            places = max(1, places // max(1, activators))
    if backends > 0 and (container_concurrency == 0 or places > UNLIMITED):
        return UNLIMITED
    return places
