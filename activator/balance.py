"""Which pod takes the next request, and which pods are this activator's (serving §5.4).

Three policies, one `Choice` each: the first pod with a place for a small limit, where spreading would waste places;
round robin for a larger one; the least loaded of all pods without a limit (the original looks at two at random, and
leaves pods that nobody uses beside others that are full: knative/serving#12734, #13331). A choice keeps what it needs
to answer in the same few steps for a thousand pods as for three: bits of pods that have a place, or pods sorted by
load, where a load that changes by one moves a pod past one neighbour. A new choice is made when the pods change.

With several activators and a limit, each pod belongs to one activator, so that together they keep the limit without
talking to each other.

Source: knative/serving pkg/activator/net/lb_policy.go and throttler.go.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import random
from typing import Protocol

from kncore.net.exchange import Upstream

__all__ = [
    "UNLIMITED",
    "Choice",
    "FirstAvailable",
    "LeastLoaded",
    "Pod",
    "RoundRobin",
    "assign",
    "capacity",
    "choice_for",
    "infer_index",
    "pick_indices",
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
    index: int = -1
    """Where the choice keeps it; -1 while no choice does."""


class Choice(Protocol):
    """A policy over the pods it was made for. It owns their `in_flight` and `index`."""

    def take(self) -> Pod | None:
        """A pod, with a place in it taken; None if no pod has one."""

    def give(self, pod: Pod) -> None:
        """A place comes back, also from a pod that is not among ours any more."""


class FirstAvailable:
    """The first pod, in the order given, with a place free."""

    __slots__ = ("_free", "_pods")

    def __init__(self, pods: Sequence[Pod]) -> None:
        self._pods = pods
        self._free = _index(pods)
        """Bit n: pod n has a place."""

    def take(self) -> Pod | None:
        free = self._free
        if not free:
            return None
        pod = self._pods[(free & -free).bit_length() - 1]
        pod.in_flight += 1
        if pod.in_flight >= pod.limit:
            self._free = free & (free - 1)
        return pod

    def give(self, pod: Pod) -> None:
        pod.in_flight -= 1
        if pod.in_flight == pod.limit - 1 and pod.index >= 0:
            self._free |= 1 << pod.index


class RoundRobin:
    """The next pod with a place free, after the last one taken.

    Args:
        position: of the pod to begin with; beyond the last one it is the first.
    """

    __slots__ = ("_free", "_pods", "position")

    def __init__(self, pods: Sequence[Pod], position: int = 0) -> None:
        self._pods = pods
        self._free = _index(pods)
        self.position = position

    def take(self) -> Pod | None:
        free = self._free
        if not free:
            return None
        index = self.position
        ahead = free >> index
        if ahead:
            index += (ahead & -ahead).bit_length() - 1
        else:
            index = (free & -free).bit_length() - 1
        self.position = index + 1
        pod = self._pods[index]
        pod.in_flight += 1
        if pod.in_flight >= pod.limit:
            self._free = free ^ (1 << index)
        return pod

    def give(self, pod: Pod) -> None:
        pod.in_flight -= 1
        if pod.in_flight == pod.limit - 1 and pod.index >= 0:
            self._free |= 1 << pod.index


class LeastLoaded:
    """One of the pods with the fewest requests in flight; which of them is chance, lest every activator has the same
    favourite.
    """

    __slots__ = ("_ends", "_order")

    def __init__(self, pods: Sequence[Pod]) -> None:
        # Sorted by load. `_ends[n]`: how many have at most n, so those with exactly n are from `_ends[n-1]` on.
        self._order = sorted(pods, key=lambda pod: pod.in_flight)
        for index, pod in enumerate(self._order):
            pod.index = index
        self._ends: list[int] = []
        for index, pod in enumerate(self._order):
            self._ends += [index] * (pod.in_flight - len(self._ends))
        self._ends.append(len(self._order))

    def take(self) -> Pod | None:
        order, ends = self._order, self._ends
        if not order:
            return None
        pod = order[0]
        load = pod.in_flight
        last = ends[load] - 1
        if last:
            at = int(random() * (last + 1))
            pod = order[at]
            if at != last:
                order[at] = other = order[last]
                other.index = at
                order[last] = pod
                pod.index = last
        ends[load] = last
        pod.in_flight = load = load + 1
        if load == len(ends):
            ends.append(len(order))
        return pod

    def give(self, pod: Pod) -> None:
        load = pod.in_flight = pod.in_flight - 1
        at = pod.index
        if at < 0:
            return
        order, ends = self._order, self._ends
        first = ends[load]
        if at != first:
            order[at] = other = order[first]
            other.index = at
            order[first] = pod
            pod.index = first
        ends[load] = first + 1


def _index(pods: Sequence[Pod]) -> int:
    """Number the pods; the bits of those that have a place."""
    free = 0
    for index, pod in enumerate(pods):
        pod.index = index
        if pod.in_flight < pod.limit:
            free |= 1 << index
    return free


def choice_for(container_concurrency: int, pods: Sequence[Pod], before: Choice | None = None) -> Choice:
    """The policy for a limit per pod; round robin goes on where the choice `before` it stopped."""
    if container_concurrency == 0:
        return LeastLoaded(pods)
    if container_concurrency <= 3:
        return FirstAvailable(pods)
    return RoundRobin(pods, before.position if isinstance(before, RoundRobin) else 0)


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
