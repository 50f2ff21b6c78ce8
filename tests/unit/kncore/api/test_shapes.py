"""Decoding plain JSON into clean objects, as Go decodes into structs and writes them back."""

from typing import Any

import pytest

from kncore.api.kinds import decode, encode, is_known, shape
from kncore.api.shapes import DecodeError, parse_shapes

SHAPES = """
Thing: name string, note string?, count int32?, on *bool, parts []Part?, all []string, labels {}string?,
    part Part, size quantity, limit *quantity, port int-or-string, link *url, service *string!, seen time?
Part: id string?
"""


def thing(value: dict[str, Any], *, keep_empty: bool = False) -> Any:
    return parse_shapes(SHAPES, keep_empty=keep_empty)["Thing"].decode(value)


def test_absent_fields_are_written_or_left_out_as_their_type_says() -> None:
    assert thing({}) == {"name": "", "all": None, "part": {}, "size": "0", "port": 0, "service": None}


def test_zero_values_vanish_unless_something_points_at_them() -> None:
    made = thing({"note": "", "count": 0, "on": False, "parts": [], "labels": {}, "limit": "0"})
    assert {key: made[key] for key in ("note", "count", "on", "parts", "labels", "limit") if key in made} == {
        "on": False,
        "limit": "0",
    }


def test_an_empty_list_can_be_kept_apart_from_an_absent_one() -> None:
    made = thing({"parts": [], "labels": {}, "note": ""}, keep_empty=True)
    assert (made["parts"], made["labels"], "note" in made) == ([], {}, False)


def test_unknown_fields_and_nulls_are_dropped() -> None:
    made = thing({"unknown": 1, "note": None, "part": {"id": "a", "x": 1}, "parts": [{"y": 2}, None]})
    assert made["part"] == {"id": "a"}
    assert made["parts"] == [{}, {}]
    assert "note" not in made
    assert "unknown" not in made


def test_quantities_and_urls_become_canonical() -> None:
    made = thing({"size": "1000m", "limit": 0.5, "link": "not a url"})
    assert (made["size"], made["limit"], made["link"]) == ("1", "500m", "not%20a%20url")


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ({"name": 1}, "name: expected a string, got a number"),
        ({"on": "yes"}, "on: expected a boolean, got a string"),
        ({"count": True}, "count: expected a whole number, got a boolean"),
        ({"count": 1.0}, "count: expected a whole number, got a number with a fraction"),
        ({"count": 2**31}, "count: the number 2147483648 is out of range"),
        ({"parts": {}}, "parts: expected a list, got an object"),
        ({"parts": [{}, {"id": []}]}, "parts[1].id: expected a string, got a list"),
        ({"labels": {"a": 1}}, "labels[a]: expected a string, got a number"),
        ({"labels": {1: "a"}}, "labels: expected a string as key, got a number"),
        ({"part": "x"}, "part: expected an object, got a string"),
        ({"port": 1.5}, "port: expected a whole number, got a number with a fraction"),
        ({"size": []}, "size: expected a quantity, got a list"),
        ({"link": "http://[::1"}, "link: not a URL: invalid character or port in host name"),
    ],
)
def test_a_wrong_type_is_refused_with_its_place(value: dict[str, Any], error: str) -> None:
    with pytest.raises(DecodeError) as refused:
        thing(value)
    assert str(refused.value) == error


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"size": "1Ki"}, {"size": "1024"}, True),
        ({"size": "1"}, {"size": "2"}, False),
        ({"parts": []}, {}, True),
        ({"note": ""}, {}, True),
        ({"on": False}, {}, False),
        ({"parts": [{"id": "a"}]}, {"parts": [{"id": "b"}]}, False),
        ({"labels": {"a": "1"}}, {"labels": {"a": "1"}}, True),
    ],
)
def test_objects_are_compared_by_meaning(one: dict[str, Any], other: dict[str, Any], same: bool) -> None:
    known = parse_shapes(SHAPES, keep_empty=True)["Thing"]
    assert known.same(known.decode(one), known.decode(other)) is same


def test_bottomless_values_are_refused() -> None:
    deep: Any = {}
    for _ in range(5000):
        deep = {"f:a": deep}
    metadata = {"name": "a", "managedFields": [{"fieldsV1": deep}]}
    route = {"apiVersion": "serving.knative.dev/v1", "kind": "Route", "metadata": metadata}
    with pytest.raises(DecodeError, match=r"managedFields\[0\]\.fieldsV1: nested more than 100 levels deep"):
        decode(route)


def test_a_core_service_is_not_ours() -> None:
    assert not is_known({"apiVersion": "v1", "kind": "Service"})
    assert is_known({"apiVersion": "serving.knative.dev/v1", "kind": "Service"})
    with pytest.raises(DecodeError):
        decode({"apiVersion": "v1", "kind": "Service"})


def test_a_service_is_written_without_what_is_empty() -> None:
    sent = {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": "hello", "labels": {}},
        "spec": {"template": {"spec": {"containers": [{"image": "app", "env": []}], "tolerations": []}}},
    }
    assert decode(sent)["spec"]["template"]["spec"]["tolerations"] == []
    assert encode(decode(sent)) == {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": "hello"},
        "spec": {"template": {"metadata": {}, "spec": {"containers": [{"name": "", "image": "app", "resources": {}}]}}},
        "status": {},
    }


def test_a_revision_has_the_pods_fields_and_four_more() -> None:
    fields = set(shape("RevisionSpec").fields)
    assert {"containers", "volumes", "timeoutSeconds", "containerConcurrency", "idleTimeoutSeconds"} <= fields
