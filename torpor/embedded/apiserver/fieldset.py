"""Sets of fields of an object, as `metadata.managedFields` records them, and what objects look like through them.

A path is a tuple of the very strings that key `fieldsV1`: `f:spec`, `k:{"name":"web"}` (an item of a list map),
`v:"x"` (an item of a set). A `Fields` is a set of such paths, so union, difference and intersection are Python's. What
counts as one field is the schema's word: maps and objects are taken apart unless atomic, lists are atomic unless they
are declared a map or a set, and where there is no schema the value decides.

Source: structured-merge-diff v6, packages fieldpath and typed (behaviour).
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torpor.embedded.apiserver.schema import MAX_DEPTH

__all__ = [
    "Fields",
    "Path",
    "compare",
    "decode_fields",
    "encode_fields",
    "ensure_named",
    "fields_of",
    "merge",
    "remove",
    "show_path",
]

Path = tuple[str, ...]
Fields = set[Path]
Schema = Mapping[str, Any]

_UNKNOWN: Schema = {}


# ------------------------------------------------------------------------------------------------------- encoding


def encode_fields(fields: Iterable[Path]) -> dict[str, Any]:
    """The `fieldsV1` of a set."""
    root: dict[str, Any] = {}
    nodes: dict[Path, dict[str, Any]] = {(): root}

    def node(path: Path) -> dict[str, Any]:
        found = nodes.get(path)
        if found is None:
            found = nodes[path] = node(path[:-1]).setdefault(path[-1], {})
        return found

    paths = sorted(fields)
    inner = {path[:length] for path in paths for length in range(1, len(path))}
    for path in paths:
        made = node(path)
        if path in inner:  # a leaf is the empty object; only a field with fields below must say that it is one itself
            made["."] = {}
    return root


def decode_fields(encoded: Any) -> Fields:
    """The set a `fieldsV1` stands for.

    Raises:
        ValueError: it is malformed or nested deeper than an object can be.
    """
    fields: Fields = set()

    def walk(node: Any, path: Path) -> None:
        if not isinstance(node, dict) or len(path) > 2 * MAX_DEPTH:
            raise ValueError("fieldsV1 is malformed")
        if not node and path:
            fields.add(path)
        for key, below in node.items():
            if key == ".":
                if path:
                    fields.add(path)
            else:
                walk(below, (*path, _canonical(key)))

    walk(encoded, ())
    return fields


def _canonical(key: str) -> str:
    """A path element with the JSON inside it written our way, so that equal elements are equal strings."""
    kind, _, rest = key.partition(":")
    if kind in ("f", "i"):
        return key
    if kind not in ("k", "v"):
        raise ValueError(f"fieldsV1 is malformed: {key!r} is no path element")
    try:
        return f"{kind}:{_json(json.loads(rest))}"
    except json.JSONDecodeError:
        raise ValueError(f"fieldsV1 is malformed: {key!r} holds no JSON") from None


def show_path(path: Path) -> str:
    """A path as conflicts print it: `.spec.containers[name="web"].image`."""
    shown = []
    for element in path:
        kind, _, rest = element.partition(":")
        match kind:
            case "f":
                shown.append(f".{rest}")
            case "k":
                shown.append("[" + ",".join(f"{key}={_json(value)}" for key, value in json.loads(rest).items()) + "]")
            case "v":
                shown.append(f"[={rest}]")
            case _:
                shown.append(f"[{rest}]")
    return "".join(shown)


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


# --------------------------------------------------------------------------------------------------------- schemas


def _below(schema: Schema, key: str) -> tuple[Schema, bool]:
    """The schema of a key, and whether it is a declared field of an object (rather than an entry of a map)."""
    if isinstance(part := (schema.get("properties") or {}).get(key), Mapping):
        return part, True
    extra = schema.get("additionalProperties")
    return (extra, False) if isinstance(extra, Mapping) else (_UNKNOWN, False)


def _is_map(value: Any, schema: Schema) -> bool:
    """A map whose keys are fields of their own."""
    return isinstance(value, dict) and schema.get("x-kubernetes-map-type") != "atomic"


def _is_list(value: Any, schema: Schema) -> bool:
    """A list whose items are fields of their own."""
    return isinstance(value, list) and schema.get("x-kubernetes-list-type") in ("map", "set")


def _items(schema: Schema) -> Schema:
    found = schema.get("items")
    return found if isinstance(found, Mapping) else _UNKNOWN


def _element(item: Any, index: int, schema: Schema) -> str:
    """The path element of an item of a list map or set; its index if it lacks a key, which only a live object may."""
    if schema["x-kubernetes-list-type"] == "set":
        return f"v:{_json(item)}"
    known = _items(schema).get("properties") or {}
    found = {}
    for key in schema.get("x-kubernetes-list-map-keys") or ():
        if isinstance(item, dict) and key in item:
            found[key] = item[key]
        elif "default" in (part := known.get(key) or _UNKNOWN):
            found[key] = part["default"]
        else:
            return f"i:{index}"
    return f"k:{_json(found)}"


def _groups(value: Any, schema: Schema) -> dict[str, list[Any]]:
    """The items of a list by path element, in order of first appearance; only a live object may repeat one."""
    groups: dict[str, list[Any]] = {}
    for index, item in enumerate(value if isinstance(value, list) else ()):
        groups.setdefault(_element(item, index, schema), []).append(item)
    return groups


# ----------------------------------------------------------------------------------------------------------- walks


def fields_of(obj: Any, schema: Schema, *, strict: bool = False) -> Fields:
    """The fields an object sets.

    Args:
        strict: refuse lists of maps whose items lack a key or repeat one, as for an applied configuration.
    Raises:
        ValueError: with the path, for such a list.
    """
    fields: Fields = set()
    _collect(obj, schema, (), fields, strict)
    return fields


def _collect(value: Any, schema: Schema, path: Path, fields: Fields, strict: bool) -> None:
    if _is_map(value, schema):
        for key, item in value.items():
            below, named = _below(schema, key)
            at = (*path, f"f:{key}")
            _collect(item, below, at, fields, strict)
            # what is empty has no fields inside; upstream forgets empty lists here, and a list applied as empty is lost
            if item is None or item in ({}, []) or not named:
                fields.add(at)
    elif _is_list(value, schema):
        seen = set()
        for index, item in enumerate(value):
            element = _element(item, index, schema)
            if strict and element in seen:
                raise ValueError(f"{show_path(path)}: duplicate entries for key {show_path((element,))}")
            if strict and element.startswith("i:"):
                keys = ", ".join(schema.get("x-kubernetes-list-map-keys") or ())
                raise ValueError(f"{show_path((*path, element))}: element of a list keyed by {keys} omits a key")
            seen.add(element)
            _collect(item, _items(schema), (*path, element), fields, strict)
            fields.add((*path, element))
    elif path:
        fields.add(path)


def ensure_named(fields: Fields, schema: Schema) -> Fields:
    """The set with every declared field that holds one of its members added."""
    made = set(fields)
    for path in fields:
        at = schema
        for length, element in enumerate(path, start=1):
            kind, _, name = element.partition(":")
            if kind != "f":
                at = _items(at)
                continue
            at, named = _below(at, name)
            if named and length < len(path):
                made.add(path[:length])
    return made


def compare(old: Any, new: Any, schema: Schema) -> tuple[Fields, Fields, Fields]:
    """Fields that `new` adds, changes and removes; a part that comes or goes as a whole counts, as does all in it."""
    found: tuple[Fields, Fields, Fields] = (set(), set(), set())
    _compare(old, new, schema, (), found)
    return found


_ABSENT: Any = object()


def _compare(old: Any, new: Any, schema: Schema, path: Path, found: tuple[Fields, Fields, Fields]) -> None:
    added, changed, removed = found
    if old is _ABSENT:
        added.add(path)
    elif new is _ABSENT:
        removed.add(path)
    sides = [side for side in (old, new) if side is not _ABSENT and side is not None]
    if any(sides) and all(_is_map(side, schema) for side in sides):
        before, after = (side if isinstance(side, dict) else {} for side in (old, new))
        for key in {**before, **after}:
            below = _below(schema, key)[0]
            _compare(before.get(key, _ABSENT), after.get(key, _ABSENT), below, (*path, f"f:{key}"), found)
    elif any(sides) and all(_is_list(side, schema) for side in sides):
        one, other = _groups(old, schema), _groups(new, schema)
        for element in {**one, **other}:
            left, right = one.get(element, [_ABSENT]), other.get(element, [_ABSENT])
            if len(left) == len(right) == 1:
                _compare(left[0], right[0], _items(schema), (*path, element), found)
            elif left != right:  # a live list may repeat a key; those items are one field together
                (added if element not in one else changed if element in other else removed).add((*path, element))
    elif old is not _ABSENT and new is not _ABSENT and not _equal(old, new):
        changed.add(path)


def _equal(left: Any, right: Any) -> bool:
    return bool(left == right) and isinstance(left, bool) is isinstance(right, bool)


def merge(live: Any, applied: Any, schema: Schema) -> Any:
    """The live value with the applied one laid over it; shares parts with both, so copy it before changing it."""
    if isinstance(live, dict) and _is_map(applied, schema):
        made = dict(live)
        for key, value in applied.items():
            made[key] = merge(live[key], value, _below(schema, key)[0]) if key in live else value
        return made
    if isinstance(live, list) and _is_list(applied, schema):
        return _merge_lists(live, applied, schema)
    return applied


def _merge_lists(live: list[Any], applied: list[Any], schema: Schema) -> list[Any]:
    """Applied items in their order; live items that are not applied come as early as the items both have allow."""
    before = [(_element(item, index, schema), item) for index, item in enumerate(live)]
    after = {_element(item, index, schema): item for index, item in enumerate(applied)}
    first = dict(reversed(before))
    shared = [element for element in reversed(after) if element in first]  # the next one due is the last
    woven: list[Any] = []
    at = 0
    for element, item in after.items():
        while at < len(before) and not (shared and before[at][0] == shared[-1]):
            if before[at][0] not in after:
                woven.append(before[at][1])
            at += 1  # an applied item that is not due yet, or was repeated, is passed over
        if element in first:
            shared.pop()
            woven.append(merge(first[element], item, _items(schema)))
        else:
            woven.append(item)
    return woven + [kept for element, kept in before[at:] if element not in after]


def remove(obj: Any, fields: Fields, schema: Schema) -> Any:
    """The object without the fields of a set; a field goes with everything below it. Shares parts with the object."""
    return _without(obj, _tree(fields), schema)


def _tree(fields: Fields) -> dict[str, Any]:
    """Nested dicts by path element; None marks a member."""
    root: dict[str, Any] = {}
    for path in sorted(fields, key=len):
        node: Any = root
        for element in path[:-1]:
            node = node.setdefault(element, {})
            if node is None:
                break  # a parent is a member already
        else:
            node[path[-1]] = None
    return root


def _without(value: Any, tree: Mapping[str, Any], schema: Schema) -> Any:
    def kept(entries: Iterable[tuple[str, Any, Schema]]) -> Iterator[tuple[str, Any]]:
        for element, item, below in entries:
            if element not in tree:
                yield element, item
            elif tree[element] is not None:
                yield element, _without(item, tree[element], below)

    if _is_map(value, schema):
        entries = ((f"f:{key}", item, _below(schema, key)[0]) for key, item in value.items())
        return {element[2:]: item for element, item in kept(entries)}
    if _is_list(value, schema):
        listed = ((_element(item, index, schema), item, _items(schema)) for index, item in enumerate(value))
        return [item for _, item in kept(listed)]
    return value
