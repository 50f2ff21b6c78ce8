"""Structural schemas: pruning, defaulting, validation with Kubernetes' texts."""

from typing import Any

import pytest

from torpor.embedded.apiserver.builtin import KINDS
from torpor.embedded.apiserver.schema import MAX_CAUSES, MAX_DEPTH, default, prune, summary, validate

POD_SCHEMA = next(kind for kind in KINDS if kind.kind == "Pod").schema
assert POD_SCHEMA is not None

WIDGET: dict[str, Any] = {
    "type": "object",
    "required": ["spec"],
    "properties": {
        "spec": {
            "type": "object",
            "required": ["size"],
            "properties": {
                "size": {"type": "integer", "minimum": 1, "maximum": 9},
                "color": {"type": "string", "enum": ["red", "blue"], "default": "red"},
                "name": {"type": "string", "pattern": "^[a-z]+$", "minLength": 2, "maxLength": 4},
                "port": {"x-kubernetes-int-or-string": True},
                "ratio": {"type": "number", "minimum": 0, "exclusiveMinimum": True},
                "tags": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
                "parts": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": 2,
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["id"],
                    "items": {
                        "type": "object",
                        "required": ["id"],
                        "properties": {"id": {"type": "string"}, "n": {"type": "integer", "default": 1}},
                    },
                },
                "labels": {"type": "object", "additionalProperties": {"type": "string"}, "maxProperties": 1},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                "half": {
                    "type": "object",
                    "x-kubernetes-preserve-unknown-fields": True,
                    "properties": {"known": {"type": "object", "properties": {"a": {"type": "string"}}}},
                },
                "maybe": {"type": "string", "nullable": True},
                "inner": {
                    "type": "object",
                    "x-kubernetes-embedded-resource": True,
                    "properties": {"spec": {"type": "object"}},
                },
                "either": {"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
            },
        }
    },
}


def widget(**spec: Any) -> dict[str, Any]:
    return {"spec": {"size": 1, **spec}}


def faults(**spec: Any) -> list[str]:
    return [str(cause) for cause in validate(widget(**spec), WIDGET)]


# ---------------------------------------------------------------------------------------------------------- pruning


def test_unknown_fields_go_and_are_named_as_kubectl_shows_them() -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "x", "labels": {"any": "thing"}, "nmae": "y"},
        "spec": {"containers": [{"name": "a"}, {"name": "b", "imag": "z", "env": [{"nam": "q"}]}]},
    }
    dropped = prune(pod, POD_SCHEMA)
    assert dropped == ["metadata.nmae", "spec.containers[1].env[0].nam", "spec.containers[1].imag"]
    assert pod["spec"] == {"containers": [{"name": "a"}, {"name": "b", "env": [{}]}]}
    assert pod["metadata"] == {"name": "x", "labels": {"any": "thing"}}


def test_what_is_preserved_stays_but_its_known_parts_are_pruned() -> None:
    obj = widget(free={"x": {"y": 1}}, half={"z": 1, "known": {"a": "b", "c": 1}}, labels={"k": "v"})
    assert prune(obj, WIDGET) == ["spec.half.known.c"]
    assert obj["spec"]["free"] == {"x": {"y": 1}}
    assert obj["spec"]["half"] == {"z": 1, "known": {"a": "b"}}


def test_identity_survives_at_the_root_and_in_embedded_resources_only() -> None:
    identity = {"apiVersion": "v1", "kind": "X", "metadata": {"name": "n"}}
    obj = {**identity, **widget(inner={**identity, "extra": 1}, parts=[{"id": "a", "kind": "X"}])}
    assert prune(obj, WIDGET) == ["spec.inner.extra", "spec.parts[0].kind"]
    assert obj["spec"]["inner"] == identity


def test_a_value_of_the_wrong_shape_is_left_to_validation() -> None:
    obj = {"spec": ["not", "an", "object"]}
    assert prune(obj, WIDGET) == []
    default(obj, WIDGET)
    assert [str(cause) for cause in validate(obj, WIDGET)] == [
        'spec: Invalid value: "array": spec in body must be of type object: "array"'
    ]


def test_references_are_followed() -> None:
    schema = {"type": "object", "properties": {"next": {"$ref": "#/node"}}}
    obj = {"next": {"next": {"oops": 1}}}
    assert prune(obj, schema, {"#/node": schema}.__getitem__) == ["next.next.oops"]


def test_depth_is_bounded() -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {}}
    schema["properties"]["next"] = schema
    deep: dict[str, Any] = {}
    for _ in range(MAX_DEPTH + 1):
        deep = {"next": deep}
    for step in (prune, default, validate):
        with pytest.raises(ValueError, match="nested deeper"):
            step(deep, schema)


# -------------------------------------------------------------------------------------------------------- defaulting


def test_defaults_fill_every_level_that_exists() -> None:
    obj = widget(parts=[{"id": "a"}, {"id": "b", "n": 2}])
    default(obj, WIDGET)
    assert obj["spec"] == {"size": 1, "color": "red", "parts": [{"id": "a", "n": 1}, {"id": "b", "n": 2}]}


def test_nulls_that_may_not_be_null_count_as_absent() -> None:
    obj = widget(color=None, name=None, maybe=None, labels={"a": None, "b": "c"})
    default(obj, WIDGET)
    assert obj["spec"] == {"size": 1, "color": "red", "maybe": None, "labels": {"b": "c"}}


def test_a_default_is_not_shared_between_objects() -> None:
    schema = {"type": "object", "properties": {"x": {"type": "object", "default": {"y": []}}}}
    one: dict[str, Any] = {}
    other: dict[str, Any] = {}
    default(one, schema)
    default(other, schema)
    one["x"]["y"].append(1)
    assert other == {"x": {"y": []}}


def test_built_in_kinds_have_their_constant_defaults() -> None:
    pod: dict[str, Any] = {"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 80}]}]}}
    default(pod, POD_SCHEMA)
    assert pod["spec"]["restartPolicy"] == "Always"
    assert pod["spec"]["containers"][0]["ports"] == [{"containerPort": 80, "protocol": "TCP"}]
    assert pod["spec"]["containers"][0]["resources"] == {}


# --------------------------------------------------------------------------------------------------------- validation


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, []),
        ({"size": 2.0, "port": 80, "ratio": 1}, []),
        ({"port": "http", "maybe": None, "free": {"a": [1]}}, []),
        ({"size": "x"}, ['spec.size: Invalid value: "string": spec.size in body must be of type integer: "string"']),
        ({"size": True}, ['spec.size: Invalid value: "boolean": spec.size in body must be of type integer: "boolean"']),
        ({"size": 1.5}, ['spec.size: Invalid value: "number": spec.size in body must be of type integer: "number"']),
        ({"size": 0}, ["spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1"]),
        ({"size": 10}, ["spec.size: Invalid value: 10: spec.size in body should be less than or equal to 9"]),
        ({"ratio": 0}, ["spec.ratio: Invalid value: 0: spec.ratio in body should be greater than 0"]),
        ({"color": "green"}, ['spec.color: Unsupported value: "green": supported values: "red", "blue"']),
        ({"name": "A1"}, ["spec.name: Invalid value: \"A1\": spec.name in body should match '^[a-z]+$'"]),
        ({"name": "a"}, ['spec.name: Invalid value: "a": spec.name in body should be at least 2 chars long']),
        ({"name": "abcde"}, ["spec.name: Too long: may not be more than 4 bytes"]),
        (
            {"port": 1.5},
            ['spec.port: Invalid value: "number": spec.port in body must be of type integer,string: "number"'],
        ),
        ({"parts": []}, ["spec.parts: Invalid value: []: spec.parts in body should have at least 1 items"]),
        (
            {"parts": [{"id": "a"}, {"id": "b"}, {"id": "c"}]},
            ["spec.parts: Too many: 3: must have at most 2 items"],
        ),
        ({"parts": [{}]}, ["spec.parts[0].id: Required value"]),
        ({"parts": [{"id": "a"}, {"id": "a", "n": 2}]}, ['spec.parts[1]: Duplicate value: {"id":"a"}']),
        ({"tags": ["a", "b", "a"]}, ['spec.tags[2]: Duplicate value: "a"']),
        ({"labels": {"a": "1", "b": "2"}}, ["spec.labels: Too many: 2: must have at most 1 item"]),
        (
            {"labels": {"a": 1}},
            ['spec.labels.a: Invalid value: "integer": spec.labels.a in body must be of type string: "integer"'],
        ),
        (
            {"either": {}},
            ['<nil>: Invalid value: "": "spec.either" must validate one and only one schema (oneOf). Found none valid'],
        ),
        ({"either": {"a": 1}}, []),
        ({"size": None}, ['spec.size: Invalid value: "null": spec.size in body must be of type integer: "null"']),
    ],
)
def test_faults_read_as_kubernetes_writes_them(spec: dict[str, Any], expected: list[str]) -> None:
    assert faults(**spec) == expected


def test_what_is_missing_at_the_root_is_named() -> None:
    assert summary(validate({}, WIDGET)) == "spec: Required value"


def test_several_faults_are_summed_up_once_each() -> None:
    causes = validate(widget(size="x", name="a"), WIDGET)
    assert summary([*causes, causes[0]]) == f"[{causes[0]}, {causes[1]}]"


def test_a_flood_of_faults_is_cut() -> None:
    schema = {"type": "object", "additionalProperties": {"type": "string"}}
    assert len(validate({str(index): index for index in range(1000)}, schema)) == MAX_CAUSES


def test_a_pod_may_repeat_an_environment_variable() -> None:
    container = {"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "X", "value": "2"}]}
    assert validate({"spec": {"containers": [container]}}, POD_SCHEMA) == []
    assert validate({"spec": {"containers": [container]}}, dict(POD_SCHEMA)) == []  # also when the root was copied


@pytest.mark.parametrize(
    ("junctor", "value", "text"),
    [
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, True, "must validate at least one schema (anyOf)"),
        ({"not": {"type": "string"}}, "x", "must not validate the schema (not)"),
        ({"oneOf": [{"type": "string"}, {"minLength": 1}]}, "x", "(oneOf). Found 2 valid alternatives"),
    ],
)
def test_junctors(junctor: dict[str, Any], value: Any, text: str) -> None:
    schema = {"type": "object", "properties": {"x": junctor}}
    (cause,) = validate({"x": value}, schema)
    assert text in cause.message


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        (r"^a$", "a", "a\n"),
        (r"^[[:alpha:]]+\z", "Abc", "ab1"),
        (r"^\d+$", "12", "\u0661"),
        (r"^[$]$", "$", "x"),
        (r"^\x{41}$", "A", "B"),
        (r"^[]a]$", "]", "b"),
        (r"b", "abc", "ac"),
    ],
)
def test_patterns_mean_what_they_mean_in_go(pattern: str, good: str, bad: str) -> None:
    schema = {"type": "string", "pattern": pattern}
    assert validate(good, schema) == []
    assert len(validate(bad, schema)) == 1


def test_a_pattern_python_cannot_read_constrains_nothing() -> None:
    assert validate("x", {"type": "string", "pattern": r"^\pN+$"}) == []
