"""Server-side apply: ownership, merging, conflicts, and the way over from client-side apply."""

import copy
import json
from typing import Any

import pytest

from kncore.clock import rfc3339
from torpor.embedded.apiserver.apply import LAST_APPLIED, MAX_UPDATERS, ApplyConflict, apply, update_managed
from torpor.embedded.apiserver.builtin import KINDS
from torpor.embedded.apiserver.fieldset import decode_fields, encode_fields, show_path

NOW = 1_700_000_000.0
BY_KIND = {kind.kind: kind for kind in KINDS}

WIDGETS = {
    "type": "object",
    "properties": {
        "metadata": BY_KIND["ConfigMap"].schema["properties"]["metadata"],  # type: ignore[index]  # it has a schema
        "spec": {
            "type": "object",
            "properties": {
                "size": {"type": "integer"},
                "color": {"type": "string"},
                "plain": {"type": "array", "items": {"type": "string"}},
                "tags": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
                "whole": {
                    "type": "object",
                    "x-kubernetes-map-type": "atomic",
                    "additionalProperties": {"type": "string"},
                },
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                "parts": {
                    "type": "array",
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["id", "side"],
                    "items": {
                        "type": "object",
                        "properties": {
                            "id": {"type": "string"},
                            "side": {"type": "string", "default": "left"},
                            "n": {"type": "integer"},
                        },
                    },
                },
            },
        },
        "status": {"type": "object", "properties": {"ready": {"type": "boolean"}}},
    },
}


def widget(labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": "w", "namespace": "default"}
    if labels is not None:
        metadata["labels"] = labels
    return {"apiVersion": "example.com/v1", "kind": "Widget", "metadata": metadata, "spec": spec}


def ssa(live: Any, applied: Any, manager: str = "one", *, force: bool = False, now: float = NOW, **rest: Any) -> Any:
    rest = {"schema": WIDGETS, "api_version": "example.com/v1", **rest}
    before = copy.deepcopy((live, applied))
    made = apply(live, applied, manager, force=force, now=now, **rest)
    assert (live, applied) == before, "apply changed its arguments"
    return copy.deepcopy(made)


def write(old: Any, new: Any, manager: str = "two", *, now: float = NOW, **rest: Any) -> Any:
    """An ordinary write: `new` with its managedFields, as the server would store it."""
    rest = {"schema": WIDGETS, "api_version": "example.com/v1", **rest}
    new = copy.deepcopy(new)
    new["metadata"]["managedFields"] = update_managed(old, new, manager, now=now, **rest)
    return new


def owned(obj: dict[str, Any], manager: str) -> set[str]:
    """The paths a manager owns, as conflicts show them."""
    entries = [entry for entry in obj["metadata"]["managedFields"] if entry["manager"] == manager]
    return {show_path(path) for entry in entries for path in decode_fields(entry["fieldsV1"])}


# ------------------------------------------------------------------------------------------------------------ fields


def test_field_sets_are_written_as_kubernetes_writes_them() -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "labels": {"app": "x"}, "finalizers": ["f"], "annotations": {}},
        "spec": {
            "containers": [
                {"name": "c", "image": "i", "args": ["a"], "ports": [{"containerPort": 80}], "resources": {}}
            ],
            "nodeSelector": {"a": "b"},
        },
    }
    made = ssa(None, pod, "kubectl", schema=BY_KIND["Pod"].schema, api_version="v1")
    assert made["metadata"]["managedFields"] == [
        {
            "manager": "kubectl",
            "operation": "Apply",
            "apiVersion": "v1",
            "time": "2023-11-14T22:13:20Z",
            "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:metadata": {
                    "f:annotations": {},
                    "f:finalizers": {'v:"f"': {}},
                    "f:labels": {"f:app": {}},
                },
                "f:spec": {
                    "f:containers": {
                        'k:{"name":"c"}': {
                            ".": {},
                            "f:args": {},
                            "f:image": {},
                            "f:name": {},
                            "f:ports": {
                                'k:{"containerPort":80,"protocol":"TCP"}': {".": {}, "f:containerPort": {}},
                            },
                            "f:resources": {},
                        }
                    },
                    "f:nodeSelector": {},
                },
            },
        }
    ]


def test_an_update_also_owns_the_objects_it_brought() -> None:
    made = write(None, widget({"a": "b"}, size=1), "kubectl-create")
    (entry,) = made["metadata"]["managedFields"]
    assert (entry["manager"], entry["operation"]) == ("kubectl-create", "Update")
    assert entry["fieldsV1"] == {
        "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
        "f:spec": {".": {}, "f:size": {}},
    }


@pytest.mark.parametrize(
    "encoded",
    [
        {},
        {"f:a": {}},
        {"f:a": {".": {}, "f:b": {}}},
        {"f:a": {'k:{"name":"x","port":1}': {".": {}}, 'v:"y"': {}, "i:3": {}}},
    ],
)
def test_encoded_fields_survive_a_round_trip(encoded: dict[str, Any]) -> None:
    fields = decode_fields(encoded)
    assert decode_fields(encode_fields(fields)) == fields


def test_keys_are_compared_by_value_not_by_spelling() -> None:
    assert decode_fields({'k:{"b": 1, "a":"x"}': {}}) == decode_fields({'k:{"a":"x","b":1}': {}})


@pytest.mark.parametrize("encoded", [[], "x", {"f:a": 1}, {"q:a": {}}, {"k:{": {}}])
def test_malformed_fields_are_refused(encoded: Any) -> None:
    with pytest.raises(ValueError, match="malformed"):
        decode_fields(encoded)


# ----------------------------------------------------------------------------------------------------------- merging


def test_applying_merges_and_leaves_others_fields_alone() -> None:
    live = write(None, widget({"x": "1"}, color="red", free={"deep": {"a": 1}}))
    made = ssa(live, widget({"y": "2"}, size=3, free={"deep": {"b": 2}}))
    assert made["metadata"]["labels"] == {"x": "1", "y": "2"}
    assert made["spec"] == {"color": "red", "size": 3, "free": {"deep": {"a": 1, "b": 2}}}
    assert owned(made, "one") == {".metadata.labels.y", ".spec.size", ".spec.free.deep", ".spec.free.deep.b"}


def test_a_field_dropped_by_its_only_owner_goes() -> None:
    made = ssa(None, widget({"a": "1", "b": "2"}, size=1, color="red", free={"x": {"y": 1}}))
    made = ssa(made, widget({"a": "1"}, size=1))
    assert made["metadata"]["labels"] == {"a": "1"}
    assert made["spec"] == {"size": 1}


def test_a_field_dropped_by_one_of_two_owners_stays() -> None:
    made = ssa(None, widget(size=1, color="red"))
    made = ssa(made, widget(color="red"), "other")
    made = ssa(made, widget(size=1))
    assert made["spec"] == {"size": 1, "color": "red"}
    assert owned(made, "other") == {".spec.color"}
    assert owned(made, "one") == {".spec.size"}


def test_an_object_dropped_by_its_owner_takes_its_defaults_along() -> None:
    schema = BY_KIND["Deployment"].schema
    config = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "d"},
        "spec": {"strategy": {"type": "X"}},
    }
    made = ssa(None, config, schema=schema)
    made["spec"]["strategy"]["rollingUpdate"] = {"maxSurge": 1}  # as the server would default it; nobody owns it
    config["spec"] = {"replicas": 1}
    assert ssa(made, config, schema=schema)["spec"] == {"replicas": 1}


def test_what_somebody_else_set_inside_a_dropped_object_stays() -> None:
    made = ssa(None, widget(free={"mine": 1}))
    made = write(made, {**made, "spec": {"free": {"mine": 1, "theirs": 2}}})
    made = ssa(made, widget(size=1))
    assert made["spec"] == {"size": 1, "free": {"theirs": 2}}


def test_items_of_a_list_map_are_fields_of_their_own() -> None:
    made = ssa(None, widget(parts=[{"id": "a", "n": 1}, {"id": "b", "n": 2}]))
    made = ssa(made, widget(parts=[{"id": "c", "n": 3}]), "other")
    assert [part["id"] for part in made["spec"]["parts"]] == ["a", "b", "c"]
    made = ssa(made, widget(parts=[{"id": "b", "n": 2}]))
    assert [part["id"] for part in made["spec"]["parts"]] == ["b", "c"]
    assert '.spec.parts[id="b",side="left"].n' in owned(made, "one")


def test_applied_order_wins_and_others_items_keep_their_place() -> None:
    made = ssa(None, widget(parts=[{"id": "a"}, {"id": "x"}, {"id": "b"}]), "other")
    made = ssa(made, widget(parts=[{"id": "b"}, {"id": "a"}]))
    assert [part["id"] for part in made["spec"]["parts"]] == ["x", "b", "a"]


def test_sets_are_united_and_plain_lists_replaced() -> None:
    made = ssa(None, widget(tags=["a"], plain=["a"]))
    made = ssa(made, widget(tags=["b"]), "other")
    assert made["spec"] == {"tags": ["a", "b"], "plain": ["a"]}
    made = ssa(made, widget(tags=[], plain=["c"]))
    assert made["spec"] == {"tags": ["b"], "plain": ["c"]}


def test_an_atomic_map_is_one_field() -> None:
    made = ssa(None, widget(whole={"a": "1", "b": "2"}))
    assert owned(made, "one") == {".spec.whole"}
    assert ssa(made, widget(whole={"c": "3"}))["spec"]["whole"] == {"c": "3"}


def test_what_the_server_writes_is_neither_applied_nor_owned() -> None:
    live = {**widget(size=1), "status": {"ready": True}}
    live["metadata"] |= {"uid": "u", "resourceVersion": "5", "creationTimestamp": "2023-01-01T00:00:00Z"}
    config = {**widget(size=1), "status": {"ready": False}}
    config["metadata"] |= {"creationTimestamp": None, "uid": "other"}
    made = ssa(live, config)
    assert made["status"] == {"ready": True}
    assert (made["metadata"]["uid"], made["metadata"]["creationTimestamp"]) == ("u", "2023-01-01T00:00:00Z")
    assert owned(made, "one") == {".spec.size"}


def test_status_is_applied_through_its_subresource_only() -> None:
    made = ssa(None, widget(size=1))
    config = {**widget({"no": "no"}, size=9), "status": {"ready": True}}
    made = ssa(made, config, "controller", subresource="status")
    assert (made["spec"], made["status"]) == ({"size": 1}, {"ready": True})
    assert "labels" not in made["metadata"]
    assert owned(made, "controller") == {".status.ready"}
    entry = next(entry for entry in made["metadata"]["managedFields"] if entry["manager"] == "controller")
    assert entry["subresource"] == "status"


def test_applying_the_same_again_changes_nothing_at_all() -> None:
    made = ssa(None, widget({"a": "1"}, size=1, parts=[{"id": "a"}]))
    assert ssa(made, widget({"a": "1"}, size=1, parts=[{"id": "a"}]), now=NOW + 60) == made


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (
            {"parts": [{"id": "a"}, {"id": "a", "side": "left"}]},
            r"^failed to create typed patch object \(default/w; example.com/v1, Kind=Widget\): "
            r'.spec.parts: duplicate entries for key \[id="a",side="left"\]$',
        ),
        ({"parts": [{"n": 1}]}, r"\.spec\.parts\[0\]: element of a list keyed by id, side omits a key"),
        ({"tags": ["a", "a"]}, r'\.spec\.tags: duplicate entries for key \[="a"\]'),
    ],
)
def test_a_list_that_cannot_be_told_apart_is_refused(spec: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ssa(None, widget(**spec))


def test_managed_fields_cannot_be_applied() -> None:
    config = widget(size=1)
    config["metadata"]["managedFields"] = [{"manager": "x"}]
    with pytest.raises(ValueError, match="managedFields must be nil"):
        ssa(None, config)


# ---------------------------------------------------------------------------------------------------------- conflicts


def test_changing_anothers_field_is_a_conflict_that_names_it() -> None:
    made = ssa(None, widget(size=1, parts=[{"id": "a", "n": 1}]))
    with pytest.raises(ApplyConflict) as caught:
        ssa(made, widget(size=2), "other")
    assert str(caught.value) == 'Apply failed with 1 conflict: conflict with "one": .spec.size'
    (cause,) = caught.value.causes
    assert (cause.field, cause.reason, cause.message) == (".spec.size", "FieldManagerConflict", 'conflict with "one"')


def test_several_conflicts_are_listed_by_manager() -> None:
    made = write(None, widget(size=1, parts=[{"id": "a", "n": 1}]), "kubectl-client-side-apply")
    made = ssa(made, widget(color="red"))
    with pytest.raises(ApplyConflict) as caught:
        ssa(made, widget(size=2, color="blue", parts=[{"id": "a", "n": 2}]), "other")
    assert str(caught.value) == (
        'Apply failed with 3 conflicts: conflicts with "kubectl-client-side-apply" using example.com/v1:\n'
        '- .spec.parts[id="a",side="left"].n\n'
        "- .spec.size\n"
        'conflicts with "one":\n'
        "- .spec.color"
    )
    assert len(caught.value.causes) == 3


def test_a_conflict_over_a_subresource_says_which() -> None:
    made = ssa(None, widget(size=1))
    made = write(made, {**made, "spec": {"size": 2}}, "autoscaler", subresource="scale")
    with pytest.raises(ApplyConflict, match='conflict with "autoscaler" with subresource "scale" using example'):
        ssa(made, widget(size=3))


def test_agreeing_is_no_conflict_but_shared_ownership() -> None:
    made = ssa(None, widget(size=1))
    made = ssa(made, widget(size=1), "other")
    assert owned(made, "one") == owned(made, "other") == {".spec.size"}


def test_force_takes_the_field_over() -> None:
    made = ssa(None, widget(size=1, color="red"))
    made = ssa(made, widget(size=2), "other", force=True)
    assert made["spec"] == {"size": 2, "color": "red"}
    assert owned(made, "one") == {".spec.color"}
    assert owned(made, "other") == {".spec.size"}


def test_an_object_nobody_tracked_belongs_to_whoever_was_before() -> None:
    live = widget(size=1)
    with pytest.raises(ApplyConflict, match=r'conflict with "before-first-apply" using example.com/v1: \.spec\.size'):
        ssa(live, widget(size=2))
    assert owned(ssa(live, widget(color="red")), "before-first-apply") == {".spec.size"}


# ------------------------------------------------------------------------------------------------------ other writes


def test_a_write_moves_the_fields_it_changes_to_its_manager() -> None:
    made = ssa(None, widget(size=1, color="red", tags=["a"]))
    made = write(made, {**made, "spec": {"size": 2, "color": "red", "tags": ["a", "b"]}}, now=NOW + 5)
    assert owned(made, "one") == {".spec.color", '.spec.tags[="a"]'}
    assert owned(made, "two") == {".spec.size", '.spec.tags[="b"]'}


def test_a_removed_field_is_nobodys() -> None:
    made = ssa(None, widget(size=1, color="red", parts=[{"id": "a", "n": 1}]))
    made = write(made, {**made, "spec": {"size": 1}})
    assert owned(made, "one") == {".spec.size"}
    assert [entry["manager"] for entry in made["metadata"]["managedFields"]] == ["one"]


def test_a_write_that_changes_nothing_leaves_the_entries_alone() -> None:
    made = write(None, widget(size=1))
    assert write(made, made, "other", now=NOW + 60) == made


def test_the_time_moves_only_with_the_managers_own_writes() -> None:
    made = write(None, widget(size=1), "a")
    made = write(made, {**made, "spec": {"size": 1, "color": "x"}}, "b", now=NOW + 60)
    times = {entry["manager"]: entry["time"] for entry in made["metadata"]["managedFields"]}
    assert times == {"a": rfc3339(NOW), "b": rfc3339(NOW + 60)}


def test_status_writes_have_their_own_entry() -> None:
    made = write(None, widget(size=1), "controller")
    made = write(made, {**made, "status": {"ready": True}}, "controller", subresource="status")
    entries = [(entry.get("subresource"), entry["fieldsV1"]) for entry in made["metadata"]["managedFields"]]
    assert entries == [
        (None, {"f:spec": {".": {}, "f:size": {}}}),
        ("status", {"f:status": {".": {}, "f:ready": {}}}),
    ]


def test_repeated_keys_of_a_live_list_do_not_confuse() -> None:
    pod = {"kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "env": []}]}}
    env = pod["spec"]["containers"][0]["env"]  # type: ignore[index]  # a literal's type is too narrow
    env += [{"name": "X", "value": "1"}, {"name": "X", "value": "2"}]
    made = write(None, pod, schema=BY_KIND["Pod"].schema, api_version="v1")
    changed = copy.deepcopy(made)
    changed["spec"]["containers"][0]["env"][0]["value"] = "3"
    changed = write(changed | {}, changed, "three", schema=BY_KIND["Pod"].schema, api_version="v1")
    config = {"kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    merged = ssa(changed, config, schema=BY_KIND["Pod"].schema, api_version="v1")
    assert [item["value"] for item in merged["spec"]["containers"][0]["env"]] == ["3", "2"]


def test_the_request_may_edit_the_entries_and_reset_them() -> None:
    made = ssa(write(None, widget(size=1), "old-tool"), widget(color="red"))
    renamed = copy.deepcopy(made)
    renamed["metadata"]["managedFields"] = [
        {**entry, "manager": "new"} for entry in renamed["metadata"]["managedFields"]
    ]
    renamed = write(made, renamed)
    assert {entry["manager"] for entry in renamed["metadata"]["managedFields"]} == {"new"}
    reset = copy.deepcopy(made)
    reset["metadata"]["managedFields"] = [{}]
    assert write(made, reset)["metadata"]["managedFields"] == []


def test_a_client_that_knows_no_managed_fields_does_not_delete_them() -> None:
    made = ssa(None, widget(size=1))
    bare = copy.deepcopy(made)
    del bare["metadata"]["managedFields"]
    assert owned(write(made, bare), "one") == {".spec.size"}


def test_malformed_entries_are_dropped() -> None:
    made = ssa(None, widget(size=1))
    good = made["metadata"]["managedFields"][0]
    broken = [{**good, "manager": "x", "fieldsV1": {"f:a": 1}}, {**good, "operation": "Guess"}, "junk"]
    made["metadata"]["managedFields"] += broken
    assert write(made, made)["metadata"]["managedFields"] == [good]


def test_old_updaters_are_summed_up() -> None:
    made = write(None, widget(free={"start": 0}), "start")
    for index in range(MAX_UPDATERS + 3):
        spec = {"free": {**made["spec"]["free"], f"x{index}": index}}
        made = write(made, {**made, "spec": spec}, f"tool-{index}", now=NOW + 1 + index)
    names = [entry["manager"] for entry in made["metadata"]["managedFields"]]
    assert len(names) == MAX_UPDATERS
    assert "ancient-changes" in names
    assert names[-1] == f"tool-{MAX_UPDATERS + 2}"
    assert ".spec.free.x0" in owned(made, "ancient-changes")


# --------------------------------------------------------------------------------- kubectl, from client to server side


def client_applied(**spec: Any) -> dict[str, Any]:
    config = widget(**spec)
    text = json.dumps(config)
    config["metadata"]["annotations"] = {LAST_APPLIED: text}
    return write(None, config, "kubectl-client-side-apply")


def test_kubectl_may_change_what_its_client_side_apply_had_set() -> None:
    made = ssa(client_applied(size=1), widget(size=2), "kubectl")
    assert made["spec"] == {"size": 2}
    assert json.loads(made["metadata"]["annotations"][LAST_APPLIED])["spec"] == {"size": 2}
    assert ".spec.size" not in owned(made, "kubectl-client-side-apply")


def test_kubectl_may_not_change_what_others_set_since() -> None:
    live = client_applied(size=1)
    live = write(live, {**live, "spec": {"size": 1, "color": "red"}}, "hand")
    with pytest.raises(ApplyConflict) as caught:
        ssa(live, widget(size=2, color="blue"), "kubectl")
    told = 'Apply failed with 1 conflict: conflict with "hand" using example.com/v1: .spec.color'
    assert str(caught.value) == told


def test_another_manager_has_no_claim_on_the_annotation() -> None:
    with pytest.raises(ApplyConflict):
        ssa(client_applied(size=1), widget(size=2), "argo")


def test_once_migrated_kubectl_owns_and_drops_alone() -> None:
    """kubectl rewrites managedFields itself: the client-side entry becomes an Apply entry of `kubectl`."""
    live = client_applied(size=1, color="red")
    (entry,) = live["metadata"]["managedFields"]
    live["metadata"]["managedFields"] = [{**entry, "manager": "kubectl", "operation": "Apply"}]
    made = ssa(live, widget(size=1), "kubectl")
    assert made["spec"] == {"size": 1}
