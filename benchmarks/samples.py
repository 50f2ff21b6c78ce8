"""Samples and what is said about them: pure arithmetic and text."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

__all__ = ["Summary", "percentile", "table"]


def percentile(samples: Sequence[float], rank: float) -> float:
    """The smallest sample that at least `rank` per cent of all samples do not exceed (nearest rank, no interpolation).

    Args:
        samples: in any order, not empty.
        rank: 0..100; 0 is the minimum.
    Raises:
        ValueError: no samples, or a rank outside its range.
    """
    if not samples or not 0 <= rank <= 100:
        raise ValueError(f"percentile {rank} of {len(samples)} samples")
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(len(ordered) * rank / 100) - 1)]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a table shows of one series, in the unit of its samples."""

    count: int
    low: float
    p50: float
    p95: float
    p99: float
    high: float

    @classmethod
    def of(cls, samples: Iterable[float]) -> Self:
        """Summarise a series that is not empty."""
        series = list(samples)
        return cls(
            count=len(series),
            low=min(series),
            p50=percentile(series, 50),
            p95=percentile(series, 95),
            p99=percentile(series, 99),
            high=max(series),
        )

    def to_json(self, scale: float = 1.0) -> dict[str, Any]:
        """Rounded for a file, each number times `scale`."""
        numbers = {"min": self.low, "p50": self.p50, "p95": self.p95, "p99": self.p99, "max": self.high}
        return {"count": self.count, **{name: round(number * scale, 4) for name, number in numbers.items()}}


def table(columns: Sequence[str], rows: Mapping[str, Sequence[float | str]], *, digits: int = 1) -> list[str]:
    """Lines of text: a heading and one row per name, numbers right-aligned with `digits` decimals."""
    cells = {
        name: [cell if isinstance(cell, str) else f"{cell:,.{digits}f}" for cell in row] for name, row in rows.items()
    }
    widths = [
        max(len(column), *(len(row[index]) if index < len(row) else 0 for row in cells.values()), 0)
        for index, column in enumerate(columns)
    ]
    first = max(map(len, cells), default=0)
    lines = [
        "  ".join(["".ljust(first), *(column.rjust(width) for column, width in zip(columns, widths, strict=True))])
    ]
    for name, row in cells.items():
        lines.append(
            "  ".join([name.ljust(first), *(cell.rjust(width) for cell, width in zip(row, widths, strict=False))])
        )
    return [line.rstrip() for line in lines]
