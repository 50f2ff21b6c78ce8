"""Scalars as Go reads and prints them.

Users write numbers for a system documented in Go's terms: `t` is true, `0x10` is not an integer, `+3` is one, `1e3`
is a float. The parsers raise `ValueError` with Go's own text, because that text reaches users through admission
errors.
"""

import math
import re
from typing import Final

__all__ = [
    "INT32_MAX",
    "INT64_MAX",
    "format_float",
    "parse_bool",
    "parse_float",
    "parse_int",
    "parse_uint",
    "quote",
]

INT32_MAX: Final = 2**31 - 1
INT64_MAX: Final = 2**63 - 1

_TRUE: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "false", "FALSE", "False"})
_INT: Final = re.compile(r"[+-]?[0-9]+", re.ASCII)
_UINT: Final = re.compile(r"[0-9]+", re.ASCII)
# Underscores may separate digits, in either base; after the base prefix too.
_DIGITS: Final = r"[0-9]+(?:_[0-9]+)*"
_HEX_DIGITS: Final = r"[0-9a-fA-F]+(?:_[0-9a-fA-F]+)*"
_FLOAT: Final = re.compile(rf"[+-]?({_DIGITS}\.?({_DIGITS})?|\.{_DIGITS})([eE][+-]?{_DIGITS})?", re.ASCII)
_HEX_FLOAT: Final = re.compile(
    rf"[+-]?0[xX](_?{_HEX_DIGITS}\.?({_HEX_DIGITS})?|\.{_HEX_DIGITS})[pP][+-]?{_DIGITS}", re.ASCII
)
_NAMED: Final = {"inf": math.inf, "infinity": math.inf}
_ESCAPES: Final = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}


def quote(text: str) -> str:
    """`text` in double quotes with Go's escapes, as `%q` prints it."""
    out = []
    for char in text:
        code = ord(char)
        if char in '"\\':
            out.append("\\" + char)
        elif char.isprintable():
            out.append(char)
        elif char in _ESCAPES:
            out.append(_ESCAPES[char])
        elif code < 0x80:
            out.append(f"\\x{code:02x}")
        else:
            out.append(f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return '"' + "".join(out) + '"'


def _refuse(function: str, text: str, why: str = "invalid syntax") -> ValueError:
    return ValueError(f"strconv.{function}: parsing {quote(text)}: {why}")


def _bounded(text: str) -> int:
    """The integer, or something out of every range if it has more digits than any: Python refuses to read thousands."""
    return int(text) if len(text) < 100 else int(text[0] + (text[1:].lstrip("0")[:99] or "0"))


def parse_bool(text: str) -> bool:
    """1, t, T, true, True, TRUE or the same for false; nothing else, no spaces."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise _refuse("ParseBool", text)


def parse_int(text: str, bits: int = 64) -> int:
    """A decimal integer with an optional sign that fits in `bits` bits."""
    if not _INT.fullmatch(text):
        raise _refuse("ParseInt", text)
    value = _bounded(text)
    if not -(1 << (bits - 1)) <= value < 1 << (bits - 1):
        raise _refuse("ParseInt", text, "value out of range")
    return value


def parse_uint(text: str, bits: int = 64) -> int:
    """A decimal integer without a sign that fits in `bits` bits."""
    if not _UINT.fullmatch(text):
        raise _refuse("ParseUint", text)
    value = _bounded(text)
    if value >= 1 << bits:
        raise _refuse("ParseUint", text, "value out of range")
    return value


def parse_float(text: str) -> float:
    """A float; NaN and the infinities are numbers too, so whoever needs a finite one must check.

    Raises:
        ValueError: not a number, or too large for a double (Go refuses what Python turns into an infinity).
    """
    if _FLOAT.fullmatch(text):
        value = float(text)  # Python takes the same underscores
    elif _HEX_FLOAT.fullmatch(text):
        try:
            value = float.fromhex(text.replace("_", ""))
        except OverflowError:
            value = math.inf
    elif text.lower() == "nan":
        return math.nan
    else:
        magnitude = _NAMED.get(text.lower().removeprefix("+").removeprefix("-") if text[:1] in "+-" else text.lower())
        if magnitude is None:
            raise _refuse("ParseFloat", text)
        return -magnitude if text.startswith("-") else magnitude
    if math.isinf(value):
        raise _refuse("ParseFloat", text, "value out of range")
    return value


def format_float(value: float) -> str:
    """The shortest text that reads back as `value`, as `%v` prints it: an exponent only below 1e-4 and from 1e21 on."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if value == 0:
        return "-0" if math.copysign(1, value) < 0 else "0"
    digits, _, power = repr(abs(value)).partition("e")
    whole, _, fraction = digits.partition(".")
    written = whole + fraction
    significant = written.lstrip("0").rstrip("0")
    point = len(whole) - (len(written) - len(written.lstrip("0"))) + int(power or 0)  # digits before the decimal point
    sign = "-" if value < 0 else ""
    if not -4 <= point - 1 < 21:
        rest = f".{significant[1:]}" if len(significant) > 1 else ""
        return f"{sign}{significant[0]}{rest}e{point - 1:+03d}"
    if point <= 0:
        return f"{sign}0.{'0' * -point}{significant}"
    if len(significant) <= point:
        return f"{sign}{significant}{'0' * (point - len(significant))}"
    return f"{sign}{significant[:point]}.{significant[point:]}"
