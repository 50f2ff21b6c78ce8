"""`pods/<name>/log` and `/exec`: which container is meant, with which options, and then the node's turn."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from aiohttp import web

from torpor.embedded.apiserver.errors import StatusError, bad_request, generic_not_found, internal, method_not_allowed
from torpor.embedded.apiserver.exec import serve_exec
from torpor.embedded.apiserver.pods import LogOptions, PodAccess
from torpor.embedded.apiserver.resources import Resources
from torpor.embedded.apiserver.routes import Target
from torpor.embedded.apiserver.streams import send_chunks

__all__ = ["PodStreams", "choose_container", "is_running", "log_options"]

Obj = dict[str, Any]

_TRUE = frozenset({"true", "1"})


class PodStreams:
    """The HTTP side of what a node offers of its pods."""

    def __init__(self, resources: Resources, access: PodAccess | None) -> None:
        self._resources = resources
        self._access = access

    async def serve(self, target: Target, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request for a stream of a pod.

        Raises:
            StatusError: no such pod or container, a bad option, or what the node says.
        """
        pod = self._resources.get(target.kind, target.namespace or "", target.name).obj
        query = request.query
        if self._access is None:
            raise StatusError(404, "NotFound", "this server runs no pods")
        if target.subresource == "log":
            if request.method != "GET":
                raise method_not_allowed(target.kind)
            container = choose_container(pod, query.get("container", ""))
            options = log_options(query, self._resources.clock.wall())
            chunks = self._access.log(target.namespace or "", target.name, container, options)
            return await send_chunks(request, chunks)
        if target.subresource == "portforward":
            address = (pod.get("status") or {}).get("podIP") or "127.0.0.1"
            raise bad_request(f"port-forward is not needed here: the ports of this pod are open on {address} already")
        if target.subresource != "exec":
            raise generic_not_found()
        container = choose_container(pod, query.get("container", ""))
        command = tuple(query.getall("command", []))
        if not command:
            raise bad_request("you must specify at least one command for the container")
        if request.headers.get("Upgrade", "").lower() != "websocket":
            # kubectl comes back like this after any refusal, and prints the second one
            if not is_running(pod, container):
                raise internal(f'container not found ("{container}")')
            raise bad_request(
                "exec is served over WebSocket only: use kubectl 1.31 or newer, or set "
                "KUBECTL_REMOTE_COMMAND_WEBSOCKETS=true for kubectl 1.29 and 1.30"
            )
        session = await self._access.exec(
            target.namespace or "",
            target.name,
            container,
            command,
            stdin=query.get("stdin", "") in _TRUE,
            tty=query.get("tty", "") in _TRUE,
        )
        return await serve_exec(request, session)


def choose_container(pod: Obj, wanted: str) -> str:
    """The container a request means: the one it names, or the only one.

    Raises:
        StatusError: 400; the pod has no such container, or has several and none was named.
    """
    spec = pod.get("spec") or {}
    name = pod["metadata"]["name"]
    containers = [one["name"] for one in spec.get("containers") or ()]
    others = [one["name"] for one in spec.get("initContainers") or ()]
    if wanted:
        if wanted in containers or wanted in others:
            return wanted
        raise bad_request(f"container {wanted} is not valid for pod {name}")
    if len(containers) == 1:
        return str(containers[0])
    listed = " ".join(containers)
    also = f" or one of the init containers: [{' '.join(others)}]" if others else ""
    raise bad_request(f"a container name must be specified for pod {name}, choose one of: [{listed}]{also}")


def is_running(pod: Obj, container: str) -> bool:
    """Whether a pod's status says that the container runs."""
    status = pod.get("status") or {}
    told = [*(status.get("containerStatuses") or ()), *(status.get("initContainerStatuses") or ())]
    return any(one["name"] == container and "running" in (one.get("state") or {}) for one in told)


def log_options(query: Mapping[str, str], now: float) -> LogOptions:
    """PodLogOptions from query parameters.

    Raises:
        StatusError: 400; a number that is none, or two ways to say since when.
    """
    since: float | None = None
    if "sinceSeconds" in query and "sinceTime" in query:
        raise bad_request("at most one of `sinceTime` or `sinceSeconds` may be specified")
    if (seconds := _count(query, "sinceSeconds")) is not None:
        if seconds == 0:
            raise bad_request("sinceSeconds: Invalid value: 0: must be greater than 0")
        since = now - seconds
    elif text := query.get("sinceTime"):
        try:
            since = datetime.fromisoformat(text).timestamp()
        except ValueError:
            raise bad_request(f'sinceTime: Invalid value: "{text}": must be a time as of RFC 3339') from None
    return LogOptions(
        follow=query.get("follow", "") in _TRUE,
        previous=query.get("previous", "") in _TRUE,
        timestamps=query.get("timestamps", "") in _TRUE,
        tail_lines=_count(query, "tailLines"),
        since=since,
        limit_bytes=_count(query, "limitBytes"),
    )


def _count(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name, "")
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise bad_request(f"{name}: Invalid value: {text}: must be greater than or equal to 0")
    return int(text)
