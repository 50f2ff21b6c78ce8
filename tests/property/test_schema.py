"""Structural schemas against a general validator, and the laws of pruning and defaulting."""

import copy
from typing import Any

import jsonschema
from hypothesis import given
from hypothesis import strategies as st

from torpor.embedded.apiserver.schema import default, prune, validate

SCALARS = st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-3, 3, width=16) | st.text("ab1-", max_size=4)
NAMES = st.sampled_from(["a", "b", "c"])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=12
)


@st.composite
def scalar_schemas(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["string", "integer", "number", "boolean"]))
    schema: dict[str, Any] = {"type": kind}
    if kind == "string":
        schema |= draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "minLength": st.integers(0, 2),
                    "maxLength": st.integers(2, 4),
                    "pattern": st.sampled_from(["^[a-b]+", "1", "[^-]", "a|b"]),
                    "enum": st.lists(st.text("ab", max_size=2), min_size=1, max_size=3, unique=True),
                },
            )
        )
    elif kind in ("integer", "number"):
        schema |= draw(
            st.fixed_dictionaries({}, optional={"minimum": st.integers(-2, 2), "maximum": st.integers(0, 3)})
        )
    if draw(st.booleans()):
        schema["nullable"] = True
    return schema


@st.composite
def composite_schemas(draw: st.DrawFn, inner: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
    kind = draw(st.sampled_from(["array", "map", "object"]))
    if kind == "array":
        bounds = {"minItems": st.integers(0, 2), "maxItems": st.integers(1, 3)}
        return {"type": "array", "items": draw(inner), **draw(st.fixed_dictionaries({}, optional=bounds))}
    if kind == "map":
        return {"type": "object", "additionalProperties": draw(inner)}
    properties = draw(st.dictionaries(NAMES, inner, max_size=3))
    required = draw(st.lists(NAMES, max_size=2, unique=True))
    return {"type": "object", "properties": properties, **({"required": required} if required else {})}


SCHEMAS = st.recursive(scalar_schemas(), composite_schemas, max_leaves=8)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=3)
ROOTS = composite_schemas(SCHEMAS).filter(lambda schema: schema["type"] == "object")


def as_json_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """The same constraint without OpenAPI's `nullable`."""
    made = {key: value for key, value in schema.items() if key != "nullable"}
    for key in ("items", "additionalProperties"):
        if key in made:
            made[key] = as_json_schema(made[key])
    if "properties" in made:
        made["properties"] = {name: as_json_schema(part) for name, part in made["properties"].items()}
    return {"anyOf": [{"type": "null"}, made]} if schema.get("nullable") else made


@st.composite
def cases(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    schema = draw(ROOTS)
    return schema, draw(OBJECTS | shaped(schema))


def shaped(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that are likely to fit a schema."""
    match schema["type"]:
        case "string":
            return st.sampled_from(schema.get("enum", ["a", "ab", "b1", "-"]))
        case "integer":
            return st.integers(-2, 3)
        case "number":
            return st.floats(-2, 3, width=16)
        case "boolean":
            return st.booleans()
        case "array":
            return st.lists(shaped(schema["items"]), max_size=3)
    if "additionalProperties" in schema:
        return st.dictionaries(NAMES, shaped(schema["additionalProperties"]), max_size=2)
    return st.fixed_dictionaries(
        {}, optional={name: shaped(part) for name, part in schema.get("properties", {}).items()}
    )


@given(cases())
def test_the_verdict_is_that_of_json_schema(case: tuple[dict[str, Any], dict[str, Any]]) -> None:
    schema, obj = case
    expected = jsonschema.Draft202012Validator(as_json_schema(schema)).is_valid(obj)
    assert (validate(obj, schema) == []) is expected


@given(cases())
def test_pruning_and_defaulting_are_done_after_once(case: tuple[dict[str, Any], dict[str, Any]]) -> None:
    schema, obj = case
    obj = copy.deepcopy(obj)
    prune(obj, schema)
    default(obj, schema)
    again = copy.deepcopy(obj)
    assert prune(again, schema) == []
    default(again, schema)
    assert again == obj


@given(cases())
def test_pruning_drops_exactly_what_it_reports(case: tuple[dict[str, Any], dict[str, Any]]) -> None:
    schema, obj = case
    obj = {name: value for name, value in obj.items() if isinstance(value, dict)}
    before = copy.deepcopy(obj)
    dropped = prune(obj, schema)
    assert (obj == before) is (dropped == [])
    for path in dropped:
        assert path.split(".")[0].split("[")[0] in before
