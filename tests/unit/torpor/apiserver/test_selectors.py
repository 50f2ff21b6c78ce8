"""Label and field selectors: the grammar and texts of apimachinery."""

import re

import pytest

from torpor.embedded.apiserver.selectors import matches, parse_fields, parse_labels

LABELS = {"app": "web", "tier": "front", "n": "7"}


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("", True),
        ("app=web", True),
        ("app==web,tier = front", True),
        ("app=api", False),
        ("app!=api", True),
        ("missing!=x", True),
        ("app in (web, api)", True),
        ("app notin (web)", False),
        ("missing notin (web)", True),
        ("app", True),
        ("missing", False),
        ("!missing", True),
        ("! app", False),
        ("n>6", True),
        ("n<7", False),
        ("missing>1", False),
        ("app>1", False),
        ("app=", False),
        ("missing in ()", None),
        ("app in (,web)", True),
        ("in in (in, notin)", False),
        ("serving.knative.dev/service", False),
    ],
)
def test_a_label_selector_selects(text: str, selected: bool | None) -> None:
    if selected is None:
        with pytest.raises(ValueError, match="values set can't be empty"):
            parse_labels(text)
    else:
        assert parse_labels(text)(LABELS) is selected


def test_empty_places_in_a_value_list_are_the_empty_value() -> None:
    assert parse_labels("app in (,)")({"app": ""})
    assert parse_labels("app in (a,)")({"app": ""})
    assert parse_labels("app in (a,,b)")({"app": "b"})


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("=web", "found '=', expected: !, identifier, or 'end of string'"),
        ("app=web,", "found '', expected: identifier after ','"),
        ("app=web tier=x", "found 'tier', expected: ',' or 'end of string'"),
        ("!app=web", "found '=', expected: ',' or 'end of string'"),
        ("!,", "unable to parse requirement: found ',', expected: identifier"),
        ("app web", "unable to parse requirement: found 'web', expected: in, notin, =, ==, !=, gt, lt"),
        ("app in web", "unable to parse requirement: found 'web' expected: '('"),
        ("app in (a", "unable to parse requirement: found '', expected: ',' or ')'"),
        ("app in (=", "unable to parse requirement: found '=', expected: ',', ')' or identifier"),
        ("app in (a,=)", "unable to parse requirement: found '=', expected: ',', or identifier"),
        ("app==(", "unable to parse requirement: found '(', expected: identifier"),
        (
            "n>x",
            'unable to parse requirement: values[0]: Invalid value: "x": '
            "for 'Gt', 'Lt' operators, the value must be an integer",
        ),
        (
            "app=-x",
            'unable to parse requirement: values[0][app]: Invalid value: "-x": a valid label must be an empty string '
            "or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
            "character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
            "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
        ),
        (
            "-app",
            'unable to parse requirement: <nil>: Invalid value: "-app": name part must consist of alphanumeric '
            "characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or "
            "'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
        ),
    ],
)
def test_a_mistyped_label_selector_is_explained(text: str, error: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(error)}$"):
        parse_labels(text)


@pytest.mark.parametrize("key", ["/x", "a/b/c", "UPPER/x", "x" * 64, "a" * 254 + "/x", "x/"])
def test_a_key_must_be_a_qualified_name(key: str) -> None:
    with pytest.raises(ValueError, match="Invalid value"):
        parse_labels(key)


POD = {
    "metadata": {"name": "web-1", "namespace": "default"},
    "spec": {"nodeName": "torpor", "hostNetwork": True},
    "status": {"phase": "Running"},
    "count": 3,
}


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("", True),
        ("metadata.name=web-1", True),
        ("metadata.name==web-2", False),
        ("status.phase!=Running", False),
        ("spec.nodeName=torpor,status.phase=Running", True),
        ("spec.hostNetwork=true", True),
        ("count=3", True),
        ("spec.missing=", True),
        ("metadata.name.deeper=x", False),
        ("metadata=", True),
    ],
)
def test_a_field_selector_selects(text: str, selected: bool) -> None:
    assert parse_fields(text)(POD) is selected


def test_escapes_in_field_values() -> None:
    assert parse_fields("a=x\\,y\\=z\\\\")({"a": "x,y=z\\"})


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("name", "invalid selector: 'name'; can't understand 'name'"),
        ("a=b=c", "invalid field selector: unescaped character in value: 61"),
        ("a=\\x", "invalid field selector: invalid escape sequence: \\x"),
        ("spec.foo=x", "field label not supported: spec.foo"),
    ],
)
def test_a_wrong_field_selector_is_explained(text: str, error: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(error)}$"):
        parse_fields(text, allowed=("metadata.name", "a"))


def test_a_selector_that_pins_a_name_says_so() -> None:
    assert parse_fields("metadata.name=x,status.phase!=y").exact("metadata.name") == "x"
    assert parse_fields("metadata.name!=x").exact("metadata.name") is None


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        (None, False),
        ({}, True),
        ({"matchLabels": {"app": "web"}}, True),
        ({"matchLabels": {"app": "api"}}, False),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}, False),
        ({"matchExpressions": [{"key": "app", "operator": "Exists"}]}, True),
        ({"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}, False),
    ],
)
def test_a_selector_object_selects(selector: dict[str, object] | None, selected: bool) -> None:
    assert matches(selector, LABELS) is selected


def test_a_selector_object_with_an_unknown_operator_is_refused() -> None:
    with pytest.raises(ValueError, match='"Near" is not a valid label selector operator'):
        matches({"matchExpressions": [{"key": "app", "operator": "Near"}]}, LABELS)
