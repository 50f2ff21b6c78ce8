"""Who waits and who goes: the buffer in front of one revision.

    enter -> a pod has a place -> go(pod)                       the usual case: no queue, no task, no future
          -> none has          -> wait, first come first served
    a pod answers, or one gives a place back -> the longest waiting go

There is one throttler per revision from the moment the Revision exists, so requests can wait for pods that do not
exist yet. The queue is bounded, in requests and in bytes, and so is what all revisions of a tenant hold, and all
tenants (`activator.tenants`). Its deadline is the request's own timeout; who could not be served by then, at the pace
at which places come free, even if that became `GROWTH` times as fast, is refused at once rather than then. A client
that leaves, or whose time is up, gives its place in the queue back at once.

Places belong to pods: each has as many as the container concurrency says. Requests still in flight at a pod that is
gone hold nobody up (the original counts them against the revision's capacity, so a scale-down could leave places of
the remaining pods empty).
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from activator.balance import Choice, Pod, assign, capacity, choice_for, infer_index
from activator.tenants import Tenant, Tenants
from kncore.breaker import QueueFull

__all__ = ["QUEUE_BYTES", "QUEUE_DEPTH", "Pace", "Statistics", "Throttler", "TooLong", "Waiter"]

QUEUE_DEPTH = 10_000  # requests waiting per revision, as in the original
QUEUE_BYTES = 64 * 1024 * 1024  # of their bodies; the original has no such bound and died of it (knative/serving#13583)
GROWTH: Final = 4.0
"""How much faster than now a queue may move before the requests in it run out of time: an autoscaler multiplies pods
by about so much meanwhile, and a refusal that was not needed is worse than one that comes late."""


class Waiter(Protocol):
    """A request that wants a pod; compared by identity."""

    def go(self, pod: Pod) -> None:
        """A place in this pod was taken for it; it gives it back through `Throttler.release`. Must not raise."""


class TooLong(QueueFull):
    """There is a place to wait, but not one from which a pod would be reached in time.

    Args:
        wait: seconds it would take at the present pace.
    """

    def __init__(self, depth: int, wait: float) -> None:
        super().__init__(depth)
        self.wait = wait

    def __str__(self) -> str:
        return f"pending request queue too long: {self.depth} wait, about {self.wait:.0f} s"


class Pace:
    """How fast a queue moves: mean seconds from one departure to the next, while somebody waits."""

    __slots__ = ("_departures", "_gap", "_since")

    TRUSTED: Final = 16
    """Departures before the mean is believed."""
    SHARE: Final = 1 / 16
    """Weight of the newest departure in the mean."""

    def __init__(self) -> None:
        self._gap = 0.0
        self._departures = 0
        self._since = 0.0  # of the last departure, or of the moment when the queue began; 0 while there is none

    def begin(self, now: float) -> None:
        """The queue is not empty any more."""
        self._since = now

    def depart(self, count: int, now: float, *, more: bool) -> None:
        """So many went; `more`: others still wait."""
        gap = (now - self._since) / count
        self._departures += count
        share = max(1 - (1 - self.SHARE) ** count, count / self._departures)  # of the first ones, the plain mean
        self._gap += (gap - self._gap) * share
        self._since = now if more else 0.0

    def restart(self, now: float) -> None:
        """There are pods again: how long it took them to start says nothing about how fast they serve."""
        self._departures = 0
        self._since = now

    def wait(self, ahead: int, now: float) -> float | None:
        """Seconds until so many are served, None if that is anybody's guess.

        A queue that has not moved for longer than its pace is at best as slow as that.
        """
        if self._departures < self.TRUSTED:
            return None
        return ahead * max(self._gap, now - self._since if self._since else 0.0)


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
        tenant: whose room to wait in it is; None for one of its own.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        container_concurrency: int,
        self_ip: str,
        *,
        tenant: Tenant | None = None,
        queue_depth: int = QUEUE_DEPTH,
        queue_bytes: int = QUEUE_BYTES,
        clock: Callable[[], float] = time.monotonic,
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
        self._tenant = Tenants().enter("") if tenant is None else tenant
        self._tenant.throttlers.add(self)
        self._clock = clock
        self._pace = Pace()
        self._choice: Choice = choice_for(container_concurrency, ())
        self._pods: dict[str, Pod] = {}
        self._backends = 0
        self._in_flight = 0
        # Waiters and what they hold in bytes. Both ends matter, and any of them can leave: all in constant time.
        self._waiting: OrderedDict[Waiter, int] = OrderedDict()
        self._waiting_bytes = 0
        self._dispatching = False
        self._refused = 0

    # requests --------------------------------------------------------------------------------------------------------

    def enter(self, waiter: Waiter, size: int = 0, patience: float = 0.0) -> bool:
        """Let a request go now (True), or queue it (False).

        Args:
            size: most bytes of body that it will hold while it waits.
            patience: seconds until it gives up, 0 for never.
        Raises:
            QueueFull: too many wait, or they hold too much.
            TooLong: it would most likely wait for nothing.
        """
        if not self._waiting:
            pod = self.reserve()
            if pod is not None:
                waiter.go(pod)
                return True
        self._judge(size, patience)
        if not self._waiting:
            self._pace.begin(self._clock())
        self._waiting[waiter] = size
        self._waiting_bytes += size
        return False

    def _judge(self, size: int, patience: float) -> None:
        """Refuse who should not wait; else take its room."""
        waiting = len(self._waiting)
        if patience and waiting and self.capacity:
            wait = self._pace.wait(waiting, self._clock())
            if wait is not None and wait > GROWTH * patience:
                self._refused += 1
                raise TooLong(waiting, wait)
        if (
            waiting >= self._queue_depth
            or self._waiting_bytes + size > self._queue_bytes
            or not self._tenant.hold(size)
        ):
            self._refused += 1
            raise QueueFull(waiting)

    def reenter(self, waiter: Waiter) -> bool:
        """Take back a request that had a pod, which failed it: it goes to another one now (True), or waits at the head
        of the queue (False), for it has waited already.
        """
        pod = self.reserve()
        if pod is not None:
            waiter.go(pod)
            return True
        if not self._waiting:
            self._pace.begin(self._clock())
        self._tenant.hold(0, always=True)
        self._waiting[waiter] = 0
        self._waiting.move_to_end(waiter, last=False)
        return False

    def leave(self, waiter: Waiter) -> None:
        """A request gives up waiting; no harm if it does not wait."""
        if waiter in self._waiting:
            size = self._waiting.pop(waiter)
            self._waiting_bytes -= size
            self._tenant.free(size)

    def reserve(self) -> Pod | None:
        """Take a place in a pod, if there is one."""
        if self.cluster_ip is None:
            pod = self._choice.take()
            if pod is not None:
                self._in_flight += 1
            return pod
        return self.pick() if self.cluster_ip.in_flight < self.capacity else None

    def pick(self) -> Pod | None:
        """The policy's choice, its place taken; behind a cluster address there is no choice, and no bound here."""
        pod = self.cluster_ip
        if pod is None:
            pod = self._choice.take()
        else:
            pod.in_flight += 1
        if pod is not None:
            self._in_flight += 1
        return pod

    def release(self, pod: Pod) -> None:
        """Give a place back; the longest waiting request takes it."""
        self._choice.give(pod)
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
        went = 0
        try:
            while self._waiting and (pod := self.reserve()) is not None:
                waiter, size = self._waiting.popitem(last=False)
                self._waiting_bytes -= size
                self._tenant.free(size)
                went += 1
                waiter.go(pod)
        finally:
            self._dispatching = False
            if went:
                self._pace.depart(went, self._clock(), more=bool(self._waiting))

    def expected_wait(self) -> float | None:
        """Seconds that somebody who came now would wait for a place, None if that is anybody's guess."""
        return self._pace.wait(len(self._waiting) + 1, self._clock()) if self.capacity else None

    # what is behind --------------------------------------------------------------------------------------------------

    def update(self, addresses: Iterable[str], make: Callable[[str], Pod]) -> list[Pod]:
        """These addresses answer now; one that did before keeps what it has in flight.

        Returns:
            the pods that are used no longer.
        """
        before = self._pods
        self._pods = {address: before.get(address) or make(address) for address in addresses}
        gone = [pod for address, pod in before.items() if address not in self._pods]
        if not before:
            self._pace.restart(self._clock())
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
        self._recompute()

    def _recompute(self) -> None:
        ordered = sorted(self._pods.values(), key=lambda pod: pod.address)
        for pod in ordered:
            pod.limit = self.container_concurrency
        if self.container_concurrency:
            self._choose(assign(ordered, self.index, self.activators))
        else:
            self._choose(ordered)
        self._resize()

    def _choose(self, pods: Sequence[Pod]) -> None:
        """Use these pods from now on."""
        for pod in self.assigned:
            pod.index = -1
        self.assigned = pods
        self._choice = choice_for(self.container_concurrency, pods, self._choice)

    def _resize(self) -> None:
        assigned = 0 if self.cluster_ip is not None else len(self.assigned)
        self.capacity = capacity(self.container_concurrency, self._backends, assigned, self.activators)
        if self._waiting:
            self._dispatch()

    # -----------------------------------------------------------------------------------------------------------------

    @property
    def held(self) -> int:
        """Requests in the queue and in pods."""
        return len(self._waiting) + self._in_flight

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
