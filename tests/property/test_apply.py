"""Laws of server-side apply, over objects with granular maps, atomic lists, sets and list maps."""

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from torpor.embedded.apiserver.apply import ApplyConflict, apply, update_managed
from torpor.embedded.apiserver.fieldset import compare, decode_fields, encode_fields, fields_of, merge, remove

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "properties": {
                "n": {"type": "integer"},
                "map": {"type": "object", "additionalProperties": {"type": "integer"}},
                "set": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
                "plain": {"type": "array", "items": {"type": "integer"}},
                "items": {
                    "type": "array",
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["id"],
                    "items": {"type": "object", "properties": {"id": {"type": "string"}, "v": {"type": "integer"}}},
                },
            },
        }
    },
}
NUMBERS = st.integers(0, 2)
ITEM = st.fixed_dictionaries({"id": st.sampled_from("abc")}, optional={"v": NUMBERS})
SPECS = st.fixed_dictionaries(
    {},
    optional={
        "n": NUMBERS,
        "map": st.dictionaries(st.sampled_from("xyz"), NUMBERS, max_size=3),
        "set": st.lists(st.sampled_from("abc"), max_size=3, unique=True),
        "plain": st.lists(NUMBERS, max_size=2),
        "items": st.lists(ITEM, max_size=3, unique_by=lambda item: item["id"]),
    },
)
OBJECTS = SPECS.map(lambda spec: {"apiVersion": "v1", "kind": "X", "metadata": {"name": "x"}, "spec": spec})
MANAGERS = st.sampled_from(["one", "two", "three"])
STEPS = st.lists(st.tuples(st.sampled_from(["apply", "force", "update"]), MANAGERS, OBJECTS), max_size=6)


def run(steps: list[tuple[str, str, dict[str, Any]]]) -> dict[str, Any] | None:
    """The object after a history of writes; a conflicting apply changes nothing."""
    live: dict[str, Any] | None = None
    for now, (how, manager, obj) in enumerate(steps):
        live = step(live, how, manager, obj, float(now))
    return live


def step(live: dict[str, Any] | None, how: str, manager: str, obj: dict[str, Any], now: float) -> dict[str, Any] | None:
    obj = copy.deepcopy(obj)
    if how == "update":
        obj["metadata"]["managedFields"] = update_managed(live, obj, manager, schema=SCHEMA, api_version="v1", now=now)
        return obj
    try:
        made = apply(live, obj, manager, schema=SCHEMA, force=how == "force", api_version="v1", now=now)
    except ApplyConflict:
        return live
    return copy.deepcopy(made)


def spec_of(obj: dict[str, Any]) -> Any:
    return {key: value for key, value in obj.items() if key != "metadata"}


@given(STEPS, MANAGERS, OBJECTS)
def test_what_was_applied_is_in_the_object(steps: Any, manager: str, obj: dict[str, Any]) -> None:
    made = step(run(steps), "force", manager, obj, 99.0)
    assert made is not None
    assert spec_of(merge(made, obj, SCHEMA)) == spec_of(made)


@given(STEPS, MANAGERS, OBJECTS)
def test_applying_twice_is_applying_once(steps: Any, manager: str, obj: dict[str, Any]) -> None:
    once = step(run(steps), "force", manager, obj, 99.0)
    assert step(once, "apply", manager, obj, 100.0) == once


@given(OBJECTS)
def test_an_applier_that_withdraws_takes_everything_along(obj: dict[str, Any]) -> None:
    made = step(None, "apply", "one", obj, 0.0)
    made = step(made, "apply", "one", {**obj, "spec": {}}, 1.0)
    assert made is not None
    assert made["spec"] == {}


@given(STEPS)
def test_nobody_owns_what_is_not_there(steps: Any) -> None:
    live = run(steps)
    if live is None:
        return
    there = fields_of(spec_of(live), SCHEMA)
    there |= {path[:length] for path in there for length in range(1, len(path))}
    for entry in live["metadata"]["managedFields"]:
        assert decode_fields(entry["fieldsV1"]) <= there
        assert decode_fields(entry["fieldsV1"]), "an empty entry stayed"


@given(OBJECTS, OBJECTS)
def test_compare_is_symmetric_and_complete(one: dict[str, Any], other: dict[str, Any]) -> None:
    added, changed, removed = compare(one, other, SCHEMA)
    assert compare(other, one, SCHEMA) == (removed, changed, added)
    same = [spec_of(obj) for obj in (one, other)]
    if not (added or changed or removed):
        # the order of keyed items is nobody's field
        assert fields_of(same[0], SCHEMA) == fields_of(same[1], SCHEMA)


@given(OBJECTS)
def test_removing_all_fields_leaves_none(obj: dict[str, Any]) -> None:
    fields = fields_of(obj, SCHEMA)
    left = fields_of(remove(obj, fields, SCHEMA), SCHEMA)
    assert left <= {("f:spec",), ("f:metadata",)} | {("f:spec", f"f:{name}") for name in ("map", "set", "items")}
    assert decode_fields(encode_fields(fields)) == fields
