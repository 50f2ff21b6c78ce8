"""The verbs: what a client may count on, and the words it is refused with."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from torpor.embedded.apiserver import views
from torpor.embedded.apiserver.errors import StatusError
from torpor.embedded.apiserver.patching import How
from torpor.embedded.apiserver.resources import Write
from torpor.embedded.apiserver.store import Key

Obj = dict[str, Any]

POD = {"containers": [{"name": "app", "image": "dev.local/app"}]}
TEMPLATE = {"metadata": {"labels": {"app": "a"}}, "spec": POD}
DEPLOYMENT = {"selector": {"matchLabels": {"app": "a"}}, "template": TEMPLATE}
KSVC = {"template": {"spec": {"containers": [{"image": "dev.local/app"}]}}}


async def refused(code: int, action: Any) -> StatusError:
    """The refusal an action ends with."""
    with pytest.raises(StatusError) as caught:
        await action
    assert caught.value.code == code, caught.value.message
    return caught.value


# ------------------------------------------------------------------------------------------------------- create


async def test_a_created_object_gets_its_identity(api: Any) -> None:
    chosen = {"uid": "mine", "resourceVersion": "7", "generation": 9, "creationTimestamp": "2000-01-01T00:00:00Z"}
    made = await api.create("ksvc", "a", metadata=chosen, spec=KSVC, status={"url": "x"})
    metadata = made["metadata"]
    assert metadata["uid"] != "mine"
    assert metadata["generation"] == 1
    assert metadata["creationTimestamp"] == "2023-11-14T22:13:20Z"
    assert metadata["namespace"] == "default"
    assert metadata["resourceVersion"] == str(api.core.store.version)
    assert "url" not in (made.get("status") or {})  # only the status subresource writes a status


async def test_names_are_generated_and_checked(api: Any) -> None:
    made = await api.create("configmaps", metadata={"generateName": "job-"})
    assert len(made["metadata"]["name"]) == len("job-") + 5
    fault = await refused(422, api.create("configmaps", "Not_A_Name"))
    assert fault.message.startswith(
        'ConfigMap "Not_A_Name" is invalid: metadata.name: Invalid value: "Not_A_Name": a lowercase RFC 1123 subdomain'
    )
    fault = await refused(422, api.create("services", "1st", spec={"ports": [{"port": 80}]}))
    assert "a DNS-1035 label must consist of" in fault.message
    fault = await refused(422, api.create("configmaps"))
    assert fault.message == 'ConfigMap "" is invalid: metadata.name: Required value: name or generateName is required'


async def test_a_name_can_be_taken_once(api: Any) -> None:
    await api.create("ksvc", "a", spec=KSVC)
    fault = await refused(409, api.create("ksvc", "a", spec=KSVC))
    assert fault.reason == "AlreadyExists"
    assert fault.message == 'services.serving.knative.dev "a" already exists'
    assert fault.details == {"name": "a", "group": "serving.knative.dev", "kind": "services"}
    outcomes = await asyncio.gather(*(api.create("configmaps", "race") for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(one, StatusError) for one in outcomes) == 4


async def test_a_namespace_must_exist_and_be_open(api: Any) -> None:
    fault = await refused(404, api.create("configmaps", "a", namespace="nowhere"))
    assert fault.message == 'namespaces "nowhere" not found'
    fault = await refused(400, api.create("configmaps", "a", metadata={"namespace": "other"}))
    assert fault.message == ("the namespace of the provided object does not match the namespace sent on the request")


@pytest.mark.parametrize(
    ("validation", "patch", "code"),
    [("Strict", False, 400), ("Strict", True, 422), ("Warn", False, 0), ("Ignore", False, 0)],
)
async def test_unknown_fields(api: Any, validation: Any, patch: bool, code: int) -> None:
    api.write = Write(manager="test", validation=validation)
    await api.create("deployments", "old", spec=DEPLOYMENT)
    spec = {**DEPLOYMENT, "foo": 1}
    action = (
        api.patch("deployments", "old", {"spec": {"foo": 1}}) if patch else api.create("deployments", "d", spec=spec)
    )
    if code:
        fault = await refused(code, action)
        assert 'strict decoding error: unknown field "spec.foo"' in fault.message
        if not patch:
            assert fault.message == (
                'Deployment in version "v1" cannot be handled as a Deployment: strict decoding error: '
                'unknown field "spec.foo"'
            )
    else:
        assert "foo" not in (await action)["spec"]
    warned = ['unknown field "spec.foo"'] if validation == "Warn" else []
    assert api.write.warnings == warned


async def test_wrong_values_are_told_with_their_paths(api: Any) -> None:
    spec = {**DEPLOYMENT, "replicas": "many"}
    fault = await refused(422, api.create("deployments", "d", spec=spec))
    assert fault.reason == "Invalid"
    assert fault.details["causes"][0]["field"] == "spec.replicas"
    assert fault.details["kind"] == "Deployment"
    assert "spec.replicas" in fault.message
    fault = await refused(422, api.create("configmaps", "c", metadata={"labels": {"a": "not a label!"}}))
    assert fault.details["causes"][0]["field"] == "metadata.labels"


async def test_admission_defaults_and_refuses_in_the_webhooks_words(api: Any) -> None:
    made = await api.create("ksvc", "a", spec=KSVC)
    assert made["spec"]["traffic"] == [{"latestRevision": True, "percent": 100}]
    assert made["metadata"]["annotations"]["serving.knative.dev/creator"] == "ada"
    fault = await refused(400, api.create("ksvc", "b", spec={"template": {"spec": {"containers": [{"name": "x"}]}}}))
    assert fault.reason == "BadRequest"
    prefix = 'admission webhook "validation.webhook.serving.knative.dev" denied the request: validation failed: '
    assert fault.message.startswith(f"{prefix}missing field")


async def test_a_dry_run_answers_and_stores_nothing(api: Any) -> None:
    await api.create("configmaps", "kept", data={"a": "1"})
    version = api.core.store.version
    api.write = replace(api.write, dry_run=True)
    made = await api.create("services", "s", spec={"ports": [{"port": 80}]})
    assert made["metadata"]["uid"]
    assert (await api.patch("configmaps", "kept", {"data": {"a": "2"}}))["data"] == {"a": "2"}
    assert await api.delete("configmaps", "kept")
    assert api.core.store.version == version
    assert api.get("configmaps", "kept")["data"] == {"a": "1"}


# ------------------------------------------------------------------------------------------------------- update


async def test_an_update_of_an_older_version_is_a_conflict(api: Any) -> None:
    seen = await api.create("configmaps", "a", data={"n": "0"})
    await api.patch("configmaps", "a", {"data": {"n": "1"}})
    fault = await refused(409, api.update("configmaps", {**seen, "data": {"n": "2"}}))
    assert fault.reason == "Conflict"
    assert fault.message == (
        'Operation cannot be fulfilled on configmaps "a": the object has been modified; please apply your changes to '
        "the latest version and try again"
    )
    patch = {"metadata": {"resourceVersion": seen["metadata"]["resourceVersion"]}, "data": {"n": "3"}}
    await refused(409, api.patch("configmaps", "a", patch))
    assert api.get("configmaps", "a")["data"] == {"n": "1"}


async def test_an_unconditional_update_is_for_built_in_kinds(api: Any) -> None:
    seen = await api.create("configmaps", "a")
    del seen["metadata"]["resourceVersion"]
    assert (await api.update("configmaps", {**seen, "data": {"n": "1"}}))["data"] == {"n": "1"}
    service = await api.create("ksvc", "a", spec=KSVC)
    del service["metadata"]["resourceVersion"]
    fault = await refused(422, api.update("ksvc", service))
    assert "metadata.resourceVersion: Invalid value" in fault.message
    assert "must be specified for an update" in fault.message


async def test_patches_of_one_object_at_once_all_count(api: Any) -> None:
    await api.create("configmaps", "a")
    await asyncio.gather(*(api.patch("configmaps", "a", {"data": {f"k{index}": "1"}}) for index in range(20)))
    assert len(api.get("configmaps", "a")["data"]) == 20


async def test_what_an_update_may_not_change(api: Any) -> None:
    seen = await api.create("configmaps", "a")
    again = await api.update("configmaps", {**seen, "metadata": {**seen["metadata"], "creationTimestamp": None}})
    assert again["metadata"]["creationTimestamp"] == seen["metadata"]["creationTimestamp"]
    fault = await refused(422, api.patch("configmaps", "a", {"metadata": {"name": "b"}}))
    assert 'metadata.name: Invalid value: "b": field is immutable' in fault.message
    fault = await refused(409, api.patch("configmaps", "a", {"metadata": {"uid": "other"}}))
    assert "Precondition failed: UID in precondition: other" in fault.message
    await refused(400, api.patch("configmaps", "a", {"kind": "Secret"}))
    await refused(404, api.patch("configmaps", "nobody", {}))


async def test_a_write_that_changes_nothing_is_not_one(api: Any) -> None:
    seen = await api.create("ksvc", "a", spec=KSVC)
    assert await api.update("ksvc", seen) == seen
    assert await api.patch("ksvc", "a", {"spec": {"traffic": seen["spec"]["traffic"]}}) == seen
    assert api.core.store.version == int(seen["metadata"]["resourceVersion"])


async def test_generation_counts_changes_of_the_spec_only(api: Any) -> None:
    await api.create("ksvc", "a", spec=KSVC)

    async def generation(patch: Obj, subresource: str = "") -> int:
        return int((await api.patch("ksvc", "a", patch, subresource=subresource))["metadata"]["generation"])

    assert await generation({"metadata": {"labels": {"a": "b"}}}) == 1
    assert await generation({"status": {"url": "http://x"}}, "status") == 1
    assert await generation({"spec": {"template": {"metadata": {"annotations": {"x": "y"}}}}}) == 2
    await api.create("deployments", "d", spec=DEPLOYMENT)
    scaled = await api.patch("deployments", "d", {"spec": {"replicas": 3}})
    assert scaled["metadata"]["generation"] == 2
    assert "generation" not in (await api.create("configmaps", "c"))["metadata"]


async def test_status_and_the_rest_are_written_apart(api: Any) -> None:
    await api.create("ksvc", "a", spec=KSVC)
    whole = {"spec": {"template": {"metadata": {"labels": {"x": "y"}}}}, "status": {"url": "http://x"}}
    by_status = await api.patch("ksvc", "a", whole, subresource="status")
    assert by_status["status"]["url"] == "http://x"
    assert not by_status["spec"]["template"]["metadata"]
    by_spec = await api.patch("ksvc", "a", {**whole, "status": {"url": "http://other"}})
    assert by_spec["status"]["url"] == "http://x"
    assert by_spec["spec"]["template"]["metadata"]["labels"] == {"x": "y"}


async def test_a_status_update_of_a_pod_takes_annotations_along(api: Any) -> None:
    await api.create("pods", "p", spec=POD)
    patch = {"metadata": {"annotations": {"a": "b"}}, "status": {"phase": "Running"}}
    made = await api.patch("pods", "p", patch, subresource="status")
    assert made["metadata"]["annotations"] == {"a": "b"}
    assert made["status"]["phase"] == "Running"
    assert made["status"]["qosClass"] == "BestEffort"


# ------------------------------------------------------------------------------------------------------ patches


async def test_a_json_patch_is_all_or_nothing(api: Any) -> None:
    await api.create("configmaps", "a", data={"n": "0"})
    patch = [{"op": "replace", "path": "/data/n", "value": "1"}, {"op": "test", "path": "/data/n", "value": "7"}]
    fault = await refused(422, api.patch("configmaps", "a", patch, How.JSON))
    assert fault.message == "the server rejected our request due to an error in our request"
    assert api.get("configmaps", "a")["data"] == {"n": "0"}
    assert (await api.patch("configmaps", "a", patch[:1], How.JSON))["data"] == {"n": "1"}
    for malformed in ({"op": "add"}, [1], [{"op": "fly", "path": "/data"}], [{"op": "add"}]):
        await refused(400, api.patch("configmaps", "a", malformed, How.JSON))
    await refused(422, api.patch("configmaps", "a", [{"op": "remove", "path": "/data/none"}], How.JSON))
    await refused(
        413, api.patch("configmaps", "a", [{"op": "test", "path": "/kind", "value": "ConfigMap"}] * 10_001, How.JSON)
    )


async def test_a_strategic_patch_merges_containers_by_name(api: Any) -> None:
    await api.create("deployments", "d", spec=DEPLOYMENT)
    patch = {"spec": {"template": {"spec": {"containers": [{"name": "app", "args": ["-v"]}]}}}}
    made = await api.patch("deployments", "d", patch, How.STRATEGIC)
    (container,) = made["spec"]["template"]["spec"]["containers"]
    assert (container["image"], container["args"]) == ("dev.local/app", ["-v"])


async def test_a_scale_patch_touches_one_number(api: Any) -> None:
    await api.create("deployments", "d", spec=DEPLOYMENT)
    kind = api.kind("deployments")

    def to(replicas: Any) -> Any:
        return api.resources.scale(
            kind, "default", "d", lambda scale: {**scale, "spec": {"replicas": replicas}}, api.write
        )

    scale = await to(5)
    assert scale["kind"] == "Scale"
    assert scale["spec"] == {"replicas": 5}
    assert scale["status"] == {"replicas": 0, "selector": "app=a"}
    made = api.get("deployments", "d")
    assert made["spec"]["replicas"] == 5
    assert made["metadata"]["generation"] == 2
    await refused(422, to(-1))
    await refused(422, to("5"))
    stale = {"metadata": {"resourceVersion": "1"}, "spec": {"replicas": 9}}
    await refused(409, api.resources.scale(kind, "default", "d", lambda _: stale, api.write))


async def test_apply_creates_owns_conflicts_and_takes_over(api: Any) -> None:
    def body(**data: str) -> Obj:
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data}

    api.write = Write(manager="one")
    made = await api.patch("configmaps", "a", body(x="1", y="1"), How.APPLY)
    assert [entry["manager"] for entry in made["metadata"]["managedFields"]] == ["one"]
    api.write = Write(manager="two")
    fault = await refused(409, api.patch("configmaps", "a", body(x="2"), How.APPLY))
    assert fault.details["causes"] == [
        {"reason": "FieldManagerConflict", "message": 'conflict with "one"', "field": ".data.x"}
    ]
    api.write = Write(manager="two", force=True)
    assert (await api.patch("configmaps", "a", body(x="2"), How.APPLY))["data"] == {"x": "2", "y": "1"}
    api.write = Write(manager="one")
    assert (await api.patch("configmaps", "a", body(), How.APPLY))["data"] == {"x": "2"}  # y had no other owner
    fault = await refused(400, api.patch("configmaps", "a", {**body(), "spec": {"foo": 1}}, How.APPLY))
    assert fault.message.endswith(".spec: field not declared in schema")


async def test_what_components_create_is_not_tracked_and_what_people_create_is(api: Any) -> None:
    api.write = Write(manager="torpor")
    assert "managedFields" not in (await api.create("configmaps", "theirs"))["metadata"]
    api.write = Write(manager="kubectl-create")
    (entry,) = (await api.create("configmaps", "ours", data={"a": "b"}))["metadata"]["managedFields"]
    assert (entry["manager"], entry["operation"]) == ("kubectl-create", "Update")
    api.write = Write(manager="torpor")
    made = await api.patch("configmaps", "ours", {"data": {"a": "c"}})
    assert {entry["manager"] for entry in made["metadata"]["managedFields"]} == {"kubectl-create", "torpor"}


# ----------------------------------------------------------------------------------------------------- deletion


async def test_finalizers_hold_a_deleted_object(api: Any) -> None:
    await api.create("configmaps", "a", metadata={"finalizers": ["x.io/hold"]})
    assert not await api.delete("configmaps", "a")
    held = api.get("configmaps", "a")
    assert held["metadata"]["deletionTimestamp"] == "2023-11-14T22:13:20Z"
    assert not await api.delete("configmaps", "a")  # asking again changes nothing
    assert api.get("configmaps", "a") == held
    fault = await refused(422, api.patch("configmaps", "a", {"metadata": {"finalizers": ["x.io/hold", "y.io/more"]}}))
    assert (
        'no new finalizers can be added if the object is being deleted, found new finalizers []string{"y.io/more"}'
        in (fault.message)
    )
    await api.patch("configmaps", "a", {"metadata": {"finalizers": None}})
    assert not api.has("configmaps", "a")


async def test_a_running_pod_gets_its_grace_and_the_node_the_last_word(api: Any) -> None:
    await api.create("pods", "p", spec={**POD, "nodeName": "torpor", "terminationGracePeriodSeconds": 7})
    assert not await api.delete("pods", "p")
    metadata = api.get("pods", "p")["metadata"]
    assert metadata["deletionGracePeriodSeconds"] == 7
    assert metadata["deletionTimestamp"] == "2023-11-14T22:13:27Z"
    assert not await api.delete("pods", "p", grace=60)  # cannot be made longer
    assert api.get("pods", "p")["metadata"]["deletionGracePeriodSeconds"] == 7
    assert not await api.delete("pods", "p", grace=2)
    assert api.get("pods", "p")["metadata"]["deletionGracePeriodSeconds"] == 2
    assert await api.delete("pods", "p", grace=0)
    assert not api.has("pods", "p")


@pytest.mark.parametrize("state", ["unscheduled", "ended"])
async def test_a_pod_that_does_not_run_goes_at_once(api: Any, state: str) -> None:
    await api.create("pods", "p", spec=POD if state == "unscheduled" else {**POD, "nodeName": "torpor"})
    if state == "ended":
        await api.patch("pods", "p", {"status": {"phase": "Succeeded"}}, subresource="status")
    assert await api.delete("pods", "p")


async def test_deletion_preconditions(api: Any) -> None:
    made = await api.create("configmaps", "a")
    fault = await refused(409, api.delete("configmaps", "a", uid="other"))
    assert "UID in precondition: other, UID in object meta:" in fault.message
    await refused(409, api.delete("configmaps", "a", resource_version="1"))
    assert await api.delete("configmaps", "a", uid=made["metadata"]["uid"])
    fault = await refused(404, api.delete("configmaps", "a"))
    assert fault.message == 'configmaps "a" not found'


# -------------------------------------------------------------------------------------------------------- lists


async def test_pages_show_one_version(api: Any) -> None:
    for index in range(5):
        await api.create("secrets", f"s{index}")
    first = api.list("secrets", limit=2)
    assert [record.key.name for record in first.records] == ["s0", "s1"]
    assert first.remaining == 3
    await api.create("secrets", "s1b")
    await api.delete("secrets", "s3")
    second = api.list("secrets", limit=2, continue_=first.continue_)
    third = api.list("secrets", limit=2, continue_=second.continue_)
    assert [record.key.name for page in (second, third) for record in page.records] == ["s2", "s3", "s4"]
    assert first.version == second.version == third.version
    assert not third.continue_


async def test_a_page_from_before_history_is_expired(api: Any) -> None:
    for index in range(3):
        await api.create("secrets", f"s{index}")
    first = api.list("secrets", limit=1)
    api.core.store.collection("secrets").since = first.version + 1
    with pytest.raises(StatusError) as caught:
        api.list("secrets", limit=1, continue_=first.continue_)
    fault = caught.value
    assert fault.reason == "Expired"
    assert "The provided continue parameter is too old" in fault.message
    with pytest.raises(StatusError, match="continue key is not valid"):
        api.list("secrets", continue_="bm9uc2Vuc2U")


async def test_versions_of_lists(api: Any) -> None:
    await api.create("secrets", "a")
    then = api.core.store.version
    await api.create("secrets", "b")

    def names(**options: Any) -> list[str]:
        return [record.key.name for record in api.list("secrets", **options).records]

    assert names(version="0") == names(version=str(then)) == ["a", "b"]
    assert names(version=str(then), version_match="Exact") == ["a"]
    assert names(version=str(then), version_match="NotOlderThan") == ["a", "b"]
    with pytest.raises(StatusError, match="Too large resource version"):
        names(version=str(then + 100))
    for wrong in ({"version": "x"}, {"version_match": "Exact"}, {"version": "0", "version_match": "Exact"}):
        with pytest.raises(StatusError):
            names(**wrong)


async def test_selectors(api: Any) -> None:
    await api.create("pods", "a", metadata={"labels": {"app": "x"}}, spec=POD)
    await api.create("pods", "b", metadata={"labels": {"app": "y"}}, spec={**POD, "nodeName": "torpor"})
    names = lambda **options: [record.key.name for record in api.list("pods", **options).records]  # noqa: E731
    assert names(labels="app in (x)") == ["a"]
    assert names(fields="spec.nodeName=torpor") == ["b"]
    assert names(fields="metadata.name=a,status.phase=Pending") == ["a"]
    assert names(fields="metadata.name!=a") == ["b"]
    assert names(labels="app=x", fields="metadata.name=b") == []


# ------------------------------------------------------------------------------------- what particular kinds need


async def test_services_get_addresses_that_come_back(api: Any) -> None:
    spec = {"ports": [{"port": 80}]}
    made = await api.create("services", "a", spec=dict(spec))
    assert made["spec"]["clusterIP"] == "10.0.0.1"
    assert made["spec"]["clusterIPs"] == ["10.0.0.1"]
    assert made["spec"]["ports"] == [{"port": 80, "protocol": "TCP", "targetPort": 80}]
    assert (await api.create("services", "headless", spec={**spec, "clusterIP": "None"}))["spec"]["clusterIP"] == "None"
    external = await api.create("services", "ext", spec={"type": "ExternalName", "externalName": "x.io"})
    assert "clusterIP" not in external["spec"]
    fault = await refused(422, api.create("services", "b", spec={**spec, "clusterIP": "10.0.0.1"}))
    assert "provided IP is already allocated" in fault.message
    assert (await api.update("services", {**made, "spec": spec}))["spec"]["clusterIP"] == "10.0.0.1"
    fault = await refused(422, api.patch("services", "a", {"spec": {"clusterIP": "10.0.0.2"}}))
    assert "may not change once set" in fault.message
    await api.delete("services", "a")
    assert (await api.create("services", "c", spec={**spec, "clusterIP": "10.0.0.1"}))["spec"][
        "clusterIP"
    ] == "10.0.0.1"


async def test_a_change_leaves_other_fields_as_they_are_where_they_have_defaults(api: Any) -> None:
    await api.create("secrets", "tls", type="kubernetes.io/tls", data={"tls.crt": "YQ==", "tls.key": "YQ=="})
    patched = await api.patch("secrets", "tls", {"data": {"tls.crt": "Yg=="}})
    assert (patched["type"], patched["data"]["tls.crt"]) == ("kubernetes.io/tls", "Yg==")


async def test_secrets_encode_and_immutables_stay(api: Any) -> None:
    made = await api.create("secrets", "s", stringData={"a": "b"}, immutable=True)
    assert made["data"] == {"a": "Yg=="}
    assert "stringData" not in made
    assert made["type"] == "Opaque"
    fault = await refused(422, api.patch("secrets", "s", {"data": {"a": "Yw=="}}))
    assert "field is immutable when `immutable` is set" in fault.message
    fault = await refused(422, api.create("secrets", "t", data={"a": "not base64!"}))
    assert "not base64!" not in fault.message  # whatever it was, it was meant to be secret


async def test_pods_keep_their_spec_and_take_a_node(api: Any) -> None:
    await api.create("pods", "p", spec=POD)
    assert (await api.patch("pods", "p", {"spec": {"nodeName": "torpor"}}))["spec"]["nodeName"] == "torpor"
    fault = await refused(422, api.patch("pods", "p", {"spec": {"hostNetwork": True}}))
    assert "pod updates may not change fields other than" in fault.message
    fault = await refused(
        422, api.create("pods", "q", spec={"containers": [{"name": "a"}, {"name": "a", "image": "x"}]})
    )
    assert [cause["field"] for cause in fault.details["causes"]] == [
        "spec.containers[0].image",
        "spec.containers[1].name",
    ]


async def test_a_deployments_selector_must_match_and_stay(api: Any) -> None:
    wrong = {**DEPLOYMENT, "selector": {"matchLabels": {"app": "b"}}}
    fault = await refused(422, api.create("deployments", "d", spec=wrong))
    assert "`selector` does not match template `labels`" in fault.message
    made = await api.create("deployments", "d", spec=DEPLOYMENT)
    assert made["spec"]["replicas"] == 1
    template = {"metadata": {"labels": {"app": "b"}}}
    patch = {"spec": {"selector": {"matchLabels": {"app": "b"}}, "template": template}}
    assert "field is immutable" in (await refused(422, api.patch("deployments", "d", patch))).message


async def test_events_have_two_faces(api: Any) -> None:
    involved = {"kind": "Pod", "name": "p", "namespace": "default"}
    await api.create("events", "e", involvedObject=involved, message="hello", reason="Why", type="Normal")
    other = api.core.kind("events.k8s.io", "v1", "events")
    shown = views.obj_as(other, api.resources.get(other, "default", "e"))
    assert (shown["apiVersion"], shown["note"], shown["regarding"]) == ("events.k8s.io/v1", "hello", involved)
    write = Write(manager="test")
    await api.resources.patch(other, "default", "e", How.MERGE, {"note": "bye"}, write)
    assert api.get("events", "e")["message"] == "bye"
    assert len(api.core.store.collection("events").records("default")) == 1


async def test_a_record_is_never_changed(api: Any) -> None:
    """Readers share records with everybody: no write may reach into one that is already published."""
    await api.create("ksvc", "a", spec=KSVC)
    collection = api.core.store.collection("services.serving.knative.dev")
    seen = []
    for number in range(3):
        record = collection.get(Key("default", "a"))
        seen.append((record, record.fresh()))
        await api.patch("ksvc", "a", {"status": {"observedGeneration": number}}, subresource="status")
        await api.patch("ksvc", "a", {"metadata": {"labels": {"n": str(number)}}})
    for record, before in seen:
        assert record.obj == before
