"""One pod on this node, from the moment it is seen until nothing of it is left.

`PodWorker.run` is the pod's task: it gives the pod an address, runs init containers in order and the others side by
side (each a `ContainerWorker`), and, when the pod is deleted, stops them, tells the API server and removes the pod's
directory. A second task writes the status: always the latest, one write at a time, so that a slow API server delays
what is shown but never what is done.
"""

import asyncio
import json
import logging
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from kncore.api import meta
from kncore.api.meta import Obj, at
from kncore.api.resources import PODS
from kncore.kube.backoff import Backoff
from kncore.kube.client import Client
from kncore.kube.errors import ApiError, Conflict, Invalid, NotFound
from torpor.embedded.node import volumes
from torpor.embedded.node.container import ContainerWorker, Node, PodState
from torpor.embedded.node.environment import ConfigMissing, Facts, References
from torpor.embedded.node.host import Addresses, Ports
from torpor.embedded.node.references import Objects, referenced
from torpor.embedded.node.runtime_client import Running
from torpor.embedded.node.status import pod_status

__all__ = ["TIMELINE", "PodWorker"]

log = logging.getLogger(__name__)

TIMELINE = "torpor.dev/timeline"
"""Annotation: JSON of Unix times with fractions, `seen`, `started`, `appReady`, `ready`; a status has only seconds."""

WRITE_PAUSE = 0.1
"""Seconds between two writes of a status in which nothing but small print changed."""

_NOTHING = References(config_map=lambda _: None, secret=lambda _: None)


class PodWorker:
    """Runs one pod.

    Args:
        pod: as it is in the API server.
        found: its containers that the runtime knows already, from an earlier node agent.
        adopting: the node agent has just started, so a pod that was running should still be.
    Raises:
        Exhausted: no address or port is left.
    """

    def __init__(
        self,
        node: Node,
        client: Client,
        objects: Objects,
        addresses: Addresses,
        ports: Ports,
        pod: Obj,
        *,
        found: Iterable[Running] = (),
        adopting: bool = False,
    ) -> None:
        self.uid = meta.uid(pod)
        self.name = f"pod {meta.key(pod)}"
        self._node = node
        self._client = client
        self._objects = objects
        self._addresses = addresses
        self._ports = ports
        self._written: Obj = pod.get("status") or {}
        self._seen_at = node.wall()
        self._dirty = asyncio.Event()
        self._refresh = asyncio.Event()
        self._gone = False
        self._finished = asyncio.Event()
        self._volumes = asyncio.Lock()
        self._volumes_ready = False
        directory = node.settings.directory / "pods" / self.uid
        self.state = PodState(pod=pod, directory=directory, changed=self._dirty.set, references=self._references)
        self.state.times["seen"] = self._seen_at
        latest = {one.name: one for one in sorted(found, key=lambda one: one.started_at)}
        self.state.ip, self.state.port = self._place(latest)
        node.announce(pod, self.state.ip)
        self.inits = [
            ContainerWorker(node, self.state, spec, init=True) for spec in at(pod, "spec", "initContainers", default=[])
        ]
        self.containers = [
            ContainerWorker(node, self.state, spec) for spec in at(pod, "spec", "containers", default=[])
        ]
        if self.inits:
            for worker in self.containers:
                worker.status = worker.status.waiting("PodInitializing")
        if adopting:
            before: dict[str, Obj] = {
                one["name"]: one
                for group in ("containerStatuses", "initContainerStatuses")
                for one in self._written.get(group) or ()
            }
            for worker in (*self.inits, *self.containers):
                worker.adopt(latest.get(worker.name), before.get(worker.name))
        self._follows = any(volumes.follows(one) for one in at(pod, "spec", "volumes", default=[]))
        self._refers = self._follows or next(referenced(pod), None) is not None
        if meta.is_deleting(pod):
            self.update(pod)

    def _place(self, latest: dict[str, Running]) -> tuple[str, int]:
        """The pod's address and the port for its user container: what they were, if that can be."""
        known = next(iter(latest.values())).meta if latest else {}
        ip = str(known.get("ip") or self._written.get("podIP") or "")
        if not (ip and self._addresses.reserve(ip)):
            ip = self._addresses.take()
        port = int(known.get("port") or 0)
        if port:
            self._ports.reserve(port)
        elif self.state.has_queue_proxy():
            port = self._ports.take()
        return ip, port

    # What others tell

    def update(self, pod: Obj) -> None:
        """The pod object changed; only its deletion matters to what runs."""
        self.state.pod = pod
        if meta.is_deleting(pod) and not self.state.stopping.is_set():
            grace = at(pod, "metadata", "deletionGracePeriodSeconds", default=30)
            self.state.stop_deadline = asyncio.get_running_loop().time() + float(grace)
            self.state.stopping.set()

    def deleted(self) -> None:
        """The pod object is gone, by force or because we said so: whatever runs must not."""
        self._gone = True
        if not self.state.stopping.is_set():
            self.state.stop_deadline = asyncio.get_running_loop().time()
            self.state.stopping.set()
        self._finished.set()

    def refresh(self) -> None:
        """A ConfigMap or Secret in the pod's namespace changed."""
        if self._follows:
            self._refresh.set()

    # The life of it

    async def run(self) -> None:
        """Run the pod until it is gone."""
        async with asyncio.TaskGroup() as group:
            self._dirty.set()
            background = [group.create_task(self._write_statuses(), name=f"{self.name} status")]
            if self._follows:
                background.append(group.create_task(self._follow(), name=f"{self.name} volumes"))
            background.append(group.create_task(self._kill_when_gone(), name=f"{self.name} force"))
            await self._live()
            # An ended pod stays, for its status and its logs, until somebody deletes it.
            await self.state.stopping.wait()
            for task in reversed(background):
                task.cancel()
        await self._leave()

    async def _live(self) -> None:
        async with asyncio.TaskGroup() as group:
            sidecars = []
            for worker in self.inits:
                if worker.sidecar:
                    sidecars.append(group.create_task(worker.run(), name=f"{self.name} {worker.name}"))
                    await self._either(worker.ready)
                else:
                    await worker.run()
                ended = worker.status.terminated
                failed = not worker.sidecar and (ended is None or ended.exit_code != 0)
                if failed or self.state.stopping.is_set():
                    break
            else:
                async with asyncio.TaskGroup() as mains:
                    for worker in self.containers:
                        mains.create_task(worker.run(), name=f"{self.name} {worker.name}")
            deadline = self.state.stop_deadline if self.state.stopping.is_set() else 0.0
            if not deadline:
                grace = at(self.state.pod, "spec", "terminationGracePeriodSeconds", default=30)
                deadline = asyncio.get_running_loop().time() + float(grace)
            for worker in self.inits:
                worker.stop(deadline)
                if worker.sidecar and not worker.running:
                    for task in sidecars:
                        task.cancel()

    async def _either(self, event: asyncio.Event) -> None:
        """Wait for an event, or for the pod to stop."""
        waits = [asyncio.ensure_future(one.wait()) for one in (event, self.state.stopping)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()

    async def _kill_when_gone(self) -> None:
        await self._finished.wait()
        # The last container is the queue-proxy: while it lived, it would answer 502 for an app killed before it.
        for worker in reversed((*self.inits, *self.containers)):
            await worker.kill()

    async def _leave(self) -> None:
        """All containers have ended: have the object removed, then everything else."""
        for worker in (*self.inits, *self.containers):
            await worker.forget()
        pod, backoff = self.state.pod, Backoff()
        while not self._gone:
            try:
                await self._client.delete(PODS, meta.name(pod), meta.namespace(pod), uid=self.uid, grace=0)
                break
            except (NotFound, Conflict):
                break
            except ApiError as exc:
                log.warning("pod could not be removed", extra={"key": meta.key(pod), "error": exc.message})
                await asyncio.sleep(backoff.next())
        self.release()
        await asyncio.to_thread(shutil.rmtree, self.state.directory, ignore_errors=True)

    def release(self) -> None:
        """Give the pod's address and port back."""
        self._addresses.free(self.state.ip)
        if self.state.port:
            self._ports.free(self.state.port)
            self._node.not_listening(self.state.port)

    # What it refers to

    async def _references(self) -> References:
        if not self._refers:
            return _NOTHING
        found = await self._objects.resolve(self.state.pod)
        if self._follows:
            async with self._volumes:
                if not self._volumes_ready:
                    await asyncio.to_thread(self._write_volumes, found)
                    self._volumes_ready = True
        return found

    def _write_volumes(self, found: References) -> None:
        """Raises: ConfigMissing, OSError."""
        settings = self._node.settings
        facts = Facts(
            pod_ip=self.state.ip,
            host_ip=settings.network.node,
            cpu_milli=settings.cpu_milli,
            memory_bytes=settings.memory_bytes,
        )
        for volume in at(self.state.pod, "spec", "volumes", default=[]):
            if volumes.follows(volume):
                files = volumes.files_of(volume, self.state.pod, facts, found, settings.token)
                volumes.write_files(self.state.directory / "volumes" / volume["name"], files)

    async def _follow(self) -> None:
        """Rewrite volumes after their sources changed; environment variables keep their values, as everywhere."""
        while True:
            await self._refresh.wait()
            self._refresh.clear()
            if not self._volumes_ready:
                continue
            found = await self._objects.resolve(self.state.pod)
            # A source that was deleted leaves the files as they are, as with the kubelet.
            with suppress(ConfigMissing, OSError):
                async with self._volumes:
                    await asyncio.to_thread(self._write_volumes, found)

    # The status

    def status(self) -> Obj:
        """The pod's status as it is now."""
        return pod_status(
            self.state.pod,
            [worker.status for worker in self.containers],
            [worker.status for worker in self.inits],
            pod_ip=self.state.ip,
            host_ip=self._node.settings.network.node,
            started_at=self._seen_at,
            now=self._node.wall(),
            before=self._written,
        )

    async def _write_statuses(self) -> None:
        backoff = Backoff(first=0.1, cap=5.0)
        not_before, ready = 0.0, False
        while True:
            await self._dirty.wait()
            await self._collect(not_before, ready)
            self._dirty.clear()
            status, written_ready = self.status(), self._all_ready()
            if any(one["type"] == "Ready" and one["status"] == "True" for one in status["conditions"]):
                now = self._node.wall()
                self.state.times.setdefault("ready", now)
                # Listening is looked for every 10 ms; the probe may have been quicker.
                self.state.times.setdefault("appReady", now)
            if "startTime" in self._written:
                status["startTime"] = self._written["startTime"]
            if status == self._written and TIMELINE in meta.annotations(self.state.pod):
                continue
            timeline = json.dumps({key: round(value, 4) for key, value in self.state.times.items()})
            patch: Obj = {"metadata": {"uid": self.uid, "annotations": {TIMELINE: timeline}}, "status": status}
            pod = self.state.pod
            try:
                await self._client.patch(PODS, meta.name(pod), patch, meta.namespace(pod), subresource="status")
            except (NotFound, Conflict):
                continue  # the pod is gone, or another one has its name: the informer will tell
            except Invalid as exc:
                log.error("pod status was refused", extra={"key": meta.key(pod), "error": exc.message})
            except ApiError as exc:
                log.warning("pod status could not be written", extra={"key": meta.key(pod), "error": exc.message})
                self._dirty.set()
                await asyncio.sleep(backoff.next())
            else:
                backoff.reset()
                self._written = status
                not_before, ready = asyncio.get_running_loop().time() + WRITE_PAUSE, written_ready

    async def _collect(self, not_before: float, ready: bool) -> None:
        """Let small changes add up until then, unless readiness changes: others wait for that."""
        while asyncio.get_running_loop().time() < not_before and self._all_ready() == ready:
            self._dirty.clear()
            try:
                async with asyncio.timeout_at(not_before):
                    await self._dirty.wait()
            except TimeoutError:
                return

    def _all_ready(self) -> bool:
        return all(worker.status.ready for worker in self.containers)

    def worker(self, container: str) -> ContainerWorker | None:
        """The worker of a container, by name."""
        return next((one for one in (*self.containers, *self.inits) if one.name == container), None)

    def logs(self, container: str) -> Path:
        """The directory with the logs of a container's runs, `<number>.log`."""
        return self.state.directory / "logs" / container
