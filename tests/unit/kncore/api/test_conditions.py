import copy
from typing import Any

import pytest

from kncore.api.conditions import SETS, Conditions, ConditionSet, TerminalCondition, manage, post_process, pre_process

T1, T2 = "2024-01-01T00:00:01Z", "2024-01-01T00:00:02Z"


def route(generation: int = 1, **status: Any) -> dict[str, Any]:
    return {"kind": "Route", "metadata": {"generation": generation}, "status": status}


def test_flipping_back_and_forth_keeps_the_time() -> None:
    obj = route()
    original = copy.deepcopy(obj)
    conditions = pre_process(obj, T1)
    for dependent in SETS["Route"].dependents:
        conditions.mark_true(dependent)
    post_process(obj, original, T1)

    original = copy.deepcopy(obj)
    conditions = pre_process(obj, T2)
    conditions.mark_unknown("IngressReady", "Uninitialized", "waiting")
    conditions.mark_true("IngressReady")
    post_process(obj, original, T2)
    assert obj == original


def test_a_reconcile_that_says_nothing_about_a_new_generation_is_visible() -> None:
    obj = route(generation=2, observedGeneration=1)
    conditions = pre_process(obj, T1)
    ready = conditions.get("Ready")
    assert ready is not None
    assert (ready["status"], ready["reason"]) == ("Unknown", "NewObservedGenFailure")
    post_process(obj, route(), T1)
    assert obj["status"]["observedGeneration"] == 2


def test_the_original_is_never_modified() -> None:
    obj = route()
    manage(obj, T1).initialize()
    shallow = {**obj, "status": {**obj["status"]}}
    frozen = copy.deepcopy(obj)
    conditions = pre_process(shallow, T2)
    conditions.mark_false("IngressReady", "Bad", "m")
    post_process(shallow, obj, T2)
    assert obj == frozen


def test_dependents_of_a_newer_release_start_happy_on_a_happy_object() -> None:
    status: dict[str, Any] = {}
    old = Conditions(ConditionSet(("A",)), status, T1)
    old.mark_true("A")
    new = Conditions(ConditionSet(("A", "B")), status, T2)
    new.initialize()
    assert new.is_true("B")
    assert new.is_happy()


def test_informational_conditions_never_decide_and_can_be_cleared() -> None:
    conditions = manage({"kind": "Revision"}, T1)
    conditions.mark_true("ResourcesAvailable")
    conditions.mark_true("ContainerHealthy")
    conditions.mark_false("Active", "NoTraffic", "The target is not receiving traffic.")
    assert conditions.is_happy()
    assert (conditions.get("Active") or {})["severity"] == "Info"
    conditions.clear("Active")
    assert conditions.is_unknown("Active")
    with pytest.raises(TerminalCondition):
        conditions.clear("Ready")
