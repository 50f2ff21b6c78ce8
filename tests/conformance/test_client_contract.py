"""What every `kncore.kube.client.Client` promises, checked against each implementation we have.

`SERVERS` maps a name to a context manager that yields a client of an empty server with the namespace `default`. Tests
use only what a strict server accepts, and wait for what a real one does in the background.
"""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from kncore.api.meta import owner_reference
from kncore.api.resources import CONFIG_MAPS, DEPLOYMENTS, KSERVICES, NAMESPACES, PODS
from kncore.kube.client import Client, Obj, Patch, WatchEvent
from kncore.kube.cluster import HttpClient
from kncore.kube.errors import AlreadyExists, BadRequest, Conflict, Invalid, NotFound, UnsupportedMediaType
from kncore.testing.kube import MemoryClient
from torpor.embedded.apiserver.local import LocalClient
from torpor.embedded.apiserver.server import ApiServer


@contextlib.asynccontextmanager
async def memory() -> AsyncIterator[Client]:
    client = MemoryClient()
    await client.create(NAMESPACES, {"metadata": {"name": "default"}})
    yield client
    await client.aclose()


@contextlib.asynccontextmanager
async def embedded() -> AsyncIterator[Client]:
    with tempfile.TemporaryDirectory(prefix="contract-") as folder:
        server = ApiServer(folder)
        await server.start()
        client = HttpClient(server.url, ca=server.ca_pem, token=server.token)
        try:
            yield client
        finally:
            await client.aclose()
            await server.stop()


@contextlib.asynccontextmanager
async def local() -> AsyncIterator[Client]:
    """The same server without HTTP between."""
    with tempfile.TemporaryDirectory() as state:
        server = ApiServer(state, knative=True)
        await server.start()
        try:
            yield LocalClient(server.core.resources)
        finally:
            await server.stop()


SERVERS: dict[str, Callable[[], contextlib.AbstractAsyncContextManager[Client]]] = {
    "memory": memory,
    "embedded": embedded,
    "local": local,
}


@pytest.fixture(params=SERVERS)
async def client(request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    async with SERVERS[request.param]() as made:
        yield made


def config(name: str, value: str = "1", **labels: str) -> Obj:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default", "labels": labels},
        "data": {"value": value},
    }


def deployment(name: str, replicas: int = 0) -> Obj:
    container = {"name": "app", "image": "dev.local/app"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}},
        },
    }


def service(name: str) -> Obj:
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"template": {"spec": {"containers": [{"image": "dev.local/app"}]}}},
    }


async def eventually(check: Callable[[], Awaitable[bool]], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not await check():  # noqa: ASYNC110 (the server is another process; it sets no event of ours)
            await asyncio.sleep(0.02)


async def gone(client: Client, resource: Any, name: str) -> bool:
    try:
        await client.get(resource, name, "default")
    except NotFound:
        return True
    return False


async def take(events: AsyncIterator[WatchEvent], count: int) -> list[tuple[str, str]]:
    """The next `count` changes of a watch, as type and name; bookmarks do not count."""
    found: list[tuple[str, str]] = []
    async with asyncio.timeout(5.0):
        async for event in events:
            if event.type != "BOOKMARK":
                found.append((event.type, event.object["metadata"]["name"]))
            if len(found) == count:
                break
    return found


# -- objects --------------------------------------------------------------------------------------------------------


async def test_a_new_object_gets_its_identity(client: Client) -> None:
    made = await client.create(CONFIG_MAPS, {"metadata": {"name": "a"}, "data": {"k": "v"}}, "default")
    meta = made["metadata"]
    assert (made["apiVersion"], made["kind"], meta["namespace"]) == ("v1", "ConfigMap", "default")
    assert meta["uid"]
    assert meta["resourceVersion"]
    assert meta["creationTimestamp"].endswith("Z")
    assert await client.get(CONFIG_MAPS, "a", "default") == made


async def test_names(client: Client) -> None:
    await client.create(CONFIG_MAPS, config("a"))
    with pytest.raises(AlreadyExists) as caught:
        await client.create(CONFIG_MAPS, config("a"))
    assert caught.value.message == 'configmaps "a" already exists'
    assert caught.value.details["name"] == "a"
    generated = await client.create(CONFIG_MAPS, {"metadata": {"generateName": "a-"}}, "default")
    assert generated["metadata"]["name"].startswith("a-")
    with pytest.raises(NotFound) as missing:
        await client.get(CONFIG_MAPS, "b", "default")
    assert missing.value.message == 'configmaps "b" not found'
    with pytest.raises(Invalid):
        await client.create(CONFIG_MAPS, {"metadata": {}}, "default")
    with pytest.raises(BadRequest):
        await client.create(CONFIG_MAPS, config("c") | {"kind": "Secret"})


async def test_a_stale_version_is_a_conflict_and_none_is_not(client: Client) -> None:
    first = await client.create(CONFIG_MAPS, config("a"))
    second = await client.update(CONFIG_MAPS, first | {"data": {"value": "2"}})
    assert int(second["metadata"]["resourceVersion"]) > int(first["metadata"]["resourceVersion"])
    with pytest.raises(Conflict, match="the object has been modified"):
        await client.update(CONFIG_MAPS, first | {"data": {"value": "3"}})
    await client.update(CONFIG_MAPS, config("a", "4"))
    assert (await client.get(CONFIG_MAPS, "a", "default"))["data"] == {"value": "4"}
    with pytest.raises(NotFound):
        await client.update(CONFIG_MAPS, config("b"))


async def test_an_update_that_changes_nothing_is_not_a_change(client: Client) -> None:
    first = await client.create(CONFIG_MAPS, config("a"))
    again = await client.update(CONFIG_MAPS, first)
    assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


async def test_identity_cannot_be_changed(client: Client) -> None:
    first = await client.create(CONFIG_MAPS, config("a"))
    changed = config("a", "2")
    changed["metadata"] |= {"creationTimestamp": "2001-01-01T00:00:00Z"}
    second = await client.update(CONFIG_MAPS, changed)
    for field in ("uid", "creationTimestamp"):
        assert second["metadata"][field] == first["metadata"][field]
    with pytest.raises(Conflict):
        await client.patch(CONFIG_MAPS, "a", {"metadata": {"uid": "another"}}, "default")


async def test_the_generation_counts_changes_of_the_spec_only(client: Client) -> None:
    made = await client.create(DEPLOYMENTS, deployment("a"))
    assert made["metadata"]["generation"] == 1
    labelled = await client.patch(DEPLOYMENTS, "a", {"metadata": {"labels": {"x": "y"}}}, "default")
    assert labelled["metadata"]["generation"] == 1
    status = await client.patch(DEPLOYMENTS, "a", {"status": {"replicas": 1}}, "default", subresource="status")
    assert status["metadata"]["generation"] == 1
    spec = await client.patch(DEPLOYMENTS, "a", {"spec": {"replicas": 1}}, "default")
    assert spec["metadata"]["generation"] == 2


async def test_spec_and_status_are_written_separately(client: Client) -> None:
    made = await client.create(DEPLOYMENTS, deployment("a") | {"status": {"replicas": 9}})
    assert made.get("status", {}).get("replicas", 0) == 0
    changed = await client.update(DEPLOYMENTS, made | {"status": {"replicas": 9}})
    assert changed.get("status", {}).get("replicas", 0) == 0
    spec = made["spec"] | {"replicas": 7}
    changed = await client.update(
        DEPLOYMENTS, changed | {"spec": spec, "status": {"replicas": 3}}, subresource="status"
    )
    assert changed["status"]["replicas"] == 3
    assert changed["spec"]["replicas"] == 0
    changed = await client.patch(DEPLOYMENTS, "a", {"spec": {"replicas": 5}, "status": {"replicas": 8}}, "default")
    assert (changed["spec"]["replicas"], changed["status"]["replicas"]) == (5, 3)


async def test_patches(client: Client) -> None:
    first = await client.create(CONFIG_MAPS, config("a", app="web", tier="x"))
    merged = await client.patch(CONFIG_MAPS, "a", {"metadata": {"labels": {"tier": None}}}, "default")
    assert merged["metadata"]["labels"] == {"app": "web"}
    operations = [
        {"op": "test", "path": "/data/value", "value": "1"},
        {"op": "add", "path": "/data/more", "value": "2"},
        {"op": "replace", "path": "/data/value", "value": "3"},
    ]
    patched = await client.patch(CONFIG_MAPS, "a", operations, "default", how=Patch.JSON)
    assert patched["data"] == {"value": "3", "more": "2"}
    with pytest.raises(Invalid):
        await client.patch(CONFIG_MAPS, "a", operations, "default", how=Patch.JSON)  # the test fails now
    with pytest.raises(NotFound):
        await client.patch(CONFIG_MAPS, "b", {"data": {}}, "default")
    stale = {"metadata": {"resourceVersion": first["metadata"]["resourceVersion"]}, "data": {"value": "9"}}
    with pytest.raises(Conflict):
        await client.patch(CONFIG_MAPS, "a", stale, "default")
    strategic = await client.patch(CONFIG_MAPS, "a", {"data": {"more": None}}, "default", how=Patch.STRATEGIC)
    assert strategic["data"] == {"value": "3"}


async def test_a_custom_kind_takes_no_strategic_patch(client: Client) -> None:
    await client.create(KSERVICES, service("a"))
    with pytest.raises(UnsupportedMediaType):
        await client.patch(KSERVICES, "a", {"metadata": {"labels": {"x": "y"}}}, "default", how=Patch.STRATEGIC)


async def test_apply_creates_then_changes(client: Client) -> None:
    made = await client.patch(CONFIG_MAPS, "a", config("a"), "default", how=Patch.APPLY)
    changed = await client.patch(CONFIG_MAPS, "a", config("a", "2"), "default", how=Patch.APPLY)
    assert changed["metadata"]["uid"] == made["metadata"]["uid"]
    assert changed["data"] == {"value": "2"}


async def test_scale(client: Client) -> None:
    await client.create(DEPLOYMENTS, deployment("a", replicas=1))
    scale = await client.get(DEPLOYMENTS, "a", "default", subresource="scale")
    assert (scale["kind"], scale["spec"]["replicas"]) == ("Scale", 1)
    patch = [{"op": "replace", "path": "/spec/replicas", "value": 3}]
    scale = await client.patch(DEPLOYMENTS, "a", patch, "default", how=Patch.JSON, subresource="scale")
    assert (scale["kind"], scale["spec"]["replicas"]) == ("Scale", 3)
    stored = await client.get(DEPLOYMENTS, "a", "default")
    assert stored["spec"]["replicas"] == 3
    assert stored["metadata"]["generation"] == 2
    with pytest.raises(Invalid):
        await client.patch(DEPLOYMENTS, "a", {"spec": {"replicas": -1}}, "default", subresource="scale")
    with pytest.raises(NotFound):
        await client.patch(DEPLOYMENTS, "b", patch, "default", how=Patch.JSON, subresource="scale")


# -- collections ----------------------------------------------------------------------------------------------------


async def test_lists_and_selectors(client: Client) -> None:
    for name, tier in (("a", "front"), ("b", "back"), ("c", "front")):
        await client.create(CONFIG_MAPS, config(name, app="web", tier=tier))

    async def names(**selectors: str) -> list[str]:
        found = await client.list(CONFIG_MAPS, "default", **selectors)
        return [obj["metadata"]["name"] for obj in found.items if obj["metadata"].get("labels", {}).get("app")]

    assert await names(labels="app=web") == ["a", "b", "c"]
    assert await names(labels="tier in (back),app") == ["b"]
    assert await names(labels="app=web,tier!=back") == ["a", "c"]
    assert await names(fields="metadata.name=b") == ["b"]
    assert await names(labels="tier=front", fields="metadata.name!=c") == ["a"]
    everywhere = await client.list(CONFIG_MAPS, labels="app=web")
    assert {(obj["apiVersion"], obj["kind"]) for obj in everywhere.items} == {("v1", "ConfigMap")}
    with pytest.raises(BadRequest):
        await client.list(CONFIG_MAPS, "default", labels="a in b")


# -- deletion -------------------------------------------------------------------------------------------------------


async def test_deletion(client: Client) -> None:
    made = await client.create(CONFIG_MAPS, config("a"))
    with pytest.raises(Conflict):
        await client.delete(CONFIG_MAPS, "a", "default", uid="another")
    await client.delete(CONFIG_MAPS, "a", "default", uid=made["metadata"]["uid"])
    with pytest.raises(NotFound):
        await client.delete(CONFIG_MAPS, "a", "default")


async def test_finalizers_hold_a_deleted_object(client: Client) -> None:
    made = config("a")
    made["metadata"]["finalizers"] = ["example.com/hold"]
    await client.create(CONFIG_MAPS, made)
    await client.delete(CONFIG_MAPS, "a", "default")
    dying = await client.get(CONFIG_MAPS, "a", "default")
    assert dying["metadata"]["deletionTimestamp"]
    await client.delete(CONFIG_MAPS, "a", "default")  # once more changes nothing
    more = {"metadata": {"finalizers": ["example.com/hold", "example.com/late"]}}
    with pytest.raises(Invalid):
        await client.patch(CONFIG_MAPS, "a", more, "default")
    await client.patch(CONFIG_MAPS, "a", {"metadata": {"finalizers": None}}, "default")
    assert await gone(client, CONFIG_MAPS, "a")


async def test_what_only_a_deleted_object_owned_goes_too(client: Client) -> None:
    parents = [await client.create(CONFIG_MAPS, config(name)) for name in ("one", "two")]
    for name, owners in (("ours", parents[:1]), ("shared", parents), ("orphan", parents[:1])):
        child = config(name)
        child["metadata"]["ownerReferences"] = [owner_reference(owner, controller=False) for owner in owners]
        await client.create(CONFIG_MAPS, child)
    grandchild = config("grandchild")
    grandchild["metadata"]["ownerReferences"] = [owner_reference(await client.get(CONFIG_MAPS, "ours", "default"))]
    await client.create(CONFIG_MAPS, grandchild)
    await client.patch(CONFIG_MAPS, "orphan", {"metadata": {"ownerReferences": None}}, "default")
    await client.delete(CONFIG_MAPS, "one", "default")
    await eventually(lambda: gone(client, CONFIG_MAPS, "grandchild"))
    assert await gone(client, CONFIG_MAPS, "ours")
    assert not await gone(client, CONFIG_MAPS, "orphan")
    assert not await gone(client, CONFIG_MAPS, "shared")


async def test_orphans_survive(client: Client) -> None:
    parent = await client.create(CONFIG_MAPS, config("parent"))
    child = config("child")
    child["metadata"]["ownerReferences"] = [owner_reference(parent)]
    await client.create(CONFIG_MAPS, child)
    await client.delete(CONFIG_MAPS, "parent", "default", propagation="Orphan")
    await eventually(lambda: gone(client, CONFIG_MAPS, "parent"))

    async def free() -> bool:
        stored = await client.get(CONFIG_MAPS, "child", "default")
        return not stored["metadata"].get("ownerReferences")

    await eventually(free)


async def test_a_foreground_deletion_waits_for_what_is_owned(client: Client) -> None:
    parent = await client.create(CONFIG_MAPS, config("parent"))
    child = config("child")
    child["metadata"] |= {"ownerReferences": [owner_reference(parent)], "finalizers": ["example.com/hold"]}
    await client.create(CONFIG_MAPS, child)
    await client.delete(CONFIG_MAPS, "parent", "default", propagation="Foreground")

    async def dying() -> bool:
        return "deletionTimestamp" in (await client.get(CONFIG_MAPS, "child", "default"))["metadata"]

    await eventually(dying)
    assert not await gone(client, CONFIG_MAPS, "parent")
    await client.patch(CONFIG_MAPS, "child", {"metadata": {"finalizers": None}}, "default")
    await eventually(lambda: gone(client, CONFIG_MAPS, "parent"))


async def test_a_pod_on_a_node_is_given_its_grace_period(client: Client) -> None:
    pod = {
        "metadata": {"name": "a"},
        "spec": {
            "nodeName": "nowhere",
            "terminationGracePeriodSeconds": 45,
            "containers": [{"name": "app", "image": "dev.local/app"}],
        },
    }
    await client.create(PODS, pod, "default")
    await client.delete(PODS, "a", "default")
    stored = await client.get(PODS, "a", "default")
    assert stored["metadata"]["deletionGracePeriodSeconds"] == 45
    await client.delete(PODS, "a", "default", grace=0)
    assert await gone(client, PODS, "a")


# -- watches --------------------------------------------------------------------------------------------------------


async def test_a_watch_continues_a_list_without_a_gap(client: Client) -> None:
    await client.create(CONFIG_MAPS, config("before", app="web"))
    listed = await client.list(CONFIG_MAPS, "default", labels="app=web")
    await client.create(CONFIG_MAPS, config("between", app="web"))
    stream = client.watch(CONFIG_MAPS, "default", resource_version=listed.resource_version, labels="app=web")
    async with contextlib.aclosing(stream):
        assert await take(stream, 1) == [("ADDED", "between")]
        await client.patch(CONFIG_MAPS, "before", {"data": {"value": "2"}}, "default")
        await client.delete(CONFIG_MAPS, "between", "default")
        assert await take(stream, 2) == [("MODIFIED", "before"), ("DELETED", "between")]


async def test_a_watch_from_a_change_sends_what_came_after_it(client: Client) -> None:
    first = await client.create(CONFIG_MAPS, config("a"))
    second = await client.create(CONFIG_MAPS, config("b"))
    await client.delete(CONFIG_MAPS, "a", "default")
    for start, expected in ((first, [("ADDED", "b"), ("DELETED", "a")]), (second, [("DELETED", "a")])):
        stream = client.watch(CONFIG_MAPS, "default", resource_version=start["metadata"]["resourceVersion"])
        async with contextlib.aclosing(stream):
            assert await take(stream, len(expected)) == expected


async def test_entering_and_leaving_a_selection_are_creation_and_deletion(client: Client) -> None:
    await client.create(CONFIG_MAPS, config("a", app="db"))
    listed = await client.list(CONFIG_MAPS, "default", labels="app=web")
    stream = client.watch(CONFIG_MAPS, "default", resource_version=listed.resource_version, labels="app=web")
    async with contextlib.aclosing(stream):
        for value in ("web", "db"):
            await client.patch(CONFIG_MAPS, "a", {"metadata": {"labels": {"app": value}}}, "default")
        assert await take(stream, 2) == [("ADDED", "a"), ("DELETED", "a")]


async def test_versions_order_all_changes(client: Client) -> None:
    listed = await client.list(CONFIG_MAPS)
    names = [f"c{number}" for number in range(20)]
    await asyncio.gather(*(client.create(CONFIG_MAPS, config(name)) for name in names))
    versions: list[int] = []
    stream = client.watch(CONFIG_MAPS, "default", resource_version=listed.resource_version)
    async with contextlib.aclosing(stream), asyncio.timeout(5.0):
        async for event in stream:
            if event.type != "BOOKMARK":
                versions.append(int(event.object["metadata"]["resourceVersion"]))
            if len(versions) == len(names):
                break
    assert versions == sorted(set(versions))
