"""Selectors in text form, judged by the rules of the Kubernetes documentation."""

import pytest

from kncore.kube.errors import BadRequest
from kncore.kube.selectors import match_fields, match_labels, selects

LABELS = {"app": "web", "tier": "front", "serving.knative.dev/service": "hello", "empty": ""}


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("", True),
        ("app=web", True),
        ("app==web", True),
        ("app=api", False),
        ("app!=api", True),
        ("missing!=x", True),
        ("app=web,tier=back", False),
        ("app=web, tier = front", True),
        ("app in (api,web)", True),
        ("app in (api)", False),
        ("app notin (api, db)", True),
        ("missing notin (a)", True),
        ("missing in (a)", False),
        ("app in (api,web),tier notin (back)", True),
        ("serving.knative.dev/service", True),
        ("serving.knative.dev/service=hello", True),
        ("missing", False),
        ("!missing", True),
        ("!app", False),
        ("empty=", True),
    ],
)
def test_label_selector(selector: str, expected: bool) -> None:
    assert match_labels(selector)(LABELS) is expected


@pytest.mark.parametrize("selector", ["=x", "a in b", "a in (b", "a=b=c", "a,,b", "a b"])
def test_a_label_selector_that_cannot_be_read_is_refused(selector: str) -> None:
    with pytest.raises(BadRequest, match="label selector"):
        match_labels(selector)


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("metadata.name=x", True),
        ("metadata.name==x", True),
        ("metadata.name!=x", False),
        ("metadata.name=x,status.phase=Running", False),
        ("spec.hostNetwork=true", True),
        ("spec.nodeName=", True),
    ],
)
def test_field_selector(selector: str, expected: bool) -> None:
    obj = {"metadata": {"name": "x"}, "status": {"phase": "Pending"}, "spec": {"hostNetwork": True}}
    assert match_fields(selector)(obj) is expected


def test_a_field_selector_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(BadRequest):
        match_fields("metadata.name")


def test_both_kinds_must_hold() -> None:
    obj = {"metadata": {"name": "x", "labels": {"app": "web"}}}
    assert selects("app=web", "metadata.name=x")(obj)
    assert not selects("app=web", "metadata.name=y")(obj)
    assert not selects("app=db", "metadata.name=x")(obj)
