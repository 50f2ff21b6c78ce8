"""Kubernetes quantities and Go durations: parsed exactly, printed canonically.

A quantity is a whole number of billionths (finer input is rounded up, as Kubernetes does), so comparing and adding
never loses anything; it remembers the style it was written in (`Gi`, `G`, `e9`), because that decides how it is
printed. Durations are floats in seconds everywhere else in the project; nanoseconds exist only here.

Source: k8s.io/apimachinery pkg/api/resource/quantity.go; Go time.ParseDuration and Duration.String.
"""

import functools
import re
from dataclasses import dataclass
from typing import Final, Literal

from kncore.strconv import INT64_MAX, quote

__all__ = [
    "Quantity",
    "format_duration",
    "format_duration_ns",
    "parse_duration",
    "parse_duration_ns",
    "parse_quantity",
]

Style = Literal["BinarySI", "DecimalSI", "DecimalExponent"]

_NANO: Final = 10**9
_WRONG: Final = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
_BAD_SUFFIX: Final = "unable to parse quantity's suffix"
_QUANTITY: Final = re.compile(r"([+-]?)([0-9]*)(?:\.([0-9]*))?([eEinumkKMGTP]*[-+]?[0-9]*)", re.ASCII)
_DECIMAL: Final = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY: Final = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_BY_EXPONENT: Final = {power: suffix for suffix, power in _DECIMAL.items()}
_BY_SHIFT: Final = {shift: suffix for suffix, shift in _BINARY.items()}
_MAX_EXPONENT: Final = (
    1000  # an exponent beyond is nonsense, and would make us compute huge powers for a hostile object
)


@functools.total_ordering
@dataclass(frozen=True, slots=True)
class Quantity:
    """An amount of a resource.

    Equality and order look at the amount only, so `1000m` equals `1`.
    """

    nanos: int
    """The amount in billionths."""
    style: Style = "DecimalSI"
    """How it was written and will be printed."""

    @classmethod
    def of(cls, value: int, style: Style = "DecimalSI") -> "Quantity":
        """`value` whole units."""
        return cls(value * _NANO, style)

    @classmethod
    def of_milli(cls, value: int, style: Style = "DecimalSI") -> "Quantity":
        """`value` thousandths."""
        return cls(value * (_NANO // 1000), style)

    def value(self) -> int:
        """Whole units, rounded up."""
        return -(-self.nanos // _NANO)

    def milli(self) -> int:
        """Thousandths, rounded up."""
        return -(-self.nanos // (_NANO // 1000))

    def __float__(self) -> float:
        return self.nanos / _NANO

    def __bool__(self) -> bool:
        return self.nanos != 0

    def __eq__(self, other: object) -> bool:
        return self.nanos == other.nanos if isinstance(other, Quantity) else NotImplemented

    def __lt__(self, other: "Quantity") -> bool:
        return self.nanos < other.nanos

    def __hash__(self) -> int:
        return hash(self.nanos)

    def __add__(self, other: "Quantity") -> "Quantity":
        return Quantity(self.nanos + other.nanos, self.style if self.nanos else other.style)

    def __sub__(self, other: "Quantity") -> "Quantity":
        return Quantity(self.nanos - other.nanos, self.style if self.nanos else other.style)

    def __str__(self) -> str:
        """Canonical: no fraction, the largest suffix that needs none, binary suffixes only from 1024 whole units on."""
        if not self.nanos:
            return "0"
        if self.style == "BinarySI" and self.nanos % _NANO == 0 and abs(self.nanos) >= 1024 * _NANO:
            amount, shift = self.nanos // _NANO, 0
            while amount % 1024 == 0 and shift < 60:
                amount //= 1024
                shift += 10
            return f"{amount}{_BY_SHIFT.get(shift, '')}"
        amount, exponent = self.nanos, -9
        while amount % 1000 == 0 and (exponent < 18 or self.style == "DecimalExponent"):
            amount //= 1000
            exponent += 3
        if self.style == "DecimalExponent":
            return f"{amount}e{exponent}" if exponent else str(amount)
        return f"{amount}{_BY_EXPONENT[exponent]}"


def parse_quantity(text: str | int | float) -> Quantity:
    """The quantity that a manifest holds; YAML may have made a number of it.

    Raises:
        ValueError: with the text of Kubernetes' error.
    """
    if not isinstance(text, str):
        text = format(text, "f").rstrip("0").rstrip(".") if isinstance(text, float) else str(text)
    match = _QUANTITY.fullmatch(text)
    if match is None or not (match[2] or match[3]):
        raise ValueError(_WRONG)
    sign, whole, fraction, suffix = match[1], match[2], match[3] or "", match[4]
    numerator = int(whole + fraction or "0") * _NANO
    scale = -len(fraction)
    style: Style = "DecimalSI"
    if suffix in _BINARY:
        style = "BinarySI"
        numerator <<= _BINARY[suffix]
    elif suffix in _DECIMAL:
        scale += _DECIMAL[suffix]
    elif suffix[0] in "eE" and re.fullmatch(r"[-+]?[0-9]+", suffix[1:]) and abs(int(suffix[1:])) <= _MAX_EXPONENT:
        style = "DecimalExponent"
        scale += int(suffix[1:])
    else:
        raise ValueError(_BAD_SUFFIX)
    nanos = numerator * 10**scale if scale >= 0 else -(-numerator // 10**-scale)  # rounded away from zero
    if style == "BinarySI" or len(whole + fraction) > 18:
        nanos = min(nanos, INT64_MAX * _NANO)  # the original caps what does not fit its fast path
    if style == "BinarySI" and nanos < _NANO:
        style = "DecimalSI"
    return Quantity(-nanos if sign == "-" else nanos, style)


_UNITS: Final = {
    "ns": 1,
    "us": 10**3,
    "\u00b5s": 10**3,  # micro sign
    "\u03bcs": 10**3,  # Greek mu
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_TERM: Final = re.compile(r"([0-9]*)(\.[0-9]*)?([^0-9.]*)", re.ASCII)


def parse_duration_ns(text: str) -> int:
    """A Go duration such as `1h2m3.5s`, in nanoseconds; `0` needs no unit.

    Raises:
        ValueError: with Go's text.
    """
    invalid = ValueError(f"time: invalid duration {quote(text)}")
    rest = text[1:] if text[:1] in ("+", "-") else text
    if rest == "0":
        return 0
    if not rest:
        raise invalid
    total = 0
    while rest:
        match = _TERM.match(rest)
        if match is None or not (match[1] or (match[2] and len(match[2]) > 1)):
            raise invalid
        if not match[3]:
            raise ValueError(f"time: missing unit in duration {quote(text)}")
        unit = _UNITS.get(match[3])
        if unit is None:
            raise ValueError(f"time: unknown unit {quote(match[3])} in duration {quote(text)}")
        fraction = (match[2] or ".")[1:]
        total += int(match[1] or "0") * unit
        if fraction:
            total += int(fraction) * unit // 10 ** len(fraction)
        if total > INT64_MAX + (text[0] == "-"):
            raise invalid
        rest = rest[match.end() :]
    return -total if text[0] == "-" else total


def parse_duration(text: str) -> float:
    """A Go duration in seconds.

    Raises:
        ValueError: with Go's text.
    """
    return parse_duration_ns(text) / _NANO


def format_duration_ns(ns: int) -> str:
    """`1h2m3.5s`, `100µs`, `0s`: as Go prints a duration."""
    sign, ns = ("-", -ns) if ns < 0 else ("", ns)
    if ns < _NANO:
        for unit, size in (("ms", 10**6), ("µs", 10**3), ("ns", 1)):
            if ns >= size:
                return f"{sign}{_decimal(ns, size)}{unit}"
        return "0s"
    minutes, ns = divmod(ns, 60 * _NANO)
    hours, minutes = divmod(minutes, 60)
    out = f"{_decimal(ns, _NANO)}s"
    if hours or minutes:
        out = f"{minutes}m{out}"
    return f"{sign}{hours}h{out}" if hours else sign + out


def _decimal(amount: int, size: int) -> str:
    """`amount / size` without trailing zeros; `size` is a power of ten."""
    whole, fraction = divmod(amount, size)
    if not fraction:
        return str(whole)
    return f"{whole}.{str(fraction).zfill(len(str(size)) - 1).rstrip('0')}"


def format_duration(seconds: float) -> str:
    """A number of seconds as Go prints a duration, to the nearest nanosecond."""
    return format_duration_ns(round(seconds * _NANO))
