"""Strategic merge patches: merge keys, directives and the order of merged lists."""

import copy
from typing import Any

import pytest

from torpor.embedded.apiserver.builtin import KINDS
from torpor.embedded.apiserver.strategic import strategic_merge

BY_KIND = {kind.kind: kind for kind in KINDS}
POD = BY_KIND["Pod"]
DEPLOYMENT = BY_KIND["Deployment"]


def containers(*names: str) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": name, "image": f"{name}:1"} for name in names]}}


def names(obj: dict[str, Any]) -> list[str]:
    return [container["name"] for container in obj["spec"]["containers"]]


def test_maps_merge_and_null_removes() -> None:
    live = {"data": {"a": "1", "b": "2"}, "metadata": {"labels": {"x": "1"}}}
    patch = {"data": {"a": None, "c": "3"}, "metadata": {"labels": {"y": "2"}}}
    assert strategic_merge(live, patch, BY_KIND["ConfigMap"]) == {
        "data": {"b": "2", "c": "3"},
        "metadata": {"labels": {"x": "1", "y": "2"}},
    }


def test_lists_of_objects_merge_by_their_key() -> None:
    patch = {"spec": {"containers": [{"name": "b", "image": "b:2"}, {"name": "new", "image": "n:1"}]}}
    merged = strategic_merge(containers("a", "b"), patch, POD)
    assert merged["spec"]["containers"] == [
        {"name": "a", "image": "a:1"},
        {"name": "b", "image": "b:2"},
        {"name": "new", "image": "n:1"},
    ]


def test_nested_lists_merge_too() -> None:
    live = {"spec": {"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]}]}}
    patch = {"spec": {"containers": [{"name": "a", "env": [{"name": "Y", "value": "3"}]}]}}
    env = strategic_merge(live, patch, POD)["spec"]["containers"][0]["env"]
    assert env == [{"name": "X", "value": "1"}, {"name": "Y", "value": "3"}]


def test_service_ports_merge_by_port_number() -> None:
    live = {"spec": {"ports": [{"port": 80, "name": "http"}, {"port": 90, "name": "metrics"}]}}
    patch = {"spec": {"ports": [{"port": 90, "name": "m2"}]}}
    assert strategic_merge(live, patch, BY_KIND["Service"])["spec"]["ports"] == [
        {"port": 80, "name": "http"},
        {"port": 90, "name": "m2"},
    ]


def test_other_lists_are_replaced() -> None:
    live = {"spec": {"containers": [{"name": "a", "args": ["x", "y"]}], "tolerations": [{"key": "k"}]}}
    patch = {"spec": {"containers": [{"name": "a", "args": ["z"]}], "tolerations": [{"key": "l"}]}}
    merged = strategic_merge(live, patch, POD)
    assert merged["spec"]["containers"][0]["args"] == ["z"]
    assert merged["spec"]["tolerations"] == [{"key": "l"}]


def test_sets_of_scalars_are_united() -> None:
    live = {"metadata": {"finalizers": ["a", "b"]}}
    merged = strategic_merge(live, {"metadata": {"finalizers": ["c", "a"]}}, POD)
    assert sorted(merged["metadata"]["finalizers"]) == ["a", "b", "c"]


def test_patch_delete_removes_an_item_and_empties_a_map() -> None:
    patch = {"spec": {"containers": [{"name": "a", "$patch": "delete"}]}}
    assert names(strategic_merge(containers("a", "b"), patch, POD)) == ["b"]
    assert strategic_merge({"data": {"a": "1"}}, {"data": {"$patch": "delete"}}, BY_KIND["ConfigMap"]) == {"data": {}}


def test_patch_delete_of_what_is_not_there_leaves_no_trace() -> None:
    patch = {
        "spec": {"containers": [{"name": "z", "$patch": "delete"}], "volumes": [{"name": "v", "$patch": "delete"}]}
    }
    merged = strategic_merge(containers("a"), patch, POD)
    assert names(merged) == ["a"]
    assert merged["spec"]["volumes"] == []


def test_patch_replace_replaces_lists_and_maps() -> None:
    patch = {"spec": {"containers": [{"name": "z"}, {"$patch": "replace"}]}}
    assert names(strategic_merge(containers("a", "b"), patch, POD)) == ["z"]
    patch = {"data": {"$patch": "replace", "b": "2"}}
    assert strategic_merge({"data": {"a": "1"}}, patch, BY_KIND["ConfigMap"]) == {"data": {"b": "2"}}


def test_delete_from_primitive_list() -> None:
    live = {"metadata": {"finalizers": ["a", "b", "c"]}}
    patch = {"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"]}}
    assert strategic_merge(live, patch, POD) == {"metadata": {"finalizers": ["a", "c"]}}


def test_retain_keys_drops_the_others() -> None:
    live = {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}
    patch = {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}
    assert strategic_merge(live, patch, DEPLOYMENT)["spec"]["strategy"] == {"type": "Recreate"}


def test_retain_keys_within_a_list_of_volumes() -> None:
    live = {"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}
    patch = {"spec": {"volumes": [{"name": "v", "configMap": {"name": "c"}, "$retainKeys": ["name", "configMap"]}]}}
    assert strategic_merge(live, patch, POD)["spec"]["volumes"] == [{"name": "v", "configMap": {"name": "c"}}]


def test_the_order_directive_orders_and_leaves_strangers_where_they_were() -> None:
    patch = {
        "spec": {
            "$setElementOrder/containers": [{"name": "c"}, {"name": "a"}],
            "containers": [{"name": "c", "image": "c:2"}],
        }
    }
    # `b` is only live: it stood before `c`, and stays before it
    assert names(strategic_merge(containers("a", "b", "c"), patch, POD)) == ["b", "c", "a"]


def test_the_order_directive_alone_reorders() -> None:
    patch = {"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}}
    assert names(strategic_merge(containers("a", "b"), patch, POD)) == ["b", "a"]
    patch = {"metadata": {"$setElementOrder/finalizers": ["z", "y"], "finalizers": ["z"]}}
    merged = strategic_merge({"metadata": {"finalizers": ["x", "y"]}}, patch, POD)
    assert merged["metadata"]["finalizers"] == ["z", "x", "y"]


def test_kubectl_apply_of_a_changed_deployment() -> None:
    """What kubectl 1.32 sends when a container's image and a label change and an environment variable goes."""
    live = {
        "metadata": {"labels": {"app": "x"}},
        "spec": {
            "replicas": 2,
            "template": {
                "spec": {
                    "containers": [
                        {"name": "a", "image": "i:1", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]}
                    ]
                }
            },
        },
    }
    patch = {
        "metadata": {"labels": {"app": None, "tier": "t"}},
        "spec": {
            "template": {
                "spec": {
                    "$setElementOrder/containers": [{"name": "a"}],
                    "containers": [
                        {
                            "$setElementOrder/env": [{"name": "X"}],
                            "env": [{"$patch": "delete", "name": "Y"}],
                            "image": "i:2",
                            "name": "a",
                        }
                    ],
                }
            }
        },
    }
    merged = strategic_merge(live, patch, DEPLOYMENT)
    assert merged["metadata"]["labels"] == {"tier": "t"}
    container = {"name": "a", "image": "i:2", "env": [{"name": "X", "value": "1"}]}
    assert merged["spec"] == {"replicas": 2, "template": {"spec": {"containers": [container]}}}


def test_neither_argument_is_changed_or_shared() -> None:
    live, patch = containers("a"), {"spec": {"containers": [{"name": "a", "env": []}], "nodeSelector": {"a": "b"}}}
    before = copy.deepcopy((live, patch))
    merged = strategic_merge(live, patch, POD)
    merged["spec"]["containers"][0]["env"].append(1)
    merged["spec"]["nodeSelector"]["c"] = "d"
    assert (live, patch) == before


@pytest.mark.parametrize(
    ("patch", "text"),
    [
        ({"spec": {"$patch": "explode"}}, "unknown patch type found: explode"),
        ({"spec": {"containers": [{"image": "x"}]}}, "does not contain declared merge key: name"),
        ({"spec": {"containers": ["x", {"name": "a"}]}}, "must all be objects"),
        ({"spec": {"$setElementOrder/containers": "x"}}, "must be a list"),
        ({"spec": {"$retainKeys": ["a"], "b": 1}}, "must contain every key"),
    ],
)
def test_a_malformed_patch_is_refused(patch: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        strategic_merge(containers("a"), patch, POD)


def test_depth_is_bounded() -> None:
    patch: dict[str, Any] = {}
    for _ in range(200):
        patch = {"x": patch}
    with pytest.raises(ValueError, match="nested deeper"):
        strategic_merge({}, patch, POD)
