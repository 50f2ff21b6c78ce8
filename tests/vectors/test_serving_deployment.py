"""Deployments, PodAutoscalers and Images that the original made of Revisions."""

import json
from collections.abc import Callable, Iterator
from typing import Any

from controller.resources import deployment, image, podautoscaler
from controller.settings import Settings
from kncore.config.store import Store

Obj = dict[str, Any]
Load = Callable[[str], dict[str, Any]]

JSON_VALUES = ("SERVING_READINESS_PROBE", "OBSERVABILITY_CONFIG")
HASH = "serving.knative.dev/deployment-hash"


def test_children_of_revisions_are_as_recorded(vectors: Load) -> None:
    problems = []
    for case in vectors("serving/deployment.json")["cases"]:
        config, expect, revision = case["config"], case["expect"], case["revision"]
        settings = Settings.of(Store.of(config))
        wanted = {
            "deployment": comparable(expect.get("deployment")),
            "deployment_error": expect.get("deployment_error"),
            "podautoscaler": comparable(expect["podautoscaler"]),
            "images": [comparable(item) for item in expect["images"]],
        }
        wanted["podautoscaler"].pop("status", None)
        got: Obj = {"deployment": None, "deployment_error": None}
        try:
            got["deployment"] = comparable(deployment.make(revision, settings))
        except deployment.CannotMake as exc:
            got["deployment_error"] = str(exc)
        got["podautoscaler"] = comparable(podautoscaler.make(revision, case.get("existing_deployment")))
        got["images"] = [comparable(item) for item in image.make(revision)]
        problems += [f"{case['id']}: {text}" for text in differences(wanted, got)]
    assert not problems, "\n".join(problems[:40])


def comparable(obj: Obj | None) -> Any:
    """A copy without kind and nulls, the hash hidden, JSON in the environment parsed."""
    if obj is None:
        return None
    made = without_nulls(obj)
    made.pop("apiVersion", None)
    made.pop("kind", None)
    if HASH in made["metadata"].get("labels", {}):
        made["metadata"]["labels"][HASH] = "HASH"
    for container in made.get("spec", {}).get("template", {}).get("spec", {}).get("containers", []):
        for variable in container.get("env", []):
            if variable["name"] in JSON_VALUES and variable.get("value"):
                variable["value"] = json.loads(variable["value"])
    return made


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value


def differences(wanted: Any, got: Any, path: str = "") -> Iterator[str]:
    if isinstance(wanted, dict) and isinstance(got, dict):
        for name in sorted(wanted.keys() | got.keys()):
            yield from differences(wanted.get(name), got.get(name), f"{path}.{name}")
    elif isinstance(wanted, list) and isinstance(got, list) and len(wanted) == len(got):
        for index, (one, other) in enumerate(zip(wanted, got, strict=True)):
            yield from differences(one, other, f"{path}[{index}]")
    elif wanted != got:
        yield f"{path}: wanted {json.dumps(wanted)[:300]}, got {json.dumps(got)[:300]}"
