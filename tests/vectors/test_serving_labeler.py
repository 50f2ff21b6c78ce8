"""Merge patches by which the original kept `routes` and `routingState` up to date."""

from collections.abc import Callable
from typing import Any

from controller.routing_state import plan, release
from kncore.clock import rfc3339

Load = Callable[[str], dict[str, Any]]


def test_references_are_patched_as_recorded(vectors: Load) -> None:
    recorded = vectors("serving/labeler_gc.json")
    now = rfc3339(recorded["labeler_clock_unix"])
    problems = []
    for case in recorded["cases"]:
        if case["kind"] != "labeler":
            continue
        decide = release if case.get("finalize") else plan
        made = decide(case["route"], case["configurations"], case["revisions"], now)
        got = {f"configurations/{name}": [patch] for name, patch in made.configurations.items()}
        got |= {f"revisions/{name}": [patch] for name, patch in made.revisions.items()}
        wanted = case["expect"]["patches"] or {}
        problems += [
            f"{case['id']}: {name}: wanted {wanted.get(name)}, got {got.get(name)}"
            for name in sorted(wanted.keys() | got.keys())
            if wanted.get(name) != got.get(name)
        ]
    assert not problems, "\n".join(problems[:40])
