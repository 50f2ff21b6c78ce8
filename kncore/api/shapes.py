"""The shapes of typed API objects: what their fields are called, what type each has, and when a field is left out.

Knative reads each object into a Go struct and writes it back before it looks at it, and that round trip is visible:
unknown fields disappear, quantities get their canonical form, empty fields vanish or appear (`tcpSocket: {port: 0}`),
and a value of the wrong type refuses the whole object. `Struct.decode` does the same to plain dicts, so everything
behind it may rely on the types and needs no defence against malformed input.

Shapes are written as text, one structure per entry, which reads like the types they describe:

    Probe: httpGet *HTTPGetAction, periodSeconds int32?, command []string?

`?` leaves the field out when it is zero (empty, 0, false); `*` is a pointer, left out when absent but kept when it
points to a zero value; `!` behind a pointer shows an absent one as null. `[]T` is a list, `{}T` a map by string.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from kncore.api.urls import normalized_url
from kncore.errors import KnError
from kncore.quantity import parse_quantity
from kncore.strconv import INT32_MAX, INT64_MAX

__all__ = ["DecodeError", "Shape", "Struct", "parse_shapes"]


class DecodeError(KnError):
    """An object whose JSON does not have the types of its kind: our caller's fault.

    `path` says where (`spec.template.spec.containers[0].name`), `problem` what (`expected a string, got a number`).
    """

    def __init__(self, problem: str, path: str = "") -> None:
        super().__init__(f"{path}: {problem}" if path else problem)
        self.problem = problem
        self.path = path

    def below(self, step: str) -> "DecodeError":
        """The same error seen from one level up."""
        joint = "." if self.path and not self.path.startswith("[") else ""
        return DecodeError(self.problem, f"{step}{joint}{self.path}")


class Shape(Protocol):
    """One type: how a JSON value becomes a clean value of it."""

    def decode(self, value: Any) -> Any:
        """A clean copy of `value`, which is not null.

        Raises:
            DecodeError: the value has another type.
        """

    def zero(self) -> Any:
        """What stands for an absent value that must be written anyway; None is null."""

    def same(self, one: Any, other: Any) -> bool:
        """Whether two clean values mean the same."""


class _Scalar:
    """A type whose clean values compare with ==."""

    def __init__(self, decode: Callable[[Any], Any], zero: Any) -> None:
        self._decode = decode
        self._zero = zero

    def decode(self, value: Any) -> Any:
        return self._decode(value)

    def zero(self) -> Any:
        return self._zero

    def same(self, one: Any, other: Any) -> bool:
        return bool(one == other)


class _Quantity(_Scalar):
    """A quantity in its canonical spelling; `1Ki` and `1024` are the same one."""

    def same(self, one: Any, other: Any) -> bool:
        return bool(one == other or parse_quantity(one) == parse_quantity(other))


@dataclass(frozen=True)
class _Pointer:
    """A value that may be absent, which is different from zero."""

    to: Shape

    def decode(self, value: Any) -> Any:
        return self.to.decode(value)

    def zero(self) -> Any:
        return None

    def same(self, one: Any, other: Any) -> bool:
        return self.to.same(one, other)


@dataclass(frozen=True)
class _List:
    of: Shape

    def decode(self, value: Any) -> Any:
        if not isinstance(value, list):
            raise _mismatch("a list", value)
        made = []
        for index, item in enumerate(value):
            try:
                made.append(self.of.zero() if item is None else self.of.decode(item))
            except DecodeError as error:
                raise error.below(f"[{index}]") from None
        return made

    def zero(self) -> Any:
        return None

    def same(self, one: Any, other: Any) -> bool:
        return len(one) == len(other) and all(map(_both(self.of), one, other))


@dataclass(frozen=True)
class _Map:
    of: Shape

    def decode(self, value: Any) -> Any:
        if not isinstance(value, dict):
            raise _mismatch("an object", value)
        made = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise _mismatch("a string as key", key)
            try:
                made[key] = self.of.zero() if item is None else self.of.decode(item)
            except DecodeError as error:
                raise error.below(f"[{key}]") from None
        return made

    def zero(self) -> Any:
        return None

    def same(self, one: Any, other: Any) -> bool:
        return one.keys() == other.keys() and all(_both(self.of)(item, other[key]) for key, item in one.items())


@dataclass(frozen=True)
class _Field:
    name: str
    shape: Shape
    omit_absent: bool  # nothing is written for an absent value
    omit_zero: bool  # nor for a zero one

    def meant(self, owner: Mapping[str, Any]) -> Any:
        """The field's value for a comparison: left out means zero, except for pointers; an empty list means none."""
        if isinstance(self.shape, _List | _Map):
            return owner.get(self.name) or None
        return owner.get(self.name, None if isinstance(self.shape, _Pointer) else self.shape.zero())


class Struct:
    """An object with known fields."""

    def __init__(self) -> None:
        self.fields: dict[str, _Field] = {}  # filled by `parse_shapes`: shapes refer to each other

    def decode(self, value: Any) -> Any:
        if not isinstance(value, dict):
            raise _mismatch("an object", value)
        made = {}
        for name, field in self.fields.items():
            found = value.get(name)
            if found is None:
                if not field.omit_absent:
                    made[name] = field.shape.zero()
                continue
            try:
                clean = field.shape.decode(found)
            except DecodeError as error:
                raise error.below(name) from None
            if clean or not field.omit_zero:
                made[name] = clean
        return made

    def zero(self) -> Any:
        return self.decode({})

    def same(self, one: Any, other: Any) -> bool:
        return all(
            _both(field.shape)(field.meant(one), field.meant(other))
            for name, field in self.fields.items()
            if name in one or name in other
        )


def parse_shapes(*texts: str, keep_empty: bool = False) -> dict[str, Struct]:
    """All structures described in the texts, by name.

    Args:
        texts: descriptions, which may refer to each other.
        keep_empty: shapes that keep a list or map that is there but empty, although it would be left out on writing.
    Raises:
        KeyError: a field of a type that is described nowhere.
    """
    described = dict(entry for text in texts for entry in _entries(text))
    structs = {name: Struct() for name in described}
    for name, fields in described.items():
        structs[name].fields = {
            field.name: field for field in (_field(item, structs, keep_empty=keep_empty) for item in fields)
        }
    return structs


def _entries(text: str) -> list[tuple[str, list[str]]]:
    """`Name: field, field` entries; indented lines continue the one before."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line and not line[0].isspace():
            name, _, line = line.partition(":")
            found.append((name, []))
        if found:
            found[-1][1].extend(item.strip() for item in line.split(",") if item.strip())
    return found


def _field(text: str, structs: Mapping[str, Struct], *, keep_empty: bool) -> _Field:
    name, _, type_ = text.partition(" ")
    pointer = type_.startswith("*")
    omit_zero = type_.endswith("?")
    omit_absent = omit_zero or (pointer and not type_.endswith("!"))
    omit_zero = omit_zero and not (keep_empty and type_.startswith(("[]", "{}")))
    return _Field(name, _shape(type_.rstrip("?!"), structs), omit_absent=omit_absent, omit_zero=omit_zero)


def _shape(type_: str, structs: Mapping[str, Struct]) -> Shape:
    if type_.startswith("*"):
        return _Pointer(_shape(type_[1:], structs))
    if type_.startswith("[]"):
        return _List(_shape(type_[2:], structs))
    if type_.startswith("{}"):
        return _Map(_shape(type_[2:], structs))
    return _SCALARS[type_] if type_ in _SCALARS else structs[type_]


def _both(shape: Shape) -> Callable[[Any, Any], bool]:
    """`shape.same` for values that may be null."""

    def same(one: Any, other: Any) -> bool:
        return one is other if one is None or other is None else shape.same(one, other)

    return same


_NAMES: Final = {
    bool: "a boolean",
    int: "a number",
    float: "a number with a fraction",
    str: "a string",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


def _mismatch(expected: str, value: Any) -> DecodeError:
    return DecodeError(f"expected {expected}, got {_NAMES.get(type(value), type(value).__name__)}")


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise _mismatch("a string", value)
    return value


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _mismatch("a boolean", value)
    return value


def _integer(largest: int) -> Callable[[Any], int]:
    def decode(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise _mismatch("a whole number", value)
        if not -largest - 1 <= value <= largest:
            raise DecodeError(f"the number {value} is out of range")
        return value

    return decode


_DEEPEST: Final = 100  # levels; the field sets of managedFields, the only such values, have about a dozen


def _any(value: Any) -> Any:
    """Any JSON value, passed through uncopied; only so deep that comparing or printing it cannot exhaust the stack."""
    level = [value]
    for _ in range(_DEEPEST):
        level = [inner for outer in level for inner in _children(outer)]
        if not level:
            return value
    raise DecodeError(f"nested more than {_DEEPEST} levels deep")


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _int_or_string(value: Any) -> int | str:
    return value if isinstance(value, str) else _integer(INT32_MAX)(value)


def _url(value: Any) -> str:
    try:
        return normalized_url(_string(value))
    except ValueError as error:
        raise DecodeError(f"not a URL: {error}") from error


def _quantity(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _mismatch("a quantity", value)
    try:
        return str(parse_quantity(value))
    except ValueError as error:
        raise DecodeError(str(error)) from error


_SCALARS: Final[Mapping[str, Shape]] = {
    "string": _Scalar(_string, ""),
    "bool": _Scalar(_bool, False),
    "int32": _Scalar(_integer(INT32_MAX), 0),
    "int64": _Scalar(_integer(INT64_MAX), 0),
    "int-or-string": _Scalar(_int_or_string, 0),
    "quantity": _Quantity(_quantity, "0"),
    "url": _Scalar(_url, ""),
    "time": _Scalar(_string, None),  # RFC 3339 text, passed through
    "any": _Scalar(_any, None),
}
