"""What is collected and who is scraped, on an API server in memory."""

import asyncio
import random
from types import SimpleNamespace
from typing import Any

import pytest

import autoscaler.metric
from autoscaler.collect import Collector, Settings
from autoscaler.metric import SILENT_AFTER, Metrics, Scraper, is_serving, revision_index
from autoscaler.scrape import ScrapeFailed, candidates, extrapolate, sample_size
from kncore.api.resources import METRICS
from kncore.clock import rfc3339
from kncore.kube.client import Key
from kncore.kube.informers import Informers
from kncore.testing import FakeClock
from kncore.testing.kube import MemoryClient
from kncore.wire import Stat

KEY = Key("default", "hello-1")


def metric(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "autoscaling.internal.knative.dev/v1alpha1",
        "kind": "Metric",
        "metadata": {"name": "hello-1", "namespace": "default", "generation": 1},
        "spec": {"stableWindow": 60_000_000_000, "panicWindow": 6_000_000_000, "scrapeTarget": "p", **spec},
    }


def pod(name: str, ip: str = "", *, ready: bool = True, phase: str = "Running", age: float = 0.0, **more: Any):
    return {
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": {"serving.knative.dev/revision": "hello-1"},
            **more,
        },
        "status": {
            "phase": phase,
            "podIP": ip,
            "startTime": rfc3339(FakeClock().wall() - age),
            "conditions": [{"type": "Ready", "status": str(ready)}],
        },
    }


# the reconciler -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def world():
    client = MemoryClient([metric()])
    informers = Informers(client, resync=0)
    collector = Collector()
    metrics = Metrics(client, informers, collector, FakeClock(), FakeClock())
    task = asyncio.get_running_loop().create_task(informers.run())
    await informers.wait_synced()
    yield SimpleNamespace(client=client, collector=collector, metrics=metrics)
    task.cancel()


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_metric_is_collected_as_it_says(world) -> None:
    await world.metrics.reconcile(KEY)
    assert world.collector.settings(KEY) == Settings(stable_window=60.0, panic_window=6.0, scrape_target="p")
    (ready,) = world.client.peek(METRICS, "hello-1", "default")["status"]["conditions"]
    assert ready["status"] == "True"


@pytest.mark.parametrize(("given", "used"), [(0, 1.0), (-5, 1.0), (2**62, 3600.0), (None, 1.0)])
async def test_window_that_makes_no_sense_is_moved_into_its_bounds(world, given, used) -> None:
    world.client.seed(metric(stableWindow=given, panicWindow=given))
    await settled()
    await world.metrics.reconcile(KEY)
    settings = world.collector.settings(KEY)
    assert (settings.stable_window, settings.panic_window) == (used, used)
    world.collector.record(KEY, 1e9, Stat(average_concurrent_requests=1.0))
    assert world.collector.concurrency(KEY, 1e9).stable == 1.0


async def test_changed_metric_is_reconciled(world) -> None:
    while world.metrics.controller.statistics().queue.ready:
        world.metrics.controller.queue.done(await world.metrics.controller.queue.get())
    world.client.seed(metric(stableWindow=30_000_000_000))
    await settled()
    assert world.metrics.controller.statistics().queue.ready == 1


async def test_failing_scrape_is_shown(world) -> None:
    await world.metrics.reconcile(KEY)
    world.collector.scraped(KEY, 1.0, ScrapeFailed("too few pods answered"))
    await world.metrics.reconcile(KEY)
    (ready,) = world.client.peek(METRICS, "hello-1", "default")["status"]["conditions"]
    assert (ready["status"], ready["reason"], ready["message"]) == (
        "False",
        "CollectionFailed",
        "too few pods answered",
    )


async def test_deleted_metric_is_forgotten(world) -> None:
    await world.metrics.reconcile(KEY)
    await world.client.delete(METRICS, "hello-1", "default")
    await settled()
    await world.metrics.reconcile(KEY)
    assert world.collector.revisions() == []


async def test_metric_deleted_in_the_middle_of_a_reconcile(world) -> None:
    stale = world.metrics._metrics.get("hello-1", "default")
    await world.client.delete(METRICS, "hello-1", "default")
    await settled()
    world.metrics._metrics.get = lambda name, namespace: stale
    await world.metrics.reconcile(KEY)


# which pods -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "serving"),
    [
        (pod("a"), True),
        (pod("a", ready=False), False),
        (pod("a", phase="Pending"), False),
        (pod("a", deletionTimestamp="2024-01-01T00:00:00Z"), False),
        ({"metadata": {}, "status": {}}, False),
    ],
)
def test_pods_that_count(made, serving: bool) -> None:
    assert is_serving(made) is serving


def test_index() -> None:
    assert revision_index(pod("a")) == ["default/hello-1"]
    assert revision_index({"metadata": {"name": "x"}}) == []


class Rig:
    """A scraper whose pods and answers a test decides."""

    def __init__(self, monkeypatch) -> None:
        self.clock = FakeClock()
        self.collector = Collector()
        self.collector.configure(
            KEY, Settings(stable_window=60.0, panic_window=6.0, scrape_target="p"), self.clock.wall()
        )
        self.pods: list[dict[str, Any]] = []
        self.pushing: set[str] = set()
        self.asked: list[tuple[list[str], list[str]]] = []
        self.takes = 0.0
        self.answer: Stat | Exception | None = Stat(average_concurrent_requests=1.0)
        self.changed: list[Key] = []
        self.scraper = Scraper(self.collector, self, self, self.clock, self.changed.append)  # type: ignore[arg-type]
        monkeypatch.setattr(autoscaler.metric, "scrape", self.scrape)

    def by_index(self, index: str, key: str):
        return self.pods if key == "default/hello-1" else []

    def streaming(self, pod: str, within: float) -> bool:
        assert within == SILENT_AFTER
        return pod in self.pushing

    async def scrape(self, session, old, young, rng):
        self.asked.append((list(old), list(young)))
        await asyncio.sleep(self.takes)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def run(self, seconds: float) -> None:
        task = asyncio.get_running_loop().create_task(self.scraper.run())
        await asyncio.sleep(seconds)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert self.scraper._under_way == set()


@pytest.fixture
def rig(monkeypatch) -> Rig:
    return Rig(monkeypatch)


@pytest.mark.looptime
async def test_silent_pods_are_asked_every_second_and_pushing_ones_never(rig) -> None:
    rig.pods = [
        pod("old", "10.1.0.1", age=61),
        pod("young", "10.1.0.2", age=60),
        pod("pushing", "10.1.0.3"),
        pod("no-ip"),
    ]
    rig.pushing = {"pushing"}
    await rig.run(3.5)
    assert rig.asked == [(["10.1.0.1"], ["10.1.0.2"])] * 4
    assert rig.collector.statistics().recorded == 4


@pytest.mark.looptime
async def test_nobody_is_asked_where_the_activator_sees_everything(rig) -> None:
    rig.pods = [pod("a", "10.1.0.1")]
    rig.collector.configure(KEY, Settings(stable_window=60.0, panic_window=6.0, scrape_target=""), 0.0)
    await rig.run(2.5)
    assert rig.asked == []


@pytest.mark.looptime
async def test_slow_pods_are_not_asked_twice_at_once(rig) -> None:
    rig.pods = [pod("a", "10.1.0.1")]
    rig.takes = 2.5
    await rig.run(7.9)
    assert len(rig.asked) == 3


@pytest.mark.looptime
async def test_slow_revision_does_not_delay_the_others(rig, monkeypatch) -> None:
    other = ("default", "other-1")
    rig.collector.configure(other, Settings(stable_window=60.0, panic_window=6.0, scrape_target="p"), 0.0)
    rig.pods = [pod("a", "10.1.0.1")]
    rig.by_index = lambda index, key: rig.pods

    async def scrape(session, old, young, rng):
        rig.asked.append((list(old), list(young)))
        await asyncio.sleep(60.0 if len(rig.asked) == 1 else 0.0)
        return

    monkeypatch.setattr(autoscaler.metric, "scrape", scrape)
    await rig.run(3.5)
    assert len(rig.asked) == 5, "one hangs, the other was asked four times"


@pytest.mark.looptime
async def test_metric_is_told_when_scraping_begins_or_ceases_to_fail(rig) -> None:
    rig.pods = [pod("a", "10.1.0.1")]
    await rig.run(1.5)
    assert rig.changed == []
    rig.answer = ScrapeFailed("no")
    await rig.run(2.5)
    assert rig.changed == [KEY]
    rig.answer = None
    await rig.run(2.5)
    assert rig.changed == [KEY, KEY]


# sampling -------------------------------------------------------------------------------------------------------------


def test_sample_sizes() -> None:
    assert [sample_size(count) for count in (0, 1, 3, 10, 50, 100, 10**6)] == [0, 1, 3, 7, 12, 14, 16]


def test_old_pods_are_asked_first() -> None:
    rng = random.Random(1)
    old, young = [f"old-{n}" for n in range(5)], [f"young-{n}" for n in range(5)]
    assert set(candidates(old, young, 3, rng)[:5]) == set(old)
    assert candidates(old, young, 3, rng)[5:] == young
    few = candidates(old[:2], young, 7, rng)
    assert few[:2] == old[:2]
    assert set(few[2:]) == set(young)


def test_sample_stands_for_all() -> None:
    made = extrapolate([Stat(average_concurrent_requests=2.0, request_count=10.0)] * 3, 30)
    assert (made.average_concurrent_requests, made.request_count, made.pod_name) == (60.0, 300.0, "service-scraper")
