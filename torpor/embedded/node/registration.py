"""The Node object and its Lease: how others see that this node exists and is alive."""

import asyncio
import logging
import platform
from datetime import UTC, datetime

from kncore.api.meta import Obj
from kncore.api.resources import LEASES, NAMESPACES, NODES
from kncore.clock import Clock, rfc3339
from kncore.kube.client import Client
from kncore.kube.errors import AlreadyExists, ApiError, NotFound
from torpor.embedded.node.protocol import RuntimeRefused
from torpor.embedded.node.runtime_client import RuntimeClient
from torpor.embedded.node.settings import Settings

__all__ = ["LIMITS", "Registration", "node_object"]

log = logging.getLogger(__name__)

LIMITS = "torpor.dev/resource-limits"
"""Annotation of the Node: `enforced`, or why containers' limits are not."""
LEASE_NAMESPACE = "kube-node-lease"
LEASE_DURATION = 40

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def node_object(settings: Settings, now: float, limits: str) -> Obj:
    """The Node, Ready."""
    machine = _ARCHITECTURES.get(platform.machine(), platform.machine())
    system = platform.system().lower()
    room = {"cpu": f"{settings.cpu_milli}m", "memory": str(settings.memory_bytes), "pods": "1000"}
    return {
        "apiVersion": NODES.api_version,
        "kind": NODES.kind,
        "metadata": {
            "name": settings.node_name,
            "labels": {
                "kubernetes.io/hostname": settings.node_name,
                "kubernetes.io/arch": machine,
                "kubernetes.io/os": system,
            },
            "annotations": {LIMITS: f"not enforced: {limits}" if limits else "enforced"},
        },
        "spec": {},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": settings.network.node},
                {"type": "Hostname", "address": settings.node_name},
            ],
            "capacity": room,
            "allocatable": room,
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True",
                    "reason": "KubeletReady",
                    "message": "torpor is running pods as processes",
                    "lastHeartbeatTime": rfc3339(now),
                    "lastTransitionTime": rfc3339(now),
                }
            ],
            "nodeInfo": {
                "architecture": machine,
                "bootID": "",
                "containerRuntimeVersion": "torpor://1",
                "kernelVersion": platform.release(),
                "kubeProxyVersion": "torpor",
                "kubeletVersion": "v1.32.0-torpor",
                "machineID": "",
                "operatingSystem": system,
                "osImage": platform.platform(terse=True),
                "systemUUID": "",
            },
        },
    }


class Registration:
    """Keeps the Node object and renews the Lease."""

    name = "node registration"

    def __init__(self, client: Client, settings: Settings, clock: Clock, runtime: RuntimeClient) -> None:
        self._client = client
        self._settings = settings
        self._clock = clock
        self._runtime = runtime
        self._limits: str | None = None

    async def run(self) -> None:
        """Register, then renew until cancelled; an API server that is away is tried again."""
        registered = False
        while True:
            try:
                if not registered:
                    await self._register()
                    registered = True
                await self._renew()
            except ApiError as exc:
                log.info("node is not registered yet", extra={"error": exc.message})
                await asyncio.sleep(1.0)
                continue
            await asyncio.sleep(self._settings.heartbeat)

    async def _register(self) -> None:
        if self._limits is None:
            try:
                self._limits = str((await self._runtime.hello()).get("limits", ""))
            except RuntimeRefused:
                self._limits = "the container runtime does not answer"
        node = node_object(self._settings, self._clock.wall(), self._limits)
        name = self._settings.node_name
        try:
            await self._client.create(NODES, node)
        except AlreadyExists:
            metadata = {"labels": node["metadata"]["labels"], "annotations": node["metadata"]["annotations"]}
            await self._client.patch(NODES, name, {"metadata": metadata})
        await self._client.patch(NODES, name, {"status": node["status"]}, subresource="status")

    async def _renew(self) -> None:
        name = self._settings.node_name
        now = datetime.fromtimestamp(self._clock.wall(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": name, "leaseDurationSeconds": LEASE_DURATION, "renewTime": now}
        try:
            await self._client.patch(LEASES, name, {"spec": spec}, LEASE_NAMESPACE)
        except NotFound:
            lease = {
                "apiVersion": LEASES.api_version,
                "kind": LEASES.kind,
                "metadata": {"name": name, "namespace": LEASE_NAMESPACE},
                "spec": spec,
            }
            try:
                await self._client.create(LEASES, lease)
            except NotFound:
                namespace = {
                    "apiVersion": NAMESPACES.api_version,
                    "kind": NAMESPACES.kind,
                    "metadata": {"name": LEASE_NAMESPACE},
                }
                await self._client.create(NAMESPACES, namespace)
                await self._client.create(LEASES, lease)
