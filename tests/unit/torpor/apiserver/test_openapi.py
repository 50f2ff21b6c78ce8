"""OpenAPI documents: what kubectl looks for in them."""

import re
from typing import Any

import orjson
import pytest

from kncore.api import crds
from torpor.embedded.apiserver.builtin import KINDS, REVIEWS, Kind, from_crd
from torpor.embedded.apiserver.openapi import document, index

ALL = [*KINDS, *REVIEWS, *(kind for crd in crds.load() for kind in from_crd(crd))]
GROUP_VERSIONS = sorted({(kind.group, kind.version) for kind in ALL})


def test_the_index_names_every_group_version_with_a_hash() -> None:
    paths = index(ALL)["paths"]
    assert paths.keys() == {
        f"apis/{group}/{version}" if group else f"api/{version}" for group, version in GROUP_VERSIONS
    }
    for path, entry in paths.items():
        assert re.fullmatch(rf"/openapi/v3/{re.escape(path)}\?hash=[0-9A-F]{{64}}", entry["serverRelativeURL"])


def test_a_hash_changes_with_its_own_group_only() -> None:
    def kinds(schema: dict[str, Any]) -> list[Kind]:
        version = {"name": "v1", "schema": {"openAPIV3Schema": schema}}
        spec = {"group": "example.com", "names": {"kind": "W", "plural": "ws"}, "versions": [version]}
        return [*KINDS, *from_crd({"spec": spec})]

    before, after = (index(kinds(schema))["paths"] for schema in ({"type": "object"}, {"type": "object", "title": "x"}))
    changed = {path for path in before if before[path] != after[path]}
    assert changed == {"apis/example.com/v1"}


@pytest.mark.parametrize(("group", "version"), GROUP_VERSIONS)
def test_every_reference_in_a_document_resolves(group: str, version: str) -> None:
    made = document(group, version, ALL)
    text = orjson.dumps(made).decode()
    wanted = set(re.findall(r'"\$ref":"#/components/schemas/([^"]+)"', text))
    assert wanted <= made["components"]["schemas"].keys()


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: f"{kind.resource}-{kind.version}")
def test_kubectl_finds_the_kind_of_a_path_and_its_schema(kind: Kind) -> None:
    made = document(kind.group, kind.version, ALL)
    root = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
    path = f"{root}/namespaces/{{namespace}}/{kind.plural}" if kind.namespaced else f"{root}/{kind.plural}"
    identity = {"group": kind.group, "version": kind.version, "kind": kind.kind}
    assert made["paths"][path]["post"]["x-kubernetes-group-version-kind"] == identity
    assert made["components"]["schemas"][kind.definition]["x-kubernetes-group-version-kind"] == [identity]
    if "patch" in kind.verbs:
        patch = made["paths"][f"{path}/{{name}}"]["patch"]
        assert patch["x-kubernetes-group-version-kind"] == identity
        offered = {parameter["name"] for parameter in patch["parameters"]}
        assert offered == {"dryRun", "fieldManager", "fieldValidation", "force"}
        strategic = "application/strategic-merge-patch+json" in patch["requestBody"]["content"]
        assert strategic is not kind.custom


def test_core_schemas_are_described_and_named_as_upstream() -> None:
    schemas = document("", "v1", ALL)["components"]["schemas"]
    container = schemas["io.k8s.api.core.v1.Container"]["properties"]
    assert container["image"]["type"] == "string"
    assert container["image"]["description"].startswith("Container image name")
    assert container["ports"]["x-kubernetes-patch-merge-key"] == "containerPort"
    assert container["resources"] == {
        "allOf": [{"$ref": "#/components/schemas/io.k8s.api.core.v1.ResourceRequirements"}],
        "default": {},
    }
    metadata = schemas["io.k8s.api.core.v1.Pod"]["properties"]["metadata"]
    assert metadata == {"$ref": "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
    assert schemas["io.k8s.apimachinery.pkg.util.intstr.IntOrString"] == {
        "format": "int-or-string",
        "oneOf": [{"type": "integer"}, {"type": "string"}],
    }


def test_a_custom_kind_is_explained_down_to_its_containers() -> None:
    schema = document("serving.knative.dev", "v1", ALL)["components"]["schemas"]["dev.knative.serving.v1.Service"]
    template = schema["properties"]["spec"]["properties"]["template"]
    container = template["properties"]["spec"]["properties"]["containers"]["items"]
    assert container["properties"]["image"]["type"] == "string"
    assert schema["properties"]["metadata"]["description"] == "Standard object's metadata."
