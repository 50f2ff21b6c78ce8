"""Strategic merge patch: a merge patch that merges lists by a key, for built-in kinds.

The schema says which lists merge and by which key (`x-kubernetes-patch-*`); everything else is a merge patch. What the
patch says may change that: `$patch: replace|delete`, `$deleteFromPrimitiveList/<list>`, `$setElementOrder/<list>` and
`$retainKeys`; `kubectl apply` sends all of them. The order of a merged list is the delicate part: items the patch
mentions keep the patch's order, the others keep the live order, and the two are woven by the live order where it knows
both.

Source: apimachinery pkg/util/strategicpatch, and the design document "preserve order in strategic merge patch".
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torpor.embedded.apiserver.builtin import Kind
from torpor.embedded.apiserver.schema import MAX_DEPTH

__all__ = ["strategic_merge"]

_DIRECTIVE = "$patch"
_RETAIN = "$retainKeys"
_DELETE_FROM = "$deleteFromPrimitiveList/"
_ORDER = "$setElementOrder/"
_NO_SCHEMA: Mapping[str, Any] = {}

Obj = dict[str, Any]
Key = Callable[[Any], Any]


def strategic_merge(original: Mapping[str, Any], patch: Mapping[str, Any], kind: Kind | Mapping[str, Any]) -> Obj:
    """The object after the patch; neither argument is changed.

    Args:
        kind: the object's kind, or its linked schema; of fields it does not know, maps merge and lists are replaced.
    Raises:
        ValueError: a directive that does not exist or is malformed, or a list item without its merge key.
    """
    schema = kind.schema if isinstance(kind, Kind) else kind
    return _merge_map(copy.deepcopy(dict(original)), copy.deepcopy(dict(patch)), schema or _NO_SCHEMA, 0)


def _merge_map(original: Obj, patch: Obj, schema: Mapping[str, Any], depth: int) -> Obj:
    """Both arguments are ours to change."""
    if depth > MAX_DEPTH:
        raise ValueError(f"patch is nested deeper than {MAX_DEPTH} levels")
    directive = patch.pop(_DIRECTIVE, "merge")
    if directive == "delete":
        return {}
    if directive == "replace":
        return {key: _plain(value) for key, value in patch.items() if value is not None and not _is_directive(key)}
    if directive != "merge":
        raise ValueError(f"unknown patch type found: {directive}")

    retain = patch.pop(_RETAIN, None)
    if retain is not None:
        keep = {key for key in _list(retain, _RETAIN) if isinstance(key, str)}
        if not {key for key in patch if not key.startswith("$")} <= keep:
            raise ValueError(f"{_RETAIN} must contain every key of the patch beside it")
        original = {key: value for key, value in original.items() if key in keep}

    orders = {key: _list(patch.pop(key), key) for key in [key for key in patch if key.startswith(_ORDER)]}
    removals = {key: _list(patch.pop(key), key) for key in [key for key in patch if key.startswith(_DELETE_FROM)]}
    for key, gone in removals.items():
        field = key.removeprefix(_DELETE_FROM)
        if isinstance(live := original.get(field), list):
            original[field] = [item for item in live if item not in gone]

    before = {key: list(_sequence(original.get(key.removeprefix(_ORDER)))) for key in orders}
    for key, value in patch.items():
        below = _property(schema, key)
        if value is None:
            original.pop(key, None)
        elif isinstance(value, dict) and isinstance(live := original.get(key), dict):
            original[key] = _merge_map(live, value, below, depth + 1)
        elif isinstance(value, list):
            original[key] = _merge_list(_sequence(original.get(key)), value, below, depth + 1)
        else:
            original[key] = _merge_map({}, value, below, depth + 1) if isinstance(value, dict) else value

    for key, order in orders.items():
        field = key.removeprefix(_ORDER)
        if isinstance(merged := original.get(field), list):
            identify = _identity(_property(schema, field), merged, order)
            original[field] = _weave(merged, order, before[key], identify)
    return original


def _merge_list(original: Sequence[Any], patch: list[Any], schema: Mapping[str, Any], depth: int) -> list[Any]:
    if "merge" not in str(schema.get("x-kubernetes-patch-strategy", "")).split(","):
        return [_plain(item) for item in patch]
    if not any(isinstance(item, dict) for item in (*original, *patch)):
        merged = list(dict.fromkeys(item for item in (*original, *patch) if not isinstance(item, list)))
        return _weave(merged, patch, original, _itself)

    merge_key = schema.get("x-kubernetes-patch-merge-key")
    if not merge_key:
        raise ValueError("cannot merge lists without a merge key")
    if any(isinstance(item, dict) and item.get(_DIRECTIVE) == "replace" for item in patch):
        # a `$patch: replace` element makes the rest of the patch the whole new list
        return [_plain(item) for item in patch if not (isinstance(item, dict) and _DIRECTIVE in item)]

    items = schema.get("items") or _NO_SCHEMA
    merged = list(original)
    for item in patch:
        if not isinstance(item, dict):
            raise ValueError("list elements to merge must all be objects")
        if merge_key not in item:
            raise ValueError(f"map: {item} does not contain declared merge key: {merge_key}")
        wanted = item[merge_key]
        places = [at for at, live in enumerate(merged) if isinstance(live, dict) and live.get(merge_key) == wanted]
        if item.get(_DIRECTIVE) == "delete":
            for at in reversed(places):
                del merged[at]
        elif places:
            merged[places[0]] = _merge_map(merged[places[0]], item, items, depth + 1)
        else:
            merged.append(_merge_map({}, item, items, depth + 1))
    return _weave(merged, patch, original, _by(merge_key))


def _weave(merged: list[Any], order: Sequence[Any], live: Sequence[Any], identify: Key) -> list[Any]:
    """`merged` sorted: mentioned items as in `order`, the rest as in `live`, woven by `live` where it has both."""
    wanted = _places(order, identify)
    before = _places(live, identify)
    end = len(merged)
    mentioned = sorted((item for item in merged if identify(item) in wanted), key=lambda item: wanted[identify(item)])
    rest = sorted(
        (item for item in merged if identify(item) not in wanted), key=lambda item: before.get(identify(item), end)
    )
    woven: list[Any] = []
    at = 0
    for item in mentioned:
        place = before.get(identify(item))
        while place is not None and at < len(rest) and before.get(identify(rest[at]), place) < place:
            woven.append(rest[at])
            at += 1
        woven.append(item)
    return woven + rest[at:]


def _identity(schema: Mapping[str, Any], merged: list[Any], order: list[Any]) -> Key:
    """How items of a list are told apart: by their merge key, or by their value for lists of scalars."""
    if not any(isinstance(item, dict) for item in (*merged, *order)):
        return _itself
    merge_key = schema.get("x-kubernetes-patch-merge-key")
    if not merge_key:
        raise ValueError("cannot order a list without a merge key")
    return _by(merge_key)


def _itself(item: Any) -> Any:
    return None if isinstance(item, dict | list) else (type(item) is bool, item)


def _by(merge_key: str) -> Key:
    return lambda item: _itself(item.get(merge_key)) if isinstance(item, dict) else None


def _places(items: Sequence[Any], identify: Key) -> dict[Any, int]:
    """Where each item is first found."""
    places: dict[Any, int] = {}
    for at, item in enumerate(items):
        places.setdefault(identify(item), at)
    return places


def _plain(value: Any) -> Any:
    """A patch value as a value: directives and nulls in maps are left out."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None and not _is_directive(key)}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _is_directive(key: str) -> bool:
    return key in (_DIRECTIVE, _RETAIN) or key.startswith((_ORDER, _DELETE_FROM))


def _property(schema: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = (schema.get("properties") or {}).get(name) or schema.get("additionalProperties")
    return found if isinstance(found, Mapping) else _NO_SCHEMA


def _sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{name} must be a list")
    return value
