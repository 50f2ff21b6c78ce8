"""Which pods of a revision answer: EndpointSlices in, probed addresses out (serving §5.5).

Kubernetes learns that a pod is ready from the kubelet, which waits for `initialDelaySeconds` and polls in whole
seconds. A request that woke the pod cannot wait for that. So every address is asked directly, ready or not, from the
moment it appears, and used as soon as its queue-proxy says that the app answers. While somebody waits the question may
take a second, for our queue-proxy answers when its app is ready; until it listens, and where it answers at once, it is
asked every 10 ms at first and every 25 ms later. When nobody waits, every 200 ms. When very many pods start at once the
pace is theirs to share, or asking would take the processor that starting needs.

    appears -> asked again and again -> answers: in use -> refuses a connection, or Kubernetes takes it back -> asked
                                                        -> gone: forgotten

Where probing early is not allowed to decide (an exec readiness probe, a startup probe: only the kubelet can run
those), an address that Kubernetes calls not ready is not used even if it answers. If pods cannot be addressed at all
(a service mesh in between), the Service's own address is tried instead. What config-network says of a mesh decides how
far to go (`Mesh`): find out (`auto`), never ask pods but only their Service (`enabled`), or take Kubernetes' word for
those that it calls ready (`disabled`), until one refuses a connection. In a mesh that routes to single pods
(`enable-mesh-pod-addressability`) all go under the name of the private Service, and there is nothing to fall back to.

One task per address, and only until it answers: one that hangs does not keep the others waiting.
"""

import asyncio
import logging
from collections.abc import Awaitable, Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, Protocol, Self

__all__ = ["Answer", "Backends", "Endpoints", "Listener", "Mesh", "Probe", "Statistics"]

EAGER: Final = (0.010, 0.025)
"""Seconds between probes while a request waits: at first, and after `EAGER_FOR` seconds."""
EAGER_FOR: Final = 1.0
RELAXED: Final = 0.200
"""Seconds between probes when nobody waits; the original's tick."""
SHARE: Final = 0.002
"""Seconds that each address being probed adds to everybody's pace: a probe costs about half a millisecond here and as
much in the pod, so all of them together take at most half of one processor."""
PROBE_TIMEOUT: Final = 0.300
PATIENT: Final = 1.0
"""Seconds a probe may take while somebody waits."""

Key = tuple[str, str]
log = logging.getLogger(__name__)


class Answer(Enum):
    """What came of a probe."""

    READY = auto()
    NOT_READY = auto()
    """The queue-proxy answered that its app does not, or nothing listens yet."""
    MESH = auto()
    """502 or 503 from something that is no queue-proxy: a mesh that does not let us address pods."""


class Probe(Protocol):
    """Asks an address."""

    def __call__(self, address: str, timeout: float, /, *, host: str = "") -> Awaitable[Answer]:
        """What came of it, within so many seconds; never raises. `host` is for a mesh that routes by it."""


@dataclass(frozen=True)
class Mesh:
    """What config-network says of a service mesh around us; read once at the start, as in the original."""

    mode: str = "auto"
    """`mesh-compatibility-mode`: `auto`, `enabled` or `disabled`."""
    addressable: bool = False
    """`enable-mesh-pod-addressability`."""

    @classmethod
    def read(cls, data: Mapping[str, str]) -> Self:
        """From the ConfigMap's data; unknown values are the default, as in `kncore.config.network`."""
        mode = data.get("mesh-compatibility-mode", "").lower()
        return cls(
            mode if mode in ("enabled", "disabled") else "auto",
            data.get("enable-mesh-pod-addressability", "").lower() == "true",
        )


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
    """All revisions at one moment."""

    revisions: int
    addresses: int
    healthy: int
    probing: int
    """Addresses that are being asked."""


@dataclass
class _Revision:
    listener: Listener
    host: str
    """The private Service, for a mesh that addresses pods by it."""
    mesh: Mesh
    early: bool
    """Addresses that Kubernetes calls not ready may be used once they answer."""
    endpoints: Endpoints = Endpoints()
    healthy: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    """Addresses that failed a request and did not answer a probe since: nobody's word is taken for those."""
    behind_cluster_ip: bool = False
    provers: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)
    """What the addresses being asked said last."""
    hurried: asyncio.Event = field(default_factory=asyncio.Event)
    """Somebody began to wait: ends a relaxed pause."""

    def unproven(self) -> frozenset[str]:
        """Addresses worth probing."""
        if self.behind_cluster_ip:
            return frozenset()
        if self.mesh.mode == "enabled":
            service = self.endpoints.cluster_ip
            return frozenset([service]) if service and self.endpoints.all else frozenset()
        return (self.endpoints.all if self.early else self.endpoints.ready) - self.healthy

    def tell(self) -> None:
        self.listener.healthy(frozenset(self.healthy))


class Backends:
    """The watchers of all revisions; `run` owns their tasks."""

    name = "backends"

    def __init__(self, probe: Probe, mesh: Mesh | None = None) -> None:
        self.mesh = mesh or Mesh()
        """For revisions to come."""
        self._probe = probe
        self._revisions: dict[Key, _Revision] = {}
        self._group: asyncio.TaskGroup | None = None
        self._probing = 0

    async def run(self) -> None:
        """Probe until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                for revision in self._revisions.values():
                    self._adjust(revision)
                await asyncio.get_running_loop().create_future()
            finally:
                self._group = None

    def add(self, key: Key, listener: Listener, *, early: bool) -> None:
        """Watch a revision, whose addresses come with `update`; or change who listens and what may be used."""
        revision = self._revisions.get(key)
        if revision is None:
            self._revisions[key] = _Revision(listener, f"{key[1]}-private.{key[0]}", self.mesh, early)
            return
        revision.listener, revision.early = listener, early
        if not early and not revision.healthy.isdisjoint(revision.endpoints.not_ready):
            revision.healthy -= revision.endpoints.not_ready
            revision.tell()
        self._adjust(revision)

    def remove(self, key: Key) -> None:
        """Forget a revision; its listener is not called again."""
        revision = self._revisions.pop(key, None)
        if revision is not None:
            revision.endpoints = Endpoints()
            self._adjust(revision)

    def update(self, key: Key, endpoints: Endpoints) -> None:
        """The addresses of a revision are these now."""
        revision = self._revisions.get(key)
        if revision is None or endpoints == revision.endpoints:
            return
        before, revision.endpoints = revision.endpoints, endpoints
        for address in sorted(endpoints.all - before.all):
            revision.listener.appeared(address)
        # What Kubernetes took back (the pod fails its probe, or is leaving) must prove itself again.
        usable = endpoints.all - (before.ready & endpoints.not_ready)
        revision.failed &= endpoints.all
        if not endpoints.all:
            revision.behind_cluster_ip = False
            revision.healthy.clear()
            revision.tell()
        elif revision.mesh.mode == "disabled":
            healthy = revision.healthy & usable | (endpoints.ready - revision.failed)
            if healthy != revision.healthy:
                revision.healthy = healthy
                revision.tell()
        elif revision.behind_cluster_ip:
            revision.listener.use_cluster_ip(endpoints.cluster_ip or before.cluster_ip, len(endpoints.ready))
        elif not revision.healthy <= usable:
            revision.healthy &= usable
            revision.tell()
        self._adjust(revision)

    def hurry(self, key: Key) -> None:
        """A request waits: probe at once and often."""
        if (revision := self._revisions.get(key)) is not None:
            revision.hurried.set()

    def failed(self, key: Key, address: str) -> None:
        """An address failed a request: do not use it until it answers a probe again."""
        revision = self._revisions.get(key)
        if revision is None or address not in revision.healthy:
            return
        revision.healthy.discard(address)
        revision.failed.add(address)
        revision.tell()
        self._adjust(revision)

    def statistics(self) -> Statistics:
        """How many addresses there are, answer and are asked."""
        revisions = self._revisions.values()
        return Statistics(
            revisions=len(self._revisions),
            addresses=sum(len(one.endpoints.all) for one in revisions),
            healthy=sum(len(one.healthy) for one in revisions),
            probing=self._probing,
        )

    # -----------------------------------------------------------------------------------------------------------------

    def _adjust(self, revision: _Revision) -> None:
        """Have exactly the unproven addresses probed."""
        unproven = revision.unproven()
        for address in [address for address in revision.provers if address not in unproven]:
            revision.provers.pop(address).cancel()
        for address in list(revision.answers):
            if address not in unproven:
                del revision.answers[address]
        if self._group is not None:
            for address in unproven - revision.provers.keys():
                task = self._group.create_task(self._prove(revision, address), name=f"probe {address}")
                revision.provers[address] = task

    async def _prove(self, revision: _Revision, address: str) -> None:
        """Probe one address until it answers; cancelled when it is not wanted any more."""
        now = asyncio.get_running_loop().time
        started = now()
        self._probing += 1
        try:
            while True:
                answer = await self._ask(revision, address, PATIENT if revision.listener.waiting else PROBE_TIMEOUT)
                if answer is Answer.READY:
                    del revision.provers[address]
                    revision.answers.pop(address, None)
                    if revision.mesh.mode == "enabled":
                        self._use_cluster_ip(revision)
                    else:
                        revision.failed.discard(address)
                        revision.healthy.add(address)
                        revision.tell()
                    return
                revision.answers[address] = answer
                if revision.mesh.mode == "auto" and not revision.mesh.addressable:
                    await self._consider_cluster_ip(revision)
                if await self._pause(revision, now() - started):
                    started = now()
        finally:
            self._probing -= 1

    async def _ask(self, revision: _Revision, address: str, timeout: float) -> Answer:
        if revision.mesh.addressable:
            return await self._probe(address, timeout, host=revision.host)
        return await self._probe(address, timeout)

    async def _pause(self, revision: _Revision, elapsed: float) -> bool:
        """Wait until it is time for the next probe; True if somebody began to wait meanwhile."""
        if revision.listener.waiting:
            eager = EAGER[0] if elapsed < EAGER_FOR else EAGER[1]
            await asyncio.sleep(min(RELAXED, max(eager, SHARE * self._probing)))
            return False
        revision.hurried.clear()
        try:
            async with asyncio.timeout(RELAXED):
                await revision.hurried.wait()
        except TimeoutError:
            return False
        return True

    async def _consider_cluster_ip(self, revision: _Revision) -> None:
        """Use the Service's address if all that is known of the pods is that a mesh does not let us reach them."""
        service = revision.endpoints.cluster_ip
        unproven = revision.unproven()
        if not service or revision.healthy or any(revision.answers.get(one) is not Answer.MESH for one in unproven):
            return
        if await self._probe(service, PROBE_TIMEOUT) is Answer.READY and not revision.healthy:
            log.info("pods cannot be addressed one by one; using the Service's address", extra={"address": service})
            self._use_cluster_ip(revision)  # cancels this very task, too

    def _use_cluster_ip(self, revision: _Revision) -> None:
        """Until there are no pods at all."""
        revision.behind_cluster_ip = True
        revision.listener.use_cluster_ip(revision.endpoints.cluster_ip, len(revision.endpoints.ready))
        self._adjust(revision)
