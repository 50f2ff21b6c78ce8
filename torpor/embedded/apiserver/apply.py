"""Server-side apply: who set which field, merging what a manager applies, and conflicts between managers.

`metadata.managedFields` has one entry per manager: an applier (`operation: Apply`) owns what it applied last, an
updater (`operation: Update`) what it changed. Applying lays the configuration over the live object, drops what this
manager applied before and nobody owns any more, and is a conflict if it changes a field another manager owns, unless
forced. Every other write moves the fields it changes to its manager.

kubectl's way from client-side to server-side apply is part of the behaviour: its server-side manager (`kubectl`) may
overwrite what the last-applied annotation says client-side apply had set, and that annotation is kept in step.

Source: structured-merge-diff v6 `merge/update.go`; apimachinery `util/managedfields`.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kncore.clock import rfc3339
from torpor.embedded.apiserver.definitions import Definition
from torpor.embedded.apiserver.fieldset import (
    Fields,
    Path,
    compare,
    decode_fields,
    encode_fields,
    ensure_named,
    fields_of,
    merge,
    remove,
    show_path,
)
from torpor.embedded.apiserver.schema import Cause

__all__ = ["LAST_APPLIED", "ApplyConflict", "apply", "update_managed"]

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"

Obj = dict[str, Any]
Schema = Mapping[str, Any]

MAX_UPDATERS = 10
"""Updaters remembered one by one; older ones become `ancient-changes`, so that managedFields cannot grow for ever."""

_KUBECTL = "kubectl"
_MAX_ANNOTATIONS_BYTES = 256 * 1024

# What the server writes itself is nobody's field.
_SYSTEM: frozenset[Path] = frozenset(
    {
        ("f:apiVersion",),
        ("f:kind",),
        ("f:metadata",),
        *(
            ("f:metadata", f"f:{name}")
            for name in (
                "name",
                "namespace",
                "creationTimestamp",
                "deletionTimestamp",
                "deletionGracePeriodSeconds",
                "selfLink",
                "uid",
                "generation",
                "resourceVersion",
                "managedFields",
            )
        ),
    }
)


class ApplyConflict(Exception):
    """An applied configuration changes fields that other managers own; `causes` names them, one by one."""

    def __init__(self, causes: Sequence[Cause], message: str) -> None:
        super().__init__(message)
        self.causes = list(causes)


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """One manager's entry of managedFields."""

    manager: str
    operation: str
    api_version: str
    subresource: str = ""
    time: str = ""
    fields: frozenset[Path] = frozenset()

    @property
    def key(self) -> tuple[str, ...]:
        """What identifies the manager; an applier is the same in every version it applies with."""
        version = "" if self.operation == "Apply" else self.api_version
        return self.manager, self.operation, version, self.subresource

    def __str__(self) -> str:
        """The manager as conflicts name it."""
        shown = json.dumps(self.manager)
        if self.subresource:
            shown += f' with subresource "{self.subresource}"'
        return shown if self.operation == "Apply" else f"{shown} using {self.api_version}"


_Entries = dict[tuple[str, ...], _Entry]


def apply(
    live: Mapping[str, Any] | None,
    applied: Mapping[str, Any],
    manager: str,
    *,
    schema: Schema | None,
    force: bool,
    api_version: str,
    now: float,
    subresource: str = "",
) -> Obj:
    """The object after `manager` applied its whole configuration, with managedFields brought up to date.

    The result shares parts with `live` and `applied`: copy before changing it. Defaults are not filled in.

    Args:
        live: the stored object; None creates one.
        applied: the configuration as sent; `status` in it is ignored unless `subresource` is `status`.
        schema: the kind's linked schema; None treats all lists as atomic.
        now: wall-clock time, seconds.
    Raises:
        ApplyConflict: another manager owns what would change, and `force` is not set.
        ValueError: the configuration carries managedFields, or a list in it lacks or repeats a key.
    """
    schema = schema or {}
    if (applied.get("metadata") or {}).get("managedFields"):
        raise ValueError("metadata.managedFields must be nil")
    who = _described(applied, api_version)
    applied = _writable(applied, subresource)
    base = _bare(live) if live is not None else {}
    entries = _decode((live or {}).get("metadata"))
    if live is not None and not entries:
        # an object from before anybody tracked it: everything in it counts as set by an unknown updater
        first = _Entry(manager="before-first-apply", operation="Update", api_version=api_version, time=rfc3339(now))
        owned = _tracked(fields_of(base, schema), subresource="")
        if owned:
            entries[first.key] = replace(first, fields=owned)

    try:
        fields = fields_of(applied, schema, strict=True)
    except ValueError as error:
        raise ValueError(f"failed to create typed patch object ({who}): {error}") from None
    entry = _Entry(
        manager=manager,
        operation="Apply",
        api_version=api_version,
        subresource=subresource,
        time=rfc3339(now),
        fields=_tracked(fields, subresource),
    )
    last = entries.pop(entry.key, None)
    merged = merge(base, applied, schema)
    if last is not None and last.fields:
        others = set().union(entry.fields, *(other.fields for other in entries.values()))
        merged = _prune(merged, set(last.fields), others, schema)

    added, changed, removed = compare(base, merged, schema)
    contested = [] if force else _contested(entries, added | changed)
    if contested and manager == _KUBECTL:
        mine = _client_applied(base, schema)
        contested = [(entry, path) for entry, path in contested if path not in mine]
    if contested:
        raise _conflict(contested)
    entries = _take(entries, added, changed, removed)

    if manager == _KUBECTL and _last_applied(merged):
        merged = _annotate(merged, applied)
    if last is not None and last.fields == entry.fields and merged == base:
        entry = replace(entry, time=last.time)
    if entry.fields:
        entries[entry.key] = entry
    return _with_managed(merged, entries)


def update_managed(
    old: Mapping[str, Any] | None,
    new: Mapping[str, Any],
    manager: str,
    operation: str = "Update",
    *,
    schema: Schema | None,
    api_version: str,
    now: float,
    subresource: str = "",
) -> list[Obj]:
    """The managedFields of `new` after an ordinary write (create, update or patch) by `manager`.

    What the request itself says in `new.metadata.managedFields` is the starting point, so that it can be edited; an
    absent or empty list keeps that of `old`, and `[{}]` resets it.

    Args:
        old: the stored object; None for a create.
        now: wall-clock time, seconds.
    Returns:
        a new list; [] when nothing is tracked.
    """
    schema = schema or {}
    sent = (new.get("metadata") or {}).get("managedFields")
    if sent == [{}] and not subresource:
        return []
    entries = _decode(new.get("metadata")) if not subresource else {}
    if not entries:
        entries = _decode((old or {}).get("metadata"))
        if old is not None and not entries:
            return []  # untracked objects stay so until somebody applies
    added, changed, removed = compare(_bare(old or {}), _bare(new), schema)
    if isinstance(schema, Definition):
        added -= {("f:spec",), ("f:status",)}  # in Go these are never absent, so nobody is seen to add them
    entries = _take(entries, added, changed, removed)
    entry = _Entry(
        manager=manager, operation=operation, api_version=api_version, subresource=subresource, time=rfc3339(now)
    )
    before = entries.get(entry.key)
    gained = _tracked(added | changed, subresource)
    if gained:
        kept = before.fields if before is not None else frozenset()
        entries[entry.key] = replace(entry, fields=kept | gained)
    return _encode(_cap(entries))


# -------------------------------------------------------------------------------------------------------- the rules


def _contested(entries: _Entries, written: Fields) -> list[tuple[_Entry, Path]]:
    """The fields about to be written that somebody owns, with their owners."""
    return [(entry, path) for entry in entries.values() for path in entry.fields & written]


def _take(entries: _Entries, added: Fields, changed: Fields, removed: Fields) -> _Entries:
    """The entries after somebody else changed these fields: whoever owned them does no more."""
    gone = added | changed | removed
    left = {key: replace(entry, fields=entry.fields - gone) for key, entry in entries.items()}
    return {key: entry for key, entry in left.items() if entry.fields}


def _prune(merged: Any, last: Fields, owned: Fields, schema: Schema) -> Any:
    """`merged` without what this manager applied last, does not apply now, and nobody else owns.

    A declared field belongs to whoever owns something in it, so an object whose owned fields all go goes too, with
    the defaults that had been filled into it.
    """
    last = ensure_named(last, schema)
    everything = ensure_named(fields_of(merged, schema), schema)
    rest = ensure_named(fields_of(remove(merged, last, schema), schema), schema)
    kept = remove(merged, everything - (rest | ensure_named(owned, schema)), schema)
    gone = everything - ensure_named(fields_of(kept, schema), schema)
    return remove(merged, gone & last, schema)


def _conflict(found: list[tuple[_Entry, Path]]) -> ApplyConflict:
    found = sorted(found, key=lambda item: (str(item[0]), item[1]))
    causes = [Cause(show_path(path), "FieldManagerConflict", f"conflict with {entry}") for entry, path in found]
    if len(found) == 1:
        return ApplyConflict(causes, f"Apply failed with 1 conflict: {causes[0].message}: {causes[0].field}")
    lines = []
    for manager in dict.fromkeys(str(entry) for entry, _ in found):
        lines.append(f"conflicts with {manager}:")
        lines += [f"- {show_path(path)}" for entry, path in found if str(entry) == manager]
    return ApplyConflict(causes, f"Apply failed with {len(found)} conflicts: " + "\n".join(lines))


# ------------------------------------------------------------------------------------------- client-side apply's past


def _last_applied(obj: Mapping[str, Any]) -> str:
    return str(((obj.get("metadata") or {}).get("annotations") or {}).get(LAST_APPLIED) or "")


def _client_applied(live: Mapping[str, Any], schema: Schema) -> Fields:
    """The fields that client-side apply had set, which are kubectl's own."""
    try:
        configured = json.loads(_last_applied(live) or "{}")
    except (json.JSONDecodeError, RecursionError):
        return set()
    return fields_of(configured, schema) if isinstance(configured, dict) else set()


def _annotate(obj: Obj, applied: Mapping[str, Any]) -> Obj:
    """The object with its last-applied annotation renewed, so that client-side apply can be used again."""
    annotations = dict(obj["metadata"]["annotations"])
    annotations[LAST_APPLIED] = json.dumps(applied, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n"
    if sum(len(key.encode()) + len(str(value).encode()) for key, value in annotations.items()) > _MAX_ANNOTATIONS_BYTES:
        annotations[LAST_APPLIED] = ""
    return {**obj, "metadata": {**obj["metadata"], "annotations": annotations}}


# ---------------------------------------------------------------------------------------------------- managedFields


def _decode(metadata: Any) -> _Entries:
    """The entries of an object's metadata; a malformed entry is dropped, as it claims nothing that can be known."""
    entries: _Entries = {}
    found = metadata.get("managedFields") if isinstance(metadata, Mapping) else None
    for item in found if isinstance(found, list) else ():
        if not isinstance(item, dict) or item.get("operation") not in ("Apply", "Update"):
            continue
        try:
            fields = decode_fields(item.get("fieldsV1") or {})
        except ValueError:
            continue
        entry = _Entry(
            manager=str(item.get("manager") or ""),
            operation=item["operation"],
            api_version=str(item.get("apiVersion") or ""),
            subresource=str(item.get("subresource") or ""),
            time=str(item.get("time") or ""),
            fields=frozenset(fields),
        )
        if (known := entries.get(entry.key)) is not None:
            entry = replace(entry, fields=known.fields | entry.fields, time=max(known.time, entry.time))
        entries[entry.key] = entry
    return entries


def _encode(entries: _Entries) -> list[Obj]:
    """managedFields, appliers first, then by time."""
    made = []
    for entry in sorted(entries.values(), key=lambda entry: (entry.operation, entry.time, *entry.key)):
        item: Obj = {
            "manager": entry.manager,
            "operation": entry.operation,
            "apiVersion": entry.api_version,
            "time": entry.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": encode_fields(entry.fields),
        }
        if entry.subresource:
            item["subresource"] = entry.subresource
        made.append(item)
    return made


def _cap(entries: _Entries) -> _Entries:
    """At most `MAX_UPDATERS` updaters: the oldest share one entry per version."""
    updaters = sorted(
        (entry for entry in entries.values() if entry.operation == "Update"), key=lambda entry: entry.time
    )
    excess = updaters[: max(0, len(updaters) - MAX_UPDATERS + 1)] if len(updaters) > MAX_UPDATERS else []
    if not excess:
        return entries
    made = {key: entry for key, entry in entries.items() if entry not in excess}
    for entry in excess:
        ancient = replace(entry, manager="ancient-changes", subresource="")
        if (known := made.get(ancient.key)) is not None:
            ancient = replace(ancient, fields=known.fields | ancient.fields)
        made[ancient.key] = ancient
    return made


def _with_managed(obj: Mapping[str, Any], entries: _Entries) -> Obj:
    return {**obj, "metadata": {**(obj.get("metadata") or {}), "managedFields": _encode(_cap(entries))}}


def _bare(obj: Mapping[str, Any]) -> Obj:
    """The object without its managedFields, which are about it and not of it."""
    metadata = {key: value for key, value in (obj.get("metadata") or {}).items() if key != "managedFields"}
    return {**obj, "metadata": metadata}


def _writable(applied: Mapping[str, Any], subresource: str) -> Obj:
    """What of a configuration this endpoint takes: all but `status` and what the server writes, or just `status`."""
    if subresource == "status":
        return {key: value for key, value in applied.items() if key in ("apiVersion", "kind", "status")}
    metadata = {
        key: value
        for key, value in (applied.get("metadata") or {}).items()
        if key in ("name", "namespace") or ("f:metadata", f"f:{key}") not in _SYSTEM
    }
    return {**{key: value for key, value in applied.items() if key != "status"}, "metadata": metadata}


def _described(applied: Mapping[str, Any], api_version: str) -> str:
    """The object as errors about its configuration name it: `default/web; apps/v1, Kind=Deployment`."""
    metadata = applied.get("metadata") or {}
    return f"{metadata.get('namespace') or ''}/{metadata.get('name') or ''}; {api_version}, Kind={applied.get('kind')}"


def _tracked(fields: Collection[Path], subresource: str) -> frozenset[Path]:
    """The fields a manager can own through this endpoint."""
    if subresource == "status":
        return frozenset(path for path in fields if path[0] == "f:status")
    return frozenset(path for path in fields if path not in _SYSTEM and (subresource or path[0] != "f:status"))
