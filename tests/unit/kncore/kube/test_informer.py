"""The cache that follows the server: nothing lost, nothing twice, whatever happens to the connection."""

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest

from kncore.api.resources import CONFIG_MAPS, PODS, Resource
from kncore.kube.client import Key, Obj, WatchEvent
from kncore.kube.errors import InternalError, Unreachable
from kncore.kube.informer import Change, Informer, NotSynced
from kncore.kube.informers import Informers
from kncore.testing.kube import MemoryClient

pytestmark = pytest.mark.looptime


def config(name: str, value: str = "", namespace: str = "default", **labels: str) -> Obj:
    return {"metadata": {"name": name, "namespace": namespace, "labels": labels}, "data": {"value": value}}


@contextlib.asynccontextmanager
async def following(informer: Informer) -> AsyncIterator[list[Change]]:
    """Run the informer; the list fills with what it reports."""
    changes: list[Change] = []
    informer.add_handler(changes.append)
    running = asyncio.create_task(informer.run())
    try:
        await informer.wait_synced(asyncio.get_running_loop().time() + 60.0)
        await asyncio.sleep(0.001)  # the watch is open, so that breaking it means something
        yield changes
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def settled() -> None:
    """Longer than any back-off; costs nothing, the loop's time is fake."""
    await asyncio.sleep(10.0)


def told(changes: list[Change]) -> list[tuple[str, str, str]]:
    return [(change.type, change.object["metadata"]["name"], change.object["data"]["value"]) for change in changes]


async def test_what_exists_is_added_before_the_cache_is_synced(client: MemoryClient) -> None:
    await client.create(CONFIG_MAPS, config("a", "1"))
    await client.create(CONFIG_MAPS, config("b", "1", namespace="other"))
    informer = Informer(client, CONFIG_MAPS)
    assert not informer.synced
    async with following(informer) as changes:
        assert told(changes) == [("added", "a", "1"), ("added", "b", "1")]
        assert informer.get("a", "default") is changes[0].object
        assert informer.get("a", "other") is None
        assert [obj["metadata"]["name"] for obj in informer.list("other")] == ["b"]
        assert len(informer.list()) == 2
        assert set(informer.keys()) == {Key("default", "a"), Key("other", "b")}


async def test_changes_come_in_order_with_what_was_before(client: MemoryClient) -> None:
    informer = Informer(client, CONFIG_MAPS)
    async with following(informer) as changes:
        stored = await client.create(CONFIG_MAPS, config("a", "1"))
        await client.update(CONFIG_MAPS, stored | {"data": {"value": "2"}})
        await client.delete(CONFIG_MAPS, "a", "default")
        await settled()
    assert told(changes) == [("added", "a", "1"), ("updated", "a", "2"), ("deleted", "a", "2")]
    assert changes[1].old is changes[0].object
    assert changes[2].old is changes[1].object
    assert informer.list() == []
    assert informer.statistics().lists == 1


async def test_a_broken_watch_goes_on_where_it_was(client: MemoryClient) -> None:
    informer = Informer(client, CONFIG_MAPS)
    async with following(informer) as changes:
        await client.create(CONFIG_MAPS, config("a", "1"))
        await settled()
        client.break_watches(Unreachable("cut"))
        await client.create(CONFIG_MAPS, config("b", "1"))
        await client.delete(CONFIG_MAPS, "a", "default")
        client.fail_next(Unreachable("still down"), verb="watch", times=3)
        await settled()
        client.break_watches()  # a clean end loses nothing either
        await client.create(CONFIG_MAPS, config("c", "1"))
        await settled()
    assert told(changes) == [("added", "a", "1"), ("added", "b", "1"), ("deleted", "a", "1"), ("added", "c", "1")]
    assert informer.statistics().lists == 1
    assert informer.statistics().duplicates == 0
    assert informer.statistics().failures == 4
    assert informer.statistics().last_error == ""


async def test_after_expired_history_only_the_difference_is_reported(client: MemoryClient) -> None:
    for name in ("same", "changed", "gone", "reborn"):
        await client.create(CONFIG_MAPS, config(name, "1"))
    informer = Informer(client, CONFIG_MAPS, indexers={"value": lambda obj: [obj["data"]["value"]]})
    async with following(informer) as changes:
        changes.clear()
        client.break_watches()
        await client.patch(CONFIG_MAPS, "changed", {"data": {"value": "2"}}, "default")
        await client.delete(CONFIG_MAPS, "gone", "default")
        await client.delete(CONFIG_MAPS, "reborn", "default")
        await client.create(CONFIG_MAPS, config("reborn", "2"))
        await client.create(CONFIG_MAPS, config("new", "2"))
        client.expire_history()
        await settled()
        assert told(changes) == [
            ("updated", "changed", "2"),
            ("added", "new", "2"),
            ("deleted", "reborn", "1"),  # another object has the name now, and both are told
            ("added", "reborn", "2"),
            ("deleted", "gone", "1"),
        ]
        assert {obj["metadata"]["name"] for obj in informer.by_index("value", "2")} == {"changed", "new", "reborn"}
        assert {obj["metadata"]["name"] for obj in informer.by_index("value", "1")} == {"same"}
    assert informer.statistics().lists == 2
    assert informer.statistics().objects == 4


async def test_a_stream_that_was_not_understood_is_followed_by_a_list(client: MemoryClient) -> None:
    informer = Informer(client, CONFIG_MAPS)
    async with following(informer) as changes:
        client.break_watches(InternalError("garbage"))
        await client.create(CONFIG_MAPS, config("a", "1"))
        await settled()
    assert told(changes) == [("added", "a", "1")]
    assert informer.statistics().lists == 2


async def test_bookmarks_keep_a_quiet_watch_from_expiring(client: MemoryClient) -> None:
    informer = Informer(client, CONFIG_MAPS)
    async with following(informer):
        await client.create(PODS, {"metadata": {"name": "noise"}}, "default")
        client.send_bookmarks()
        await settled()
        assert informer.statistics().resource_version == client.resource_version
        client.break_watches()
        client.expire_history()
        await settled()
    assert informer.statistics().lists == 1
    assert informer.statistics().events == 0


async def test_waiting_for_a_server_that_does_not_answer_ends_at_the_deadline(client: MemoryClient) -> None:
    client.fail_next(Unreachable("connection refused"), times=10_000)
    informer = Informer(client, CONFIG_MAPS)
    running = asyncio.create_task(informer.run())
    with pytest.raises(NotSynced, match="configmaps could not be listed in time: list: connection refused"):
        await informer.wait_synced(asyncio.get_running_loop().time() + 60.0)
    running.cancel()
    assert 30 < informer.statistics().failures < 70  # backs off to two seconds, and no further


class ClosingAtOnce(MemoryClient):
    async def watch(
        self, resource: Resource, namespace: str | None = None, **options: Any
    ) -> AsyncGenerator[WatchEvent, None]:
        for event in ():
            yield event


async def test_a_server_that_ends_every_watch_at_once_is_not_hammered() -> None:
    informer = Informer(ClosingAtOnce(), CONFIG_MAPS)
    async with following(informer):
        await asyncio.sleep(60.0)
        assert 30 < informer.statistics().watches < 70


async def test_a_retry_after_is_honoured(client: MemoryClient) -> None:
    error = Unreachable("busy")
    error.retry_after = 8.0
    client.fail_next(error, verb="list")
    informer = Informer(client, CONFIG_MAPS)
    async with following(informer):
        assert asyncio.get_running_loop().time() == pytest.approx(8.0, abs=0.1)


async def test_an_object_that_leaves_the_selection_is_deleted_from_the_cache(client: MemoryClient) -> None:
    informer = Informer(client, CONFIG_MAPS, namespace="default", labels="app=web")
    async with following(informer) as changes:
        await client.create(CONFIG_MAPS, config("a", "1", app="web"))
        await client.create(CONFIG_MAPS, config("b", "1", app="db"))
        await client.create(CONFIG_MAPS, config("c", "1", namespace="other", app="web"))
        await client.patch(CONFIG_MAPS, "a", {"metadata": {"labels": {"app": "db"}}}, "default")
        await settled()
    assert [(change.type, change.object["metadata"]["name"]) for change in changes] == [
        ("added", "a"),
        ("deleted", "a"),
    ]


async def test_reminders_of_everything_come_at_the_resync_interval(client: MemoryClient) -> None:
    await client.create(CONFIG_MAPS, config("a", "1"))
    informer = Informer(client, CONFIG_MAPS, resync=100.0)
    async with following(informer) as changes:
        changes.clear()
        await asyncio.sleep(90.0)
        assert changes == []
        await asyncio.sleep(125.0)
    assert [(change.type, change.resync, change.key.name) for change in changes] == [("updated", True, "a")] * len(
        changes
    )
    assert 1 <= len(changes) <= 2


async def test_a_late_handler_is_told_what_is_there(client: MemoryClient) -> None:
    await client.create(CONFIG_MAPS, config("a", "1"))
    informer = Informer(client, CONFIG_MAPS)
    async with following(informer):
        late: list[Change] = []
        informer.add_handler(late.append)
        assert told(late) == [("added", "a", "1")]


async def test_a_handlers_bug_does_not_blind_the_others(client: MemoryClient) -> None:
    informer = Informer(client, CONFIG_MAPS)
    informer.add_handler(lambda change: 1 / 0)
    async with following(informer) as changes:
        await client.create(CONFIG_MAPS, config("a", "1"))
        await settled()
    assert told(changes) == [("added", "a", "1")]
    assert informer.statistics().handler_errors == 1


async def test_handlers_see_the_cache_and_its_indexes_as_changed(client: MemoryClient) -> None:
    informer = Informer(client, CONFIG_MAPS)
    informer.add_indexers({"value": lambda obj: [obj["data"]["value"]]})
    seen: list[tuple[bool, int]] = []
    informer.add_handler(
        lambda change: seen.append(
            (informer.get("a", "default") is not None, len(informer.by_index("value", change.object["data"]["value"])))
        )
    )
    async with following(informer):
        await client.create(CONFIG_MAPS, config("a", "1"))
        await client.patch(CONFIG_MAPS, "a", {"data": {"value": "2"}}, "default")
        await client.delete(CONFIG_MAPS, "a", "default")
        await settled()
    assert seen == [(True, 1), (True, 1), (False, 0)]


async def test_an_index_added_late_covers_what_is_there_and_may_not_be_redefined(client: MemoryClient) -> None:
    await client.create(CONFIG_MAPS, config("a", "1"))
    informer = Informer(client, CONFIG_MAPS)
    async with following(informer):
        informer.add_indexers({"value": lambda obj: [obj["data"]["value"]]})
        assert [obj["metadata"]["name"] for obj in informer.by_index("value", "1")] == ["a"]
        with pytest.raises(ValueError, match="index 'value' exists"):
            informer.add_indexers({"value": lambda obj: []})


async def test_labels_of_a_list_are_compared_for_equality(client: MemoryClient) -> None:
    await client.create(CONFIG_MAPS, config("a", app="web", tier="x"))
    await client.create(CONFIG_MAPS, {"metadata": {"name": "bare", "namespace": "default"}})
    informer = Informer(client, CONFIG_MAPS)
    async with following(informer):
        assert [obj["metadata"]["name"] for obj in informer.list(labels={"app": "web"})] == ["a"]
        assert informer.list("default", {"app": "web", "tier": "y"}) == []


async def test_managed_fields_are_not_kept(client: MemoryClient) -> None:
    obj = config("a")
    obj["metadata"]["managedFields"] = [{"manager": "kubectl"}]
    await client.create(CONFIG_MAPS, obj)
    informer = Informer(client, CONFIG_MAPS)
    async with following(informer):
        assert "managedFields" not in informer.list()[0]["metadata"]


async def test_a_big_list_lets_other_tasks_run(client: MemoryClient) -> None:
    for number in range(1000):
        await client.create(CONFIG_MAPS, config(f"c{number}"))
    informer = Informer(client, CONFIG_MAPS)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while not informer.synced:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    async with following(informer):
        await counting
    assert turns > 6


async def test_cancelling_releases_the_watch_and_the_timer(client: MemoryClient) -> None:
    informer = Informer(client, CONFIG_MAPS, resync=10.0)
    async with following(informer) as changes:
        await settled()
        assert client.watching == 1
    assert client.watching == 0
    await client.create(CONFIG_MAPS, config("a"))
    await asyncio.sleep(100.0)
    assert changes == []


@pytest.mark.parametrize("seed", range(20))
async def test_chaos(seed: int) -> None:
    """Random writes under random faults: the cache ends equal, and the reported changes alone rebuild it."""
    dice = random.Random(seed)
    client = MemoryClient(history=30)
    informer = Informer(client, CONFIG_MAPS, indexers={"value": lambda obj: [obj["data"]["value"]]})
    async with following(informer) as changes:
        for step in range(300):
            name = f"c{dice.randrange(8)}"
            stored = client.peek(CONFIG_MAPS, name, "default")
            if stored is None:
                client.seed({"apiVersion": "v1", "kind": "ConfigMap"} | config(name, str(step)))
            elif dice.random() < 0.3:
                with contextlib.suppress(Unreachable):  # the planned fault may hit us
                    await client.delete(CONFIG_MAPS, name, "default")
            else:
                client.seed(stored | {"data": {"value": str(step)}})
            match dice.randrange(12):
                case 0:
                    client.break_watches(Unreachable("cut"))
                case 1:
                    client.break_watches()
                case 2:
                    client.expire_history()
                    client.break_watches()
                case 3:
                    client.fail_next(Unreachable("down"), times=dice.randrange(1, 3))
                case 4:
                    client.send_bookmarks()
                case 5:
                    await asyncio.sleep(dice.random() * 8.0)
                case _:
                    await asyncio.sleep(0)
        await asyncio.sleep(60.0)
        stored_now = {Key.of(obj): obj for obj in client.objects(CONFIG_MAPS)}
        assert {Key.of(obj): obj for obj in informer.list()} == stored_now
        for obj in informer.list():
            assert informer.by_index("value", obj["data"]["value"]) == [obj]
    rebuilt: dict[Key, Obj] = {}
    for change in changes:
        match change.type:
            case "added":
                assert change.key not in rebuilt
                rebuilt[change.key] = change.object
            case "updated":
                assert rebuilt[change.key] is change.old
                assert change.old is not None
                assert change.old["metadata"]["resourceVersion"] != change.object["metadata"]["resourceVersion"]
                rebuilt[change.key] = change.object
            case "deleted":
                assert rebuilt.pop(change.key) is change.old
    assert rebuilt == stored_now
    versions = [int(change.object["metadata"]["resourceVersion"]) for change in changes if change.type != "deleted"]
    assert len(versions) == len(set(versions))  # no version was reported twice


async def test_informers_are_shared_and_follow_latecomers(client: MemoryClient) -> None:
    await client.create(CONFIG_MAPS, config("a", "1"))
    informers = Informers(client)
    first = informers.of(CONFIG_MAPS, indexers={"one": lambda obj: ["x"]})
    assert informers.of(CONFIG_MAPS, indexers={"two": lambda obj: ["y"]}) is first
    assert informers.of(CONFIG_MAPS, "default") is not first
    running = asyncio.create_task(informers.run())
    deadline = asyncio.get_running_loop().time() + 10.0
    await informers.wait_synced(deadline)
    pods = informers.of(PODS)
    await informers.wait_synced(deadline)
    assert pods.synced
    assert len(first.by_index("one", "x")) == len(first.by_index("two", "y")) == 1
    assert {name: one.objects for name, one in informers.statistics().items()} == {
        "configmaps": 1,
        "configmaps/default": 1,
        "pods": 0,
    }
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert client.watching == 0
