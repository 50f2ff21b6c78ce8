"""Gradual rollouts, step by step, against the original's state machine."""

from collections.abc import Callable
from typing import Any

from controller.rollout import Rollout, observe, step

Obj = dict[str, Any]
Load = Callable[[str], dict[str, Any]]


def test_rollouts_step_as_recorded(vectors: Load) -> None:
    cases = vectors("serving/rollout.json")["cases"]
    problems = [f"{case['id']}: {text}" for case in cases for text in replay(case)]
    assert not problems, "\n".join(problems[:40])


def replay(case: Obj) -> list[str]:
    """What differs at the first event that does."""
    state: Rollout | None = None
    goal: Obj = {}
    for number, (event, expect) in enumerate(zip(case["events"], case["expect"], strict=True)):
        got: Any
        match event["op"]:
            case "load":
                state = Rollout.from_object(event["rollout"])
                got = {"done": state.done} | ({} if state.valid else {"valid": False})
            case "step":
                goal = goal if event["rollout"] == "same" else event["rollout"]
                state, next_ns = step(Rollout.from_object(goal), state, event["now_ns"])
                got = {"done": state.done, "rollout": state.to_object()}
                got |= ({"next_step_ns": next_ns} if next_ns else {}) | ({} if state.valid else {"valid": False})
                if expect == {"panic": True}:  # the original crashes; ours must still add up
                    return [] if state.valid else [f"event {number}: {state}"]
            case "observe":
                assert state is not None
                state = observe(state, event["now_ns"], event["duration_seconds"])
                got = {"rollout": state.to_object()}
            case "by_tag":
                assert state is not None
                got = Rollout(configurations=state.by_tag(event["tag"])).to_object().get("configurations", [])
        wanted = expect
        if isinstance(expect, dict) and expect.get("rollout") == "goal":
            wanted = expect | {"rollout": goal}
        if got != wanted:
            return [f"event {number}: wanted {wanted}, got {got}"]
        if state is not None and not state.valid:
            return []  # `Rollout.parse` never lets such a state in, so what follows from it cannot happen here
    return []
