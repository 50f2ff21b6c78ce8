"""Condition sets and the reconcile frame against knative.dev/pkg (vectors 13)."""

import copy
from typing import Any

from kncore.api.conditions import Conditions, ConditionSet, TerminalCondition, post_process, pre_process


def at(step: int) -> str:
    return f"2024-01-01T00:00:{step:02d}Z" if step < 60 else f"2024-01-01T00:{step // 60:02d}:{step % 60:02d}Z"


def apply(conditions: Conditions, ops: list[list[str]]) -> list[str]:
    errors = []
    for verb, *args in ops:
        match verb:
            case "init":
                conditions.initialize()
            case "true":
                conditions.mark_true(*args)
            case "true_reason":
                conditions.mark_true_with_reason(*args)
            case "false":
                conditions.mark_false(*args)
            case "unknown":
                conditions.mark_unknown(*args)
            case "set":
                conditions.set(*args)
            case "clear":
                try:
                    conditions.clear(*args)
                except TerminalCondition as exc:
                    errors.append(str(exc))
            case _:
                raise AssertionError(f"unknown op {verb}")
    return errors


def shown(status: dict[str, Any]) -> list[dict[str, Any]]:
    """Conditions as the vectors show them: the time replaced by the number of the step that set it."""
    out = []
    for entry in status.get("conditions", []):
        h, m, s = (int(part) for part in entry["lastTransitionTime"][11:19].split(":"))
        kept = {k: v for k, v in entry.items() if k != "lastTransitionTime"}
        out.append({**kept, "changed": h * 3600 + m * 60 + s})
    return out


def test_condition_sets(vectors: Any) -> None:
    failed = []
    for case in vectors("serving/conditions.json")["cases"]:
        if case["fn"] != "conditions":
            continue
        rules = ConditionSet(tuple(case["dependents"]), happy="Succeeded" if case["batch"] else "Ready")
        status: dict[str, Any] = {}
        for i, (ops, expect) in enumerate(zip(case["steps"], case["expect"], strict=True), start=1):
            conditions = Conditions(rules, status, at(i))
            errors = apply(conditions, ops)
            got = {"conditions": shown(status), "happy": conditions.is_happy()} | ({"errors": errors} if errors else {})
            if got != expect:
                failed.append(f"{case['id']} step {i}: {got} != {expect}")
                break
    assert not failed, f"{len(failed)} failed:\n" + "\n".join(failed[:5])


def test_reconcile_frames(vectors: Any) -> None:
    failed = []
    for case in vectors("serving/conditions.json")["cases"]:
        if case["fn"] != "reconcile":
            continue
        obj: dict[str, Any] = {"kind": case["kind"], "metadata": {"generation": 1}, "status": {}}
        for i, (frame, expect) in enumerate(zip(case["frames"], case["expect"], strict=True), start=1):
            obj["metadata"]["generation"] = frame["generation"]
            original = copy.deepcopy(obj)
            apply(pre_process(obj, at(i)), frame["ops"])
            post_process(obj, original, at(i))
            got = {"conditions": shown(obj["status"]), "observedGeneration": obj["status"]["observedGeneration"]}
            if got != expect:
                failed.append(f"{case['id']} frame {i}: {got} != {expect}")
                break
    assert not failed, f"{len(failed)} failed:\n" + "\n".join(failed[:5])
