"""The Metric reconciler: what is collected, and whether it works (serving §4.3); and the loop that scrapes silent
pods.
"""

import asyncio
import copy
import random
from datetime import datetime

import aiohttp

from autoscaler.collect import Collector, Settings
from autoscaler.scrape import ScrapeFailed, scrape
from autoscaler.statserver import StatServer
from kncore.api import keys, meta
from kncore.api import podautoscaler as derive
from kncore.api.conditions import post_process, pre_process
from kncore.api.resources import METRICS
from kncore.clock import Clock, rfc3339
from kncore.kube.client import Client, Key, Obj
from kncore.kube.informer import Informer
from kncore.kube.informers import Informers
from kncore.kube.reconcile import Controller, enqueue_self, write_status

__all__ = ["BY_REVISION", "Metrics", "Scraper", "is_serving", "revision_index"]

BY_REVISION = "namespace/revision"
SCRAPE_INTERVAL = 1.0  # seconds
SILENT_AFTER = 2.5  # seconds without a pushed stat until a pod is scraped
MAX_SCRAPES = 50  # revisions scraped at once


def revision_index(pod: Obj) -> list[str]:
    """Index key of a revision's pod: `namespace/revision`."""
    revision = meta.labels(pod).get(keys.REVISION)
    return [f"{meta.namespace(pod)}/{revision}"] if revision else []


def is_serving(pod: Obj) -> bool:
    """Running, Ready and not on its way out."""
    return meta.at(pod, "status", "phase") == "Running" and meta.is_true(pod, "Ready") and not meta.is_deleting(pod)


class Metrics:
    """Registers each Metric's windows with the collector and says whether stats come in; `controller` is its loop."""

    def __init__(self, client: Client, informers: Informers, collector: Collector, clock: Clock) -> None:
        self._client = client
        self._collector = collector
        self._clock = clock
        self._metrics = informers.of(METRICS)
        self.controller = Controller("metric", self.reconcile, keys=self._metrics.keys)
        self._metrics.add_handler(enqueue_self(self.controller))

    async def reconcile(self, key: Key) -> None:
        """Collect for one Metric, or stop."""
        original = self._metrics.get(key.name, key.namespace)
        if original is None:
            self._collector.forget(key)
            return
        spec = original["spec"]
        settings = Settings(
            stable_window=spec.get("stableWindow", 0) / 1e9,
            panic_window=spec.get("panicWindow", 0) / 1e9,
            scrape_target=spec.get("scrapeTarget", ""),
            weighted=derive.aggregation_algorithm(original) in {"weighted-exponential", "weightedExponential"},
        )
        now = self._clock.wall()
        self._collector.configure(key, settings, now)
        metric = copy.deepcopy(original)
        conditions = pre_process(metric, rfc3339(now))
        failure = self._collector.failure(key)
        if failure is None:
            conditions.mark_true("Ready")
        else:
            conditions.mark_false("Ready", "CollectionFailed", str(failure))
        post_process(metric, original, rfc3339(now))
        await write_status(self._client, METRICS, original, metric)


class Scraper:
    """Once a second, the pods of each collected revision that have not pushed a stat lately."""

    name = "scraper"

    def __init__(
        self, collector: Collector, pods: Informer, streams: StatServer, clock: Clock, failed: Controller
    ) -> None:
        self._collector = collector
        self._pods = pods
        self._streams = streams
        self._clock = clock
        self._metrics = failed
        self._rng = random.Random()

    async def run(self) -> None:
        """Scrape until cancelled."""
        limit = asyncio.Semaphore(MAX_SCRAPES)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            while True:
                due = self._clock.monotonic() + SCRAPE_INTERVAL
                async with asyncio.TaskGroup() as group:
                    for key in self._collector.revisions():
                        if waiting := self._silent(key):
                            group.create_task(self._scrape(session, limit, key, waiting), name=f"scrape {key}")
                await asyncio.sleep(max(0.0, due - self._clock.monotonic()))

    def _silent(self, key: tuple[str, str]) -> list[Obj]:
        settings = self._collector.settings(key)
        if settings is None or not settings.scrape_target:
            return []
        pods = [pod for pod in self._pods.by_index(BY_REVISION, "/".join(key)) if is_serving(pod)]
        return [pod for pod in pods if not self._streams.streaming(meta.name(pod), SILENT_AFTER)]

    async def _scrape(
        self, session: aiohttp.ClientSession, limit: asyncio.Semaphore, key: tuple[str, str], pods: list[Obj]
    ) -> None:
        settings = self._collector.settings(key)
        if settings is None:
            return
        now = self._clock.wall()
        old: list[str] = []
        young: list[str] = []
        for pod in pods:
            address = meta.at(pod, "status", "podIP", default="")
            if address:
                (old if now - _started(pod, now) > settings.stable_window else young).append(address)
        before = self._collector.failure(key)
        async with limit:
            try:
                outcome = await scrape(session, old, young, self._rng)
            except ScrapeFailed as exc:
                self._collector.scraped(key, now, exc)
            else:
                self._collector.scraped(key, now, outcome)
        if (before is None) != (self._collector.failure(key) is None):
            self._metrics.enqueue(Key(*key))  # the Metric's condition changed


def _started(pod: Obj, default: float) -> float:
    started = meta.at(pod, "status", "startTime")
    return datetime.fromisoformat(started).timestamp() if started else default
