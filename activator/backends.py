"""Which pods of a revision answer: EndpointSlices in, probed addresses out (serving §5.5).

Kubernetes learns that a pod is ready from the kubelet, which waits for `initialDelaySeconds` and polls in whole
seconds. A request that woke the pod cannot wait for that. So every address is asked directly, ready or not, from the
moment it appears, and used as soon as its queue-proxy says that the app answers: every 10 ms at first and every 25 ms
later while somebody waits, every 200 ms otherwise.

Where probing early is not allowed to decide (an exec readiness probe, a startup probe: only the kubelet can run
those), an address that Kubernetes calls not ready is not used even if it answers. If pods cannot be addressed at all
(a service mesh in between), the Service's own address is tried instead.

One task per revision, and only while it has something to probe.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

__all__ = ["Answer", "Backends", "Endpoints", "Listener", "Probe", "Statistics"]

EAGER = (0.010, 0.025)  # seconds between probes while a request waits: at first, and after EAGER_FOR
EAGER_FOR = 1.0
RELAXED = 0.200  # the original's tick
PROBE_TIMEOUT = 0.300

Key = tuple[str, str]
log = logging.getLogger(__name__)


class Answer(Enum):
    """What came of a probe."""

    READY = auto()
    NOT_READY = auto()
    """The queue-proxy answered that its app does not, or nothing listens yet."""
    MESH = auto()
    """502 or 503 from something that is no queue-proxy: a mesh that does not let us address pods."""


Probe = Callable[[str, float], Awaitable[Answer]]
"""(address, seconds it may take) -> what came of it."""


@dataclass(frozen=True)
class Endpoints:
    """The addresses (`ip:port`) behind a revision's private Service."""

    ready: frozenset[str] = frozenset()
    not_ready: frozenset[str] = frozenset()
    cluster_ip: str = ""
    """The Service's own address, for when pods cannot be addressed."""

    @property
    def all(self) -> frozenset[str]:
        return self.ready | self.not_ready


class Listener(Protocol):
    """Who wants to know: a revision of the activator."""

    def healthy(self, addresses: Collection[str]) -> None:
        """Exactly these addresses answer now."""

    def use_cluster_ip(self, address: str, backends: int) -> None:
        """Only the Service's address answers; so many pods are behind it."""

    def appeared(self, address: str) -> None:
        """An address is known that was not before."""

    @property
    def waiting(self) -> int:
        """Requests that wait for a pod."""


@dataclass(frozen=True)
class Statistics:
    revisions: int
    addresses: int
    healthy: int
    probing: int
    """Revisions that are being probed now."""


@dataclass
class _Revision:
    listener: Listener
    early: bool
    """Addresses that Kubernetes calls not ready may be used once they answer."""
    endpoints: Endpoints = Endpoints()
    healthy: set[str] = field(default_factory=set)
    behind_cluster_ip: bool = False
    task: asyncio.Task[None] | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Wakes the task early: new addresses, or someone began to wait."""

    def unknown(self) -> frozenset[str]:
        """Addresses worth probing."""
        candidates = self.endpoints.all if self.early else self.endpoints.ready
        return candidates - self.healthy


class Backends:
    """The watchers of all revisions; `run` owns their tasks."""

    name = "backends"

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._revisions: dict[Key, _Revision] = {}
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Probe until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                for key, revision in self._revisions.items():
                    self._start(key, revision)
                await asyncio.get_running_loop().create_future()
            finally:
                self._group = None

    def add(self, key: Key, listener: Listener, *, early: bool) -> None:
        """Watch a revision; its addresses come with `update`."""
        revision = self._revisions.get(key)
        if revision is None:
            self._revisions[key] = _Revision(listener, early)
        else:
            revision.listener, revision.early = listener, early

    def remove(self, key: Key) -> None:
        """Forget a revision."""
        revision = self._revisions.pop(key, None)
        if revision is not None and revision.task is not None:
            revision.task.cancel()

    def update(self, key: Key, endpoints: Endpoints) -> None:
        """The addresses of a revision are these now."""
        revision = self._revisions.get(key)
        if revision is None or endpoints == revision.endpoints:
            return
        before, revision.endpoints = revision.endpoints, endpoints
        for address in sorted(endpoints.all - before.all):
            revision.listener.appeared(address)
        # What Kubernetes took back (the pod fails its probe, or is leaving) must prove itself again.
        demoted = before.ready & endpoints.not_ready
        gone = revision.healthy - (endpoints.all - demoted)
        if not endpoints.all:
            revision.behind_cluster_ip = False
        if gone:
            revision.healthy -= gone
            self._tell(revision)
        elif not endpoints.all and before.all:
            self._tell(revision)
        revision.changed.set()
        self._start(key, revision)

    def hurry(self, key: Key) -> None:
        """A request waits: probe at once and often."""
        if (revision := self._revisions.get(key)) is not None:
            revision.changed.set()

    def failed(self, key: Key, address: str) -> None:
        """An address refused a connection: do not use it until it answers a probe again."""
        revision = self._revisions.get(key)
        if revision is None or address not in revision.healthy:
            return
        revision.healthy.discard(address)
        self._tell(revision)
        revision.changed.set()
        self._start(key, revision)

    def statistics(self) -> Statistics:
        revisions = self._revisions.values()
        return Statistics(
            revisions=len(self._revisions),
            addresses=sum(len(one.endpoints.all) for one in revisions),
            healthy=sum(len(one.healthy) for one in revisions),
            probing=sum(one.task is not None for one in revisions),
        )

    def healthy(self) -> Mapping[Key, Collection[str]]:
        """The addresses in use, by revision."""
        return {key: frozenset(revision.healthy) for key, revision in self._revisions.items()}

    # ---------------------------------------------------------------------------------------------------------------

    def _start(self, key: Key, revision: _Revision) -> None:
        if self._group is None or revision.task is not None or not revision.unknown() or revision.behind_cluster_ip:
            return
        revision.task = self._group.create_task(self._watch(key, revision), name=f"probe {'/'.join(key)}")

    async def _watch(self, key: Key, revision: _Revision) -> None:
        """Probe until nothing is left to find out."""
        started = asyncio.get_running_loop().time()
        try:
            while (unknown := revision.unknown()) and not revision.behind_cluster_ip:
                revision.changed.clear()
                await self._round(revision, unknown)
                if not revision.unknown():
                    return
                elapsed = asyncio.get_running_loop().time() - started
                pause = RELAXED
                if revision.listener.waiting:
                    pause = EAGER[0] if elapsed < EAGER_FOR else EAGER[1]
                try:
                    async with asyncio.timeout(pause):
                        await revision.changed.wait()
                except TimeoutError:
                    pass
        finally:
            revision.task = None
            if self._revisions.get(key) is revision:
                self._start(key, revision)

    async def _round(self, revision: _Revision, addresses: Collection[str]) -> None:
        """Probe these addresses at once; each that answers is used without waiting for the others."""
        answers: dict[str, Answer] = {}

        async def one(address: str) -> None:
            answers[address] = answer = await self._probe(address, PROBE_TIMEOUT)
            if answer is Answer.READY and address in revision.unknown():
                revision.healthy.add(address)
                self._tell(revision)

        async with asyncio.TaskGroup() as group:
            for address in addresses:
                group.create_task(one(address), name=f"probe {address}")
        service = revision.endpoints.cluster_ip
        if revision.healthy or not service or any(answer is not Answer.MESH for answer in answers.values()):
            return
        if await self._probe(service, PROBE_TIMEOUT) is Answer.READY:
            log.info("pods cannot be addressed one by one; using the Service's address", extra={"address": service})
            revision.behind_cluster_ip = True
            revision.listener.use_cluster_ip(service, len(revision.endpoints.ready))

    @staticmethod
    def _tell(revision: _Revision) -> None:
        revision.listener.healthy(frozenset(revision.healthy))
