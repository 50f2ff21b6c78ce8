"""Deployments, ReplicaSets, endpoints and the scheduler together, against an API server in memory."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from kncore.api.resources import DEPLOYMENTS, ENDPOINT_SLICES, ENDPOINTS, PODS, REPLICA_SETS, SERVICES
from kncore.kube.client import Key, Patch
from kncore.kube.errors import Forbidden, InternalError
from kncore.kube.informers import Informers
from kncore.testing.kube import MemoryClient
from torpor.embedded.workloads.app import build
from torpor.embedded.workloads.scheduler import NodeRoom

pytestmark = pytest.mark.looptime

NODE = NodeRoom(name="torpor", cpu_milli=2000, memory_bytes=1 << 30)


class World:
    def __init__(self) -> None:
        self.client = MemoryClient()
        self.informers = Informers(self.client)
        self.parts = build(self.client, self.informers, node=NODE, serves=lambda _: False)

    async def until(self, condition: Callable[[], Any]) -> None:
        """Let everything run until the condition holds; it must within a few seconds (of the fake clock)."""
        for _ in range(5000):
            if condition():
                return
            await asyncio.sleep(0.001)
        raise AssertionError("did not happen")

    async def settled(self) -> None:
        """Let everything run until nothing is written any more."""
        await asyncio.sleep(1)

    def pods(self) -> list[Any]:
        return self.client.objects(PODS)

    def active(self) -> list[Any]:
        return [pod for pod in self.pods() if "deletionTimestamp" not in pod["metadata"]]

    def make_ready(self, *pods: Any, ip: str = "127.2.128.") -> None:
        for number, pod in enumerate(pods or self.pods(), start=1):
            pod["status"] = {
                "phase": "Running",
                "podIP": f"{ip}{number}",
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2024-01-01T00:00:00Z"}],
            }
            self.client.seed(pod)

    def deployment(self, replicas: int = 2, image: str = "v1", **spec: Any) -> Any:
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": "web"}},
                "template": {
                    "metadata": {"labels": {"app": "web"}, "annotations": {"note": "x"}},
                    "spec": {
                        "containers": [{"name": "c", "image": image, "ports": [{"name": "http", "containerPort": 80}]}]
                    },
                },
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
                "revisionHistoryLimit": 0,
                **spec,
            },
        }

    async def scale(self, replicas: int) -> None:
        patch = [{"op": "replace", "path": "/spec/replicas", "value": replicas}]
        await self.client.patch(DEPLOYMENTS, "web", patch, "default", how=Patch.JSON, subresource="scale")


@asynccontextmanager
async def running() -> AsyncIterator[World]:
    world = World()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(world.informers.run()), *(group.create_task(part.run()) for part in world.parts)]
        await world.informers.wait_synced()
        yield world
        for _ in range(100):  # work under way may finish
            await asyncio.sleep(0)
        for task in reversed(tasks):
            task.cancel()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running() as made:
        yield made


async def test_deployment_becomes_pods_bound_to_the_node(world: World) -> None:
    await world.client.create(DEPLOYMENTS, world.deployment())
    await world.until(lambda: len(world.pods()) == 2)
    (replicaset,) = world.client.objects(REPLICA_SETS)
    template_hash = replicaset["metadata"]["labels"]["pod-template-hash"]
    for pod in world.pods():
        assert pod["metadata"]["name"].startswith(f"web-{template_hash}-")
        assert pod["metadata"]["labels"] == {"app": "web", "pod-template-hash": template_hash}
        assert pod["metadata"]["annotations"] == {"note": "x"}
        assert pod["metadata"]["ownerReferences"][0]["uid"] == replicaset["metadata"]["uid"]
        assert pod["spec"]["nodeName"] == "torpor"
    world.make_ready()
    await world.settled()
    status = world.client.peek(DEPLOYMENTS, "web", "default")["status"]
    assert (status["replicas"], status["readyReplicas"], status["availableReplicas"]) == (2, 2, 2)
    assert {one["type"]: one["reason"] for one in status["conditions"]} == {
        "Progressing": "NewReplicaSetAvailable",
        "Available": "MinimumReplicasAvailable",
    }


async def test_scale_creates_pods_without_waiting_for_the_replica_set_to_be_written(world: World) -> None:
    await world.client.create(DEPLOYMENTS, world.deployment(replicas=0))
    await world.settled()
    world.client.calls.clear()
    await world.scale(1)
    await world.until(lambda: len(world.pods()) == 1)
    await world.settled()
    verbs = [(call.verb, call.resource.plural) for call in world.client.calls if call.verb in ("create", "patch")]
    writes = [one for one in verbs if one[1] in ("pods", "replicasets")]
    assert writes[:2] in (
        [("patch", "replicasets"), ("create", "pods")],
        [("create", "pods"), ("patch", "replicasets")],
    )
    assert not [call for call in world.client.calls if call.verb == "get"]
    assert len(world.pods()) == 1


async def test_cache_that_is_behind_never_makes_a_pod_twice() -> None:
    async with running() as world:
        await world.client.create(DEPLOYMENTS, world.deployment(replicas=3))
        await world.until(lambda: len(world.pods()) >= 1)
        # The pods' watch breaks: what was created is not shown until the informer has watched again.
        world.client.break_watches(resource=PODS)
        key = world.client.objects(REPLICA_SETS)[0]["metadata"]["name"]
        for _ in range(20):
            world.parts[0].controller.enqueue(Key("default", key))
            await asyncio.sleep(0)
        await world.settled()
        assert len(world.pods()) == 3


async def test_scale_down_deletes_the_pods_that_serve_nobody(world: World) -> None:
    await world.client.create(DEPLOYMENTS, world.deployment(replicas=3))
    await world.until(lambda: len(world.pods()) == 3)
    ready = world.pods()[:2]
    world.make_ready(*ready)
    await world.settled()
    await world.scale(2)
    await world.until(lambda: len(world.active()) == 2)
    assert {pod["metadata"]["name"] for pod in world.active()} == {pod["metadata"]["name"] for pod in ready}
    await world.scale(0)
    await world.until(lambda: not world.active())
    await world.settled()
    assert world.client.peek(DEPLOYMENTS, "web", "default")["status"]["replicas"] == 0
    # Pods that are stopping do not hold up new ones.
    await world.scale(1)
    await world.until(lambda: len(world.active()) == 1)


async def test_new_template_rolls_over_and_leaves_no_history(world: World) -> None:
    await world.client.create(DEPLOYMENTS, world.deployment(replicas=2))
    await world.until(lambda: len(world.pods()) == 2)
    world.make_ready()
    await world.settled()
    await world.client.patch(DEPLOYMENTS, "web", {"spec": world.deployment(image="v2")["spec"]}, "default")
    for _ in range(8):
        await world.settled()
        ready = [pod for pod in world.active() if pod.get("status", {}).get("phase") == "Running"]
        assert len(world.active()) <= 3
        assert len(ready) >= 2
        for pod in world.pods():
            if "deletionTimestamp" in pod["metadata"]:
                await world.client.delete(PODS, pod["metadata"]["name"], "default", grace=0)
        world.make_ready(*(pod for pod in world.active() if pod not in ready))
    assert [pod["spec"]["containers"][0]["image"] for pod in world.active()] == ["v2", "v2"]
    assert len(world.client.objects(REPLICA_SETS)) == 1
    assert world.client.peek(DEPLOYMENTS, "web", "default")["status"]["updatedReplicas"] == 2


async def test_recreate_stops_everything_first(world: World) -> None:
    await world.client.create(DEPLOYMENTS, world.deployment(replicas=1, strategy={"type": "Recreate"}))
    await world.until(lambda: len(world.pods()) == 1)
    spec = world.deployment(replicas=1, image="v2", strategy={"type": "Recreate"})["spec"]
    await world.client.patch(DEPLOYMENTS, "web", {"spec": spec}, "default")
    await world.until(lambda: [pod["spec"]["containers"][0]["image"] for pod in world.active()] == ["v2"])
    await world.settled()
    assert len(world.active()) == 1


async def test_pods_that_are_refused_show_in_the_deployments_conditions(world: World) -> None:
    world.client.fail_next(Forbidden("exceeded quota: small"), verb="create", resource=PODS, times=100)
    await world.client.create(DEPLOYMENTS, world.deployment(replicas=5))

    def failure() -> Any:
        found = world.client.peek(DEPLOYMENTS, "web", "default")
        conditions = (found.get("status") or {}).get("conditions", [])
        return [one for one in conditions if one["type"] == "ReplicaFailure"]

    await world.until(failure)
    assert failure()[0]["reason"] == "FailedCreate"
    assert failure()[0]["message"] == "exceeded quota: small"
    attempts = [call for call in world.client.calls if call.verb == "create" and call.resource is PODS]
    assert len(attempts) < 20  # the first refusal of a batch stops the rest of it


async def test_lost_scale_is_written_again(world: World) -> None:
    await world.client.create(DEPLOYMENTS, world.deployment(replicas=0))
    await world.settled()
    world.client.fail_next(InternalError("boom"), verb="patch", resource=REPLICA_SETS)
    await world.scale(2)
    await world.until(lambda: world.client.objects(REPLICA_SETS)[0]["spec"]["replicas"] == 2)
    await world.settled()
    assert len(world.pods()) == 2


def service(**spec: Any) -> Any:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "default", "labels": {"tier": "front"}},
        "spec": {
            "selector": {"app": "web"},
            "clusterIP": "127.2.64.1",
            "ports": [
                {"name": "http", "port": 80, "targetPort": "http"},
                {"name": "admin", "port": 8022, "targetPort": 8022},
            ],
            **spec,
        },
    }


async def test_addresses_are_listed_before_and_after_readiness(world: World) -> None:
    await world.client.create(SERVICES, service())
    await world.client.create(DEPLOYMENTS, world.deployment(replicas=1))
    await world.until(world.pods)
    (pod,) = world.pods()
    pod["status"] = {"phase": "Pending", "podIP": "127.2.128.7"}
    world.client.seed(pod)
    await world.settled()
    endpoints = world.client.peek(ENDPOINTS, "web", "default")
    assert [one["ip"] for one in endpoints["subsets"][0]["notReadyAddresses"]] == ["127.2.128.7"]
    assert {(one["name"], one["port"]) for one in endpoints["subsets"][0]["ports"]} == {("http", 80), ("admin", 8022)}
    assert endpoints["metadata"]["labels"] == {"tier": "front"}
    (slice_,) = world.client.objects(ENDPOINT_SLICES)
    assert slice_["metadata"]["labels"]["kubernetes.io/service-name"] == "web"
    assert slice_["metadata"]["labels"]["tier"] == "front"
    assert slice_["endpoints"][0]["addresses"] == ["127.2.128.7"]
    assert slice_["endpoints"][0]["conditions"] == {"ready": False, "serving": False, "terminating": False}

    world.make_ready(pod)
    await world.settled()
    endpoints = world.client.peek(ENDPOINTS, "web", "default")
    assert "notReadyAddresses" not in endpoints["subsets"][0]
    assert endpoints["subsets"][0]["addresses"][0]["targetRef"]["name"] == pod["metadata"]["name"]

    await world.scale(0)
    await world.settled()
    assert world.client.peek(ENDPOINTS, "web", "default")["subsets"] == []
    (slice_,) = world.client.objects(ENDPOINT_SLICES)
    assert slice_["endpoints"][0]["conditions"] == {"ready": False, "serving": True, "terminating": True}


async def test_announced_address_is_listed_before_the_status_says_so(world: World) -> None:
    await world.client.create(SERVICES, service())
    await world.client.create(DEPLOYMENTS, world.deployment(replicas=1))
    await world.until(world.pods)
    await world.settled()
    (pod,) = world.pods()
    world.parts.announce(pod, "127.2.128.9")
    await world.until(lambda: world.client.objects(ENDPOINT_SLICES)[0]["endpoints"])
    (slice_,) = world.client.objects(ENDPOINT_SLICES)
    assert slice_["endpoints"][0]["addresses"] == ["127.2.128.9"]
    assert slice_["endpoints"][0]["conditions"]["ready"] is False
    # What the status says wins.
    world.make_ready(pod)
    await world.settled()
    assert world.client.objects(ENDPOINT_SLICES)[0]["endpoints"][0]["addresses"] == ["127.2.128.1"]


async def test_status_of_a_burst_of_pods_is_written_a_few_times_only(world: World) -> None:
    await world.client.create(DEPLOYMENTS, world.deployment(replicas=10))
    await world.until(lambda: len(world.pods()) == 10)
    world.make_ready()
    await world.settled()
    written = [call.resource.plural for call in world.client.calls if call.subresource == "status"]
    assert written.count("deployments") <= 5
    assert written.count("replicasets") <= 4
    assert world.client.peek(DEPLOYMENTS, "web", "default")["status"]["availableReplicas"] == 10


async def test_hand_written_endpoints_are_mirrored(world: World) -> None:
    await world.client.create(SERVICES, service(selector=None))
    address = {"ip": "127.2.0.3", "targetRef": {"kind": "Pod", "name": "activator"}}
    written = {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": "web", "namespace": "default", "labels": {"own": "label"}},
        "subsets": [{"addresses": [address], "ports": [{"name": "http", "port": 8012}]}],
    }
    await world.client.create(ENDPOINTS, written)
    await world.until(lambda: world.client.objects(ENDPOINT_SLICES))
    (slice_,) = world.client.objects(ENDPOINT_SLICES)
    assert slice_["endpoints"] == [
        {"addresses": ["127.2.0.3"], "conditions": {"ready": True}, "targetRef": address["targetRef"]}
    ]
    assert slice_["ports"] == [{"port": 8012, "protocol": "TCP", "name": "http"}]
    assert slice_["metadata"]["labels"]["own"] == "label"
    assert slice_["metadata"]["ownerReferences"][0]["kind"] == "Endpoints"
    await world.client.patch(ENDPOINTS, "web", {"subsets": None}, "default")
    await world.settled()
    assert world.client.objects(ENDPOINT_SLICES)[0]["endpoints"] == []


async def test_deleted_service_takes_its_endpoints_along(world: World) -> None:
    await world.client.create(SERVICES, service())
    await world.until(lambda: world.client.objects(ENDPOINTS) and world.client.objects(ENDPOINT_SLICES))
    await world.client.delete(SERVICES, "web", "default")
    await world.until(lambda: not world.client.objects(ENDPOINTS) and not world.client.objects(ENDPOINT_SLICES))


async def test_pod_that_cannot_fit_is_unschedulable(world: World) -> None:
    template = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "small", "namespace": "default"},
        "spec": {"containers": [{"name": "c", "image": "x"}]},
    }
    await world.client.create(PODS, template)
    await world.until(lambda: world.client.peek(PODS, "small", "default")["spec"].get("nodeName") == "torpor")
    container = {"name": "c", "image": "x", "resources": {"requests": {"cpu": "64"}}}
    spec = world.deployment(replicas=1)["spec"]
    spec["template"]["spec"]["containers"] = [container]
    await world.client.create(DEPLOYMENTS, {**world.deployment(), "spec": spec})
    await world.settled()
    (pod,) = [one for one in world.pods() if one["metadata"]["name"] != "small"]
    assert "nodeName" not in pod["spec"]
    (condition,) = pod["status"]["conditions"]
    assert (condition["status"], condition["reason"]) == ("False", "Unschedulable")
    assert condition["message"] == "0/1 nodes are available: 1 Insufficient cpu."
