"""The controllers on an API server in memory, and stand-ins for what else lives in a cluster."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal

import pytest

from controller import app
from controller.digest import ResolveError
from kncore.api import meta
from kncore.api.admission import Denied, admit
from kncore.api.resources import (
    CONFIG_MAPS,
    CONFIGURATIONS,
    DEPLOYMENTS,
    ENDPOINTS,
    INGRESSES,
    KSERVICES,
    POD_AUTOSCALERS,
    PODS,
    REVISIONS,
    ROUTES,
    SERVERLESS_SERVICES,
    SERVICES,
    Resource,
)
from kncore.clock import rfc3339
from kncore.config.store import Store
from kncore.kube.errors import BadRequest
from kncore.kube.informers import Informers
from kncore.testing import FakeClock
from kncore.testing.kube import MemoryClient

Obj = dict[str, Any]

DIGEST = "sha256:" + "5" * 64


@pytest.fixture(scope="session", autouse=True)
def _no_implicit_loop() -> None:
    """Keep pytest-asyncio from making an event loop that it never closes, see tests/unit/kncore/kube."""
    asyncio.set_event_loop(None)


class Resolver:
    """Knows every image except those in `unknown`."""

    def __init__(self) -> None:
        self.unknown: dict[str, str] = {}
        self.asked: list[str] = []

    async def resolve(
        self, image: str, *, namespace: str, service_account: str, pull_secrets: Sequence[str], deadline: float
    ) -> str:
        self.asked.append(image)
        if image in self.unknown:
            raise ResolveError(self.unknown[image])
        return f"{image.rpartition(':')[0] or image}@{DIGEST}"


class Events(list[tuple[str, str, str]]):
    """(object, reason, message) of every Event."""

    def event(self, obj: Obj, type_: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        self.append((f"{meta.kind(obj)} {meta.name(obj)}", reason, message))

    def reasons(self, about: str) -> list[str]:
        return [reason for obj, reason, _ in self if obj == about]


class Cluster:
    """The controllers, running, and the parts of a cluster that they look at."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = Store.of({"config-domain": {"example.com": ""}, "config-deployment": {"queue-sidecar-image": "q"}})
        self.client = MemoryClient(clock=self.clock, admit=self._admit)
        self.resolver = Resolver()
        self.events = Events()
        self.lagging: set[str] = set()
        """Hosts of KIngresses that activators do not know yet."""
        self.probed: list[tuple[str, str]] = []
        self.any_ingress_class = True
        self.external_ports: dict[str, int] = {}
        self._informers: Informers | None = None
        self._running: list[asyncio.Task[None]] = []
        self.parts: list[Any] = []
        self._configure("config-domain", {"example.com": ""})
        self._configure("config-deployment", {"queue-sidecar-image": "q"})

    def _admit(self, operation: Literal["CREATE", "UPDATE"], obj: Obj, old: Obj | None, subresource: str) -> Obj:
        try:
            return admit(
                obj, old=old, operation=operation, subresource=subresource, config=self.store, user="alice"
            ).object
        except Denied as exc:
            raise BadRequest(f'admission webhook "x" denied the request: {exc.message}') from exc

    def _configure(self, name: str, data: dict[str, str]) -> None:
        metadata = {"name": name, "namespace": "knative-serving"}
        self.client.seed({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})

    async def _probe(self, address: str, host: str, hash_: str) -> bool:
        self.probed.append((address, host))
        return host not in self.lagging

    async def start(self, *, only: str = "", writes: int | None = None) -> None:
        """Begin as a new process does: empty caches, everything listed again.

        Args:
            only: run just the controller of this name.
            writes: look away after so many changes instead of waiting for the end.
        """
        self._informers = Informers(self.client)
        self.parts = app.build(
            self.client,
            self._informers,
            self.store,
            clock=self.clock,
            recorder=self.events,
            resolver=self.resolver,
            probe=self._probe,
            any_ingress_class=self.any_ingress_class,
            external_ports=self.external_ports,
        )
        parts = [self._informers, *(part for part in self.parts if only in ("", part.name))]
        self._running = [asyncio.ensure_future(part.run()) for part in parts]
        await self.settle(writes)

    async def stop(self) -> None:
        """End as a killed process does."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._running = []

    async def settle(self, writes: int | None = None) -> None:
        """Let everything run until nobody has anything to do, or until so many changes were made."""
        quiet = 0
        seen = (0, "")
        before = self.writes()
        while quiet < 30 and (writes is None or self.writes() - before < writes):
            await asyncio.sleep(0)
            now = (len(self.client.calls), self.client.resource_version)
            quiet = quiet + 1 if now == seen else 0
            seen = now

    # What others in a cluster do

    async def apply(self, obj: Obj) -> None:
        """Create or change an object as kubectl does, and wait for what comes of it."""
        resource = KINDS[obj["kind"]]
        name, namespace = meta.name(obj), meta.namespace(obj)
        if self.client.peek(resource, name, namespace) is None:
            await self.client.create(resource, obj, namespace)
        else:
            await self.client.patch(resource, name, obj, namespace)
        await self.settle()

    async def configure(self, name: str, data: dict[str, str]) -> None:
        """Change a ConfigMap."""
        self._configure(name, data)
        await self.settle()

    async def status(self, resource: Resource, name: str, status: Obj, namespace: str = "default") -> None:
        """Set parts of an object's status."""
        obj = self.get(resource, name, namespace)
        await self.client.update(resource, obj | {"status": obj.get("status", {}) | status}, subresource="status")
        await self.settle()

    async def activators(self, *addresses: str) -> None:
        """Have these activators and no others."""
        subsets = [{"addresses": [{"ip": ip} for ip in addresses], "ports": [{"name": "http", "port": 8012}]}]
        await self.endpoints("activator-service", subsets if addresses else [], "knative-serving")

    async def endpoints(
        self, name: str, subsets: list[Obj], namespace: str = "default", labels: dict[str, str] | None = None
    ) -> None:
        """Set the Endpoints of a Service with a selector."""
        metadata = {"name": name, "namespace": namespace, "labels": labels or {}}
        self.client.seed({"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": subsets})
        await self.settle()

    async def pods_become_ready(self, revision: str) -> None:
        """What kubelet, Deployment controller and autoscaler do for a revision whose pods start."""
        ready = {"replicas": 1, "readyReplicas": 1, "availableReplicas": 1}
        progressing = {"type": "Progressing", "status": "True"}
        await self.status(DEPLOYMENTS, f"{revision}-deployment", ready | {"conditions": [progressing]})
        await self.autoscaler_says(revision, active=("True", "", ""), scale=1)

    async def autoscaler_says(self, revision: str, *, active: tuple[str, str, str], scale: int) -> None:
        """Set a PodAutoscaler's status as the autoscaler does once a revision has had its pods."""
        status, reason, message = active
        text = {"reason": reason, "message": message} if reason else {}
        now = rfc3339(self.clock.wall())
        conditions = [
            {"type": "Active", "status": status, "lastTransitionTime": now} | text,
            {"type": "Ready", "status": status, "lastTransitionTime": now} | text,
            {"type": "SKSReady", "status": "True", "lastTransitionTime": now},
            {"type": "ScaleTargetInitialized", "status": "True", "lastTransitionTime": now},
        ]
        generation = meta.generation(self.get(POD_AUTOSCALERS, revision))
        told: Obj = {"serviceName": revision, "metricsServiceName": f"{revision}-private"}
        told |= {"actualScale": scale, "desiredScale": scale}
        await self.status(
            POD_AUTOSCALERS, revision, told | {"conditions": conditions, "observedGeneration": generation}
        )

    async def pod(self, revision: str, status: Obj) -> None:
        """Have one pod of a revision in this state."""
        labels = {"serving.knative.dev/revision": revision}
        metadata = {"name": f"{revision}-pod", "namespace": "default", "labels": labels}
        self.client.seed({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {}, "status": status})
        await self.settle()

    async def wait(self, seconds: float) -> None:
        """Let time pass; for tests whose event loop has a fake clock."""
        await asyncio.sleep(seconds)
        await self.settle()

    # Looking

    def get(self, resource: Resource, name: str, namespace: str = "default") -> Obj:
        """The object as stored."""
        found = self.client.peek(resource, name, namespace)
        assert found is not None, f"no {resource} {namespace}/{name}"
        return found

    def names(self, resource: Resource) -> list[str]:
        """Names of all objects of a kind in the default namespace."""
        return [meta.name(obj) for obj in self.client.objects(resource, "default")]

    def condition(self, resource: Resource, name: str, type_: str = "Ready") -> tuple[str, str, str]:
        """(status, reason, message) of one condition."""
        found = meta.condition(self.get(resource, name), type_)
        assert found is not None, f"no condition {type_} on {name}"
        return found["status"], found.get("reason", ""), found.get("message", "")

    def writes(self) -> int:
        """How many calls changed something, or tried to."""
        return sum(call.verb in ("create", "update", "patch", "delete") for call in self.client.calls)


KINDS = {
    "Service": KSERVICES,
    "Configuration": CONFIGURATIONS,
    "Revision": REVISIONS,
    "Route": ROUTES,
    "ServerlessService": SERVERLESS_SERVICES,
    "Ingress": INGRESSES,
    "Pod": PODS,
    "Deployment": DEPLOYMENTS,
    "ConfigMap": CONFIG_MAPS,
    "Endpoints": ENDPOINTS,
    "CoreService": SERVICES,
}


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """A cluster with one activator and the controllers running."""
    made = Cluster()
    await made.activators("10.0.0.1")
    await made.start()
    yield made
    await made.stop()


def ksvc(name: str = "hello", *, image: str = "example.com/hello:v1", **spec: Any) -> Obj:
    """A Knative Service as a user writes it."""
    annotations = spec.pop("annotations", {})
    template: Obj = {"spec": {"containers": [{"image": image}]}}
    if annotations:
        template["metadata"] = {"annotations": annotations}
    if revision := spec.pop("revision", ""):
        template.setdefault("metadata", {})["name"] = revision
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"template": template, **spec},
    }


@pytest.fixture
def service() -> Any:
    """`ksvc`, for tests that do not import it."""
    return ksvc
