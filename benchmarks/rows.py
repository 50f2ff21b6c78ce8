"""From samples to the rows of `results/latest.json`: pure arithmetic."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.goals import GOALS, Goal

__all__ = ["Row", "compare", "significant"]

NOT_COMPARED = frozenset({"errors", "offered/s", "busy"})
"""Figures that say what a run was like, not how good a proxy is."""
Sample = Mapping[str, float]
"""Figures of one run by metric, e.g. {"requests/s": 31000.0, "p99 ms": 4.1}."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure of ours beside one of a peer's."""

    scenario: str
    metric: str
    peer: str
    ours: float
    """Median over the rounds."""
    theirs: float
    ratio: float
    """Median of the rounds' ratios, ours / theirs: what changes from round to round on a shared machine cancels out."""
    goal: Goal | None = None

    @property
    def met(self) -> bool | None:
        """None without a goal."""
        return None if self.goal is None else self.goal.met(self.ratio)

    def to_json(self) -> dict[str, Any]:
        """As it is kept in the file."""
        return {
            "scenario": self.scenario,
            "metric": self.metric,
            "peer": self.peer,
            "ours": significant(self.ours),
            "theirs": significant(self.theirs),
            "ratio": significant(self.ratio),
            "goal": None if self.goal is None else str(self.goal),
            "met": self.met,
        }


def compare(component: str, load: str, peer: str, ours: Sequence[Sample], theirs: Sequence[Sample]) -> list[Row]:
    """A row for each metric that both have.

    Args:
        component: what of ours, e.g. `queue-proxy`; the scenario is called `component/load`.
        ours, theirs: one sample per round; samples at one index were taken in one round.
    """
    if not theirs:
        return []
    if not ours:  # a goal that we cannot even be measured by is missed
        missed = {metric: goal for (of, metric, beside), goal in GOALS.items() if (of, beside) == (load, peer)}
        return [
            Row(
                scenario=f"{component}/{load}",
                metric=metric,
                peer=peer,
                ours=math.nan,
                theirs=statistics.median(sample[metric] for sample in theirs),
                ratio=math.nan,
                goal=goal,
            )
            for metric, goal in missed.items()
            if all(metric in sample for sample in theirs)
        ]
    metrics = [
        metric
        for metric in ours[0]
        if metric not in NOT_COMPARED and all(metric in sample for sample in (*ours, *theirs))
    ]
    rows = []
    for metric in metrics:
        pairs = [(mine[metric], other[metric]) for mine, other in zip(ours, theirs, strict=False)]
        ratios = [mine / other for mine, other in pairs if other]
        rows.append(
            Row(
                scenario=f"{component}/{load}",
                metric=metric,
                peer=peer,
                ours=statistics.median(mine for mine, _ in pairs),
                theirs=statistics.median(other for _, other in pairs),
                ratio=statistics.median(ratios) if ratios else math.nan,
                goal=GOALS.get((load, metric, peer)),
            )
        )
    return rows


def significant(number: float, digits: int = 4) -> float | None:
    """Rounded to so many significant digits; None, as JSON has no NaN, for what is not a number."""
    if not math.isfinite(number):
        return None
    return float(f"{number:.{digits}g}")
