"""What works behind the verbs: garbage collection, namespaces, definitions, expiry of Events."""

import asyncio
from typing import Any

import pytest

from torpor.embedded.apiserver import expiry, views
from torpor.embedded.apiserver.errors import StatusError
from torpor.embedded.apiserver.gc import Collector
from torpor.embedded.apiserver.store import Key

Obj = dict[str, Any]

POD = {"containers": [{"name": "app", "image": "dev.local/app"}], "nodeName": "torpor"}


def owned(by: Obj, **more: Any) -> Obj:
    """Metadata of an object that belongs to another."""
    names = {"apiVersion": by["apiVersion"], "kind": by["kind"], "name": by["metadata"]["name"]}
    return {"ownerReferences": [{**names, "uid": by["metadata"]["uid"], **more}]}


# --------------------------------------------------------------------------------------------- garbage collection


async def test_dependents_of_a_deleted_owner_go_with_theirs(api: Any) -> None:
    root = await api.create("configmaps", "root")
    child = await api.create("secrets", "child", metadata=owned(root))
    await api.create("configmaps", "grandchild", metadata=owned(child))
    await api.create("configmaps", "stranger")
    assert await api.delete("configmaps", "root")
    await api.quiet()
    assert not api.has("secrets", "child")
    assert not api.has("configmaps", "grandchild")
    assert api.has("configmaps", "stranger")


async def test_an_object_with_another_living_owner_only_loses_the_reference(api: Any) -> None:
    first, second = await api.create("configmaps", "first"), await api.create("configmaps", "second")
    references = [*owned(first)["ownerReferences"], *owned(second)["ownerReferences"]]
    await api.create("secrets", "child", metadata={"ownerReferences": references})
    await api.delete("configmaps", "first")
    await api.quiet()
    kept = api.get("secrets", "child")["metadata"]["ownerReferences"]
    assert [one["name"] for one in kept] == ["second"]
    await api.delete("configmaps", "second")
    await api.quiet()
    assert not api.has("secrets", "child")


async def test_foreground_deletion_waits_for_blocking_dependents(api: Any) -> None:
    owner = await api.create("configmaps", "owner")
    await api.create("pods", "p", metadata=owned(owner, blockOwnerDeletion=True), spec=POD)
    await api.create("secrets", "free", metadata=owned(owner))
    assert not await api.delete("configmaps", "owner", propagation="Foreground")
    await api.quiet()
    assert api.get("configmaps", "owner")["metadata"]["finalizers"] == ["foregroundDeletion"]
    assert "deletionTimestamp" in api.get("pods", "p")["metadata"]
    assert not api.has("secrets", "free")
    await api.delete("pods", "p", grace=0)  # the node is done with it
    await api.quiet()
    assert not api.has("configmaps", "owner")


async def test_orphans_stay_without_their_reference(api: Any) -> None:
    owner = await api.create("configmaps", "owner")
    await api.create("secrets", "child", metadata=owned(owner))
    assert not await api.delete("configmaps", "owner", propagation="Orphan")
    await api.quiet()
    assert not api.has("configmaps", "owner")
    assert "ownerReferences" not in api.get("secrets", "child")["metadata"]


async def test_an_object_made_after_its_owner_went_is_collected(api: Any) -> None:
    owner = await api.create("configmaps", "owner")
    await api.delete("configmaps", "owner")
    await api.create("secrets", "late", metadata=owned(owner))
    await api.quiet()
    assert not api.has("secrets", "late")


async def test_an_owner_in_another_namespace_is_none(api: Any) -> None:
    owner = await api.create("configmaps", "owner", namespace="kube-public")
    await api.create("secrets", "child", metadata=owned(owner))
    await api.quiet()
    assert not api.has("secrets", "child")


async def test_a_deletion_that_a_restart_interrupted_is_finished(api: Any) -> None:
    """The keepers were not running when the owner went; a fresh collector finds the dependents by itself."""
    owner = await api.create("configmaps", "owner")
    await api.create("secrets", "child", metadata=owned(owner))
    collector = Collector(api.resources, api.core.registry.stored_in)
    collection = api.core.store.collection("configmaps")
    record = collection.get(Key("default", "owner"))
    collection._records.pop(record.key)
    collection._order.remove(record.key)
    collector.load()
    assert len(collector) == 1
    running = asyncio.create_task(collector.run())
    await api.quiet()
    running.cancel()
    assert not api.has("secrets", "child")


# ----------------------------------------------------------------------------------------------------- namespaces


async def test_a_new_namespace_is_furnished_and_a_deleted_one_emptied(api: Any) -> None:
    made = await api.create("namespaces", "team")
    assert made["status"]["phase"] == "Active"
    assert made["metadata"]["labels"] == {"kubernetes.io/metadata.name": "team"}
    await api.quiet()
    assert api.get("serviceaccounts", "default", "team")
    await api.create("pods", "p", "team", spec=POD)
    await api.create("configmaps", "held", "team", metadata={"finalizers": ["x.io/hold"]})
    await api.create("configmaps", "free", "team")
    assert not await api.delete("namespaces", "team")
    await api.quiet()
    assert api.get("namespaces", "team")["status"]["phase"] == "Terminating"
    with pytest.raises(StatusError) as caught:
        await api.create("configmaps", "late", "team")
    assert caught.value.code == 403
    assert caught.value.message == (
        'configmaps "late" is forbidden: unable to create new content in namespace team because it is being terminated'
    )
    assert caught.value.details["causes"][0]["reason"] == "NamespaceTerminating"
    assert {record.key.name for record in api.list("configmaps", "team").records} == {"held"}
    await api.delete("pods", "p", "team", grace=0)
    await api.quiet()
    assert api.has("namespaces", "team")  # the finalizer still holds one object
    await api.patch("configmaps", "held", {"metadata": {"finalizers": None}}, namespace="team")
    await api.quiet()
    assert not api.has("namespaces", "team")


@pytest.mark.parametrize("name", ["default", "kube-system", "knative-serving"])
async def test_namespaces_the_platform_stands_on_stay(api: Any, name: str) -> None:
    with pytest.raises(StatusError, match="this namespace may not be deleted"):
        await api.delete("namespaces", name)


# ---------------------------------------------------------------------------------------------------- definitions

SCHEMA = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "properties": {"size": {"type": "integer", "default": 3, "minimum": 1}, "name": {"type": "string"}},
        },
        "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    },
}
VERSIONS = [
    {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": SCHEMA},
        "subresources": {"status": {}},
    },
    {"name": "v1beta1", "served": True, "storage": False, "schema": {"openAPIV3Schema": SCHEMA}},
]
CRD = {
    "group": "x.io",
    "scope": "Namespaced",
    "names": {"plural": "widgets", "kind": "Widget"},
    "versions": VERSIONS,
}


async def test_a_users_kind_is_served_from_its_definition_on(api: Any) -> None:
    made = await api.create("customresourcedefinitions", "widgets.x.io", spec=CRD)
    assert {one["type"]: one["status"] for one in made["status"]["conditions"]} == {
        "NamesAccepted": "True",
        "Established": "True",
    }
    widget = await api.create("x.io/v1/widgets", "w", spec={"name": "n", "more": 1})
    assert widget["spec"] == {"name": "n", "size": 3}
    assert api.write.warnings == ['unknown field "spec.more"']
    with pytest.raises(StatusError, match=r"spec\.size: Invalid value: 0"):
        await api.patch("x.io/v1/widgets", "w", {"spec": {"size": 0}})
    beta = api.core.kind("x.io", "v1beta1", "widgets")
    assert views.obj_as(beta, api.resources.get(beta, "default", "w"))["apiVersion"] == "x.io/v1beta1"
    await api.create("x.io/v1beta1/widgets", "old", spec={})
    assert api.get("x.io/v1/widgets", "old")["apiVersion"] == "x.io/v1"  # stored in the storage version


async def test_deleting_a_definition_deletes_its_objects_and_ends_its_watches(api: Any) -> None:
    await api.create("customresourcedefinitions", "widgets.x.io", spec=CRD)
    await api.create("x.io/v1/widgets", "w", spec={}, metadata={"finalizers": ["x.io/hold"]})
    watcher = api.core.store.collection("widgets.x.io").watch(after=api.core.store.version)
    assert not await api.delete("customresourcedefinitions", "widgets.x.io")
    await api.quiet()
    assert api.has("customresourcedefinitions", "widgets.x.io")
    await api.patch("x.io/v1/widgets", "w", {"metadata": {"finalizers": None}})
    await api.quiet()
    assert not api.has("customresourcedefinitions", "widgets.x.io")
    assert api.core.registry.find("x.io", "v1", "widgets") is None
    with pytest.raises(StatusError):
        await watcher.take()


async def test_knatives_definitions_stay(api: Any) -> None:
    with pytest.raises(StatusError, match="this definition is part of the platform"):
        await api.delete("customresourcedefinitions", "services.serving.knative.dev")


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"group": "y.io"}, "metadata.name"),
        ({"versions": [{**VERSIONS[0], "storage": False}]}, "spec.versions"),
        ({"versions": [{"name": "v1", "served": True, "storage": True}]}, "spec.versions[0].schema.openAPIV3Schema"),
        ({"names": {"plural": "widgets"}}, "spec.names.kind"),
    ],
)
async def test_a_definition_that_cannot_be_served_is_refused(api: Any, change: Obj, path: str) -> None:
    with pytest.raises(StatusError) as caught:
        await api.create("customresourcedefinitions", "widgets.x.io", spec={**CRD, **change})
    assert caught.value.code == 422
    assert path in {cause["field"] for cause in caught.value.details["causes"]}
    assert api.core.registry.find("x.io", "v1", "widgets") is None


# --------------------------------------------------------------------------------------------------------- expiry


async def test_events_go_an_hour_after_they_were_last_written(api: Any) -> None:
    about = {"involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}}
    await api.create("events", "old", **about)
    await api.create("events", "renewed", **about)
    api.clock.advance(expiry.LIFE / 2)
    await api.patch("events", "renewed", {"count": 2})
    api.clock.advance(expiry.LIFE / 2)
    await api.core._events.sweep()
    assert not api.has("events", "old")
    assert api.has("events", "renewed")


# ----------------------------------------------------------------------------------------------------- restarts


async def test_a_core_continues_where_another_one_stopped(reopen: Any) -> None:
    api = await reopen()
    await api.create("customresourcedefinitions", "widgets.x.io", spec=CRD)
    await api.create("x.io/v1/widgets", "w", spec={})
    service = await api.create("services", "s", spec={"ports": [{"port": 80}]})
    owner = await api.create("configmaps", "owner")
    await api.create("secrets", "child", metadata=owned(owner))
    await api.create("namespaces", "team")
    await api.quiet()
    await api.delete("namespaces", "team")  # its keeper is not given the time to empty it
    version = api.core.store.version

    api = await reopen()
    assert api.core.store.version >= version
    assert api.get("x.io/v1/widgets", "w")["spec"] == {"size": 3}
    other = await api.create("services", "t", spec={"ports": [{"port": 80}]})
    assert other["spec"]["clusterIP"] != service["spec"]["clusterIP"]
    await api.quiet()
    assert not api.has("namespaces", "team")
    await api.delete("configmaps", "owner")
    await api.quiet()
    assert not api.has("secrets", "child")
