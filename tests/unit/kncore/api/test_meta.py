from kncore.api import keys, meta, names, podautoscaler
from kncore.config.autoscaler import Autoscaler

OBJ = {
    "apiVersion": "serving.knative.dev/v1",
    "kind": "Route",
    "metadata": {"name": "web", "namespace": "shop", "uid": "u1", "generation": 2, "labels": {"a": "1"}},
    "status": {"observedGeneration": 2, "conditions": [{"type": "Ready", "status": "True"}]},
}


def test_accessors_tolerate_anything_missing() -> None:
    for odd in ({}, {"metadata": None}, {"metadata": {"labels": None, "ownerReferences": None}}, {"status": None}):
        assert meta.key(odd) == ""
        assert meta.labels(odd) == meta.annotations(odd) == {}
        assert meta.finalizers(odd) == []
        assert meta.generation(odd) == 0
        assert meta.controller_of(odd) is None
        assert meta.condition(odd, "Ready") is None
        assert not meta.is_ready(odd)
        assert not meta.is_deleting(odd)


def test_at_walks_mappings_and_lists() -> None:
    obj = {"spec": {"containers": [{"name": "a"}, {"ports": None}]}}
    assert meta.at(obj, "spec", "containers", 0, "name") == "a"
    assert meta.at(obj, "spec", "containers", -1, "ports", default=[]) == []
    assert meta.at(obj, "spec", "containers", 2, "name") is None
    assert meta.at(obj, "spec", 0, default="x") == "x"
    assert meta.at(obj, "spec", "containers", "name", default="x") == "x"


def test_keys_of_namespaced_and_cluster_objects() -> None:
    assert meta.key(OBJ) == "shop/web"
    assert meta.key({"metadata": {"name": "web"}}) == "web"


def test_ready_must_speak_of_the_current_generation() -> None:
    assert meta.is_ready(OBJ)
    assert not meta.is_ready({**OBJ, "metadata": {**OBJ["metadata"], "generation": 3}})


def test_ownership_is_by_uid() -> None:
    child = {"metadata": {"ownerReferences": [{"uid": "x"}, meta.owner_reference(OBJ)]}}
    reference = meta.controller_of(child)
    assert reference is not None
    assert reference["apiVersion"] == "serving.knative.dev/v1"
    assert reference["blockOwnerDeletion"]
    assert meta.is_controlled_by(child, OBJ)
    assert not meta.is_controlled_by(child, {**OBJ, "metadata": {**OBJ["metadata"], "uid": "u2"}})
    assert meta.controller_of({"metadata": {"ownerReferences": [meta.owner_reference(OBJ, controller=False)]}}) is None


def test_selectors_match_all_their_pairs() -> None:
    assert meta.matches({}, {})
    assert meta.matches({"a": "1"}, {"a": "1", "b": "2"})
    assert not meta.matches({"a": "1", "b": "3"}, {"a": "1", "b": "2"})


def test_the_first_alias_that_is_present_wins_even_if_empty() -> None:
    assert keys.lookup({keys.MIN_SCALE[1]: "2"}, keys.MIN_SCALE) == "2"
    assert keys.lookup({keys.MIN_SCALE[0]: "", keys.MIN_SCALE[1]: "2"}, keys.MIN_SCALE) == ""
    assert keys.lookup({}, keys.MIN_SCALE) is None


def test_names_of_buckets() -> None:
    assert names.bucket_names("controller.x", 2) == ["controller.x.00-of-02", "controller.x.01-of-02"]
    assert names.private_service_name("web-00001") == "web-00001-private"


def test_grace_period_is_honoured_as_an_annotation() -> None:
    config = Autoscaler()

    def grace(value: str) -> float:
        pa = {"metadata": {"annotations": {"autoscaling.knative.dev/scale-to-zero-grace-period": value}}}
        return podautoscaler.scale_to_zero_grace_period(pa, config)

    assert [grace("5s"), grace("0s"), grace("soon")] == [5, 30, 30]


def test_an_unreachable_revision_keeps_no_pods() -> None:
    pa = {
        "metadata": {
            "annotations": {
                "autoscaling.knative.dev/min-scale": "2",
                "autoscaling.knative.dev/scale-to-zero-pod-retention-period": "1m",
            }
        },
        "spec": {"reachability": "Unreachable"},
    }
    assert podautoscaler.scale_bounds(pa, Autoscaler()) == (0, 0)
    assert podautoscaler.pod_retention(pa, Autoscaler()) == 0
    assert podautoscaler.pod_retention({**pa, "spec": {}}, Autoscaler()) == 60
