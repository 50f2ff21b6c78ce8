"""Who waits and who goes: the buffer in front of one revision.

    enter -> a pod has a place -> go(pod)                       the usual case: no queue, no task, no future
          -> none has          -> wait, first come first served
    a pod answers, or one gives a place back -> the longest waiting go

There is one throttler per revision from the moment the Revision exists, so requests can wait for pods that do not
exist yet. The queue is bounded; its deadline is the request's own timeout. A client that leaves, or whose time is up,
gives its place in the queue back at once.

Places belong to pods: each has as many as the container concurrency says. Requests still in flight at a pod that is
gone hold nobody up (the original counts them against the revision's capacity, so a scale-down could leave places of
the remaining pods empty).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from activator.balance import Pod, assign, capacity, infer_index, policy_for
from kncore.breaker import QueueFull

__all__ = ["QUEUE_DEPTH", "Statistics", "Throttler", "Waiter"]

QUEUE_DEPTH = 10_000  # requests waiting per revision, as in the original


class Waiter(Protocol):
    """A request that wants a pod."""

    def go(self, pod: Pod) -> None:
        """A place in this pod was taken for it; it gives it back through `Throttler.release`."""


@dataclass(frozen=True)
class Statistics:
    """One throttler at one moment; `refused` counts since it was made."""

    pods: int
    assigned: int
    capacity: int
    in_flight: int
    waiting: int
    refused: int


class Throttler:
    """The buffer of one revision.

    Args:
        container_concurrency: requests at once per pod; 0 is no limit.
        self_ip: this activator's address, to find its share of the pods.
    """

    def __init__(self, container_concurrency: int, self_ip: str, *, queue_depth: int = QUEUE_DEPTH) -> None:
        self.container_concurrency = container_concurrency
        self.capacity = 0
        self.assigned: Sequence[Pod] = ()
        self.cluster_ip: Pod | None = None
        """Where everything goes when pods cannot be addressed one by one."""
        self.activators = 0
        self.index = -1
        """Position of this activator among the revision's; -1 uses all pods."""
        self._self_ip = self_ip
        self._queue_depth = queue_depth
        self._policy = policy_for(container_concurrency)
        self._position = 0
        self._pods: dict[str, Pod] = {}
        self._backends = 0
        self._in_flight = 0
        self._waiting: dict[Waiter, None] = {}  # ordered, and any of them can leave in constant time
        self._refused = 0

    # requests --------------------------------------------------------------------------------------------------------

    def enter(self, waiter: Waiter) -> bool:
        """Let a request go now (True), or queue it (False).

        Raises:
            QueueFull: too many wait.
        """
        if not self._waiting:
            pod = self.reserve()
            if pod is not None:
                waiter.go(pod)
                return True
        if len(self._waiting) >= self._queue_depth:
            self._refused += 1
            raise QueueFull(len(self._waiting))
        self._waiting[waiter] = None
        return False

    def reenter(self, waiter: Waiter) -> None:
        """Put a request that had a pod, which failed it, at the head of the queue: it has waited already."""
        pod = self.reserve()
        if pod is not None:
            waiter.go(pod)
        else:
            self._waiting = {waiter: None, **self._waiting}

    def leave(self, waiter: Waiter) -> None:
        """A request gives up waiting; no harm if it does not wait."""
        self._waiting.pop(waiter, None)

    def reserve(self) -> Pod | None:
        """Take a place in a pod, if there is one."""
        if self.cluster_ip is not None and self.cluster_ip.in_flight >= self.capacity:
            return None
        pod = self.pick()
        if pod is not None:
            self._in_flight += 1
        return pod

    def pick(self) -> Pod | None:
        """The policy's choice, its place taken; behind a cluster address there is no choice."""
        if self.cluster_ip is not None:
            self.cluster_ip.in_flight += 1
            return self.cluster_ip
        pod, self._position = self._policy(self.assigned, self._position)
        return pod

    def release(self, pod: Pod) -> None:
        """Give a place back; the longest waiting request takes it."""
        pod.release()
        self._in_flight -= 1
        if self._waiting:
            self._dispatch()

    def _dispatch(self) -> None:
        waiting = self._waiting
        while waiting:
            pod = self.reserve()
            if pod is None:
                return
            waiter = next(iter(waiting))
            del waiting[waiter]
            waiter.go(pod)

    # what is behind -------------------------------------------------------------------------------------------------

    def update(self, pods: Iterable[Pod]) -> None:
        """These pods answer now; the same address keeps what it has in flight."""
        self._pods = {pod.address: self._pods.get(pod.address, pod) for pod in pods}
        for pod in self._pods.values():
            pod.limit = self.container_concurrency
        self.cluster_ip = None
        self._backends = len(self._pods)
        self._recompute()

    def use_cluster_ip(self, cluster_ip: Pod, backends: int) -> None:
        """Send everything to the Service's address, behind which `backends` pods cannot be told apart."""
        self.cluster_ip = cluster_ip
        self._backends = backends
        self._pods = {}  # should they become addressable again, they are counted anew
        self._resize()

    def update_activators(self, addresses: Iterable[str]) -> None:
        """These activators serve the revision; nothing changes while we are not one of them."""
        ordered = sorted(addresses)
        index = infer_index(ordered, self._self_ip)
        if index == -1:
            return
        self.index, self.activators = index, len(ordered)
        self._recompute()

    def _recompute(self) -> None:
        ordered = sorted(self._pods.values(), key=lambda pod: pod.address)
        if self.container_concurrency:
            self.assigned = assign(ordered, self.index, self.activators)
        else:
            self.assigned = ordered
        self._resize()

    def _resize(self) -> None:
        assigned = 0 if self.cluster_ip is not None else len(self.assigned)
        self.capacity = capacity(self.container_concurrency, self._backends, assigned, self.activators)
        self._dispatch()

    # ---------------------------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    def statistics(self) -> Statistics:
        return Statistics(
            pods=len(self._pods),
            assigned=len(self.assigned),
            capacity=self.capacity,
            in_flight=self._in_flight,
            waiting=len(self._waiting),
            refused=self._refused,
        )
