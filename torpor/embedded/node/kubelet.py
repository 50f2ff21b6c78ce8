"""The node agent: sees which pods are bound to this node and keeps a `PodWorker` for each.

After its own restart it takes over: the runtime says which containers run or ended meanwhile, the API server which pods
there should be. Containers whose pod is gone are killed, the others go on without noticing. When instead the runtime
was restarted, nothing runs any more, and every container starts again under its restart policy.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from kncore.api import meta
from kncore.api.meta import Obj, at
from kncore.api.resources import PODS
from kncore.clock import Clock, SystemClock
from kncore.kube.client import Client, Key
from kncore.kube.informer import Change
from kncore.kube.informers import Informers
from torpor.embedded.images import Images
from torpor.embedded.node.container import Node
from torpor.embedded.node.host import Addresses, Exhausted, Ports
from torpor.embedded.node.listening import Listening
from torpor.embedded.node.pod import PodWorker
from torpor.embedded.node.protocol import Exit, RuntimeRefused
from torpor.embedded.node.references import Objects
from torpor.embedded.node.registration import Registration
from torpor.embedded.node.runtime_client import Attached, Running, RuntimeClient
from torpor.embedded.node.settings import Settings
from torpor.embedded.workloads.events import Record, silent, unhurried

__all__ = ["Kubelet", "Statistics"]

log = logging.getLogger(__name__)

CRASH_PAUSE = 5.0
"""Seconds before a pod whose worker failed unexpectedly is tried again."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the node holds."""

    pods: int
    containers: int
    addresses: int
    ports: int
    failures: int
    """Pod workers that ended in an unexpected error."""


class Kubelet:
    """The node agent.

    Args:
        client: where pods' statuses are written.
        informers: shared with the rest of the process; run by the caller.
        runtime: connection to the container runtime; run by us.
        record: writes an Event.
        announce: told each pod's address in the moment it is given, see `EndpointsController.announce`; may be set
            later, before `run`.
    """

    name = "kubelet"

    def __init__(
        self,
        client: Client,
        informers: Informers,
        runtime: RuntimeClient,
        images: Images,
        settings: Settings,
        *,
        record: Record = silent,
        announce: Callable[[Obj, str], None] = lambda _, __: None,
        clock: Clock | None = None,
    ) -> None:
        self._client = client
        self._settings = settings
        self.announce = announce
        self._runtime = runtime
        self._clock = clock or SystemClock()
        self._pods = informers.of(PODS)
        self._objects = Objects(client, informers)
        self._listening = Listening()
        self._registration = Registration(client, settings, self._clock, runtime)
        self._node = Node(
            settings=settings,
            runtime=runtime,
            images=images,
            record=unhurried(record),
            wall=self._clock.wall,
            listening=self._listening.expect,
            not_listening=self._listening.forget,
            announce=lambda pod, address: self.announce(pod, address),
        )
        self._addresses = Addresses(settings.network.pod_ips)
        # Instances start at different places, so that they rarely try each other's ports.
        self._ports = Ports(start=settings.network.number * 4801)
        self._workers: dict[str, PodWorker] = {}
        self._attached = asyncio.Event()
        self._found: dict[str, Running] | None = {}
        """What runs and what ended, as the runtime tells it, until pods are taken over; None after that."""
        self._boot = ""
        self._group: asyncio.TaskGroup | None = None
        self._failures = 0
        runtime.on_attach = self._on_attach
        runtime.on_exit = self._on_exit

    def statistics(self) -> Statistics:
        """See `Statistics`."""
        return Statistics(
            pods=len(self._workers),
            containers=len(self._node.containers),
            addresses=len(self._addresses),
            ports=len(self._ports),
            failures=self._failures,
        )

    def worker(self, namespace: str, name: str) -> PodWorker | None:
        """The worker of a pod, by its name."""
        pod = self._pods.get(name, namespace)
        return self._workers.get(meta.uid(pod)) if pod is not None else None

    async def run(self) -> None:
        """Run pods until cancelled; their processes go on without us."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            group.create_task(self._runtime.run(), name=self._runtime.name)
            group.create_task(self._listening.run(), name=self._listening.name)
            group.create_task(self._registration.run(), name=self._registration.name)
            await self._attached.wait()
            await self._pods.wait_synced()
            left_over = self._take_over()
            self._objects.subscribe(self._refresh)
            self._pods.add_handler(self._changed)
            await self._discard(left_over)
            await asyncio.get_running_loop().create_future()

    # Taking over

    def _take_over(self) -> list[Running]:
        """Make workers for the pods that were here before us, all in one go, so that no exit falls in between.

        Returns the containers to end: those without a pod, and older runs.
        """
        by_pod: dict[str, list[Running]] = {}
        for one in (self._found or {}).values():
            by_pod.setdefault(one.pod, []).append(one)
        self._found = None
        left_over: list[Running] = []
        for pod in self._pods.list():
            if self._is_ours(pod):
                found = by_pod.pop(meta.uid(pod), [])
                self._add(pod, found=found, adopting=True)
                latest = {one.name: one for one in sorted(found, key=lambda one: one.started_at)}
                left_over += [one for one in found if latest[one.name] is not one]
        return left_over + [one for group in by_pod.values() for one in group]

    async def _discard(self, containers: list[Running]) -> None:
        for one in containers:
            try:
                if one.exit is None:
                    log.info("ending a container without a pod", extra={"container": one.container, "pod": one.pod})
                    await self._runtime.signal(one.container, 9)
                    await asyncio.sleep(0.05)
                await self._runtime.remove(one.container)
            except RuntimeRefused as exc:
                log.info("container not removed", extra={"container": one.container, "error": str(exc)})

    # What the runtime tells

    def _on_attach(self, attached: Attached) -> None:
        if self._found is not None:
            self._boot = attached.boot
            self._found = {one.container: one for one in attached.containers}
            self._attached.set()
            return
        if attached.boot != self._boot:
            log.warning("the container runtime was restarted; its containers are gone")
            self._boot = attached.boot
        known = {one.container: one for one in attached.containers}
        for container, worker in list(self._node.containers.items()):
            found = known.get(container)
            if found is None:
                worker.lost()
            elif found.exit is not None:
                worker.exited(found.exit)

    def _on_exit(self, container: str, ended: Exit) -> None:
        worker = self._node.containers.get(container)
        if worker is not None:
            worker.exited(ended)
        elif self._found is not None and container in self._found:
            self._found[container] = replace(self._found[container], exit=ended)

    # What the API server tells

    def _is_ours(self, pod: Obj) -> bool:
        return bool(at(pod, "spec", "nodeName") == self._settings.node_name)

    def _changed(self, change: Change) -> None:
        if change.resync or not self._is_ours(change.object):
            return
        worker = self._workers.get(meta.uid(change.object))
        if worker is None:
            if change.type != "deleted":
                self._add(change.object)
        elif change.type == "deleted":
            worker.deleted()
        else:
            worker.update(change.object)

    def _add(self, pod: Obj, *, found: list[Running] | None = None, adopting: bool = False) -> None:
        assert self._group is not None
        try:
            worker = PodWorker(
                self._node,
                self._client,
                self._objects,
                self._addresses,
                self._ports,
                pod,
                found=found or (),
                adopting=adopting,
            )
        except Exhausted as exc:
            self._node.record(pod, "Warning", "FailedCreatePodSandBox", str(exc))
            self._later(CRASH_PAUSE, meta.uid(pod), Key.of(pod))
            return
        self._workers[worker.uid] = worker
        self._group.create_task(self._guarded(worker), name=worker.name)

    async def _guarded(self, worker: PodWorker) -> None:
        """The outermost frame of a pod: a bug that one pod brings to light must not take the others along."""
        try:
            await worker.run()
        except Exception:
            self._failures += 1
            log.exception("pod worker failed", extra={"key": meta.key(worker.state.pod)})
            for one in (*worker.inits, *worker.containers):
                await one.kill()
            worker.release()
            self._later(CRASH_PAUSE, worker.uid, Key.of(worker.state.pod))
        finally:
            del self._workers[worker.uid]

    def _later(self, delay: float, uid: str, key: Key) -> None:
        """Look at a pod again, if it still is that pod."""

        def again() -> None:
            pod = self._pods.get(key.name, key.namespace)
            if pod is not None and meta.uid(pod) == uid and uid not in self._workers and self._group is not None:
                self._add(pod)

        asyncio.get_running_loop().call_later(delay, again)

    def _refresh(self, namespace: str) -> None:
        for worker in self._workers.values():
            if meta.namespace(worker.state.pod) == namespace:
                worker.refresh()
