"""ConfigMap config-gc: which old revisions are deleted (serving §3.5)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from kncore.config.reader import Reader
from kncore.quantity import parse_duration
from kncore.strconv import INT64_MAX, parse_uint

__all__ = ["Gc"]


@dataclass(frozen=True, kw_only=True)
class Gc:
    """Retention of revisions that no route uses. None disables a rule."""

    retain_since_create_time: float | None = 48 * 3600.0
    """A younger revision is kept, seconds."""
    retain_since_last_active_time: float | None = 15 * 3600.0
    """A revision that served traffic less long ago is kept, seconds."""
    min_non_active_revisions: int = 20
    """So many are kept whatever their age."""
    max_non_active_revisions: int | None = 1000
    """More than so many are deleted whatever their age."""

    @classmethod
    def parse(cls, data: Mapping[str, str]) -> Self:
        """The configuration in a ConfigMap's data.

        Raises:
            InvalidConfig: naming every bad key.
        """
        read = Reader(data, prefix="failed to parse data: ")
        low = read.int64("min-non-active-revisions", cls.min_non_active_revisions)
        created = _optional_duration(read, "retain-since-create-time", cls.retain_since_create_time)
        active = _optional_duration(read, "retain-since-last-active-time", cls.retain_since_last_active_time)
        high = _optional_count(read, "max-non-active-revisions", cls.max_non_active_revisions)
        read.check(low >= 0, f"min-non-active-revisions must be non-negative, was: {low}", "min-non-active-revisions")
        read.check(
            high is None or low <= high,
            f"min-non-active-revisions({low}) must be <= max-non-active-revisions({high})",
            "min-non-active-revisions",
            "max-non-active-revisions",
        )
        read.finish()
        return cls(
            retain_since_create_time=created,
            retain_since_last_active_time=active,
            min_non_active_revisions=low,
            max_non_active_revisions=high,
        )


def _optional_duration(read: Reader, key: str, default: float | None) -> float | None:
    text = read.string(key, "")
    if not text:
        return default
    if text.lower() == "disabled":
        return None
    seconds = read.attempt(lambda: parse_duration(text), 0.0, key, prefix=f"failed to parse {key}: ")
    read.check(seconds >= 0, f"failed to parse {key}: must be non-negative", key)
    return seconds


def _optional_count(read: Reader, key: str, default: int | None) -> int | None:
    text = read.string(key, "")
    if not text:
        return default
    if text.lower() == "disabled":
        return None
    count = read.attempt(lambda: parse_uint(text), 0, key, prefix=f"failed to parse {key}: ")
    read.check(count <= INT64_MAX, f"failed to parse {key}: value should be lower than {INT64_MAX}", key)
    return count
