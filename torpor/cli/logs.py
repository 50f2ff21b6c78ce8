"""`torpor logs SERVICE`: what kubectl cannot do for a Knative Service, the logs of all its pods in one stream."""

import asyncio
import sys
import time
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from kncore.api import keys, meta
from kncore.api.resources import KSERVICES, PODS, REVISIONS, Resource
from kncore.errors import KnError
from kncore.kube.client import Obj
from kncore.kube.errors import ApiError, BadRequest, NotFound, Unreachable
from torpor.cli.api import Api, connect
from torpor.cli.output import emphasis, say

__all__ = ["Options", "logs"]

NEW_PODS_EVERY = 0.5  # seconds between looks for pods that started meanwhile
NEW_RUNS_EVERY = 0.5  # seconds between looks whether a container that ended was started again
RETRY = 0.1  # seconds before asking again for a log that is not there yet
DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
_SOURCES: Mapping[str, tuple[Resource, str]] = {
    **dict.fromkeys(("ksvc", "service", "services", "kservice"), (KSERVICES, keys.SERVICE)),
    **dict.fromkeys(("revision", "revisions", "rev"), (REVISIONS, keys.REVISION)),
    **dict.fromkeys(("pod", "pods", "po"), (PODS, "")),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which lines of a log."""

    follow: bool = False
    previous: bool = False
    """Of the container's run before its last restart."""
    container: str = ""
    """Empty: the app's."""
    tail: int = -1
    """Lines from the end of each pod's log; -1 is all."""
    since: float | None = None
    """Seconds back; None is all."""


async def logs(source: str, namespace: str, options: Options) -> int:
    """Print logs of a service's, a revision's or one pod; with `follow` until interrupted, also of pods to come."""
    kind, slash, name = source.partition("/")
    kind, name = (kind, name) if slash else ("ksvc", source)
    if kind.lower() not in _SOURCES or not name:
        raise KnError(f"logs are of SERVICE, revision/NAME or pod/NAME, not of {source}")
    resource, label = _SOURCES[kind.lower()]
    async with connect() as api:
        space = namespace or api.client.namespace
        found = await api.client.get(resource, name, space)
        if not label:
            return int(not await _copy(api, found, options, prefix=False))
        if options.follow:
            await _follow(api, space, f"{label}={name}", options)
        pods = (await api.client.list(PODS, space, labels=f"{label}={name}")).items
        if not pods:
            say(f"{name} has no pods: {_why_none(found)}; `torpor logs {source} -f` waits for one")
        pods.sort(key=lambda pod: (str(meta.at(pod, "metadata", "creationTimestamp")), meta.name(pod)))
        whole = [await _copy(api, pod, options, prefix=len(pods) > 1) for pod in pods]
    return int(not all(whole))


def _why_none(found: Obj) -> str:
    conditions = meta.at(found, "status", "conditions", default=[])
    failed = [one for one in conditions if one["type"] != "Ready" and one["status"] == "False"]
    if meta.is_ready(found) or not failed:
        return "it sleeps"
    return " ".join(str(failed[0].get("message") or failed[0].get("reason")).split())


async def _follow(api: Api, namespace: str, selector: str, options: Options) -> None:
    """Copy the logs of every pod there is and will be, until cancelled.

    Raises:
        ApiError: the server does not tell which pods there are.
    """
    failure: ApiError | None = None
    async with asyncio.TaskGroup() as group:
        copies: dict[str, asyncio.Task[bool]] = {}
        while True:
            try:
                pods = (await api.client.list(PODS, namespace, labels=selector)).items
            except ApiError as exc:
                failure = exc
                break
            for pod in pods:
                if meta.uid(pod) not in copies:
                    copies[meta.uid(pod)] = group.create_task(
                        _copy(api, pod, options, prefix=True), name=meta.name(pod)
                    )
            await asyncio.sleep(NEW_PODS_EVERY)
        for copy in copies.values():
            copy.cancel()
    if failure is not None:
        raise failure


async def _copy(api: Api, pod: Obj, options: Options, *, prefix: bool) -> bool:
    """One pod's log, whole lines at a time so that pods do not mix within a line; False if there is none to read."""
    query = _query(pod, options)
    head = emphasis(f"{meta.name(pod)} ", "dim", stream=sys.stdout).encode() if prefix else b""
    path = PODS.path(meta.namespace(pod), meta.name(pod), "log")
    read_until = 0.0
    run = _restarts(pod, query["container"])
    while True:
        pending = b""
        try:
            async with aclosing(api.client.stream(path, query)) as chunks:
                async for chunk in chunks:
                    read_until = time.time()
                    *lines, pending = (pending + chunk).split(b"\n")
                    _write(head, lines)
            if not options.follow or (run := await _next_run(api, pod, query["container"], run)) < 0:
                return True
        except ApiError as exc:
            if isinstance(exc, NotFound) and options.follow:
                return True  # the pod ended while we looked
            if not (options.follow and _passing(exc)):
                say(f"{meta.name(pod)}: {exc}")
                return False
        finally:
            _write(head, [pending] if pending else [])
        if read_until:  # the server or the container restarted: go on where it broke off
            query = {**_query(pod, replace(options, tail=-1, since=None)), "sinceTime": _rfc3339(read_until)}
        await asyncio.sleep(RETRY)


async def _next_run(api: Api, pod: Obj, container: str, run: int) -> int:
    """Wait for the container to be started again after its run number `run`: the new run's number, -1 if there will be
    none.

    Raises:
        ApiError: the server refuses to tell.
    """
    while True:
        try:
            now = await api.client.get(PODS, meta.name(pod), meta.namespace(pod))
        except Unreachable:
            await asyncio.sleep(NEW_RUNS_EVERY)
            continue
        except NotFound:
            return -1
        ended = meta.at(now, "status", "phase") in ("Succeeded", "Failed")
        if meta.uid(now) != meta.uid(pod) or ended or "deletionTimestamp" in now["metadata"]:
            return -1
        if (restarts := _restarts(now, container)) > run:
            return restarts
        await asyncio.sleep(NEW_RUNS_EVERY)


def _restarts(pod: Obj, container: str) -> int:
    found = meta.at(pod, "status", "containerStatuses", default=[])
    return next((int(one["restartCount"]) for one in found if one["name"] == container), 0)


def _passing(exc: ApiError) -> bool:
    """Whether a log may yet come: its container has not started, or the server is away for a moment."""
    return isinstance(exc, Unreachable) or (isinstance(exc, BadRequest) and "waiting to start" in str(exc))


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _query(pod: Obj, options: Options) -> dict[str, str]:
    containers = meta.at(pod, "spec", "containers", default=[])
    container = options.container or meta.annotations(pod).get(DEFAULT_CONTAINER, "")
    if not container and containers:
        container = containers[0]["name"]
    query = {"container": container}
    if options.tail >= 0:
        query["tailLines"] = str(options.tail)
    if options.since is not None:
        query["sinceSeconds"] = str(max(1, round(options.since)))
    if options.follow:
        query["follow"] = "true"
    if options.previous:
        query["previous"] = "true"
    return query


def _write(head: bytes, lines: list[bytes]) -> None:
    out = sys.stdout.buffer
    out.writelines(head + line + b"\n" for line in lines)
    out.flush()
