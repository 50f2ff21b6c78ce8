"""The Serving controllers against the embedded API server: real schemas, real admission, real watches.

What the server adds to objects (defaults, cluster IPs, generations) must not look like somebody's change, or the
controllers would write for ever.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from controller import app
from controller.digest import TagsAsTheyAre
from controller.prober import HttpProbe
from kncore.api import keys, meta
from kncore.api.kingress import spec_hash
from kncore.api.resources import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    ENDPOINTS,
    INGRESSES,
    KSERVICES,
    POD_AUTOSCALERS,
    REVISIONS,
    ROUTES,
    SERVERLESS_SERVICES,
    SERVICES,
    Resource,
)
from kncore.clock import SystemClock
from kncore.config.store import Store
from kncore.kube.client import Obj
from kncore.kube.cluster import HttpClient
from kncore.kube.events import Recorder
from kncore.kube.informers import Informers
from torpor.embedded.apiserver.server import ApiServer

SYSTEM = "knative-serving"


def ksvc(image: str, **spec: Any) -> Obj:
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": "hello", "namespace": "default"},
        "spec": {
            "template": {
                "metadata": {"annotations": {"autoscaling.knative.dev/min-scale": "1"}},
                "spec": {
                    "containerConcurrency": 10,
                    "containers": [
                        {
                            "image": image,
                            "ports": [{"containerPort": 8080}],
                            "env": [{"name": "TARGET", "value": "World"}],
                            "resources": {"requests": {"cpu": "0.1", "memory": "128Mi"}, "limits": {"cpu": "1000m"}},
                            "readinessProbe": {"httpGet": {"path": "/"}, "initialDelaySeconds": 5},
                        }
                    ],
                },
            },
            **spec,
        },
    }


class Platform:
    """API server, controllers, and stand-ins for autoscaler, pods and activator."""

    def __init__(self, client: HttpClient, informers: Informers) -> None:
        self.client = client
        self.informers = informers

    async def until(self, done: Callable[[], object], within: float = 20.0) -> None:
        async with asyncio.timeout(within):
            while not done():  # noqa: ASYNC110 (caches have no event for this)
                await asyncio.sleep(0.01)

    def get(self, resource: Resource, name: str, namespace: str = "default") -> Obj:
        return self.informers.of(resource).get(name, namespace) or {}

    async def pods_become_ready(self, revision: str) -> None:
        await self.until(
            lambda: self.get(POD_AUTOSCALERS, revision) and self.get(DEPLOYMENTS, f"{revision}-deployment")
        )
        progressing = {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable", "message": ""}
        deployed = {"replicas": 1, "readyReplicas": 1, "availableReplicas": 1, "conditions": [progressing]}
        await self.client.patch(
            DEPLOYMENTS, f"{revision}-deployment", {"status": deployed}, "default", subresource="status"
        )
        conditions = [
            {"type": name, "status": "True", "lastTransitionTime": "2024-01-01T00:00:00Z"}
            for name in ("Active", "Ready", "SKSReady", "ScaleTargetInitialized")
        ]
        told = {"serviceName": revision, "metricsServiceName": f"{revision}-private", "observedGeneration": 1}
        await self.client.patch(
            POD_AUTOSCALERS,
            revision,
            {"status": told | {"actualScale": 1, "desiredScale": 1, "conditions": conditions}},
            "default",
            subresource="status",
        )


@asynccontextmanager
async def activator(informers: Informers) -> AsyncIterator[int]:
    """Answers network probes with the hash of what it has, as an activator does; gives its port."""

    async def answer(request: web.Request) -> web.Response:
        for ingress in informers.of(INGRESSES).list():
            hosts = [host for rule in ingress["spec"]["rules"] for host in rule["hosts"]]
            if request.host in hosts:
                return web.Response(headers={keys.HEADER_HASH: spec_hash(ingress)})
        return web.Response(status=404)

    server = web.Application()
    server.router.add_get("/healthz", answer)
    runner = web.AppRunner(server)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def platform(state: Path) -> AsyncIterator[Platform]:
    server = ApiServer(state)
    await server.start()
    client = HttpClient(server.url, ca=server.ca_pem, token=server.token)
    informers = Informers(client)
    recorder = Recorder(client, "controller")
    network = {"ingress-class": keys.INGRESS_CLASS_TORPOR}
    for name, data in (
        ("config-domain", {"example.com": ""}),
        ("config-deployment", {"queue-sidecar-image": "q"}),
        ("config-network", network),
    ):
        if not any(meta.name(item) == name for item in (await client.list(CONFIG_MAPS, SYSTEM)).items):
            await client.create(CONFIG_MAPS, {"metadata": {"name": name, "namespace": SYSTEM}, "data": data})
    parts = app.build(
        client,
        informers,
        Store(),
        clock=SystemClock(),
        recorder=recorder,
        resolver=TagsAsTheyAre(),
        probe=HttpProbe(),
    )
    all_parts: list[Any] = [informers, recorder, *parts]
    running = [asyncio.create_task(part.run()) for part in all_parts]
    try:
        async with activator(informers) as port:
            await informers.wait_synced(asyncio.get_running_loop().time() + 10.0)
            endpoints = {
                "metadata": {"name": "activator-service", "namespace": SYSTEM},
                "subsets": [{"addresses": [{"ip": "127.0.0.1"}], "ports": [{"name": "http", "port": port}]}],
            }
            if not informers.of(ENDPOINTS).get("activator-service", SYSTEM):
                await client.create(ENDPOINTS, endpoints)
            else:
                await client.patch(ENDPOINTS, "activator-service", {"subsets": endpoints["subsets"]}, SYSTEM)
            yield Platform(client, informers)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await client.aclose()
        await server.stop()


async def quiet(here: Platform) -> dict[str, str]:
    """Resource versions of everything once nothing changes any more."""
    watched = (KSERVICES, REVISIONS, ROUTES, DEPLOYMENTS, INGRESSES, SERVICES, POD_AUTOSCALERS, SERVERLESS_SERVICES)
    seen: dict[str, str] = {}
    for _ in range(50):
        now = {
            f"{resource} {meta.key(obj)}": meta.resource_version(obj)
            for resource in watched
            for obj in here.informers.of(resource).list()
        }
        if now == seen:
            return now
        seen = now
        await asyncio.sleep(0.2)
    raise AssertionError("the controllers do not come to rest")


async def test_from_apply_to_ready_and_then_silence(tmp_path: Path) -> None:
    async with platform(tmp_path) as here:
        await here.client.create(KSERVICES, ksvc("dev.local/hello:v1"))
        await here.pods_become_ready("hello-00001")
        await here.client.create(
            SERVERLESS_SERVICES,
            {
                "metadata": {"name": "hello-00001", "namespace": "default"},
                "spec": {
                    "mode": "Proxy",
                    "numActivators": 2,
                    "protocolType": "http1",
                    "objectRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "hello-00001-deployment"},
                },
            },
        )
        await here.until(lambda: meta.is_ready(here.get(KSERVICES, "hello")))
        await here.until(lambda: here.get(ENDPOINTS, "hello-00001").get("subsets"))
        assert here.get(KSERVICES, "hello")["status"]["url"] == "http://hello.default.example.com"
        rested = await quiet(here)
        await asyncio.sleep(0.5)
        assert await quiet(here) == rested

        # A change of the traffic is programmed and confirmed at once.
        loop = asyncio.get_running_loop()
        traffic = [{"revisionName": "hello-00001", "percent": 100, "tag": "stable"}]
        started = loop.time()
        await here.client.patch(KSERVICES, "hello", {"spec": {"traffic": traffic}}, "default")
        await here.until(lambda: len(here.get(INGRESSES, "hello")["spec"]["rules"]) == 4)
        programmed = loop.time() - started
        await here.until(
            lambda: (
                meta.is_ready(here.get(KSERVICES, "hello"))
                and here.get(KSERVICES, "hello")["status"]["traffic"][0].get("tag") == "stable"
            )
        )
        assert programmed < 1.0  # some tens of milliseconds on a quiet machine

    # A new process over the same objects has nothing to do.
    async with platform(tmp_path) as here:
        await here.until(lambda: meta.is_ready(here.get(KSERVICES, "hello")))
        await quiet(here)
        assert meta.generation(here.get(REVISIONS, "hello-00001")) == 1
        assert meta.name(here.get(REVISIONS, "hello-00001")) == "hello-00001"
        assert not here.get(REVISIONS, "hello-00002")
