"""What the API server's pure parts read from outside: they make an object or raise ValueError, and nothing else."""

import json
from pathlib import Path
from typing import Any

import orjson
from hypothesis import example, given
from hypothesis import strategies as st

from torpor.embedded.apiserver.builtin import KINDS, Kind
from torpor.embedded.apiserver.fieldset import decode_fields, encode_fields
from torpor.embedded.apiserver.jsonpath import compile_path
from torpor.embedded.apiserver.protobuf import decode
from torpor.embedded.apiserver.schema import default, prune, validate
from torpor.embedded.apiserver.selectors import parse_fields, parse_labels
from torpor.embedded.apiserver.strategic import strategic_merge
from torpor.embedded.apiserver.table import render_row

BODIES = [
    bytes.fromhex(body)
    for body in json.loads((Path(__file__).parents[1] / "data" / "kubectl_protobuf.json").read_text("utf-8"))[
        "bodies"
    ].values()
]
BY_KIND = {kind.kind: kind for kind in KINDS}
POD = BY_KIND["Pod"]
CONFIG_MAP = b"k8s\x00\n\x0f\n\x02v1\x12\tConfigMap\x12"
"""Everything of a body before the length of its object."""

KEYS = (
    "metadata spec status name env ports containers conditions labels containerPort containerStatuses state waiting "
    "$patch $retainKeys $setElementOrder/containers $deleteFromPrimitiveList/args"
)
NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS.split()), inner, max_size=4),
    max_leaves=15,
)
OBJECTS = st.dictionaries(st.sampled_from(["metadata", "spec", "status", "type", "subsets"]), NESTED, max_size=4)


def read(body: bytes) -> None:
    try:
        made = decode(body)
    except ValueError:
        return
    else:
        assert made["kind"]
        orjson.dumps(made)


@given(st.binary(max_size=400))
@example(b"")
def test_any_bytes_as_protobuf(body: bytes) -> None:
    read(body)
    read(b"k8s\x00" + body)
    read(CONFIG_MAP + bytes([len(body) & 0x7F]) + body)


@given(st.sampled_from(BODIES), st.data())
def test_a_damaged_body(body: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(body) - 1))
    what = data.draw(st.sampled_from(["flip", "cut", "insert", "repeat"]))
    match what:
        case "flip":
            body = body[:at] + bytes([body[at] ^ data.draw(st.integers(1, 255))]) + body[at + 1 :]
        case "cut":
            body = body[:at]
        case "insert":
            body = body[:at] + data.draw(st.binary(min_size=1, max_size=12)) + body[at:]
        case "repeat":
            body = body[:at] + body[at:] * 2
    read(body)


@given(st.text(st.sampled_from("ab/.-_=!()<>, \t\\inot"), max_size=30) | st.text(max_size=20))
def test_any_text_as_a_selector(text: str) -> None:
    for parse in (parse_labels, parse_fields):
        try:
            selector = parse(text)
        except ValueError:
            continue
        else:
            assert selector({}) in (True, False)


@given(st.text(st.sampled_from(".[]()?@='\"*:-ab1\\ {}"), max_size=25))
def test_any_text_as_a_json_path(text: str) -> None:
    try:
        path = compile_path(text)
    except ValueError:
        return
    else:
        assert isinstance(path.find({"a": [{"b": 1}], "b": "a"}), list)


@given(NESTED)
def test_any_json_as_managed_fields(value: Any) -> None:
    try:
        fields = decode_fields(value)
    except ValueError:
        return
    else:
        assert decode_fields(encode_fields(fields)) == fields


@given(OBJECTS, OBJECTS)
def test_any_json_as_a_strategic_patch(live: dict[str, Any], patch: dict[str, Any]) -> None:
    try:
        merged = strategic_merge(live, patch, POD)
    except ValueError:
        return
    else:
        assert isinstance(merged, dict)


@given(st.sampled_from(KINDS), OBJECTS)
def test_any_json_as_an_object(kind: Kind, obj: dict[str, Any]) -> None:
    assert kind.schema is not None
    prune(obj, kind.schema)
    default(obj, kind.schema)
    if not validate(obj, kind.schema):  # only such objects are stored, and shown
        assert len(render_row(kind, obj, now=0.0)["cells"]) == len(kind.columns)
