"""`torpor status`: services, their revisions and pods, and why there are as many as there are."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from kncore.api import keys, meta
from kncore.api.resources import KSERVICES, POD_AUTOSCALERS, PODS, REVISIONS
from kncore.kube.client import Obj
from torpor.cli.api import connect
from torpor.cli.output import Output, columns, emphasis, say, show
from torpor.inspect import Inspector
from torpor.state import StateDir
from torpor.wakes import ColdStart, compose, latest

__all__ = ["status", "why"]


async def status(state_dir: Path, namespace: str | None, *, output: Output | None) -> int:
    """Print the state of every service.

    Raises:
        NotRunning: no platform runs on the state directory.
    """
    running = StateDir(state_dir).running()
    async with connect() as api, aiohttp.ClientSession() as session:
        inspector = Inspector(running, session)
        services = (await api.client.list(KSERVICES, namespace)).items
        revisions = (await api.client.list(REVISIONS, namespace)).items
        scales = {
            (meta.namespace(pa), meta.name(pa)): pa for pa in (await api.client.list(POD_AUTOSCALERS, namespace)).items
        }
        pods = (await api.client.list(PODS, namespace, labels=keys.REVISION)).items
        found = [
            await _describe(service, revisions, scales, pods, inspector) for service in sorted(services, key=meta.key)
        ]
    if output is not None:
        show({"items": found}, output)
        return 0
    if not found:
        say(f"no services{f' in namespace {namespace}' if namespace else ''}; deploy one: torpor deploy DIR")
    for service in found:
        _print(service)
    return 0


async def _describe(
    service: Obj,
    revisions: Sequence[Obj],
    scales: Mapping[tuple[str, str], Obj],
    pods: Sequence[Obj],
    inspector: Inspector,
) -> dict[str, Any]:
    namespace, name = meta.namespace(service), meta.name(service)
    ready = meta.condition(service, "Ready") or {}
    described: dict[str, Any] = {
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "status": {
            "url": meta.at(service, "status", "url", default=""),
            "ready": ready.get("status", "Unknown"),
            "reason": ready.get("reason", ""),
            "message": ready.get("message", ""),
        },
        "revisions": [],
    }
    traffic = {
        target.get("revisionName"): target.get("percent", 0)
        for target in meta.at(service, "status", "traffic", default=[])
        if target.get("percent")
    }
    for revision in revisions:
        if meta.namespace(revision) != namespace or meta.labels(revision).get(keys.SERVICE) != name:
            continue
        scale = scales.get((namespace, meta.name(revision)), {})
        mine = [
            pod
            for pod in pods
            if meta.namespace(pod) == namespace and meta.labels(pod).get(keys.REVISION) == meta.name(revision)
        ]
        decisions = await inspector.decisions(namespace, meta.name(revision))
        wake = latest(await inspector.wakes(namespace, meta.name(revision)), meta.name(revision))
        described["revisions"].append(
            {
                "name": meta.name(revision),
                "percent": traffic.get(meta.name(revision), 0),
                "desired": meta.at(scale, "status", "desiredScale", default=0),
                "actual": meta.at(scale, "status", "actualScale", default=0),
                "pods": [_pod(pod) for pod in mine],
                "why": why(scale, decisions),
                "coldStart": _cold_start(compose(wake, decisions, mine)) if wake else None,
            }
        )
    return described


def _pod(pod: Obj) -> dict[str, Any]:
    state = "Terminating" if meta.is_deleting(pod) else meta.at(pod, "status", "phase", default="Pending")
    restarts = sum(c.get("restartCount", 0) for c in meta.at(pod, "status", "containerStatuses", default=[]))
    return {"name": meta.name(pod), "state": state, "ready": meta.is_true(pod, "Ready"), "restarts": restarts}


def _cold_start(cold: ColdStart) -> dict[str, Any]:
    return {
        "at": cold.at,
        "totalMs": round(cold.total * 1000, 1),
        "overheadMs": round(cold.overhead * 1000, 1),
        "partsMs": {name: round(seconds * 1000, 1) for name, seconds in cold.parts.items()},
    }


_BOUNDS = {
    "metric": "load over target",
    "max-scale-up-rate": "limited by max-scale-up-rate",
    "max-scale-down-rate": "limited by max-scale-down-rate",
    "activation-scale": "raised to activation-scale",
    "panic": "held by panic mode",
    "scale-down-delay": "held by scale-down-delay",
}


def why(scale: Obj, decisions: Mapping[str, Any] | None) -> str:
    """The last decision in one sentence."""
    active = meta.condition(scale, "Active") or {}
    history = (decisions or {}).get("decisions") or []
    if not history:
        return str(active.get("message") or "no decision yet")
    last = history[-1]
    observed = last["observed"]
    sentence = (
        f"wants {last['desired']}: {_BOUNDS.get(last['bound'], last['bound'])} "
        f"({observed['stable']:.1f} stable, {observed['panic']:.1f} panic, target {last['target']:.4g} per pod)"
    )
    applied = (decisions or {}).get("want")
    if applied is not None and applied != last["desired"]:
        sentence += f"; applied {applied} within min-scale and max-scale"
    return sentence


def _print(service: dict[str, Any]) -> None:
    state = service["status"]
    good = state["ready"] == "True"
    mark = emphasis("Ready" if good else state["reason"] or state["ready"], "good" if good else "bad")
    print(f"{service['metadata']['namespace']}/{service['metadata']['name']}  {mark}  {state['url']}")
    if state["message"]:
        print(f"  {state['message']}")
    rows = [["  REVISION", "TRAFFIC", "PODS", "WANT", "WHY"]]
    for revision in service["revisions"]:
        rows.append(
            [
                f"  {revision['name']}",
                f"{revision['percent']}%",
                f"{revision['actual']}",
                f"{revision['desired']}",
                revision["why"],
            ]
        )
    print(columns(rows))
    for revision in service["revisions"]:
        for pod in revision["pods"]:
            ready = "ready" if pod["ready"] else "not ready"
            print(f"    pod {pod['name']}  {pod['state']}, {ready}, {pod['restarts']} restarts")
        if cold := revision["coldStart"]:
            parts = ", ".join(f"{name} {value:g}" for name, value in cold["partsMs"].items())
            print(f"    last cold start {cold['totalMs']:g} ms ({parts})")
    print()
