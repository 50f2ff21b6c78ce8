"""Label and field selectors in their text form, as predicates.

    labels:  app=web,tier!=cache,zone in (a,b),zone notin (c),serving.knative.dev/service,!canary
    fields:  metadata.name=x,status.phase!=Failed

All terms must hold. As in Kubernetes, `!=` and `notin` also hold for an object that lacks the label.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from kncore.kube.client import Obj
from kncore.kube.errors import BadRequest

__all__ = ["match_fields", "match_labels", "selects"]

_Labels: TypeAlias = Mapping[str, str]

_KEY = r"[A-Za-z0-9](?:[-\w./]*[A-Za-z0-9])?"
_SET = re.compile(rf"({_KEY})\s+(in|notin)\s*\(([^()]*)\)")
_EQUALS = re.compile(rf"({_KEY})\s*(==|=|!=)\s*([-\w.]*)")
_EXISTS = re.compile(rf"(!?)\s*({_KEY})")
_COMMA = re.compile(r",(?![^()]*\))")
_FIELD = re.compile(r"([\w.\[\]-]+?)(==|!=|=)(.*)")


def match_labels(selector: str) -> Callable[[_Labels], bool]:
    """A predicate on labels.

    Raises:
        BadRequest: the selector cannot be parsed.
    """
    if not selector.strip():
        return lambda labels: True
    terms = [_label_term(term.strip(), selector) for term in _COMMA.split(selector)]
    if len(terms) == 1:
        return terms[0]
    return lambda labels: all(term(labels) for term in terms)


def match_fields(selector: str) -> Callable[[Obj], bool]:
    """A predicate on whole objects; any path of plain fields may be named, a missing one counts as empty.

    Raises:
        BadRequest: the selector cannot be parsed.
    """
    if not selector.strip():
        return lambda obj: True
    terms = [_field_term(term.strip(), selector) for term in selector.split(",")]
    return lambda obj: all(term(obj) for term in terms)


def selects(labels: str, fields: str) -> Callable[[Obj], bool]:
    """A predicate on whole objects that combines both kinds of selector."""
    by_label, by_field = match_labels(labels), match_fields(fields)
    return lambda obj: by_label(obj["metadata"].get("labels") or {}) and by_field(obj)


def _label_term(term: str, selector: str) -> Callable[[_Labels], bool]:
    if found := _SET.fullmatch(term):
        key, operator, text = found.groups()
        values = frozenset(value.strip() for value in text.split(","))
        if operator == "in":
            return lambda labels: key in labels and labels[key] in values
        return lambda labels: key not in labels or labels[key] not in values
    if found := _EQUALS.fullmatch(term):
        key, operator, value = found.groups()
        if operator == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    if found := _EXISTS.fullmatch(term):
        absent, key = found.groups()
        return (lambda labels: key not in labels) if absent else (lambda labels: key in labels)
    raise BadRequest(f"unable to parse requirement {term!r} of label selector {selector!r}")


def _field_term(term: str, selector: str) -> Callable[[Obj], bool]:
    found = _FIELD.fullmatch(term)
    if not found:
        raise BadRequest(f"invalid field selector {selector!r}: {term!r} is not path=value or path!=value")
    path, operator, value = found.groups()
    steps = path.split(".")

    def read(obj: Obj) -> str:
        here: Any = obj
        for step in steps:
            here = here.get(step) if isinstance(here, dict) else None
        if here is None:
            return ""
        return str(here).lower() if isinstance(here, bool) else str(here)

    if operator == "!=":
        return lambda obj: read(obj) != value
    return lambda obj: read(obj) == value
