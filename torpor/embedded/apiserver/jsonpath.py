"""The subset of kubectl's JSONPath that printer columns and scale subresources use.

`.status.url`, `.metadata.labels.serving\\.knative\\.dev/service`, `.spec.ports[0].port`, `.spec.hosts[*]`,
`['a.b']`, `.status.conditions[?(@.type=="Ready")].status`. Braces around the whole are allowed. A path is compiled
once into a tuple of steps; finding is a loop over them that never fails on an object of another shape, it just finds
nothing.
"""

import functools
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["JsonPath", "compile_path"]

Step = Callable[[Any], list[Any]]

_NAME = re.compile(r"\.?((?:\\.|[^.\[\]\\{}()*?@'\"=<>!\s])+)")
_INDEX = re.compile(r"\[\s*(-?\d{1,9})\s*\]")
_SLICE = re.compile(r"\[\s*(-?\d{0,9})\s*:\s*(-?\d{0,9})\s*\]")
_EVERY = re.compile(r"\.?\*|\[\s*\*\s*\]")
_QUOTED = re.compile(r"\[\s*'((?:\\.|[^'\\])*)'\s*\]|\[\s*\"((?:\\.|[^\"\\])*)\"\s*\]")
_FILTER = re.compile(r"\[\s*\?\(\s*((?:[^()'\"]|'[^']*'|\"[^\"]*\")*)\)\s*\]")
_CONDITION = re.compile(r"@(?P<path>[^=<>!\s]*)\s*(?:(?P<operator>==|!=|<=|>=|<|>)\s*(?P<value>.+?)\s*)?", re.DOTALL)
_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class JsonPath:
    """A compiled path; `find` returns every value it selects."""

    __slots__ = ("_steps",)

    def __init__(self, steps: tuple[Step, ...]) -> None:
        self._steps = steps

    def find(self, obj: Any) -> list[Any]:
        """The selected values, in document order; [] when the object has none."""
        found = [obj]
        for step in self._steps:
            found = [value for node in found for value in step(node)]
            if not found:
                break
        return found

    def first(self, obj: Any) -> Any:
        """The first selected value, or None."""
        found = self.find(obj)
        return found[0] if found else None


@functools.lru_cache(maxsize=1024)
def compile_path(text: str) -> JsonPath:
    """A path from its text.

    Raises:
        ValueError: not a path, or one that uses what this subset leaves out (recursive descent, unions, templates).
    """
    path = text.strip()
    if path.startswith("{") and path.endswith("}"):
        path = path[1:-1].strip()
    path = path.removeprefix("$")
    steps: list[Step] = []
    at = 0
    while at < len(path):
        if path[at] == "." and at + 1 == len(path):
            break
        if found := _EVERY.match(path, at):
            steps.append(_every)
        elif found := _NAME.match(path, at):
            if path[at] != "." and at > 0:
                raise ValueError(f"unexpected {path[at:]!r} in JSONPath {text!r}")
            steps.append(_key(re.sub(r"\\(.)", r"\1", found[1])))
        elif found := _INDEX.match(path, at):
            steps.append(_index(int(found[1])))
        elif found := _SLICE.match(path, at):
            steps.append(_slice(int(found[1]) if found[1] else None, int(found[2]) if found[2] else None))
        elif found := _QUOTED.match(path, at):
            steps.append(_key(re.sub(r"\\(.)", r"\1", found[1] if found[1] is not None else found[2])))
        elif found := _FILTER.match(path, at):
            steps.append(_filter(found[1].strip(), text))
        else:
            raise ValueError(f"unexpected {path[at:]!r} in JSONPath {text!r}")
        at = found.end()
    return JsonPath(tuple(steps))


def _every(node: Any) -> list[Any]:
    if isinstance(node, list):
        return node
    return list(node.values()) if isinstance(node, Mapping) else []


def _key(name: str) -> Step:
    def step(node: Any) -> list[Any]:
        return [node[name]] if isinstance(node, Mapping) and name in node else []

    return step


def _index(index: int) -> Step:
    def step(node: Any) -> list[Any]:
        return [node[index]] if isinstance(node, list) and -len(node) <= index < len(node) else []

    return step


def _slice(start: int | None, stop: int | None) -> Step:
    def step(node: Any) -> list[Any]:
        return node[start:stop] if isinstance(node, list) else []

    return step


def _filter(condition: str, text: str) -> Step:
    found = _CONDITION.fullmatch(condition)
    if found is None:
        raise ValueError(f"unsupported filter {condition!r} in JSONPath {text!r}")
    path = compile_path(found["path"])
    if found["operator"] is None:
        return lambda node: [item for item in _every(node) if path.find(item)]
    wanted = _literal(found["value"], text)
    compare = _OPERATORS[found["operator"]]

    def holds(item: Any) -> bool:
        have = path.first(item)
        if isinstance(have, bool) is not isinstance(wanted, bool):
            return False
        try:
            return compare(have, wanted)
        except TypeError:
            return False

    return lambda node: [item for item in _every(node) if holds(item)]


def _literal(text: str, path: str) -> Any:
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    if text in ("true", "false"):
        return text == "true"
    try:
        return int(text) if re.fullmatch(r"-?\d+", text) else float(text)
    except ValueError:
        raise ValueError(f"unsupported value {text!r} in JSONPath {path!r}") from None
