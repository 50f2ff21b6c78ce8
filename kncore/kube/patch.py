"""JSON merge patches (RFC 7386): applying one, and finding the smallest one.

A merge patch says nothing by leaving a field out and deletes it by naming it null, so a null *value* cannot be
expressed; Kubernetes treats the two alike. Lists are replaced as a whole.
"""

from typing import Any

from kncore.kube.client import Obj

__all__ = ["merge_diff", "merge_patch"]


def merge_patch(target: Any, patch: Any) -> Any:
    """`target` with `patch` merged in; neither is changed, unchanged parts are shared with the result."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, dict):
            merged[name] = merge_patch(merged.get(name), value)
        else:
            merged[name] = value
    return merged


def merge_diff(old: Obj, new: Obj) -> Obj:
    """The smallest merge patch that turns `old` into `new`; empty if they say the same.

    `merge_patch(old, merge_diff(old, new)) == new`, except that nulls in `new` become absent fields.
    """
    patch: Obj = {}
    for name, value in new.items():
        before = old.get(name)
        if isinstance(value, dict) and isinstance(before, dict):
            if inner := merge_diff(before, value):
                patch[name] = inner
        elif value is None:
            if before is not None:
                patch[name] = None
        elif value != before or type(value) is not type(before):
            patch[name] = _without_nulls(value) if isinstance(value, dict) else value
    for name, value in old.items():
        if value is not None and name not in new:
            patch[name] = None
    return patch


def _without_nulls(value: Obj) -> Obj:
    """A new object as a merge patch writes it: a null inside would be read as a deletion."""
    return {
        name: _without_nulls(inner) if isinstance(inner, dict) else inner
        for name, inner in value.items()
        if inner is not None
    }
