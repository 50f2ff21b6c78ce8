"""`torpor status`: services, their revisions and pods, and why there are as many as there are."""

import asyncio
import sys
import time
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


async def status(state_dir: Path, namespace: str, *, everywhere: bool, output: Output | None) -> int:
    """Print the state of every service.

    Raises:
        NotRunning: no platform runs on the state directory.
    """
    running = StateDir(state_dir).running()
    async with connect(running.kubeconfig) as api, aiohttp.ClientSession() as session:
        space = None if everywhere else namespace or api.client.namespace
        services, revisions, autoscalers, pods = await asyncio.gather(
            api.client.list(KSERVICES, space),
            api.client.list(REVISIONS, space),
            api.client.list(POD_AUTOSCALERS, space),
            api.client.list(PODS, space, labels=keys.REVISION),
        )
        scales = {meta.key(scale): scale for scale in autoscalers.items}
        inspector = Inspector(running, session)
        wakes = await inspector.wakes(space or "")
        described = [
            _revision(
                revision,
                scales.get(meta.key(revision), {}),
                [pod for pod in pods.items if meta.namespace(pod) == meta.namespace(revision)],
                await inspector.decisions(meta.namespace(revision), meta.name(revision)),
                [wake for wake in wakes if wake["namespace"] == meta.namespace(revision)],
            )
            for revision in revisions.items
        ]
    by_service: dict[str, list[dict[str, Any]]] = {}
    for revision, made in zip(revisions.items, described, strict=True):
        owner = f"{meta.namespace(revision)}/{meta.labels(revision).get(keys.SERVICE, '')}"
        by_service.setdefault(owner, []).append(made)
    found = [_service(one, by_service.get(meta.key(one), [])) for one in sorted(services.items, key=meta.key)]
    if output is not None:
        show({"apiVersion": "v1", "kind": "List", "items": found}, output)
        return 0
    if not found:
        say(f"no services{f' in namespace {space}' if space else ''}; deploy one: torpor deploy DIR")
    for number, service in enumerate(found):
        print(("\n" if number else "") + "\n".join(_lines(service)))
    return 0


def _service(service: Obj, revisions: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What is shown of a service; shaped like the object, so that `-o name` and `-o url` work on it."""
    ready = meta.condition(service, "Ready") or {}
    percent = {
        target.get("revisionName"): target.get("percent", 0)
        for target in meta.at(service, "status", "traffic", default=[])
        if target.get("percent")
    }
    return {
        "apiVersion": KSERVICES.api_version,
        "kind": "Service",
        "metadata": {"name": meta.name(service), "namespace": meta.namespace(service)},
        "status": {
            "url": meta.at(service, "status", "url", default=""),
            "ready": ready.get("status", "Unknown"),
            "reason": ready.get("reason", ""),
            "message": ready.get("message", ""),
        },
        "revisions": [{**revision, "percent": percent.get(revision["name"], 0)} for revision in revisions],
    }


def _revision(
    revision: Obj,
    scale: Obj,
    pods: Sequence[Obj],
    decisions: Mapping[str, Any] | None,
    wakes: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """What is shown of a revision; pods and wake-ups are those of its namespace."""
    name = meta.name(revision)
    mine = [pod for pod in pods if meta.labels(pod).get(keys.REVISION) == name]
    wake = latest(wakes, name)
    cold = compose(wake, decisions, mine) if wake else None
    return {
        "name": name,
        "percent": 0,
        "desired": meta.at(scale, "status", "desiredScale", default=0),
        "actual": meta.at(scale, "status", "actualScale", default=0),
        "why": why(scale, decisions),
        "pods": [_pod(pod) for pod in sorted(mine, key=meta.name)],
        "coldStart": _cold_start(cold) if cold and cold.cold else None,
    }


def _pod(pod: Obj) -> dict[str, Any]:
    state = "Terminating" if meta.is_deleting(pod) else meta.at(pod, "status", "phase", default="Pending")
    restarts = sum(one.get("restartCount", 0) for one in meta.at(pod, "status", "containerStatuses", default=[]))
    return {"name": meta.name(pod), "state": state, "ready": meta.is_true(pod, "Ready"), "restarts": restarts}


def _cold_start(cold: ColdStart) -> dict[str, Any]:
    def milliseconds(seconds: float) -> float:
        return round(seconds * 1000, 1)

    return {
        "at": cold.at,
        "totalMs": milliseconds(cold.total),
        "overheadMs": milliseconds(cold.overhead) if "app" in cold.parts else None,
        "partsMs": {name: milliseconds(seconds) for name, seconds in cold.parts.items()},
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
    """The last decision's reason: the rule that bound it and the load it saw; what bounds then made of it."""
    history = (decisions or {}).get("decisions") or []
    if not history:
        active = meta.condition(scale, "Active") or {}
        return str(active.get("message") or "no decision yet")
    last = history[-1]
    seen = last["observed"]
    rule = _BOUNDS.get(last["bound"], last["bound"])
    if last["bound"] == "metric" and not last["desired"]:
        rule = "no load"
    sentence = f"{rule} ({seen['stable']:.1f} stable, {seen['panic']:.1f} panic, target {last['target']:.4g} per pod)"
    if last.get("panicking") and last["bound"] != "panic":
        sentence += ", panicking"
    applied = (decisions or {}).get("want")
    if applied is not None and applied != last["desired"]:
        sentence += f"; {last['desired']} became {applied} by min-scale, max-scale or the grace period before zero"
    return sentence


def _lines(service: Mapping[str, Any]) -> list[str]:
    """A service as people read it."""
    state = service["status"]
    good = state["ready"] == "True"
    word = "Ready" if good else state["reason"] or f"Ready={state['ready']}"
    title = f"{service['metadata']['namespace']}/{service['metadata']['name']}"
    lines = [f"{title}   {emphasis(word, 'good' if good else 'bad', stream=sys.stdout)}   {state['url']}".rstrip()]
    if state["message"]:
        lines.append(f"  {state['message']}")
    if not service["revisions"]:
        return lines
    rows = [["  REVISION", "TRAFFIC", "PODS", "WANTED", "WHY"]]
    for revision in service["revisions"]:
        wanted = str(revision["desired"]) if revision["desired"] >= 0 else "-"  # -1: not decided yet
        counts = [f"{revision['percent']}%", str(revision["actual"]), wanted]
        rows.append([f"  {revision['name']}", *counts, revision["why"]])
    title_line, *table = columns(rows).split("\n")
    lines.append(title_line)
    for revision, row in zip(service["revisions"], table, strict=True):
        lines.append(row)
        for pod in revision["pods"]:
            ready = "ready" if pod["ready"] else "not ready"
            restarts = f", {pod['restarts']} restarts" if pod["restarts"] else ""
            lines.append(f"    pod {pod['name']}: {pod['state']}, {ready}{restarts}")
        if cold := revision["coldStart"]:
            parts = ", ".join(f"{name} {value:g}" for name, value in cold["partsMs"].items())
            when = time.strftime("%H:%M:%S", time.localtime(cold["at"]))
            lines.append(f"    last cold start at {when}: {cold['totalMs']:g} ms ({parts})")
    return lines
