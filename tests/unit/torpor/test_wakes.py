"""A cold start's parts follow one another and add up, whoever saw what when."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torpor.wakes import PARTS, compose, latest

T = 1_700_000_000.0


def wake(**times: float | None) -> dict[str, Any]:
    record = {"namespace": "default", "revision": "r-1", "pod": "127.2.128.7:8012"}
    return {**record, "requestedAt": T, "probedAt": T + 0.4, "firstByteAt": T + 0.5, **times}


def explained(*wakes: tuple[float, float | None, float | None]) -> dict[str, Any]:
    return {
        "wakes": [{"reported": reported, "decided": decided, "scaled": scaled} for reported, decided, scaled in wakes]
    }


def pod(times: str, ip: str = "127.2.128.7") -> dict[str, Any]:
    return {"metadata": {"name": "p", "annotations": {"torpor.dev/timeline": times}}, "status": {"podIP": ip}}


def test_every_part_from_the_one_who_saw_it() -> None:
    decisions = explained((T - 50, T - 49, T - 48), (T + 0.001, T + 0.002, T + 0.010))
    node = pod(json.dumps({"seen": T + 0.02, "started": T + 0.05, "appReady": T + 0.35}))
    cold = compose(wake(), decisions, [pod("{}", "127.2.128.1"), node])
    assert list(cold.parts) == ["decide", "scale", "pod", "app", "probe", "forward"]
    assert [round(cold.parts[part] * 1000) for part in cold.parts] == [2, 8, 40, 300, 50, 100]
    assert cold.total == pytest.approx(0.5)
    assert cold.overhead == pytest.approx(0.2)


def test_a_pod_that_is_gone_took_its_times_along() -> None:
    cold = compose(wake(), explained((T + 0.001, T + 0.002, T + 0.010)), [])
    assert list(cold.parts) == ["decide", "scale", "start", "forward"]
    assert cold.parts["start"] == pytest.approx(0.39)
    assert cold.overhead == pytest.approx(cold.total)


def test_without_an_autoscaler_the_rest_still_adds_up() -> None:
    cold = compose(wake(), None, [pod(json.dumps({"started": T + 0.05, "appReady": T + 0.35}))])
    assert list(cold.parts) == ["pod", "app", "probe", "forward"]
    assert sum(cold.parts.values()) == pytest.approx(cold.total)


def test_the_later_observer_is_believed() -> None:
    """The API server's answer reached the autoscaler late, and kubelet waits for initialDelaySeconds while the
    activator's own probe has long succeeded.
    """
    decisions = explained((T + 0.001, T + 0.002, T + 0.20))
    cold = compose(wake(), decisions, [pod(json.dumps({"started": T + 0.05, "appReady": T + 5.0}))])
    assert cold.parts["scale"] == pytest.approx(0.048, abs=1e-6)
    assert cold.parts["pod"] == 0
    assert cold.parts["app"] == pytest.approx(0.35)
    assert cold.parts["probe"] == 0
    assert sum(cold.parts.values()) == pytest.approx(0.5)


def test_finding_a_running_pod_ready_is_no_cold_start() -> None:
    cold = compose(wake(), None, [pod(json.dumps({"started": T - 3, "appReady": T - 2}))])
    assert not cold.cold
    assert compose(wake(), None, []).cold
    assert compose(wake(), None, [pod(json.dumps({"started": T + 0.01, "appReady": T + 0.2}))]).cold


@pytest.mark.parametrize("times", ["", "[]", "{", '{"started": "soon"}', "null"])
def test_a_damaged_timeline_is_no_timeline(times: str) -> None:
    assert list(compose(wake(), None, [pod(times)]).parts) == ["start", "forward"]


moment = st.none() | st.floats(min_value=-1, max_value=2).map(lambda offset: T + offset)


@given(decided=moment, scaled=moment, started=moment, ready=moment, probed=moment, first=moment)
def test_parts_are_never_negative_and_add_up(
    decided: float | None,
    scaled: float | None,
    started: float | None,
    ready: float | None,
    probed: float | None,
    first: float | None,
) -> None:
    times = {name: value for name, value in (("started", started), ("appReady", ready)) if value is not None}
    cold = compose(
        wake(probedAt=probed and max(probed, T), firstByteAt=first and max(first, T)),
        explained((T, decided, scaled)),
        [pod(json.dumps(times))],
    )
    assert all(part in PARTS and seconds >= 0 for part, seconds in cold.parts.items())
    assert list(cold.parts) == sorted(cold.parts, key=PARTS.index)
    if first is not None:
        assert sum(cold.parts.values()) == pytest.approx(cold.total)
    assert sum(cold.parts.values()) <= cold.total + 1e-6


def test_the_latest_is_the_newest_that_was_answered() -> None:
    unfinished = wake(requestedAt=T + 30, firstByteAt=None)
    other = {**wake(requestedAt=T + 20), "revision": "r-2"}
    newest = wake(requestedAt=T + 10)
    assert latest([newest, wake(), other, unfinished], "r-1") == newest
    assert latest([unfinished], "r-1") is None
