"""`torpor logs SERVICE`: what kubectl cannot do for a Knative Service, the logs of all its pods in one stream."""

import asyncio
import sys
from contextlib import aclosing, suppress

from kncore.api import keys, meta
from kncore.api.resources import PODS
from kncore.kube.client import Obj
from kncore.kube.errors import ApiError, NotFound
from torpor.cli.api import Api, connect
from torpor.cli.output import emphasis, say

__all__ = ["logs"]

NEW_PODS_EVERY = 0.5  # seconds between looks for pods that started meanwhile
DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"


async def logs(service: str, namespace: str, *, follow: bool, container: str, tail: int) -> int:
    """Print logs; with `follow`, until interrupted, also of pods to come."""
    async with connect() as api:
        if not follow:
            pods = await _pods(api, service, namespace)
            if not pods:
                say(f"{service} has no pods now: it sleeps; `torpor logs {service} -f` waits for one")
            for pod in pods:
                await _copy(api, pod, container, tail, follow=False, prefix=len(pods) > 1)
            return 0
        async with asyncio.TaskGroup() as group:
            seen: set[str] = set()
            while True:
                for pod in await _pods(api, service, namespace):
                    if meta.uid(pod) not in seen:
                        seen.add(meta.uid(pod))
                        group.create_task(
                            _copy(api, pod, container, tail, follow=True, prefix=True), name=meta.name(pod)
                        )
                await asyncio.sleep(NEW_PODS_EVERY)


async def _pods(api: Api, service: str, namespace: str) -> list[Obj]:
    if service.startswith("pod/"):
        return [await api.client.get(PODS, service.removeprefix("pod/"), namespace)]
    name = service.removeprefix("ksvc/")
    return (await api.client.list(PODS, namespace, labels=f"{keys.SERVICE}={name}")).items


async def _copy(api: Api, pod: Obj, container: str, tail: int, *, follow: bool, prefix: bool) -> None:
    """One pod's log, line by line so that pods do not mix within a line."""
    container = container or meta.annotations(pod).get(DEFAULT_CONTAINER, "")
    query = {"container": container} if container else {}
    if tail >= 0:
        query["tailLines"] = str(tail)
    if follow:
        query["follow"] = "true"
    head = emphasis(f"{meta.name(pod)} ", "dim", stream=sys.stdout) if prefix else ""
    pending = b""
    path = PODS.path(meta.namespace(pod), meta.name(pod), "log")
    try:
        async with aclosing(api.client.stream(path, query)) as chunks:
            async for chunk in chunks:
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    sys.stdout.write(f"{head}{line.decode(errors='replace')}\n")
                sys.stdout.flush()
    except NotFound:
        return  # the pod ended while we looked
    except ApiError as exc:
        with suppress(ValueError):
            say(f"{meta.name(pod)}: {exc}")
    if pending:
        sys.stdout.write(f"{head}{pending.decode(errors='replace')}\n")
