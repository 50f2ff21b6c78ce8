"""Who waits and who goes: the buffer in front of one revision.

    enter -> a pod has a place -> go(pod)                       the usual case: no queue, no task, no future
          -> none has          -> wait, first come first served
    a pod answers, or one gives a place back -> the longest waiting go

There is one throttler per revision from the moment the Revision exists, so requests can wait for pods that do not
exist yet. The queue is bounded, in requests and in bytes; its deadline is the request's own timeout. A client that
leaves, or whose time is up, gives its place in the queue back at once.

Places belong to pods: each has as many as the container concurrency says. Requests still in flight at a pod that is
gone hold nobody up (the original counts them against the revision's capacity, so a scale-down could leave places of
the remaining pods empty).
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from activator.balance import Pod, assign, capacity, infer_index, policy_for
from kncore.breaker import QueueFull

__all__ = ["QUEUE_BYTES", "QUEUE_DEPTH", "Statistics", "Throttler", "Waiter"]

QUEUE_DEPTH = 10_000  # requests waiting per revision, as in the original
QUEUE_BYTES = 64 * 1024 * 1024  # of their bodies; the original has no such bound and died of it (knative/serving#13583)


class Waiter(Protocol):
    """A request that wants a pod; compared by identity."""

    def go(self, pod: Pod) -> None:
        """A place in this pod was taken for it; it gives it back through `Throttler.release`. Must not raise."""


@dataclass(frozen=True)
class Statistics:
    """One throttler at one moment; `refused` counts since it was made."""

    pods: int
    assigned: int
    capacity: int
    in_flight: int
    waiting: int
    waiting_bytes: int
    refused: int


class Throttler:
    """The buffer of one revision.

    Args:
        container_concurrency: requests at once per pod; 0 is no limit.
        self_ip: this activator's address, to find its share of the pods.
    """

    def __init__(
        self,
        container_concurrency: int,
        self_ip: str,
        *,
        queue_depth: int = QUEUE_DEPTH,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
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
        self._queue_bytes = queue_bytes
        self._policy = policy_for(container_concurrency)
        self._position = 0
        self._pods: dict[str, Pod] = {}
        self._backends = 0
        self._in_flight = 0
        # Waiters and what they hold in bytes. Both ends matter, and any of them can leave: all in constant time.
        self._waiting: OrderedDict[Waiter, int] = OrderedDict()
        self._waiting_bytes = 0
        self._dispatching = False
        self._refused = 0

    # requests --------------------------------------------------------------------------------------------------------

    def enter(self, waiter: Waiter, size: int = 0) -> bool:
        """Let a request go now (True), or queue it (False).

        Args:
            size: most bytes of body that it will hold while it waits.
        Raises:
            QueueFull: too many wait, or they hold too much.
        """
        if not self._waiting:
            pod = self.reserve()
            if pod is not None:
                waiter.go(pod)
                return True
        if len(self._waiting) >= self._queue_depth or self._waiting_bytes + size > self._queue_bytes:
            self._refused += 1
            raise QueueFull(len(self._waiting))
        self._waiting[waiter] = size
        self._waiting_bytes += size
        return False

    def reenter(self, waiter: Waiter) -> bool:
        """Take back a request that had a pod, which failed it: it goes to another one now (True), or waits at the head
        of the queue (False), for it has waited already.
        """
        pod = self.reserve()
        if pod is not None:
            waiter.go(pod)
            return True
        self._waiting[waiter] = 0
        self._waiting.move_to_end(waiter, last=False)
        return False

    def leave(self, waiter: Waiter) -> None:
        """A request gives up waiting; no harm if it does not wait."""
        self._waiting_bytes -= self._waiting.pop(waiter, 0)

    def reserve(self) -> Pod | None:
        """Take a place in a pod, if there is one."""
        if self.cluster_ip is None:
            pod, self._position = self._policy(self.assigned, self._position)
        else:
            pod = self.pick() if self.cluster_ip.in_flight < self.capacity else None
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
        pod.in_flight -= 1
        self._in_flight -= 1
        if self._waiting:
            self._dispatch()

    def _dispatch(self) -> None:
        """Hand free places to those who wait. One that is over as soon as it goes releases within `go`: the loop
        serves that, not a recursion.
        """
        if self._dispatching:
            return
        self._dispatching = True
        try:
            while self._waiting and (pod := self.reserve()) is not None:
                waiter, size = self._waiting.popitem(last=False)
                self._waiting_bytes -= size
                waiter.go(pod)
        finally:
            self._dispatching = False

    # what is behind --------------------------------------------------------------------------------------------------

    def update(self, addresses: Iterable[str], make: Callable[[str], Pod]) -> list[Pod]:
        """These addresses answer now; one that did before keeps what it has in flight.

        Returns:
            the pods that are used no longer.
        """
        before = self._pods
        self._pods = {address: before.get(address) or make(address) for address in addresses}
        gone = [pod for address, pod in before.items() if address not in self._pods]
        if self.cluster_ip is not None:
            gone.append(self.cluster_ip)
            self.cluster_ip = None
        self._backends = len(self._pods)
        self._recompute()
        return gone

    def use_cluster_ip(self, address: str, backends: int, make: Callable[[str], Pod]) -> list[Pod]:
        """Send everything to the Service's address, behind which `backends` pods cannot be told apart; should they
        become addressable again, they are counted anew. Returns as `update` does.
        """
        gone = list(self._pods.values())
        self._pods = {}
        if self.cluster_ip is None or self.cluster_ip.address != address:
            if self.cluster_ip is not None:
                gone.append(self.cluster_ip)
            self.cluster_ip = make(address)
        self._backends = backends
        self._resize()
        return gone

    def update_activators(self, addresses: Iterable[str]) -> None:
        """These activators serve the revision; nothing changes while we are not one of them."""
        ordered = sorted(addresses)
        index = infer_index(ordered, self._self_ip)
        if index == -1:
            return
        self.index, self.activators = index, len(ordered)
        self._recompute()

    def limit(self, container_concurrency: int) -> None:
        """Change the requests at once per pod. Whoever waits keeps its place, and what is in flight stays so."""
        self.container_concurrency = container_concurrency
        self._policy = policy_for(container_concurrency)
        self._recompute()

    def _recompute(self) -> None:
        ordered = sorted(self._pods.values(), key=lambda pod: pod.address)
        for pod in ordered:
            pod.limit = self.container_concurrency
        if self.container_concurrency:
            self.assigned = assign(ordered, self.index, self.activators)
        else:
            self.assigned = ordered
        self._resize()

    def _resize(self) -> None:
        assigned = 0 if self.cluster_ip is not None else len(self.assigned)
        self.capacity = capacity(self.container_concurrency, self._backends, assigned, self.activators)
        if self._waiting:
            self._dispatch()

    # -----------------------------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    def waiters(self) -> list[Waiter]:
        """Those requests, the longest waiting first."""
        return list(self._waiting)

    def statistics(self) -> Statistics:
        """Pods, places and the queue now."""
        return Statistics(
            pods=len(self._pods),
            assigned=len(self.assigned),
            capacity=self.capacity,
            in_flight=self._in_flight,
            waiting=len(self._waiting),
            waiting_bytes=self._waiting_bytes,
            refused=self._refused,
        )
