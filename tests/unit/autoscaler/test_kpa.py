"""The KPA reconciler on an API server in memory: what it writes, in which order, and what happens when things go."""

import asyncio
from typing import Any

import pytest

from autoscaler.explain import Explanations
from autoscaler.kpa import PROBE_RETRY, Kpa, NotOwned
from autoscaler.multiscaler import Result
from autoscaler.scale import UNKNOWN
from kncore.api.resources import DEPLOYMENTS, METRICS, POD_AUTOSCALERS, SERVERLESS_SERVICES
from kncore.config.store import Store
from kncore.kube.client import Key
from kncore.kube.errors import ApiError, NotFound, Unavailable
from kncore.kube.informers import Informers
from kncore.testing import FakeClock
from kncore.testing.kube import MemoryClient

KEY = Key("default", "hello-1")


def autoscaler(**metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "autoscaling.internal.knative.dev/v1alpha1",
        "kind": "PodAutoscaler",
        "metadata": {
            "name": "hello-1",
            "namespace": "default",
            "generation": 1,
            "annotations": {"autoscaling.knative.dev/class": "kpa.autoscaling.knative.dev"},
            "labels": {"serving.knative.dev/revision": "hello-1"},
            **metadata,
        },
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "hello-1-deployment"},
            "protocolType": "http1",
            "containerConcurrency": 0,
            "reachability": "Reachable",
        },
    }


def deployment(replicas: int = 0) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "hello-1-deployment", "namespace": "default"},
        "spec": {"replicas": replicas},
    }


class World:
    def __init__(self, client: MemoryClient, informers: Informers) -> None:
        self.client = client
        self.clock = FakeClock()
        self.store = Store()
        self.result = Result(UNKNOWN, -111)
        self.ready = 0
        self.forgotten: list[tuple[str, str]] = []
        self.answers = True
        self.during_probe = lambda: None
        self.explanations = Explanations()
        self.requeued: list[float] = []
        self.kpa = Kpa(
            client,
            informers,
            self.store,
            self,  # type: ignore[arg-type]  # stands for the multiscaler
            self.explanations,
            self.clock,
            ready_pods=lambda key: self.ready,
            probe=self.probe,
        )
        self.kpa.controller.enqueue_after = lambda key, seconds: self.requeued.append(seconds)  # type: ignore[method-assign]

    def ensure(self, key, spec) -> Result:
        return self.result

    def forget(self, key) -> None:
        self.forgotten.append(key)

    async def probe(self, sks) -> bool:
        self.during_probe()
        return self.answers

    async def reconcile(self) -> list[tuple[str, str, str]]:
        """One reconcile; what it asked of the API server."""
        self.client.calls.clear()
        try:
            await self.kpa.reconcile(KEY)
        finally:
            await settled()
        return [
            (call.verb, call.resource.kind, call.subresource)
            for call in self.client.calls
            if call.verb not in ("list", "watch")
        ]

    def get(self, resource, name: str = "hello-1") -> dict[str, Any]:
        found = self.client.peek(resource, name, "default")
        assert found is not None
        return found

    @property
    def status(self) -> dict[str, Any]:
        return self.get(POD_AUTOSCALERS)["status"]

    def condition(self, type_: str) -> tuple[str, str | None]:
        (found,) = [one for one in self.status["conditions"] if one["type"] == type_]
        return found["status"], found.get("reason")

    async def sks_ready(self) -> None:
        """The ServerlessService's controller did its work."""
        sks = self.get(SERVERLESS_SERVICES)
        sks["status"] = {
            "serviceName": "hello-1",
            "privateServiceName": "hello-1-private",
            "observedGeneration": sks["metadata"].get("generation", 1),
            "conditions": [{"type": "Ready", "status": "True"}],
        }
        self.client.seed(sks)
        await settled()

    async def up(self) -> None:
        """A revision with everything it needs, whose first pod is starting."""
        await self.reconcile()
        await self.sks_ready()
        await self.reconcile()
        await self.sks_ready()


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
async def world():
    client = MemoryClient([autoscaler(), deployment(1)])
    informers = Informers(client, resync=0)
    made = World(client, informers)
    task = asyncio.get_running_loop().create_task(informers.run())
    await informers.wait_synced()
    yield made
    task.cancel()


# the usual life -------------------------------------------------------------------------------------------------------


async def test_first_of_all_comes_a_serverless_service(world) -> None:
    assert await world.reconcile() == [
        ("create", "ServerlessService", ""),
        ("patch", "PodAutoscaler", "status"),
    ]
    sks = world.get(SERVERLESS_SERVICES)
    assert sks["spec"] == {
        "mode": "Proxy",
        "numActivators": 2,
        "objectRef": autoscaler()["spec"]["scaleTargetRef"],
        "protocolType": "http1",
    }
    assert sks["metadata"]["ownerReferences"][0]["kind"] == "PodAutoscaler"
    assert world.condition("SKSReady") == ("Unknown", "NotReady")
    assert world.condition("Active") == ("Unknown", "Queued")


async def test_then_pods_and_a_metric(world) -> None:
    await world.reconcile()
    await world.sks_ready()
    world.result = Result(2, -111)
    assert await world.reconcile() == [
        ("patch", "Deployment", "scale"),
        ("create", "Metric", ""),
        ("patch", "ServerlessService", ""),
        ("patch", "PodAutoscaler", "status"),
    ]
    assert world.get(DEPLOYMENTS, "hello-1-deployment")["spec"]["replicas"] == 2
    assert world.get(METRICS)["spec"] == {
        "stableWindow": 60_000_000_000,
        "panicWindow": 6_000_000_000,
        "scrapeTarget": "hello-1-private",
    }
    assert world.get(SERVERLESS_SERVICES)["spec"]["numActivators"] == 3
    assert world.status["serviceName"] == "hello-1"
    assert world.status["metricsServiceName"] == "hello-1-private"


async def test_nothing_to_do_writes_nothing(world) -> None:
    await world.up()
    world.ready, world.result = 1, Result(1, -111)
    await world.reconcile()
    await world.sks_ready()  # it wants an activator more
    await world.reconcile()
    assert await world.reconcile() == []
    assert world.condition("Ready") == ("True", None)


async def test_waking_up_is_one_patch_before_anything_else(world) -> None:
    await world.up()
    await go_to_sleep(world)
    world.result = Result(3, -111)
    calls = await world.reconcile()
    assert calls[0] == ("patch", "Deployment", "scale")
    assert world.client.calls[0].body == [{"op": "add", "path": "/spec/replicas", "value": 3}]
    assert [call for call in calls if call[0] in ("get", "update")] == []
    assert world.explanations.show(KEY)["want"] == 3


async def go_to_sleep(world: World) -> None:
    world.ready, world.result = 1, Result(1, -111)
    await world.reconcile()
    world.clock.advance(61)
    world.result = Result(0, -111)
    await world.reconcile()
    assert world.condition("Active") == ("False", "NoTraffic")
    world.clock.advance(31)
    await world.reconcile()
    assert world.get(DEPLOYMENTS, "hello-1-deployment")["spec"]["replicas"] == 0
    world.ready = 0
    await world.reconcile()


async def test_asleep(world) -> None:
    await world.up()
    await go_to_sleep(world)
    assert world.status["desiredScale"] == world.status["actualScale"] == 0
    assert world.condition("ScaleTargetInitialized") == ("True", None)


# caches that lag behind -----------------------------------------------------------------------------------------------


async def test_scale_is_written_although_the_cache_seems_to_have_it(world) -> None:
    """1 -> 0 was written, the informer does not know yet, and somebody comes."""
    await world.up()
    world.ready, world.result = 1, Result(1, -111)
    await world.reconcile()
    world.kpa._deployments.get = lambda name, namespace: deployment(1)  # the cache, from now on
    world.clock.advance(61)
    world.result = Result(0, -111)
    await world.reconcile()
    world.clock.advance(31)
    await world.reconcile()
    assert world.get(DEPLOYMENTS, "hello-1-deployment")["spec"]["replicas"] == 0
    world.result = Result(1, -111)
    await world.reconcile()
    assert world.get(DEPLOYMENTS, "hello-1-deployment")["spec"]["replicas"] == 1


async def test_scale_that_may_have_been_written_is_written_again(world) -> None:
    """3 was asked for and the answer lost; then 1 is wanted, which is what the cache still says."""
    await world.up()
    world.client.fail_next(Unavailable("away"), verb="patch", resource=DEPLOYMENTS)
    world.result = Result(3, -111)
    with pytest.raises(Unavailable):
        await world.reconcile()
    world.result = Result(1, -111)
    assert ("patch", "Deployment", "scale") in await world.reconcile()
    assert ("patch", "Deployment", "scale") not in await world.reconcile()


async def test_scale_that_somebody_else_changed_is_put_right(world) -> None:
    await world.up()
    world.result = Result(2, -111)
    await world.reconcile()
    world.client.seed(deployment(7))
    await settled()
    await world.reconcile()
    assert world.get(DEPLOYMENTS, "hello-1-deployment")["spec"]["replicas"] == 2


async def test_result_of_the_multiscaler_is_reconciled_at_once(world) -> None:
    while world.kpa.controller.statistics().queue.ready:
        world.kpa.controller.queue.done(await world.kpa.controller.queue.get())
    world.kpa.decided(KEY)
    assert world.kpa.controller.statistics().queue.ready == 1


async def test_child_that_exists_but_is_not_cached_yet(world) -> None:
    await world.up()
    world.kpa._metrics.get = lambda name, namespace: None
    calls = await world.reconcile()
    assert ("get", "Metric", "") in calls
    assert world.condition("SKSReady") == ("True", None)


# objects that go or are others' ---------------------------------------------------------------------------------------


async def test_deleted_autoscaler_is_forgotten(world) -> None:
    await world.up()
    await world.client.delete(POD_AUTOSCALERS, "hello-1", "default")
    await settled()
    assert await world.reconcile() == []
    assert world.forgotten == [KEY]


async def test_autoscaler_deleted_in_the_middle_of_a_reconcile(world) -> None:
    await world.up()
    world.result = Result(2, -111)
    stale = world.kpa._autoscalers.get("hello-1", "default")
    await world.client.delete(POD_AUTOSCALERS, "hello-1", "default")
    await settled()
    world.kpa._autoscalers.get = lambda name, namespace: stale
    await world.reconcile()  # its status has nowhere to go, and that is no error


async def test_deployment_that_is_not_there(world) -> None:
    await world.reconcile()
    await world.sks_ready()
    await world.client.delete(DEPLOYMENTS, "hello-1-deployment", "default")
    await settled()
    world.result = Result(2, -111)
    with pytest.raises(NotFound):
        await world.reconcile()
    assert world.status["metricsServiceName"] == "hello-1-private", "what was found out is in the status all the same"


async def test_autoscaler_of_another_class_is_left_alone(world) -> None:
    other = autoscaler(annotations={"autoscaling.knative.dev/class": "hpa.autoscaling.knative.dev"})
    world.client.seed(other)
    await settled()
    assert await world.reconcile() == []


@pytest.mark.parametrize(
    ("resource", "kind"), [(SERVERLESS_SERVICES, "ServerlessService"), (METRICS, "Metric")], ids=["sks", "metric"]
)
async def test_childs_name_is_taken(world, resource, kind) -> None:
    if resource is METRICS:
        await world.reconcile()
        await world.sks_ready()
    world.client.seed(
        {
            "apiVersion": resource.api_version,
            "kind": kind,
            "metadata": {"name": "hello-1", "namespace": "default"},
            "spec": {},
        }
    )
    await settled()
    with pytest.raises(NotOwned, match=f"does not own {kind} hello-1"):
        await world.reconcile()
    assert world.condition("Active") == ("False", "NotOwned")
    (active,) = [one for one in world.status["conditions"] if one["type"] == "Active"]
    assert active["message"] == f'There is an existing {kind} "hello-1" that we do not own.'


async def test_conflicts_and_outages_are_left_to_the_queue(world) -> None:
    world.client.fail_next(Unavailable("away"), verb="create")
    with pytest.raises(ApiError):
        await world.reconcile()
    await world.reconcile()
    assert world.get(SERVERLESS_SERVICES)


async def test_cancelled_reconcile_writes_nothing_more(world) -> None:
    await world.up()
    world.client.latency = 3600.0
    world.result = Result(2, -111)
    task = asyncio.ensure_future(world.kpa.reconcile(KEY))
    await settled()
    world.client.calls.clear()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not world.client.calls


# the probe ------------------------------------------------------------------------------------------------------------


async def test_nothing_is_scaled_to_zero_before_the_activator_answers(world) -> None:
    await world.up()
    world.ready, world.result = 1, Result(1, -111)
    await world.reconcile()
    world.clock.advance(61)
    world.result, world.answers = Result(0, -111), False
    await world.reconcile()
    world.clock.advance(1000)
    world.requeued.clear()
    await world.reconcile()
    assert world.get(DEPLOYMENTS, "hello-1-deployment")["spec"]["replicas"] == 1
    assert world.requeued == [PROBE_RETRY]
    world.answers = True
    await world.reconcile()
    assert world.get(DEPLOYMENTS, "hello-1-deployment")["spec"]["replicas"] == 0


async def test_who_comes_while_the_activator_is_asked_is_not_put_to_sleep(world) -> None:
    await world.up()
    world.ready, world.result = 1, Result(1, -111)
    await world.reconcile()
    world.clock.advance(61)
    world.result = Result(0, -111)
    await world.reconcile()
    world.clock.advance(1000)

    def somebody_comes() -> None:
        world.result = Result(2, -111)

    world.during_probe = somebody_comes
    await world.reconcile()
    assert world.get(DEPLOYMENTS, "hello-1-deployment")["spec"]["replicas"] == 2


# configuration --------------------------------------------------------------------------------------------------------


async def test_configuration_concerns_every_autoscaler(world) -> None:
    before = world.kpa.controller.statistics().queue.added
    world.store.apply("config-gc", {"min-non-active-revisions": "7"})
    assert world.kpa.controller.statistics().queue.added == before
    world.store.apply("config-autoscaler", {"stable-window": "30s"})
    assert world.kpa.controller.statistics().queue.added == before + 1
    await world.up()
    assert world.get(METRICS)["spec"]["stableWindow"] == 30_000_000_000
