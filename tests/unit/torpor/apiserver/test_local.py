"""The client in the same process; the contract of all clients is tested in tests/conformance."""

import asyncio
from typing import Any

import pytest

from kncore.api.resources import CONFIG_MAPS, DEPLOYMENTS, KSERVICES, Resource
from kncore.kube.client import Patch
from kncore.kube.errors import BadRequest, Conflict, Gone, Invalid, NotFound
from torpor.embedded.apiserver.local import LocalClient


@pytest.fixture
def client(api: Any) -> LocalClient:
    return LocalClient(api.resources)


def config(name: str, **data: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "default"}, "data": data}


async def test_objects_belong_to_whoever_holds_them(client: LocalClient) -> None:
    given = config("a", n="1")
    made = await client.create(CONFIG_MAPS, given)
    given["data"]["n"] = made["data"]["n"] = "changed"
    listed = (await client.list(CONFIG_MAPS, "default", fields="metadata.name=a")).items[0]
    listed["data"]["n"] = "changed"
    assert (await client.get(CONFIG_MAPS, "a", "default"))["data"] == {"n": "1"}
    assert "managedFields" not in made["metadata"]


async def test_a_watch_sees_what_happens_in_the_same_turn(client: LocalClient) -> None:
    version = (await client.list(CONFIG_MAPS)).resource_version
    events = client.watch(CONFIG_MAPS, "default", resource_version=version, labels="x=y")
    first = asyncio.ensure_future(anext(events))
    await client.create(CONFIG_MAPS, {**config("a"), "metadata": {**config("a")["metadata"], "labels": {"x": "y"}}})
    await client.create(CONFIG_MAPS, config("b"))
    await client.delete(CONFIG_MAPS, "a", "default")
    assert [((await first).type), (await anext(events)).type] == ["ADDED", "DELETED"]
    await events.aclose()


async def test_an_old_watch_is_gone(client: LocalClient, api: Any) -> None:
    await client.create(CONFIG_MAPS, config("a"))
    api.core.store.collection("configmaps").since = api.core.store.version
    with pytest.raises(Gone):
        await anext(client.watch(CONFIG_MAPS, resource_version="1"))


async def test_refusals_are_typed(client: LocalClient) -> None:
    with pytest.raises(NotFound):
        await client.get(CONFIG_MAPS, "nobody", "default")
    with pytest.raises(NotFound):
        await client.list(Resource("x.io", "v1", "widgets", "Widget"))
    with pytest.raises(Invalid):
        await client.create(CONFIG_MAPS, config("Not_Valid"))
    with pytest.raises(BadRequest, match="validation failed"):
        await client.create(KSERVICES, {"metadata": {"name": "a", "namespace": "default"}, "spec": {"template": {}}})
    made = await client.create(CONFIG_MAPS, config("a"))
    await client.patch(CONFIG_MAPS, "a", {"data": {"n": "1"}}, "default")
    with pytest.raises(Conflict):
        await client.update(CONFIG_MAPS, made)


async def test_scale(client: LocalClient) -> None:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "x", "image": "y"}]}}
    spec = {"selector": {"matchLabels": {"a": "b"}}, "template": template}
    await client.create(DEPLOYMENTS, {"metadata": {"name": "d", "namespace": "default"}, "spec": spec})
    patch = [{"op": "replace", "path": "/spec/replicas", "value": 4}]
    scale = await client.patch(DEPLOYMENTS, "d", patch, "default", how=Patch.JSON, subresource="scale")
    assert scale["spec"]["replicas"] == 4
    assert (await client.get(DEPLOYMENTS, "d", "default", subresource="scale"))["status"]["selector"] == "a=b"
    scale["spec"]["replicas"] = 2
    assert (await client.update(DEPLOYMENTS, scale, subresource="scale"))["spec"]["replicas"] == 2
    assert (await client.get(DEPLOYMENTS, "d", "default"))["spec"]["replicas"] == 2
