"""The CRDs as a client sees them: names, columns, what survives pruning, and the rules for structural schemas."""

from collections.abc import Iterator
from typing import Any

import pytest

from kncore.api import crds

Schema = dict[str, Any]

# group, kind, plural, short names, scope (serving §1.1)
KINDS = [
    ("serving.knative.dev/v1", "Service", "services", {"ksvc", "kservice"}, "Namespaced"),
    ("serving.knative.dev/v1", "Configuration", "configurations", {"config", "cfg"}, "Namespaced"),
    ("serving.knative.dev/v1", "Revision", "revisions", {"rev"}, "Namespaced"),
    ("serving.knative.dev/v1", "Route", "routes", {"rt"}, "Namespaced"),
    ("serving.knative.dev/v1beta1", "DomainMapping", "domainmappings", {"dm"}, "Namespaced"),
    ("autoscaling.internal.knative.dev/v1alpha1", "PodAutoscaler", "podautoscalers", {"kpa", "pa"}, "Namespaced"),
    ("autoscaling.internal.knative.dev/v1alpha1", "Metric", "metrics", set(), "Namespaced"),
    ("networking.internal.knative.dev/v1alpha1", "Ingress", "ingresses", {"kingress", "king"}, "Namespaced"),
    ("networking.internal.knative.dev/v1alpha1", "ServerlessService", "serverlessservices", {"sks"}, "Namespaced"),
    ("networking.internal.knative.dev/v1alpha1", "Certificate", "certificates", {"kcert"}, "Namespaced"),
    ("networking.internal.knative.dev/v1alpha1", "ClusterDomainClaim", "clusterdomainclaims", {"cdc"}, "Cluster"),
    ("caching.internal.knative.dev/v1alpha1", "Image", "images", set(), "Namespaced"),
]

READY = ["Ready", "Reason"]
COLUMNS = {
    "services": ["URL", "LatestCreated", "LatestReady", *READY],
    "configurations": ["LatestCreated", "LatestReady", *READY],
    "revisions": ["Config Name", "Generation", *READY, "Actual Replicas", "Desired Replicas"],
    "routes": ["URL", *READY],
    "domainmappings": ["URL", *READY],
    "podautoscalers": ["DesiredScale", "ActualScale", *READY],
    "serverlessservices": ["Mode", "Activators", "ServiceName", "PrivateServiceName", *READY],
    "ingresses": READY,
    "certificates": READY,
    "metrics": READY,
}


def by_plural() -> dict[str, Schema]:
    return {crd["spec"]["names"]["plural"]: crd for crd in crds.load()}


def root(plural: str) -> Schema:
    schema: Schema = by_plural()[plural]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def below(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """The schema and all schemas in it, each with its path."""
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from below(child, f"{path}.{name}")
    if "items" in schema:
        yield from below(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from below(schema["additionalProperties"], f"{path}{{}}")


@pytest.mark.parametrize(("api_version", "kind", "plural", "short", "scope"), KINDS)
def test_every_kind_has_one_definition(api_version: str, kind: str, plural: str, short: set[str], scope: str) -> None:
    crd = by_plural()[plural]
    spec, group_version = crd["spec"], api_version.split("/")
    assert crd["metadata"]["name"] == f"{plural}.{group_version[0]}"
    assert (spec["group"], spec["names"]["kind"], spec["scope"]) == (group_version[0], kind, scope)
    assert set(spec["names"].get("shortNames", [])) == short
    assert [version["name"] for version in spec["versions"]] == [group_version[1]]
    assert spec["versions"][0]["served"]
    assert spec["versions"][0]["storage"]
    assert spec["versions"][0]["subresources"] == {"status": {}}


def test_nothing_else_is_defined() -> None:
    assert set(by_plural()) == {plural for _, _, plural, _, _ in KINDS}


def test_kubectl_get_shows_the_usual_columns() -> None:
    shown = {
        plural: [column["name"] for column in crd["spec"]["versions"][0].get("additionalPrinterColumns", [])]
        for plural, crd in by_plural().items()
    }
    assert {plural: shown[plural] for plural in COLUMNS} == COLUMNS


def test_kubectl_get_all_lists_what_users_make() -> None:
    in_all = {plural for plural, crd in by_plural().items() if "all" in crd["spec"]["names"]["categories"]}
    assert in_all == {"services", "configurations", "revisions", "routes", "domainmappings"}


def test_fields_knative_does_not_know_are_pruned() -> None:
    pod = root("services")["properties"]["spec"]["properties"]["template"]["properties"]["spec"]["properties"]
    container = pod["containers"]["items"]["properties"]
    assert {"restartPolicy", "nodeName", "hostname", "ephemeralContainers"}.isdisjoint(pod)
    assert {"lifecycle", "stdin", "stdinOnce", "tty", "volumeDevices", "resizePolicy"}.isdisjoint(container)
    assert set(container["ports"]["items"]["properties"]) == {"containerPort", "name", "protocol"}
    assert pod["initContainers"]["items"]["x-kubernetes-preserve-unknown-fields"]
    assert pod["affinity"]["x-kubernetes-preserve-unknown-fields"]


def test_the_pod_template_is_the_same_in_all_three_kinds() -> None:
    def template(plural: str) -> Schema:
        found: Schema = root(plural)["properties"]["spec"]["properties"]["template"]
        return found

    assert template("services") == template("configurations")
    assert template("services")["properties"]["spec"] == root("revisions")["properties"]["spec"]


@pytest.mark.parametrize("plural", [plural for _, _, plural, _, _ in KINDS])
def test_schemas_are_structural(plural: str) -> None:
    """What the API server would refuse: a value without a type, a reference, a list key that may be missing."""
    wrong = []
    for path, schema in below(root(plural)):
        if ("type" in schema) == bool(schema.get("x-kubernetes-int-or-string")):
            wrong.append(f"{path}: no type")
        if any(key.startswith("$") for key in schema):
            wrong.append(f"{path}: not composed")
        if "properties" in schema and "additionalProperties" in schema:
            wrong.append(f"{path}: both properties and additionalProperties")
        for key in schema.get("x-kubernetes-list-map-keys", []):
            item = schema["items"]
            if key not in item.get("required", []) and "default" not in item["properties"][key]:
                wrong.append(f"{path}: key {key} may be missing")
        missing = set(schema.get("required", [])) - set(schema.get("properties", {}))
        wrong += [f"{path}: requires unknown {name}" for name in missing]
    assert wrong == []


def test_callers_may_change_what_they_get() -> None:
    changed = crds.load()
    for crd in changed:
        crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"].clear()
    assert all(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"] for crd in crds.load())
