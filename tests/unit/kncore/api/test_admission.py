"""Admission as the API server and the webhook call it."""

import pytest

from kncore.api.admission import Denied, admit
from kncore.api.meta import Obj
from kncore.config.store import Store

STOCK = Store()


def service(image: str = "example.com/app") -> Obj:
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": "hello", "namespace": "default"},
        "spec": {"template": {"spec": {"containers": [{"image": image}]}}},
    }


def test_an_object_comes_back_complete_and_with_warnings() -> None:
    made = admit(service(), operation="CREATE", config=STOCK, user="alice")
    assert made.object["spec"]["traffic"] == [{"latestRevision": True, "percent": 100}]
    assert made.object["metadata"]["annotations"]["serving.knative.dev/creator"] == "alice"
    assert len(made.warnings) == 1


def test_defaults_are_validated_too() -> None:
    """An object that is only incomplete passes: validation comes after defaulting."""
    stored = admit(service(), operation="CREATE", config=STOCK).object
    again = admit(stored, old=stored, operation="UPDATE", config=STOCK)
    assert again.object == stored


def test_a_bad_object_is_denied_with_the_plain_text() -> None:
    with pytest.raises(Denied) as denied:
        admit(service(image=""), operation="CREATE", config=STOCK)
    assert denied.value.message == "missing field(s): spec.template.spec.containers[0].image"
    assert str(denied.value) == denied.value.message
    assert len(denied.value.warnings) == 1


def test_a_malformed_object_is_denied() -> None:
    broken = service() | {"spec": []}
    with pytest.raises(Denied, match="cannot decode incoming object: spec: expected an object, got a list"):
        admit(broken, operation="CREATE", config=STOCK)


@pytest.mark.parametrize(
    "obj",
    [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"ports": "?"}},
        {"apiVersion": "caching.internal.knative.dev/v1alpha1", "kind": "Image", "spec": {"image": "x"}},
        {"apiVersion": "networking.internal.knative.dev/v1alpha1", "kind": "ClusterDomainClaim", "spec": {}},
    ],
)
def test_kinds_without_rules_pass_unchanged(obj: Obj) -> None:
    assert admit(obj, operation="CREATE", config=STOCK).object is obj


def test_deletions_pass() -> None:
    broken = service() | {"spec": []}
    assert admit(broken, old=broken, operation="DELETE", config=STOCK).object is broken


def test_changed_settings_count_from_the_next_request_on() -> None:
    store = Store()
    given = service() | {"metadata": {"name": "hello"}}
    given["spec"]["template"]["spec"]["timeoutSeconds"] = 900
    with pytest.raises(Denied, match="expected 0 <= 900 <= 600"):
        admit(given, operation="CREATE", config=store)
    store.apply("config-defaults", {"max-revision-timeout-seconds": "1000"})
    assert admit(given, operation="CREATE", config=store).object["spec"]["template"]["spec"]["timeoutSeconds"] == 900
