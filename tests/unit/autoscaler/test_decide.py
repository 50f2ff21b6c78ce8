"""The scaling rule, by worked examples; the golden data in tests/vectors has the corner cases."""

from dataclasses import replace

import pytest

from autoscaler.decide import (
    TICK,
    Evaluator,
    Observed,
    Panic,
    Spec,
    decide,
    excess_burst_capacity,
    initial_excess_burst_capacity,
)

T0 = 1_700_000_000.0
TEN = Spec(total=10.0, target=7.0, target_burst_capacity=211.0)
"""`autoscaling.knative.dev/target: "10"`: with 70 % utilization one pod should carry 7."""


def seen(ready: int, stable: float, panic: float | None = None) -> Observed:
    return Observed(ready=ready, stable=stable, panic=stable if panic is None else panic)


def calm(spec: Spec, ready: int, stable: float, panic: float | None = None):
    """One decision out of calm."""
    return decide(spec, seen(ready, stable, panic), Panic(), T0)[0]


# load over target -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("load", "pods"), [(0, 0), (0.001, 1), (7, 1), (7.001, 2), (60, 9), (70, 10)])
def test_as_many_pods_as_the_load_needs(load: float, pods: int) -> None:
    decision = calm(TEN, 8, load)
    assert decision.wanted_stable == pods
    if pods >= 4:
        assert (decision.desired, decision.bound) == (pods, "metric")


def test_sixty_at_once_with_target_ten_from_one_pod_panics_to_nine() -> None:
    decision, panic = decide(TEN, seen(1, 10.0, 60.0), Panic(), T0)
    assert (decision.desired, decision.bound, decision.panicking) == (9, "panic", True)
    assert decision.wanted_stable == 2, "the stable window has hardly seen the load yet"
    assert panic == Panic(T0, 9)


# rate limits ----------------------------------------------------------------------------------------------------------


def test_at_most_half_of_the_pods_leave_in_one_evaluation() -> None:
    assert (calm(TEN, 9, 0).desired, calm(TEN, 9, 0).bound) == (4, "max-scale-down-rate")
    assert calm(TEN, 1, 0).desired == 0, "floor(1/2) is zero: the last pod may go"


def test_unreachable_revision_shrinks_without_a_limit() -> None:
    assert calm(replace(TEN, reachable=False), 9, 0).desired == 0


def test_growth_is_limited_by_the_rate_but_one_more_pod_is_always_allowed() -> None:
    slow = replace(TEN, max_scale_up_rate=1.1, panic_threshold=1000.0)
    assert (calm(slow, 10, 700.0).desired, calm(slow, 10, 700.0).bound) == (11, "max-scale-up-rate")
    assert calm(slow, 3, 700.0).desired == 4
    assert calm(slow, 0, 700.0).desired == 2, "no pods count as one: ceil(1.1)"


# activation scale -----------------------------------------------------------------------------------------------------


def test_activation_scale_raises_what_is_not_zero() -> None:
    five = replace(TEN, activation_scale=5)
    assert (calm(five, 0, 1.0).desired, calm(five, 0, 1.0).bound) == (5, "activation-scale")
    assert calm(five, 0, 0.0).desired == 0
    assert calm(five, 6, 42.0).desired == 6
    assert calm(replace(TEN, activation_scale=1), 0, 1.0).desired == 1


# panic ----------------------------------------------------------------------------------------------------------------


def test_panic_enters_extends_and_never_shrinks() -> None:
    decision, panic = decide(TEN, seen(2, 14.0, 28.0), Panic(), T0)
    assert (decision.desired, panic.since) == (4, T0), "4 wanted for 2 ready reaches the threshold of 200 %"
    decision, panic = decide(TEN, seen(4, 14.0, 10.0), panic, T0 + 2)
    assert decision.desired == 4, "less load in the panic window does not shrink it"
    assert panic.since == T0, "and does not extend it"
    decision, panic = decide(TEN, seen(4, 20.0, 56.0), panic, T0 + 4)
    assert (decision.desired, panic.since) == (8, T0 + 4), "another burst extends it"


def test_panic_ends_a_stable_window_after_its_last_cause() -> None:
    panic = Panic(T0, 8)
    decision, kept = decide(TEN, seen(8, 7.0), panic, T0 + TEN.stable_window)
    assert (decision.desired, kept) == (8, panic)
    decision, left = decide(TEN, seen(8, 7.0), panic, T0 + TEN.stable_window + 1)
    assert left == Panic()
    assert (decision.desired, decision.bound) == (4, "max-scale-down-rate")


def test_rate_limit_does_not_hide_a_burst() -> None:
    slow = replace(TEN, max_scale_up_rate=1.5)
    decision, panic = decide(slow, seen(2, 0.0, 1000.0), Panic(), T0)
    assert panic.since == T0
    assert decision.desired == 3


# burst capacity -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("burst", "ready", "load", "excess"),
    [
        (211.0, 1, 0.0, -111),  # 100 - 211: with defaults one pod keeps the activator in the path
        (211.0, 3, 0.0, 89),
        (211.0, 3, 89.5, -1),
        (211.0, 0, 0.0, -211),  # no pods are none here, unlike in the rate limits
        (0.0, 0, 500.0, 0),  # never, except at zero
        (-1.0, 50, 0.0, -1),  # always
    ],
)
def test_excess_burst_capacity(burst: float, ready: int, load: float, excess: int) -> None:
    assert excess_burst_capacity(Spec(total=100.0, target_burst_capacity=burst), ready, load) == excess


@pytest.mark.parametrize(
    ("burst", "initial", "expected"), [(211.0, 1, -111), (211.0, 5, 289), (0.0, 9, 0), (-1.0, 9, -1)]
)
def test_initial_excess_burst_capacity(burst: float, initial: int, expected: int) -> None:
    spec = Spec(total=100.0, target_burst_capacity=burst, initial_scale=initial)
    assert initial_excess_burst_capacity(spec) == expected


# what is remembered ---------------------------------------------------------------------------------------------------


def test_restart_of_the_autoscaler_does_not_shrink_a_revision_for_a_window() -> None:
    evaluator = Evaluator(TEN, ready_at_start=6, now=T0)
    decision = evaluator.evaluate(seen(6, 0.0), T0 + 2)
    assert (decision.desired, decision.panicking, decision.bound) == (6, True, "panic")
    decision = evaluator.evaluate(seen(6, 0.0), T0 + 61)
    assert (decision.desired, decision.panicking) == (3, False)


@pytest.mark.parametrize("ready", [None, 0, 1])
def test_new_revision_starts_calm(ready: int | None) -> None:
    assert Evaluator(TEN, ready, T0).panic.since is None


def test_delay_window_holds_the_largest_decision() -> None:
    evaluator = Evaluator(replace(TEN, scale_down_delay=10.0), 1, T0)
    assert evaluator.evaluate(seen(4, 28.0), T0).desired == 4
    for step in range(1, 5):
        decision = evaluator.evaluate(seen(4, 14.0), T0 + step * TICK)
        assert (decision.desired, decision.bound) == (4, "scale-down-delay")
    decision = evaluator.evaluate(seen(4, 14.0), T0 + 5 * TICK)
    assert (decision.desired, decision.bound) == (2, "metric")


def test_delay_window_does_not_hold_an_unreachable_revision() -> None:
    evaluator = Evaluator(replace(TEN, scale_down_delay=60.0), 1, T0)
    evaluator.evaluate(seen(1, 7.0), T0)
    evaluator.update(replace(TEN, scale_down_delay=60.0, reachable=False))
    assert evaluator.evaluate(seen(1, 0.0), T0 + 2).desired == 0


def test_delay_given_later_needs_another_evaluator() -> None:
    evaluator = Evaluator(TEN, 1, T0)
    evaluator.update(replace(TEN, scale_down_delay=60.0))
    evaluator.evaluate(seen(1, 7.0), T0)
    assert evaluator.evaluate(seen(1, 0.0), T0 + 2).desired == 0


def test_decision_carries_what_it_was_made_from() -> None:
    decision = Evaluator(TEN, 1, T0).evaluate(seen(3, 20.0, 10.0), T0)
    assert decision.observed == seen(3, 20.0, 10.0)
    assert (decision.wanted_stable, decision.wanted_panic, decision.target, decision.at) == (3, 2, 7.0, T0)


def test_absurd_load_is_still_a_number_of_pods() -> None:
    assert calm(replace(TEN, max_scale_up_rate=1e12), 1, 1e15).desired == 2**31 - 1
