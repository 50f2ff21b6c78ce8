"""The table of kinds, the schemas behind it, and CustomResourceDefinitions."""

import subprocess
import sys
from typing import Any

import pytest

from torpor.embedded.apiserver import definitions
from torpor.embedded.apiserver.builtin import KINDS, OBJECT_META, REVIEWS, VERBS, from_crd
from torpor.embedded.apiserver.schema import prune

CRD: dict[str, Any] = {
    "spec": {
        "group": "serving.knative.dev",
        "names": {"kind": "Service", "plural": "services", "shortNames": ["kservice", "ksvc"], "categories": ["all"]},
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {
                    "status": {},
                    "scale": {"specReplicasPath": ".spec.n", "statusReplicasPath": ".status.n"},
                },
                "additionalPrinterColumns": [{"name": "URL", "type": "string", "jsonPath": ".status.url"}],
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "metadata": {"type": "object"},
                            "spec": {
                                "type": "object",
                                "properties": {"any": {"type": "object", "x-kubernetes-embedded-resource": True}},
                            },
                        },
                    }
                },
            },
            {"name": "v1beta1", "served": True, "storage": False},
            {"name": "v1alpha1", "served": False, "storage": False},
        ],
    }
}


def test_no_two_kinds_share_a_path_or_a_short_name() -> None:
    paths = [(kind.group, kind.version, kind.plural) for kind in (*KINDS, *REVIEWS)]
    assert len(set(paths)) == len(paths)
    short = [name for kind in KINDS if kind.group != "events.k8s.io" for name in kind.short_names]
    assert len(set(short)) == len(short)


@pytest.mark.parametrize("kind", [*KINDS, *REVIEWS], ids=lambda kind: f"{kind.resource}-{kind.version}")
def test_every_built_in_kind_has_a_schema_that_knows_its_metadata(kind: Any) -> None:
    assert kind.schema is not None
    assert kind.schema["properties"]["metadata"] is definitions.load(OBJECT_META)
    obj = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": "x", "generateName": "y"}}
    assert prune(obj, kind.schema) == []


def test_schemas_are_linked_and_shared() -> None:
    kinds = {kind.kind: kind for kind in KINDS}
    pod, deployment = kinds["Pod"].schema, kinds["Deployment"].schema
    assert pod is not None
    assert deployment is not None
    template = deployment["properties"]["spec"]["properties"]["template"]
    assert template["properties"]["spec"] is pod["properties"]["spec"]


def test_a_reference_with_its_own_default_does_not_change_what_it_refers_to() -> None:
    container = definitions.load("io.k8s.api.core.v1.Container")
    assert container["properties"]["resources"]["default"] == {}
    assert "default" not in definitions.load("io.k8s.api.core.v1.ResourceRequirements")


def test_a_recursive_schema_refers_to_itself() -> None:
    schema = definitions.load("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps")
    assert schema["properties"]["not"] is schema


def test_every_definition_can_be_loaded() -> None:
    for name in definitions.names():
        assert definitions.load(name).name == name


def test_reviews_are_only_created() -> None:
    assert {kind.verbs for kind in REVIEWS} == {("create",)}


def test_a_crd_gives_a_kind_for_each_served_version() -> None:
    v1, beta = from_crd(CRD)
    assert (v1.api_version, v1.kind, v1.plural, v1.singular) == (
        "serving.knative.dev/v1",
        "Service",
        "services",
        "service",
    )
    assert v1.short_names == ("kservice", "ksvc")
    assert v1.categories == ("all",)
    assert v1.verbs == VERBS
    assert v1.subresources == ("status", "scale")
    assert v1.scale is not None
    assert (v1.scale.spec_path, v1.scale.status_path, v1.scale.selector_path) == (".spec.n", ".status.n", "")
    assert [column.name for column in v1.columns] == ["Name", "URL"]
    assert v1.definition == "dev.knative.serving.v1.Service"
    assert v1.resource == "services.serving.knative.dev"
    assert (v1.custom, v1.storage, beta.storage) == (True, True, False)
    assert [column.name for column in beta.columns] == ["Name", "Age"]
    assert beta.subresources == ()


def test_a_custom_kind_gets_the_standard_metadata_also_where_it_embeds_objects() -> None:
    kind = from_crd(CRD)[0]
    assert kind.schema is not None
    meta = definitions.load(OBJECT_META)
    assert kind.schema["properties"]["metadata"] is meta
    assert kind.schema["properties"]["spec"]["properties"]["any"]["properties"]["metadata"] is meta
    assert CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["metadata"] == {"type": "object"}


def test_importing_the_table_parses_no_schema() -> None:
    code = (
        "from torpor.embedded.apiserver import builtin, definitions\n"
        "assert not definitions._loaded and not definitions._lines.cache_info().currsize\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
