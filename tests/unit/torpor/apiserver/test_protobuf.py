"""Protobuf bodies: what the real kubectl sends, and what nobody should."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from torpor.embedded.apiserver import definitions, protobuf
from torpor.embedded.apiserver.protobuf import MAX_BYTES, MAX_DEPTH, MAX_VALUES, decode

BODIES = json.loads((Path(__file__).parents[3] / "data" / "kubectl_protobuf.json").read_text("utf-8"))["bodies"]

META = {"namespace": "x"}
POD_SPEC = {"containers": [{"name": "nginx", "image": "nginx"}]}

EXPECTED: dict[str, dict[str, Any]] = {
    "configmap": {
        "kind": "ConfigMap",
        "metadata": {"name": "cm1", **META},
        "data": {"a": "b", "c": "é"},
        "binaryData": {"b.bin": "YmluAP8="},
    },
    "namespace": {"kind": "Namespace", "metadata": {"name": "foo"}},
    "secret": {"kind": "Secret", "metadata": {"name": "s1", **META}, "data": {"user": "YWRtaW4="}},
    "serviceaccount": {"kind": "ServiceAccount", "metadata": {"name": "sa1", **META}},
    "can_i": {
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"namespace": "x", "verb": "create", "resource": "pods"}},
        "status": {"allowed": False},
    },
    "can_i_path": {
        "kind": "SelfSubjectAccessReview",
        "spec": {"nonResourceAttributes": {"path": "/healthz", "verb": "get"}},
        "status": {"allowed": False},
    },
    "can_i_list": {
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": "x"},
        "status": {"incomplete": False},
    },
    "whoami": {"kind": "SelfSubjectReview"},
    "deployment": {
        "kind": "Deployment",
        "metadata": {"name": "d1", "labels": {"app": "d1"}},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": "d1"}},
            "template": {"metadata": {"labels": {"app": "d1"}}, "spec": POD_SPEC},
        },
    },
    "quota": {"kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"cpu": "1"}}},
    "service": {
        "kind": "Service",
        "metadata": {"name": "svc1", "labels": {"app": "svc1"}},
        "spec": {
            "ports": [{"name": "80-8080", "protocol": "TCP", "port": 80, "targetPort": 8080}],
            "selector": {"app": "svc1"},
            "type": "ClusterIP",
        },
    },
}


@pytest.mark.parametrize("name", EXPECTED)
def test_what_kubectl_sends_reads_as_its_json_would(name: str) -> None:
    made = decode(bytes.fromhex(BODIES[name]))
    made.pop("apiVersion")
    assert made == EXPECTED[name]


@pytest.mark.parametrize("name", BODIES)
def test_every_recorded_body_is_readable_and_named(name: str) -> None:
    made = decode(bytes.fromhex(BODIES[name]))
    assert made["kind"]
    assert re.fullmatch(r"([a-z0-9.]+/)?v1", made["apiVersion"])


# A tiny encoder, so that tests say what is on the wire.


def varint(number: int) -> bytes:
    number &= 0xFFFF_FFFF_FFFF_FFFF
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*made, number])


def field(number: int, value: int | bytes | str) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    raw = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(raw)) + raw


def body(api_version: str, kind: str, raw: bytes) -> bytes:
    return b"k8s\x00" + field(1, field(1, api_version) + field(2, kind)) + field(2, raw)


def test_metadata_of_every_shape() -> None:
    when = field(1, 1_700_000_000)
    owner = field(1, "Service") + field(3, "o") + field(4, "u") + field(5, "v1") + field(6, 1) + field(7, 0)
    managed = field(1, "kubectl") + field(2, "Apply") + field(4, when) + field(7, field(1, '{"f:data":{}}'))
    metadata = (field(1, "n") + field(7, 3) + field(8, when) + field(9, when) + field(10, 0) + field(13, owner)) + (
        field(14, "f1") + field(14, "f2") + field(12, field(1, "k") + field(2, "")) + field(17, managed)
    )
    assert decode(body("v1", "ConfigMap", field(1, metadata)))["metadata"] == {
        "name": "n",
        "generation": 3,
        "creationTimestamp": "2023-11-14T22:13:20Z",
        "deletionTimestamp": "2023-11-14T22:13:20Z",
        "deletionGracePeriodSeconds": 0,
        "ownerReferences": [
            {
                "kind": "Service",
                "name": "o",
                "uid": "u",
                "apiVersion": "v1",
                "controller": True,
                "blockOwnerDeletion": False,
            }
        ],
        "finalizers": ["f1", "f2"],
        "annotations": {"k": ""},
        "managedFields": [
            {"manager": "kubectl", "operation": "Apply", "time": "2023-11-14T22:13:20Z", "fieldsV1": {"f:data": {}}}
        ],
    }


def test_zero_is_kept_where_it_differs_from_absence() -> None:
    deployment = decode(body("apps/v1", "Deployment", field(2, field(1, 0) + field(5, 0))))
    assert deployment["spec"]["replicas"] == 0  # a pointer in Go
    assert "minReadySeconds" not in deployment["spec"]  # a plain number there
    options = decode(body("apps/v1", "DeleteOptions", field(1, 0) + field(4, "Background")))
    assert options == {
        "kind": "DeleteOptions",
        "apiVersion": "apps/v1",
        "gracePeriodSeconds": 0,
        "propagationPolicy": "Background",
    }


def test_embedded_structs_int_or_string_and_quantities() -> None:
    http = field(1, "/") + field(2, field(1, 1) + field(3, "http"))
    probe = field(1, field(2, http)) + field(6, 3)
    volume = field(1, "v") + field(2, field(2, field(2, field(1, "1Gi"))))
    container = field(1, "c") + field(8, field(1, field(1, "cpu") + field(2, field(1, "100m")))) + field(10, probe)
    spec = decode(body("v1", "Pod", field(2, field(2, container) + field(1, volume))))["spec"]
    assert spec["containers"] == [
        {
            "name": "c",
            "resources": {"limits": {"cpu": "100m"}},
            "livenessProbe": {"httpGet": {"path": "/", "port": "http"}, "failureThreshold": 3},
        }
    ]
    assert spec["volumes"] == [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}]


def test_negative_numbers_and_micro_times() -> None:
    event = field(10, field(1, 1_700_000_000) + field(2, 123_456_789)) + field(8, -2)
    made = decode(body("v1", "Event", event))
    assert (made["eventTime"], made["count"]) == ("2023-11-14T22:13:20.123456Z", -2)


def test_a_named_list_is_just_a_list() -> None:
    extra = field(1, "scopes") + field(2, field(1, "a") + field(1, "b"))
    review = body("authentication.k8s.io/v1", "SelfSubjectReview", field(2, field(1, field(4, extra))))
    assert decode(review)["status"] == {"userInfo": {"extra": {"scopes": ["a", "b"]}}}


def test_unknown_fields_are_newer_than_we_are() -> None:
    newer = field(99, "x") + field(98, 1) + varint(97 << 3 | 1) + bytes(8) + varint(96 << 3 | 5) + bytes(4)
    assert decode(body("v1", "ConfigMap", newer + field(2, field(1, "k") + field(2, "v"))))["data"] == {"k": "v"}


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"", "expected prefix"),
        (b'{"kind":"Pod"}', "expected prefix"),
        (b"k8s\x00", 'no kind "" is readable'),
        (body("v1", "Nonsense", b""), 'no kind "Nonsense" is readable for version "v1"'),
        (body("v9", "Pod", b""), 'no kind "Pod" is readable for version "v9"'),
        (body("v1", "Pod", b"") + field(3, "gzip"), "unsupported content"),
        (body("v1", "Pod", b"") + field(4, "application/json"), "unsupported content"),
        (b"k8s\x00\x08\x01", "wire type 0"),
        (body("v1", "ConfigMap", field(1, 5)), "wire type 0"),
        (body("v1", "ConfigMap", field(2, 5)), "wire type 0 where a map entry"),
        (body("v1", "ConfigMap", field(1, field(7, "x"))), "wire type 2 where i is wanted"),
        (body("v1", "ConfigMap", field(1, b"\x0a\x05ab")), "longer than its message"),
        (body("v1", "ConfigMap", b"\x0b"), "wire type 3"),
        (body("v1", "ConfigMap", b"\x02\x00"), "field number 0"),
        (body("v1", "ConfigMap", b"\x80"), "malformed varint"),
        (body("v1", "ConfigMap", b"\xff" * 11), "malformed varint"),
        (body("v1", "ConfigMap", field(1, field(1, b"\xff"))), "not UTF-8"),
        (body("v1", "ConfigMap", field(1, field(8, field(1, 1 << 62)))), "out of range"),
        (body("v1", "ConfigMap", field(1, field(17, field(7, field(1, "{"))))), "raw JSON is malformed"),
        (body("v1", "ConfigMap", field(1, field(8, field(1, "x")))), "wire type 2 in field 1"),
    ],
)
def test_malformed_bodies_are_refused_with_a_reason(raw: bytes, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        decode(raw)


def test_size_depth_and_number_of_values_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="larger than"):
        decode(b"k8s\x00" + bytes(MAX_BYTES))
    with pytest.raises(ValueError, match=f"more than {MAX_VALUES} values"):
        decode(body("v1", "ServiceAccount", b"\x12\x00" * (MAX_VALUES + 1)))
    monkeypatch.setattr(protobuf, "MAX_DEPTH", 2)
    with pytest.raises(ValueError, match="nested deeper"):
        decode(bytes.fromhex(BODIES["deployment"]))
    assert MAX_DEPTH > 12


RENAMED = {"io.k8s.api.core.v1.NodeAllocatableResourceClaimStatus": {"resources"}}
"""Alpha fields that one of the two sources knows by another name."""


def test_the_table_agrees_with_the_schemas() -> None:
    """Both come from the same API by different ways; a field only one knows is a mistake in the other."""
    lines = protobuf._lines()
    known = set(definitions.names())
    for message in lines:
        if message not in known:
            continue
        properties = definitions.load(message).get("properties", {})
        named = {field.name for field in protobuf._fields(message).values() if not field.embedded}
        inherited = any(field.embedded for field in protobuf._fields(message).values())
        assert named <= properties.keys(), message
        if not inherited:
            assert properties.keys() - named <= {"apiVersion", "kind"} | RENAMED.get(message, set()), message
