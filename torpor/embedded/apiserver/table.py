"""`meta.k8s.io/v1` Tables: what `kubectl get` prints, rendered on the server.

A custom kind's cells come from the JSONPaths of its CRD, with the types and empty cells of a real API server
(apiextensions `tableconvertor`), so that a cluster and the embedded mode agree to the letter; a built-in kind's come
from functions (`columns`). Dates become ages against the given time: rows are never cached.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from torpor.embedded.apiserver import columns
from torpor.embedded.apiserver.builtin import Kind
from torpor.embedded.apiserver.columns import Column
from torpor.embedded.apiserver.jsonpath import compile_path

__all__ = ["column_definitions", "render", "render_event", "render_row"]

Obj = Mapping[str, Any]


def render(
    kind: Kind, objects: Iterable[Obj], *, metadata: Obj, include_object: str = "Metadata", now: float
) -> dict[str, Any]:
    """A whole list as a Table.

    Args:
        metadata: the list's metadata: `resourceVersion`, perhaps `continue` and `remainingItemCount`.
        include_object: what each row carries of its object: `Metadata`, `Object` or `None`.
        now: wall-clock time, seconds, against which ages are computed.
    """
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": column_definitions(kind),
        "rows": [render_row(kind, obj, include_object=include_object, now=now) for obj in objects],
    }


def render_event(kind: Kind, obj: Obj, *, first: bool, include_object: str = "Metadata", now: float) -> dict[str, Any]:
    """The object of one watch event as a Table of one row; only the first of a watch repeats the columns."""
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": (obj.get("metadata") or {}).get("resourceVersion", "")},
        "columnDefinitions": column_definitions(kind) if first else None,
        "rows": [render_row(kind, obj, include_object=include_object, now=now)],
    }


def render_row(kind: Kind, obj: Obj, *, include_object: str = "Metadata", now: float) -> dict[str, Any]:
    """One object as a row: a cell per column, and as much of the object as was asked for."""
    row: dict[str, Any] = {"cells": [_cell(column, obj, now) for column in kind.columns]}
    if include_object == "Object":
        row["object"] = obj
    elif include_object != "None":
        row["object"] = {
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": obj.get("metadata") or {},
        }
    return row


def column_definitions(kind: Kind) -> list[dict[str, Any]]:
    """The header of a kind's Table."""
    return [
        {
            "name": column.name,
            "type": column.type,
            "format": column.format,
            "description": column.description,
            "priority": column.priority,
        }
        for column in kind.columns
    ]


def _cell(column: Column, obj: Obj, now: float) -> Any:
    """One cell; None where the object has nothing of the column's type, which kubectl prints as nothing."""
    if column.cell is not None:
        return column.cell(obj, now)
    try:
        found = compile_path(column.path).find(obj)
    except ValueError:
        return None
    if not found:
        return None
    value = found[0]
    match column.type:
        case "string":
            return _text(value)
        case "date" if isinstance(value, str):
            return columns.age(value, now)
        case "integer" if isinstance(value, int | float) and not isinstance(value, bool):
            return int(value)
        case "number" if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        case "boolean" if isinstance(value, bool):
            return value
    return None


def _text(value: Any) -> str | None:
    """A value as Go prints it; maps and lists are JSON."""
    match value:
        case None:
            return None
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case dict() | list():
            return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
        case float() if value.is_integer() and abs(value) < 1e21:
            return str(int(value))
    return str(value)
