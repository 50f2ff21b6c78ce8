"""The autoscaler's parts, put together: in a process of its own, or inside embedded mode's control process.

    streams --> StatServer --> Collector --> MultiScaler --> Kpa --> scale subresource
                                   ^  Scraper, for pods that do not stream
                                   ^  Metrics, which says what to collect

Only the stat server starts at once; the rest waits until the caches are complete. A decider made before the pods are
known would take a revision under load for one without pods, and shrink it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp

from autoscaler.collect import Collector
from autoscaler.explain import Explanations
from autoscaler.kpa import Kpa, Probe
from autoscaler.metric import BY_REVISION, Metrics, Scraper, is_serving, revision_index
from autoscaler.multiscaler import MultiScaler
from autoscaler.scrape import read_at_most
from autoscaler.statserver import StatServer
from kncore.api import keys, meta
from kncore.api.resources import PODS
from kncore.clock import Clock, SteadyClock
from kncore.config.store import Store
from kncore.kube.client import Client, Key, Obj
from kncore.kube.informer import Change
from kncore.kube.informers import Informers, Synced
from kncore.kube.lease import AlwaysLeader, Leader
from kncore.runtime import Part
from kncore.wire import Stat

__all__ = ["Autoscaler", "build", "public_service_probe"]

PROBE_TIMEOUT: Final = 1.0
"""Seconds; the probe is repeated, so a slow answer need not be waited for."""


@dataclass(frozen=True)
class Autoscaler:
    """What `build` made: parts to run, and what others may ask."""

    parts: Sequence[Part]
    server: StatServer
    explanations: Explanations
    forget: Callable[[], None]
    """Drop all that was collected and decided: another replica does that now."""


def build(
    client: Client,
    informers: Informers,
    config: Store,
    clock: Clock,
    *,
    listen: tuple[str, int],
    probe: Probe,
    leader: Leader | None = None,
    owns: Callable[[str], bool] = lambda host: True,
) -> Autoscaler:
    """Wire the autoscaler; nothing starts before its parts are run.

    Args:
        config: kept equal to the ConfigMaps by somebody else (`kncore.kube.configs.follow`).
        listen: address of the stat server.
        probe: whether the activator answers for a ServerlessService, see `public_service_probe`.
        leader: whose revisions are ours; all, by default.
        owns: whether a stat stream for this host is ours, see `StatServer`.
    """
    leader = leader or AlwaysLeader()
    # Windows ignore what is older than themselves: a clock set back by an hour would keep every sleeper asleep for one.
    steady = SteadyClock(clock)
    collector = Collector()
    explanations = Explanations()
    pods = informers.of(PODS, labels=keys.REVISION, indexers={BY_REVISION: revision_index})

    def ready_pods(key: tuple[str, str]) -> int | None:
        return sum(map(is_serving, pods.by_index(BY_REVISION, "/".join(key))))

    # The multiscaler tells the reconciler and the reconciler asks the multiscaler; the knot is tied here.
    multiscaler = MultiScaler(collector, ready_pods, explanations, steady, lambda key: kpa.decided(key))
    kpa = Kpa(
        client,
        informers,
        config,
        multiscaler,
        explanations,
        clock,
        ready_pods=ready_pods,
        probe=probe,
        leader=leader,
    )

    def pod_changed(change: Change) -> None:
        """A pod became ready or ceased to be: its revision's status and activator count depend on it."""
        before = change.old is not None and is_serving(change.old)
        after = change.type != "deleted" and is_serving(change.object)
        if before != after and (revision := meta.labels(change.object).get(keys.REVISION)):
            kpa.controller.enqueue(Key(meta.namespace(change.object), revision))

    pods.add_handler(pod_changed)

    def on_stat(key: tuple[str, str], stat: Stat) -> None:
        collector.record(key, steady.wall(), stat)
        multiscaler.poke(key, stat)

    def forget() -> None:
        for key in collector.revisions():
            collector.forget(key)
        for key in multiscaler.revisions():
            kpa.forget(Key(*key))

    metrics = Metrics(client, informers, collector, clock, steady, leader=leader)
    server = StatServer(listen, on_stat, explanations, clock, owns=owns)
    scraper = Scraper(collector, pods, server, steady, metrics.controller.enqueue)
    parts: list[Part] = [metrics.controller, kpa.controller, multiscaler, scraper]
    return Autoscaler([server, *(Synced(part, informers) for part in parts)], server, explanations, forget)


def public_service_probe(session: aiohttp.ClientSession, *, cluster_domain: str, proxy: str | None = None) -> Probe:
    """A probe of a revision's public Service, by its cluster name (serving §4.8).

    Args:
        proxy: HTTP proxy that knows cluster names, where the resolver does not (embedded mode).
    """

    async def probe(sks: Obj) -> bool:
        service = meta.at(sks, "status", "serviceName", default="")
        if not service:
            return False
        port = 81 if meta.at(sks, "spec", "protocolType") == "h2c" else 80
        url = f"http://{service}.{meta.namespace(sks)}.svc.{cluster_domain}:{port}//healthz"
        headers = {"User-Agent": "Knative-Autoscaling-Probe", keys.HEADER_PROBE: "activator"}
        timeout = aiohttp.ClientTimeout(total=PROBE_TIMEOUT)
        try:
            async with session.get(
                url, headers=headers, proxy=proxy, timeout=timeout, allow_redirects=False
            ) as response:
                return response.status == 200 and await read_at_most(response, 64) == b"activator"
        except (aiohttp.ClientError, TimeoutError):
            return False

    return probe
