"""A line that a figure must not cross, as the original's tests have them: pure."""

from dataclasses import dataclass

from benchmarks.goals import Goal
from benchmarks.rows import Row, significant
from benchmarks.samples import table

__all__ = ["PEER", "PassLine", "lines"]

PEER = "pass line"


@dataclass(frozen=True, kw_only=True)
class PassLine:
    """One bound of one scenario."""

    scenario: str
    metric: str
    bound: float
    at_least: bool = False
    """The figure is to reach the bound; otherwise, to stay within it."""

    def row(self, measured: float) -> Row:
        """The figure beside its bound; the ratio is figure / bound."""
        goal = Goal(at_least=1.0) if self.at_least else Goal(at_most=1.0)
        if self.bound == 0:  # none allowed: the ratio says nothing, so it is made to
            ratio = 0.0 if measured == 0 else float("inf")
        else:
            ratio = measured / self.bound
        return Row(
            scenario=self.scenario,
            metric=self.metric,
            peer=PEER,
            ours=measured,
            theirs=self.bound,
            ratio=ratio,
            goal=goal,
        )


def lines(rows: list[Row]) -> list[str]:
    """A table of figures beside their lines."""
    return table(
        ("pass line", "ours", ""),
        {
            f"{row.scenario}, {row.metric}": (
                f"{'>=' if row.goal and row.goal.at_least else '<='} {row.theirs:g}",
                f"{significant(row.ours)}",
                "passed" if row.met else "FAILED",
            )
            for row in rows
        },
    )
