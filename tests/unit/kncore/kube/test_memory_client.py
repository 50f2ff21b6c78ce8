"""The fake's own levers; what it shares with every client is in the contract test."""

import asyncio
import contextlib

import pytest

from kncore.api.resources import CONFIG_MAPS, DEPLOYMENTS, KSERVICES, PODS
from kncore.kube.client import Obj
from kncore.kube.errors import Conflict, Forbidden, Gone, Invalid, Unreachable
from kncore.testing.clock import FakeClock
from kncore.testing.kube import MemoryClient


async def test_seeds_keep_their_status_and_replace_what_was_there(client: MemoryClient) -> None:
    seed = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "status": {"phase": "Running"}}
    client.seed(seed)
    first = client.peek(PODS, "a", "default")
    client.seed(seed | {"status": {"phase": "Failed"}})
    second = client.peek(PODS, "a", "default")
    assert first is not None
    assert second is not None
    assert (first["status"]["phase"], second["status"]["phase"]) == ("Running", "Failed")
    assert first["metadata"]["uid"] == second["metadata"]["uid"]
    assert list(client.calls) == []
    with pytest.raises(ValueError, match="no resource for"):
        client.seed({"apiVersion": "v1", "kind": "Unheard"})


async def test_a_planned_fault_hits_the_matching_call_and_no_other(client: MemoryClient) -> None:
    client.fail_next(Conflict.of(PODS, "b"), verb="create", resource=PODS, name="b")
    await client.create(PODS, {"metadata": {"name": "a"}}, "default")
    with pytest.raises(Conflict):
        await client.create(PODS, {"metadata": {"name": "b"}}, "default")
    await client.create(PODS, {"metadata": {"name": "b"}}, "default")
    assert [(call.verb, call.name) for call in client.calls] == [("create", "a"), ("create", "b"), ("create", "b")]


async def test_expired_history_ends_new_watches_only(client: MemoryClient) -> None:
    made = await client.create(PODS, {"metadata": {"name": "a"}}, "default")
    version = made["metadata"]["resourceVersion"]
    await client.delete(PODS, "a", "default")
    client.expire_history()
    with pytest.raises(Gone, match="too old resource version"):
        await anext(client.watch(PODS, resource_version=version))
    stream = client.watch(PODS, resource_version=client.resource_version)
    async with contextlib.aclosing(stream):
        await client.create(PODS, {"metadata": {"name": "b"}}, "default")
        assert (await anext(stream)).object["metadata"]["name"] == "b"


async def test_history_is_bounded() -> None:
    client = MemoryClient(history=3)
    versions = []
    for number in range(5):
        made = await client.create(PODS, {"metadata": {"name": f"p{number}"}}, "default")
        versions.append(made["metadata"]["resourceVersion"])
    with pytest.raises(Gone):
        await anext(client.watch(PODS, resource_version=versions[0]))
    stream = client.watch(PODS, resource_version=versions[1])
    async with contextlib.aclosing(stream):
        assert [(await anext(stream)).object["metadata"]["name"] for _ in range(3)] == ["p2", "p3", "p4"]


async def test_a_broken_watch_raises_in_its_reader(client: MemoryClient) -> None:
    stream = client.watch(PODS, resource_version=client.resource_version)
    reading = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert client.watching == 1
    client.break_watches(Unreachable("cut"))
    with pytest.raises(Unreachable, match="cut"):
        await reading
    assert client.watching == 0


async def test_callers_and_store_share_nothing(client: MemoryClient) -> None:
    given: Obj = {"metadata": {"name": "a"}, "data": {"k": "v"}}
    made = await client.create(CONFIG_MAPS, given, "default")
    given["data"]["k"] = made["data"]["k"] = "changed"
    listed = await client.list(CONFIG_MAPS)
    listed.items[0]["data"]["k"] = "changed"
    assert (await client.get(CONFIG_MAPS, "a", "default"))["data"] == {"k": "v"}


async def test_admission_may_change_and_refuse() -> None:
    def admit(operation: str, obj: Obj, old: Obj | None, subresource: str) -> Obj:
        if obj["spec"].get("bad"):
            raise Forbidden(f"{operation} refused")
        return obj | {"spec": {"defaulted": True} | obj["spec"]}

    client = MemoryClient(admit=admit)
    made = await client.create(KSERVICES, {"metadata": {"name": "a"}, "spec": {}}, "default")
    assert made["spec"] == {"defaulted": True}
    with pytest.raises(Forbidden, match="UPDATE refused"):
        await client.patch(KSERVICES, "a", {"spec": {"bad": True}}, "default")


async def test_a_custom_object_needs_a_version_to_be_replaced(client: MemoryClient) -> None:
    await client.create(KSERVICES, {"metadata": {"name": "a"}, "spec": {}}, "default")
    with pytest.raises(Invalid, match=r"metadata.resourceVersion: Invalid value: 0: must be specified for an update"):
        await client.update(KSERVICES, {"metadata": {"name": "a", "namespace": "default"}, "spec": {}})


async def test_timestamps_come_from_the_clock() -> None:
    clock = FakeClock()
    client = MemoryClient(clock=clock)
    pod: Obj = {"metadata": {"name": "a"}, "spec": {"nodeName": "torpor"}}
    made = await client.create(PODS, pod, "default")
    clock.advance(60.0)
    await client.delete(PODS, "a", "default")
    dying = await client.get(PODS, "a", "default")
    assert made["metadata"]["creationTimestamp"] == "2023-11-14T22:13:20Z"
    assert dying["metadata"]["deletionTimestamp"] == "2023-11-14T22:14:50Z"  # when the 30 s of grace are over
    assert dying["metadata"]["generation"] == 2


async def test_what_is_not_json_is_refused(client: MemoryClient) -> None:
    with pytest.raises(TypeError):
        await client.create(DEPLOYMENTS, {"metadata": {"name": "a"}, "spec": {"replicas": {1, 2}}}, "default")
