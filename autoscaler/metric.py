"""The Metric reconciler: what is collected, and whether it works (serving §4.3); and the loop that scrapes silent pods.

A pod that streams its stats is not asked. A revision whose pods do not answer in time is asked again when its last
scrape is over, so slow pods of one revision do not slow down the others.
"""

import asyncio
import copy
import random
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final, Protocol

import aiohttp

from autoscaler.collect import GRANULARITY, Collector, Settings
from autoscaler.scrape import ScrapeFailed, open_session, scrape
from kncore.api import keys, meta
from kncore.api import podautoscaler as derive
from kncore.api.conditions import post_process, pre_process
from kncore.api.resources import METRICS
from kncore.clock import Clock, rfc3339
from kncore.kube.client import Client, Key, Obj
from kncore.kube.errors import NotFound
from kncore.kube.informer import Informer
from kncore.kube.informers import Informers
from kncore.kube.lease import Leader
from kncore.kube.reconcile import Controller, enqueue_self, write_status

__all__ = ["BY_REVISION", "Metrics", "Scraper", "Streams", "is_serving", "revision_index"]

BY_REVISION = "namespace/revision"
SCRAPE_INTERVAL: Final = 1.0
"""Seconds."""
SILENT_AFTER: Final = 2.5
"""Seconds without a pushed stat until a pod is scraped."""
MAX_SCRAPES: Final = 50
"""Revisions scraped at once."""
WINDOW: Final = (GRANULARITY, 3600.0)
"""Shortest and longest window that is collected, seconds, whatever a Metric asks for: webhooks may be off."""


class Streams(Protocol):
    """Whose stats come by themselves: the stat server."""

    def streaming(self, pod: str, within: float) -> bool:
        """Whether this pod pushed a stat in the last `within` seconds."""


def revision_index(pod: Obj) -> list[str]:
    """Index key of a revision's pod: `namespace/revision`."""
    revision = meta.labels(pod).get(keys.REVISION)
    return [f"{meta.namespace(pod)}/{revision}"] if revision else []


def is_serving(pod: Obj) -> bool:
    """Running, Ready and not on its way out."""
    return meta.at(pod, "status", "phase") == "Running" and meta.is_true(pod, "Ready") and not meta.is_deleting(pod)


class Metrics:
    """Registers each Metric's windows with the collector and says whether stats come in; `controller` is its loop.

    Args:
        clock: for dates in a status.
        steady: the one that stats are recorded by.
    """

    def __init__(
        self,
        client: Client,
        informers: Informers,
        collector: Collector,
        clock: Clock,
        steady: Clock,
        *,
        leader: Leader | None = None,
    ) -> None:
        self._client = client
        self._collector = collector
        self._clock = clock
        self._steady = steady
        self._metrics = informers.of(METRICS)
        self.controller = Controller("metric", self.reconcile, leader=leader, keys=self._metrics.keys)
        self._metrics.add_handler(enqueue_self(self.controller))

    async def reconcile(self, key: Key) -> None:
        """Collect for one Metric, or stop."""
        original = self._metrics.get(key.name, key.namespace)
        if original is None or meta.is_deleting(original):
            self._collector.forget(key)
            return
        settings = Settings(
            stable_window=_window(original, "stableWindow"),
            panic_window=_window(original, "panicWindow"),
            scrape_target=meta.at(original, "spec", "scrapeTarget", default=""),
            weighted=derive.aggregation_algorithm(original) in {"weighted-exponential", "weightedExponential"},
        )
        now = self._clock.wall()
        self._collector.configure(key, settings, self._steady.wall())
        metric = copy.deepcopy(original)
        conditions = pre_process(metric, rfc3339(now))
        failure = self._collector.failure(key)
        if failure is None:
            conditions.mark_true("Ready")
        else:
            conditions.mark_false("Ready", "CollectionFailed", str(failure))
        post_process(metric, original, rfc3339(now))
        try:
            await write_status(self._client, METRICS, original, metric)
        except NotFound:
            return  # deleted meanwhile


def _window(metric: Obj, field: str) -> float:
    """A window of a Metric, seconds."""
    shortest, longest = WINDOW
    return float(min(max(meta.at(metric, "spec", field, default=0) / 1e9, shortest), longest))


class Scraper:
    """Once a second, the pods of each collected revision that have not pushed a stat lately.

    Args:
        changed: told when scraping a revision began or ceased to fail.
    """

    name = "scraper"

    def __init__(
        self,
        collector: Collector,
        pods: Informer,
        streams: Streams,
        clock: Clock,
        changed: Callable[[Key], None],
    ) -> None:
        self._collector = collector
        self._pods = pods
        self._streams = streams
        self._clock = clock
        self._changed = changed
        self._rng = random.Random()
        self._limit = asyncio.Semaphore(MAX_SCRAPES)
        self._under_way: set[tuple[str, str]] = set()

    async def run(self) -> None:
        """Scrape until cancelled."""
        async with open_session() as session, asyncio.TaskGroup() as group:
            while True:
                for key in self._collector.revisions():
                    if key not in self._under_way and (silent := self._silent(key)):
                        self._under_way.add(key)
                        group.create_task(self._scrape(session, key, silent), name=f"scrape {'/'.join(key)}")
                await asyncio.sleep(SCRAPE_INTERVAL)

    def _silent(self, key: tuple[str, str]) -> list[Obj]:
        """Pods that nobody hears of otherwise."""
        settings = self._collector.settings(key)
        if settings is None or not settings.scrape_target:
            return []
        return [
            pod
            for pod in self._pods.by_index(BY_REVISION, "/".join(key))
            if is_serving(pod)
            and meta.at(pod, "status", "podIP")
            and not self._streams.streaming(meta.name(pod), SILENT_AFTER)
        ]

    async def _scrape(self, session: aiohttp.ClientSession, key: tuple[str, str], pods: list[Obj]) -> None:
        try:
            settings = self._collector.settings(key)
            if settings is None:
                return
            now = self._clock.wall()
            old, young = _by_age(pods, now, settings.stable_window)
            before = self._collector.failure(key)
            async with self._limit:
                try:
                    self._collector.scraped(key, now, await scrape(session, old, young, self._rng))
                except ScrapeFailed as exc:
                    self._collector.scraped(key, now, exc)
            if (before is None) != (self._collector.failure(key) is None):
                self._changed(Key(*key))
        finally:
            self._under_way.discard(key)


def _by_age(pods: Iterable[Obj], now: float, window: float) -> tuple[list[str], list[str]]:
    """Addresses of the pods that are older than the window, and of the others."""
    old: list[str] = []
    young: list[str] = []
    for pod in pods:
        started = meta.at(pod, "status", "startTime")
        age = now - datetime.fromisoformat(started).timestamp() if started else 0.0
        (old if age > window else young).append(meta.at(pod, "status", "podIP"))
    return old, young
