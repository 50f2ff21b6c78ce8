"""Validation errors that know where in the object they belong.

A check deep inside an object knows only its own field; each caller on the way out says through which field, index or
key it got there. So checks compose: they return `FieldError`s, callers prefix and add them up, and the texts come out
as Knative writes them (serving §1.5.1), which clients and tests compare to the letter:

    >>> problem = missing("name").via_index(1).via("env") + missing("name").via_index(3).via("env")
    >>> problem.text()
    'missing field(s): env[1].name, env[3].name'

Equal messages with equal details become one line with all their paths. Each problem has a level: errors refuse the
object, warnings are shown to the user and the object passes.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final, Self, TypeVar

from kncore.strconv import quote

__all__ = [
    "MOST",
    "OK",
    "FieldError",
    "Level",
    "Problem",
    "disallowed",
    "each",
    "generic",
    "invalid_key",
    "invalid_value",
    "joined",
    "missing",
    "missing_one_of",
    "multiple_one_of",
    "out_of_bounds",
]


class Level(IntEnum):
    """What a problem does to the request."""

    ERROR = 0
    WARNING = 1


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One message and the fields it is about."""

    message: str
    paths: tuple[str, ...] = ()  # none: a message about no field in particular, rendered with an empty path
    details: str = ""  # a second line
    level: Level = Level.ERROR

    def text(self) -> str:
        """`<message>: <path>, <path>`, and the details on a line of their own."""
        line = f"{self.message}: {', '.join(self.paths)}"
        return f"{line}\n{self.details}" if self.details else line


@dataclass(frozen=True)
class FieldError:
    """Any number of problems, none included; falsy when there is none."""

    problems: tuple[Problem, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.problems)

    def __add__(self, other: Self) -> Self:
        if not other.problems:
            return self
        if not self.problems:
            return other
        return type(self)(self.problems + other.problems)

    def via(self, field: str) -> Self:
        """The same problems, seen from the object that has them under `field` (dotted for several steps)."""
        return self._prefixed(field)

    def via_index(self, index: int) -> Self:
        """The same problems, seen from the list that has them at `index`."""
        return self._prefixed(f"[{index}]")

    def via_key(self, key: str) -> Self:
        """The same problems, seen from the map that has them under `key`."""
        return self._prefixed(f"[{key}]")

    def at(self, level: Level) -> Self:
        """The same problems at another level."""
        return type(self)(tuple(replace(problem, level=level) for problem in self.problems))

    def only(self, level: Level) -> Self:
        """The problems of one level."""
        return type(self)(tuple(problem for problem in self.problems if problem.level == level))

    def merged(self) -> list[Problem]:
        """The problems with equal ones joined, sorted by message, details and level; their paths are sorted too."""
        paths: dict[tuple[str, str, Level], set[str]] = {}
        for problem in self.problems:
            paths.setdefault((problem.message, problem.details, problem.level), set()).update(problem.paths)
        # Go sorts by bytes of UTF-8, which is the order of code points, as here.
        return [
            Problem(message=message, details=details, level=level, paths=tuple(sorted(paths[message, details, level])))
            for message, details, level in sorted(paths)
        ]

    def text(self) -> str:
        """All problems, one after the other; "" if there are none."""
        return "\n".join(problem.text() for problem in self.merged())

    def _prefixed(self, prefix: str) -> Self:
        if not self.problems:
            return self
        return type(self)(
            tuple(
                replace(problem, paths=tuple(_joined(prefix, path) for path in problem.paths))
                for problem in self.problems
            )
        )


OK: Final = FieldError()
"""No problem."""

MOST: Final = 1000
"""How many problems of one list are enough."""


def _joined(prefix: str, path: str) -> str:
    """`prefix.path` in the usual notation: an index sticks to the part before it, an empty part disappears.

    A key with dots in it is not an index to this rule, so it does not stick; clients know the resulting
    `annotations.[example.com/key]` from the original.
    """
    parts: list[str] = []
    for part in f"{prefix}.{path}".split("."):
        if parts and part.startswith("[") and part.endswith("]"):
            parts[-1] += part
        elif part:
            parts.append(part)
    return ".".join(parts)


def joined(errors: Iterable[FieldError]) -> FieldError:
    """All the errors in one, or as many as are enough.

    Clients choose how long their lists are; once `MOST` problems are found the object is refused whatever comes.
    """
    found: list[Problem] = []
    for error in errors:
        found += error.problems
        if len(found) >= MOST:
            break
    return FieldError(tuple(found))


_Item = TypeVar("_Item")


def each(items: Iterable[_Item], check: Callable[[_Item], FieldError]) -> FieldError:
    """What `check` finds in the items, each seen from the list, until that is enough."""
    return joined(check(item).via_index(index) for index, item in enumerate(items))


def generic(message: str, *fields: str, details: str = "") -> FieldError:
    """A message about the fields; the field "" is the object itself."""
    return FieldError((Problem(message=message, paths=fields, details=details),))


def missing(*fields: str) -> FieldError:
    """The fields must be there."""
    return generic("missing field(s)", *fields)


def disallowed(*fields: str) -> FieldError:
    """The fields must not be there."""
    return generic("must not set the field(s)", *fields)


def invalid_value(value: object, field: str, *details: str) -> FieldError:
    """The field's value is not acceptable; `details` say why."""
    return generic(f"invalid value: {value}", field, details=", ".join(details))


def invalid_key(key: str, field: str, *details: str) -> FieldError:
    """The map in `field` must not have this key; `details` say why."""
    return generic(f"invalid key name {quote(key)}", field, details=", ".join(details))


def out_of_bounds(value: object, low: object, high: object, field: str) -> FieldError:
    """The field's value must lie between the bounds, both included."""
    return generic(f"expected {low} <= {value} <= {high}", field)


def missing_one_of(*fields: str) -> FieldError:
    """One of the fields must be there, and none is."""
    return generic("expected exactly one, got neither", *fields)


def multiple_one_of(*fields: str) -> FieldError:
    """Only one of the fields may be there; these all are."""
    return generic("expected exactly one, got both", *fields)
