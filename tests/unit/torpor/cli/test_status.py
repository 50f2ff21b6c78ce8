"""Why a revision has the pods it has, in a person's words."""

from typing import Any

import pytest

from torpor.cli.status import why

ACTIVE = {"status": {"conditions": [{"type": "Active", "status": "False", "message": "The target is asleep."}]}}


def decisions(desired: int, *, want: int | None = None, **changes: Any) -> dict[str, Any]:
    observed = {"ready": 1, "stable": 120.0, "panic": 130.04}
    last = {"desired": desired, "bound": "metric", "observed": observed, "target": 70.0, "panicking": False, **changes}
    older = {**last, "desired": 99, "bound": "panic"}
    return {"want": desired if want is None else want, "decisions": [older, last]}


@pytest.mark.parametrize(
    ("explained", "sentence"),
    [
        (decisions(2), "load over target (120.0 stable, 130.0 panic, target 70 per pod)"),
        (
            decisions(0, observed={"ready": 1, "stable": 0.0, "panic": 0.0}),
            "no load (0.0 stable, 0.0 panic, target 70 per pod)",
        ),
        (
            decisions(10, bound="max-scale-up-rate", target=0.01),
            "limited by max-scale-up-rate (120.0 stable, 130.0 panic, target 0.01 per pod)",
        ),
        (
            decisions(3, bound="panic", panicking=True),
            "held by panic mode (120.0 stable, 130.0 panic, target 70 per pod)",
        ),
        (
            decisions(3, panicking=True),
            "load over target (120.0 stable, 130.0 panic, target 70 per pod), panicking",
        ),
        (
            decisions(30, want=20),
            "load over target (120.0 stable, 130.0 panic, target 70 per pod); "
            "30 became 20 by min-scale, max-scale or the grace period before zero",
        ),
        (decisions(1, bound="a-new-rule"), "a-new-rule (120.0 stable, 130.0 panic, target 70 per pod)"),
    ],
)
def test_the_last_decision_is_told_by_the_rule_that_bound_it(explained: dict[str, Any], sentence: str) -> None:
    assert why({}, explained) == sentence


@pytest.mark.parametrize("explained", [None, {}, {"decisions": [], "want": None}])
def test_without_decisions_the_condition_speaks(explained: dict[str, Any] | None) -> None:
    assert why(ACTIVE, explained) == "The target is asleep."
    assert why({}, explained) == "no decision yet"
