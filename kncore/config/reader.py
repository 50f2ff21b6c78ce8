"""Reading one ConfigMap: parse every key, check every rule, report everything that is wrong at once.

A parser reads its keys in the order of the original (which stops at the first error), then checks ranges. The first
problem therefore has the original's text, byte for byte where it does not quote a YAML library; the others follow it,
so that an operator fixes a ConfigMap in one go. A rule about keys that did not parse is not checked: it would
complain about a default nobody wrote.
"""

import math
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from kncore.errors import ConfigError
from kncore.gotemplate import TemplateError
from kncore.quantity import Quantity, parse_duration, parse_quantity
from kncore.strconv import format_float, parse_bool, parse_float, parse_int, parse_uint

__all__ = ["EXAMPLE", "InvalidConfig", "Reader"]

EXAMPLE: Final = "_example"
"""The key that documents a ConfigMap inside itself; never read."""

_T = TypeVar("_T")
_D = TypeVar("_D")


class InvalidConfig(ConfigError):
    """A ConfigMap's data was refused; `problems` says why, the first as the original would."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


class Reader:
    """Typed access to a ConfigMap's data; call `finish` before using what was read.

    Args:
        data: the ConfigMap's `data`.
        prefix: what the original puts before a parse error.
    """

    def __init__(self, data: Mapping[str, str], *, prefix: str = "") -> None:
        self._data = data
        self._prefix = prefix
        self._problems: list[str] = []
        self._bad: set[str] = set()
        self._infinite: dict[str, float] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._data

    def _read(self, key: str, default: _D, parse: Callable[[str], _T]) -> _T | _D:
        if key not in self._data:
            return default
        try:
            return parse(self._data[key])
        except ValueError as exc:
            self.problem(f'{self._prefix}failed to parse "{key}": {exc}', key)
            return default

    def boolean(self, key: str, default: bool) -> bool:
        return self._read(key, default, parse_bool)

    def int32(self, key: str, default: int) -> int:
        return self._read(key, default, lambda text: parse_int(text, 32))

    def int64(self, key: str, default: int) -> int:
        return self._read(key, default, parse_int)

    def uint32(self, key: str, default: int) -> int:
        return self._read(key, default, lambda text: parse_uint(text, 32))

    def number(self, key: str, default: float) -> float:
        """A finite number: the original takes NaN and the infinities for some keys, and then cannot compute with
        them.
        """
        value = self._read(key, default, parse_float)
        if not math.isfinite(value):
            self._infinite[key] = value
        return value

    def duration(self, key: str, default: float) -> float:
        """Seconds."""
        return self._read(key, default, parse_duration)

    def quantity(self, key: str, default: Quantity | None) -> Quantity | None:
        return self._read(key, default, parse_quantity)

    def string(self, key: str, default: str) -> str:
        """The value without surrounding white space."""
        return self._data[key].strip() if key in self._data else default

    def strings(self, key: str, default: frozenset[str]) -> frozenset[str]:
        """A comma-separated set; each member without surrounding white space."""
        if key not in self._data:
            return default
        return frozenset(part.strip() for part in self._data[key].split(","))

    def attempt(self, make: Callable[[], _T], default: _D, *keys: str, prefix: str = "") -> _T | _D:
        """What `make` returns, or `default` and a problem if it raises a ValueError, a template or a configuration
        error.
        """
        try:
            return make()
        except (ValueError, TemplateError, ConfigError) as exc:
            self.problem(f"{prefix}{exc}", *keys)
            return default

    def problem(self, text: str, *keys: str) -> None:
        """Note that something is wrong with these keys."""
        self._problems.append(text)
        self._bad.update(keys)

    def check(self, ok: bool, text: str, *keys: str) -> None:
        """Note a problem unless the rule holds, or is about keys that are already known to be bad."""
        if not ok and self._bad.isdisjoint(keys):
            self.problem(text, *keys)

    def finish(self) -> None:
        """Raise if anything was wrong.

        Raises:
            InvalidConfig: naming every problem.
        """
        for key, value in self._infinite.items():
            if key not in self._bad:
                self.problem(f"{key} = {format_float(value)}, must be a finite number", key)
        if self._problems:
            raise InvalidConfig(self._problems)
