"""The store follows the ConfigMaps, and keeps the last good value of each."""

import asyncio

import pytest

from kncore.api.resources import CONFIG_MAPS
from kncore.config.store import Store
from kncore.kube.configs import follow
from kncore.kube.informers import Informers
from kncore.testing.kube import MemoryClient


def config_map(name, data, namespace="knative-serving"):
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace},
        "data": data,
    }


class Recorded:
    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []

    def event(self, obj, type_, reason, message) -> None:
        self.events.append((obj["metadata"]["name"], type_, reason))


@pytest.fixture
async def followed():
    """(store, client, events) with a broken and a foreign ConfigMap there from the start."""
    client = MemoryClient(
        [
            config_map("config-autoscaler", {"stable-window": "30s"}),
            config_map("config-gc", {"max-non-active-revisions": "many"}),
            config_map("unrelated", {"stable-window": "x"}),
            config_map("config-autoscaler", {"stable-window": "99s"}, namespace="other"),
        ]
    )
    informers, store, events = Informers(client, resync=0), Store(), Recorded()
    follow(informers, store, "knative-serving", events)
    task = asyncio.get_running_loop().create_task(informers.run())
    await informers.wait_synced()
    yield store, client, events
    task.cancel()


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_store_holds_what_the_config_maps_say_once_synced(followed) -> None:
    store, _, events = followed
    assert store.autoscaler.stable_window == 30.0
    assert store.gc == Store().gc
    assert events.events == [("config-gc", "Warning", "InvalidConfiguration")]


async def test_changes_are_live_and_bad_ones_change_nothing(followed) -> None:
    store, client, events = followed
    client.seed(config_map("config-autoscaler", {"stable-window": "40s"}))
    await settled()
    assert store.autoscaler.stable_window == 40.0
    client.seed(config_map("config-autoscaler", {"stable-window": "soon"}))
    await settled()
    assert store.autoscaler.stable_window == 40.0
    assert events.events[-1] == ("config-autoscaler", "Warning", "InvalidConfiguration")


async def test_deleted_means_defaults_where_there_are_any(followed) -> None:
    store, client, _ = followed
    client.seed(config_map("config-deployment", {"queue-sidecar-image": "example.com/queue:v2"}))
    await settled()
    kept = store.deployment
    await client.delete(CONFIG_MAPS, "config-autoscaler", "knative-serving")
    await client.delete(CONFIG_MAPS, "config-deployment", "knative-serving")
    await settled()
    assert store.autoscaler == Store().autoscaler
    assert store.deployment == kept != Store().deployment


async def test_a_bad_config_map_needs_nobody_to_hear_of_it() -> None:
    client = MemoryClient([config_map("config-gc", {"max-non-active-revisions": "many"})])
    informers, store = Informers(client, resync=0), Store()
    follow(informers, store, "knative-serving")
    task = asyncio.get_running_loop().create_task(informers.run())
    await informers.wait_synced()
    assert store.gc == Store().gc
    task.cancel()
