"""ConfigMap config-logging: log levels (serving §3.8).

The rest of zap's configuration describes an encoder we do not have; it only has to be JSON, so that a mistake is
found when it is made.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from kncore.config.reader import Reader
from kncore.strconv import quote

__all__ = ["LEVELS", "Logging"]

LEVELS: Final = frozenset({"debug", "info", "warn", "error", "dpanic", "panic", "fatal"})
_PREFIX: Final = "loglevel."


@dataclass(frozen=True, kw_only=True)
class Logging:
    """Levels by component; live for all but queue-proxies, which get theirs when their pod is made."""

    config: str = ""
    """`zap-logger-config` as it is, for queue-proxies of the original."""
    default: str = "info"
    """What zap-logger-config says."""
    levels: Mapping[str, str] = field(default_factory=dict)
    """Component, such as `activator`, to level."""

    @classmethod
    def parse(cls, data: Mapping[str, str]) -> Self:
        """The configuration in a ConfigMap's data.

        Raises:
            InvalidConfig: naming every bad key.
        """
        read = Reader(data)
        default = cls.default
        source = data.get("zap-logger-config", "").strip()
        if source:
            default = read.attempt(
                lambda: _zap_level(source), default, "zap-logger-config", prefix="zap-logger-config: "
            )
        levels = {}
        for key in sorted(data):
            if key.startswith(_PREFIX):
                level = data[key].strip().lower() or default
                read.check(level in LEVELS, f"{key}: unrecognized level: {quote(data[key])}", key)
                levels[key.removeprefix(_PREFIX)] = level
        read.finish()
        return cls(config=data.get("zap-logger-config", ""), default=default, levels=levels)

    def level(self, component: str) -> str:
        """The level of a component's logs."""
        return self.levels.get(component, self.default)


def _zap_level(source: str) -> str:
    loaded = json.loads(source)
    if not isinstance(loaded, dict):
        raise ValueError("must be a JSON object")
    level = str(loaded.get("level", Logging.default)).lower()
    if level not in LEVELS:
        raise ValueError(f"unrecognized level: {quote(level)}")
    return level
