"""Structural schemas: dropping unknown fields, filling defaults, and saying what is wrong with an object.

A schema is a plain dict in the dialect of `apiextensions.k8s.io/v1` (OpenAPI v3 plus `x-kubernetes-*`); built-in kinds
use the same dialect (`definitions`), where a node may be shared and even point back to itself, so every walk is driven
by the object and its depth is bounded by `MAX_DEPTH`. The three steps run in the order a real API server has them:
`prune` what was sent, `default` what is missing, `validate` the result.

`prune` and `default` change the object in place: it was just decoded from a request body and nobody else holds it.
Error texts are those of `k8s.io/kube-openapi/pkg/validation/errors` and `apimachinery/pkg/util/validation/field`, since
users grep for them. CEL rules (`x-kubernetes-validations`) and `format` are not evaluated.
"""

import copy
import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torpor.embedded.apiserver.definitions import Definition

__all__ = ["MAX_DEPTH", "Cause", "Resolve", "Schema", "default", "prune", "summary", "validate"]

MAX_DEPTH = 100
"""Levels of nesting an object may have; Kubernetes objects stay under 20, except schemas inside CRDs (about 60)."""

MAX_CAUSES = 100
"""Faults reported for one object; the rest would not be read."""

Schema = Mapping[str, Any]
Resolve = Callable[[str], Schema]
"""The schema a `$ref` names; only needed for schemas that were not linked beforehand."""


@dataclass(frozen=True, slots=True)
class Cause:
    """One fault of an object, as in a Status' `details.causes`: dotted path, machine reason, text without the path."""

    field: str
    reason: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


def summary(causes: list[Cause]) -> str:
    """All causes as one text, the way Kubernetes appends them to `X "name" is invalid: `."""
    texts = list(dict.fromkeys(map(str, causes)))
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"


# --------------------------------------------------------------------------------------------------------- pruning


def prune(obj: dict[str, Any], schema: Schema, resolve: Resolve | None = None) -> list[str]:
    """Drop the fields no schema names, in place; returns their paths, sorted, e.g. `spec.containers[0].foo`.

    Fields under `x-kubernetes-preserve-unknown-fields` stay. `apiVersion`, `kind` and `metadata` stay at the root and
    in embedded resources even where the schema does not name them.

    Raises:
        ValueError: the object is nested deeper than `MAX_DEPTH`.
    """
    dropped: list[str] = []
    _prune(obj, schema, "", True, dropped, resolve, 0)
    return sorted(dropped)


_IDENTITY = frozenset({"apiVersion", "kind", "metadata"})


def _prune(
    node: Any, schema: Schema, path: str, resource: bool, dropped: list[str], resolve: Resolve | None, depth: int
) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"{path} is nested deeper than {MAX_DEPTH} levels")
    schema = _deref(schema, resolve)
    if isinstance(node, dict):
        known = schema.get("properties") or {}
        extra = schema.get("additionalProperties")
        keep = schema.get("x-kubernetes-preserve-unknown-fields") or extra is True
        resource = resource or bool(schema.get("x-kubernetes-embedded-resource"))
        for key in list(node):
            below = f"{path}.{key}" if path else key
            if (part := known.get(key)) is not None:
                _prune(node[key], part, below, False, dropped, resolve, depth + 1)
            elif isinstance(extra, Mapping):
                _prune(node[key], extra, below, False, dropped, resolve, depth + 1)
            elif not keep and not (resource and key in _IDENTITY):
                del node[key]
                dropped.append(below)
    elif isinstance(node, list):
        if isinstance(items := schema.get("items"), Mapping):
            for index, item in enumerate(node):
                if isinstance(item, dict | list):
                    _prune(item, items, f"{path}[{index}]", False, dropped, resolve, depth + 1)


# ------------------------------------------------------------------------------------------------------ defaulting


def default(obj: dict[str, Any], schema: Schema, resolve: Resolve | None = None) -> None:
    """Fill absent fields that have a `default`, in place, at every level that exists; drop nulls that may not be null.

    A null in a field that is not `nullable` counts as absent, so it takes the default or goes away.

    Raises:
        ValueError: the object is nested deeper than `MAX_DEPTH`.
    """
    _default(obj, schema, resolve, 0)


def _default(node: Any, schema: Schema, resolve: Resolve | None, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"object is nested deeper than {MAX_DEPTH} levels")
    schema = _deref(schema, resolve)
    if isinstance(node, dict):
        known: Mapping[str, Schema] = schema.get("properties") or {}
        extra: Any = schema.get("additionalProperties")
        for key, part in known.items():
            part = _deref(part, resolve)
            if key in node:
                if node[key] is None and not part.get("nullable"):
                    del node[key]
            if key not in node and "default" in part:
                node[key] = copy.deepcopy(part["default"])
        if isinstance(extra, Mapping):
            extra = _deref(extra, resolve)
            if not extra.get("nullable"):
                for key in [key for key, value in node.items() if value is None and key not in known]:
                    if "default" in extra:
                        node[key] = copy.deepcopy(extra["default"])
                    else:
                        del node[key]
        for key, value in node.items():
            if isinstance(value, dict | list):
                below = known.get(key, extra)
                if isinstance(below, Mapping):
                    _default(value, below, resolve, depth + 1)
    elif isinstance(node, list):
        if isinstance(items := schema.get("items"), Mapping):
            for item in node:
                if isinstance(item, dict | list):
                    _default(item, items, resolve, depth + 1)


# ------------------------------------------------------------------------------------------------------ validation


def validate(obj: Any, schema: Schema, resolve: Resolve | None = None) -> list[Cause]:
    """What is wrong with an object, at most `MAX_CAUSES` faults, in the order of the schema; [] when it is valid.

    Lists of type `set` and `map` must not hold duplicates, except in the parts built-in kinds define: Kubernetes lets a
    pod repeat an environment variable.

    Raises:
        ValueError: the object is nested deeper than `MAX_DEPTH`.
    """
    found: list[Cause] = []
    for cause in _faults(obj, schema, "", _Walk(resolve), 0):
        found.append(cause)
        if len(found) == MAX_CAUSES:
            break
    return found


class _Walk(NamedTuple):
    resolve: Resolve | None
    unique_lists: bool = True


def _faults(value: Any, schema: Schema, path: str, walk: _Walk, depth: int) -> Iterator[Cause]:
    if depth > MAX_DEPTH:
        raise ValueError(f"{path} is nested deeper than {MAX_DEPTH} levels")
    schema = _deref(schema, walk.resolve)
    if value is None and schema.get("nullable"):
        return
    if walk.unique_lists and isinstance(schema, Definition):
        walk = walk._replace(unique_lists=False)
    wanted = schema.get("type")
    have = _type(value)
    if schema.get("x-kubernetes-int-or-string"):
        wanted = "integer,string"
    if wanted and have not in wanted.split(",") and not _also(value, have, wanted):
        message = f'Invalid value: "{have}": {path} in body must be of type {wanted}: "{have}"'
        yield Cause(path or "<nil>", "FieldValueTypeInvalid", message)
        return
    if (allowed := schema.get("enum")) is not None and not any(_same(value, item) for item in allowed):
        known = ", ".join(json.dumps(item if isinstance(item, str) else json.dumps(item)) for item in allowed)
        yield Cause(path, "FieldValueNotSupported", f"Unsupported value: {_shown(value)}: supported values: {known}")
    match value:
        case dict():
            yield from _object_faults(value, schema, path, walk, depth)
        case list():
            yield from _list_faults(value, schema, path, walk, depth)
        case str():
            yield from _text_faults(value, schema, path)
        case int() | float() if not isinstance(value, bool):
            yield from _number_faults(value, schema, path)
    yield from _junctor_faults(value, schema, path, walk, depth)


def _object_faults(value: dict[str, Any], schema: Schema, path: str, walk: _Walk, depth: int) -> Iterator[Cause]:
    for key in schema.get("required") or ():
        if key not in value:
            yield Cause(_join(path, key), "FieldValueRequired", "Required value")
    if (most := schema.get("maxProperties")) is not None and len(value) > most:
        yield Cause(path, "FieldValueTooMany", f"Too many: {len(value)}: must have at most {_count(most, 'item')}")
    if (least := schema.get("minProperties")) is not None and len(value) < least:
        yield _invalid(path, value, f"should have at least {least} properties")
    known: Mapping[str, Schema] = schema.get("properties") or {}
    extra = schema.get("additionalProperties")
    for key, item in value.items():
        part = known.get(key, extra)
        if isinstance(part, Mapping):
            yield from _faults(item, part, _join(path, key), walk, depth + 1)


def _list_faults(value: list[Any], schema: Schema, path: str, walk: _Walk, depth: int) -> Iterator[Cause]:
    if (most := schema.get("maxItems")) is not None and len(value) > most:
        yield Cause(path, "FieldValueTooMany", f"Too many: {len(value)}: must have at most {_count(most, 'item')}")
    if (least := schema.get("minItems")) is not None and len(value) < least:
        yield _invalid(path, value, f"should have at least {least} items")
    if schema.get("uniqueItems") and len({_shown(item) for item in value}) < len(value):
        yield _invalid(path, value, "shouldn't contain duplicates")
    if isinstance(items := schema.get("items"), Mapping):
        for index, item in enumerate(value):
            yield from _faults(item, items, f"{path}[{index}]", walk, depth + 1)
    kind = schema.get("x-kubernetes-list-type")
    if walk.unique_lists and kind in ("set", "map"):
        keys = schema.get("x-kubernetes-list-map-keys") if kind == "map" else None
        seen = set()
        for index, item in enumerate(value):
            if keys is not None:
                if not isinstance(item, dict):
                    continue
                item = {key: item[key] for key in keys if key in item}
            shown = _shown(item)
            if shown in seen:
                yield Cause(f"{path}[{index}]", "FieldValueDuplicate", f"Duplicate value: {shown}")
            seen.add(shown)


def _text_faults(value: str, schema: Schema, path: str) -> Iterator[Cause]:
    if (most := schema.get("maxLength")) is not None and len(value) > most:
        yield Cause(path, "FieldValueTooLong", f"Too long: may not be more than {_count(most, 'byte')}")
    if (least := schema.get("minLength")) is not None and len(value) < least:
        yield _invalid(path, value, f"should be at least {least} chars long")
    if pattern := schema.get("pattern"):
        compiled = _compile(pattern)
        if compiled is not None and compiled.search(value) is None:
            yield _invalid(path, value, f"should match '{pattern}'")


def _number_faults(value: float, schema: Schema, path: str) -> Iterator[Cause]:
    if (least := schema.get("minimum")) is not None:
        if schema.get("exclusiveMinimum") and value <= least:
            yield _invalid(path, value, f"should be greater than {_plain(least)}")
        elif value < least:
            yield _invalid(path, value, f"should be greater than or equal to {_plain(least)}")
    if (most := schema.get("maximum")) is not None:
        if schema.get("exclusiveMaximum") and value >= most:
            yield _invalid(path, value, f"should be less than {_plain(most)}")
        elif value > most:
            yield _invalid(path, value, f"should be less than or equal to {_plain(most)}")
    if (step := schema.get("multipleOf")) and (value / step) % 1:
        yield _invalid(path, value, f"should be a multiple of {_plain(step)}")


def _junctor_faults(value: Any, schema: Schema, path: str, walk: _Walk, depth: int) -> Iterator[Cause]:
    """allOf, anyOf, oneOf and not. Upstream reports these without a path, which prints as Go's nil."""

    def holds(part: Schema) -> bool:
        return next(_faults(value, part, path, walk, depth + 1), None) is None

    def fault(text: str) -> Cause:
        return Cause("<nil>", "FieldValueInvalid", f'Invalid value: "": "{path}" {text}')

    for part in schema.get("allOf") or ():
        yield from _faults(value, part, path, walk, depth + 1)
    if (parts := schema.get("anyOf")) and not any(holds(part) for part in parts):
        yield fault("must validate at least one schema (anyOf)")
    if parts := schema.get("oneOf"):
        valid = sum(holds(part) for part in parts)
        if valid != 1:
            how = "Found none valid" if not valid else f"Found {valid} valid alternatives"
            yield fault(f"must validate one and only one schema (oneOf). {how}")
    if isinstance(part := schema.get("not"), Mapping) and holds(part):
        yield fault("must not validate the schema (not)")


def _deref(schema: Schema, resolve: Resolve | None) -> Schema:
    """The schema itself, or what its `$ref` names; a chain of references is followed at most `MAX_DEPTH` times."""
    for _ in range(MAX_DEPTH):
        ref = schema.get("$ref")
        if not isinstance(ref, str) or resolve is None:
            return schema
        schema = resolve(ref)
    raise ValueError("schema references form a cycle")


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _type(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
    return "object"


def _also(value: Any, have: str, wanted: str) -> bool:
    """JSON has one number type: 1 is a number and 1.0 an integer."""
    if have == "integer":
        return wanted == "number"
    return have == "number" and wanted.startswith("integer") and value == value // 1


def _same(left: Any, right: Any) -> bool:
    return bool(left == right) and isinstance(left, bool) is isinstance(right, bool)


def _invalid(path: str, value: Any, rule: str) -> Cause:
    message = f"Invalid value: {_shown(value)}: {path} in body {rule}"
    return Cause(path or "<nil>", "FieldValueInvalid", message)


def _shown(value: Any) -> str:
    """A value inside an error text: text is quoted, the rest is JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _plain(number: float) -> str:
    """A bound as Go prints a float64: no trailing `.0`."""
    return str(int(number)) if number == int(number) and abs(number) < 1e21 else repr(number)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


_POSIX = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "ascii": r"\x00-\x7F",
    "blank": r"\t ",
    "cntrl": r"\x00-\x1F\x7F",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": r"!-/:-@\[-`{-~",
    "space": r"\t\n\v\f\r ",
    "upper": "A-Z",
    "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}


@functools.lru_cache(maxsize=1024)
def _compile(pattern: str) -> re.Pattern[str] | None:
    """An RE2 pattern as Python's `re`; None for what `re` cannot express, which then constrains nothing.

    Differences that matter: `$` is the very end in RE2 but also before a last newline here; classes like `\\d` are
    ASCII; `[[:alpha:]]`, `\\z` and `\\x{41}` are spelled otherwise.
    """
    made: list[str] = []
    at, inside = 0, False
    while at < len(pattern):
        char = pattern[at]
        if char == "\\":
            escape = pattern[at : at + 2]
            at += 2
            if escape == "\\z":
                escape = r"\Z"
            elif escape == "\\x" and (braced := re.match(r"\{([0-9A-Fa-f]{1,6})\}", pattern[at:])):
                at += braced.end()
                code = int(braced[1], 16)
                if code > 0x10FFFF:
                    return None
                escape = re.escape(chr(code))
            made.append(escape)
            continue
        if inside and (posix := re.match(r"\[:(\^?)([a-z]+):\]", pattern[at:])):
            if posix[1] or posix[2] not in _POSIX:
                return None
            made.append(_POSIX[posix[2]])
            at += posix.end()
            continue
        if not inside and char == "[":
            inside = True
            made.append(char)
            at += 1
            if pattern[at : at + 1] == "^":
                made.append("^")
                at += 1
            if pattern[at : at + 1] == "]":
                made.append(r"\]")
                at += 1
            continue
        if inside:
            inside = char != "]"
            made.append(r"\[" if char == "[" else char)
        else:
            made.append(r"\Z" if char == "$" else char)
        at += 1
    try:
        return re.compile("".join(made), re.ASCII)
    except (re.error, OverflowError):
        return None
