"""The API server as the commands see it: kinds by any of their names, tables as the server renders them.

Nothing here is particular to embedded mode: with KUBECONFIG pointing at a cluster the same commands work there.
"""

import contextlib
import copy
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from kncore.api import keys, meta
from kncore.api.resources import Resource
from kncore.errors import KnError
from kncore.kube.client import Patch
from kncore.kube.cluster import HttpClient
from kncore.kube.errors import NotFound
from torpor.state import StateDir, default_state_dir

__all__ = ["Api", "Found", "UnknownKind", "connect"]

_DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
_TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
FIELD_MANAGER = "torpor"


class UnknownKind(KnError):
    """A kind that the API server does not serve."""

    def __init__(self, text: str) -> None:
        super().__init__(f'the server has no kind "{text}": try ksvc, revision, route or pod')


@dataclass(frozen=True)
class Found:
    """What a kind name stands for; `categories` such as `all` stand for several."""

    resource: Resource
    categories: tuple[str, ...]


@contextlib.asynccontextmanager
async def connect() -> AsyncIterator["Api"]:
    """The API server of `$KUBECONFIG`, else of the platform running on the state directory.

    Raises:
        NotRunning: there is neither.
    """
    path = os.environ.get("KUBECONFIG")
    if not path:
        path = StateDir(default_state_dir()).running().kubeconfig
    client = HttpClient.from_kubeconfig(path)
    try:
        yield Api(client)
    finally:
        await client.aclose()


class Api:
    """Requests on behalf of one command."""

    def __init__(self, client: HttpClient) -> None:
        self.client = client
        self._found: list[Found] | None = None

    async def resources(self, text: str) -> list[Resource]:
        """The resources a name stands for: plural, singular, kind, short name (`ksvc`), `plural.group`, or a category
        (`all`).

        Raises:
            UnknownKind: none.
        """
        wanted = text.lower()
        found = await self._discover()
        exact = [one.resource for one in found if wanted in _names(one.resource)]
        if exact:
            return exact[:1]  # the server lists the preferred version first
        members = [one.resource for one in found if wanted in one.categories]
        if not members:
            raise UnknownKind(text)
        return members

    async def resource(self, text: str) -> Resource:
        """The one resource a name stands for."""
        return (await self.resources(text))[0]

    async def resource_of(self, obj: Mapping[str, Any]) -> Resource:
        """The resource of an object, by its apiVersion and kind.

        Raises:
            UnknownKind: the server does not serve it.
        """
        for one in await self._discover():
            if one.resource.api_version == obj["apiVersion"] and one.resource.kind == obj["kind"]:
                return one.resource
        raise UnknownKind(f"{obj['kind']} in {obj['apiVersion']}")

    async def table(
        self, resource: Resource, namespace: str | None, name: str = "", *, labels: str = ""
    ) -> dict[str, Any]:
        """Objects as the server's Table: `columnDefinitions` and `rows` with `cells`."""
        query = {"labelSelector": labels} if labels else {}
        found: dict[str, Any] = await self.client.raw(
            "GET", resource.path(namespace, name or None), query, accept=_TABLE
        )
        return found

    async def watch_table(
        self, resource: Resource, namespace: str | None, *, resource_version: str, name: str = "", labels: str = ""
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Changes as Tables of one row, for as long as the server streams them."""
        query = {"watch": "true", "resourceVersion": resource_version}
        if labels:
            query["labelSelector"] = labels
        if name:
            query["fieldSelector"] = f"metadata.name={name}"
        pending = b""
        async for chunk in self.client.stream(resource.path(namespace), query, accept=_TABLE):
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                event = orjson.loads(line)
                if event["type"] in {"ADDED", "MODIFIED", "DELETED"}:
                    yield event["object"]

    async def apply(self, obj: dict[str, Any], namespace: str) -> tuple[dict[str, Any], str]:
        """Create the object, or change the stored one as `kubectl apply` would; returns it and what happened.

        A three-way merge: what the manifest says is set, what an earlier manifest said and this one does not is
        removed, and all else (defaults, what controllers or other people set) stays. The earlier manifest is
        remembered in kubectl's own annotation, so both commands can be used on the same objects. Applying on the
        server is no alternative: it replaces a Service's list of containers as a whole, defaults included, which a
        revision named by the user must refuse.

        Returns:
            (the stored object, `created` | `configured` | `unchanged`)
        Raises:
            Invalid, BadRequest, Forbidden: refused, with the server's reasons.
        """
        resource = await self.resource_of(obj)
        space = (meta.namespace(obj) or namespace) if resource.namespaced else None
        wanted = remember(obj)
        try:
            live = await self.client.get(resource, meta.name(obj), space)
        except NotFound:
            return await self._write("POST", resource.path(space), wanted), "created"
        patch = three_way(remembered(live), wanted, live)
        if not patch:
            return live, "unchanged"
        path = resource.path(space, meta.name(obj))
        return await self._write("PATCH", path, patch, media_type=Patch.MERGE), "configured"

    async def _write(self, method: str, path: str, body: dict[str, Any], *, media_type: str = "") -> dict[str, Any]:
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        written: dict[str, Any] = await self.client.raw(method, path, query, body, media_type=media_type)
        return written

    async def _discover(self) -> list[Found]:
        if self._found is None:
            self._found = []
            for root in ("/api", "/apis"):
                groups = await self.client.raw("GET", root, accept=_DISCOVERY)
                for group in groups["items"]:
                    self._found.extend(_group(group))
        return self._found


def remember(obj: dict[str, Any]) -> dict[str, Any]:
    """A copy of a manifest that carries itself in kubectl's annotation."""
    wanted = copy.deepcopy(obj)
    annotations = wanted.setdefault("metadata", {}).setdefault("annotations", {})
    annotations.pop(keys.LAST_APPLIED, None)
    annotations[keys.LAST_APPLIED] = orjson.dumps(wanted, option=orjson.OPT_SORT_KEYS).decode() + "\n"
    return wanted


def remembered(live: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest that was applied last; empty if none was, or if somebody broke it."""
    try:
        found = orjson.loads(meta.annotations(live).get(keys.LAST_APPLIED, "{}"))
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def three_way(before: Mapping[str, Any], wanted: Mapping[str, Any], live: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON merge patch that brings `live` to `wanted` and removes what only `before` had."""
    patch: dict[str, Any] = {name: None for name in before if name not in wanted and name in live}
    for name, value in wanted.items():
        now = live.get(name)
        if isinstance(value, dict) and isinstance(now, dict):
            old = before.get(name)
            inner = three_way(old if isinstance(old, dict) else {}, value, now)
            if inner:
                patch[name] = inner
        elif (value != now and value != before.get(name, _NOTHING)) or (value != now and not _defaulted(value, now)):
            patch[name] = value
    return patch


_NOTHING: Any = object()


def _defaulted(value: Any, now: Any) -> bool:
    """Whether `now` is `value` with defaults filled in by the server: then there is nothing to change."""
    if isinstance(value, dict) and isinstance(now, dict):
        return all(name in now and _defaulted(inner, now[name]) for name, inner in value.items())
    if isinstance(value, list) and isinstance(now, list):
        return len(value) == len(now) and all(map(_defaulted, value, now))
    return bool(value == now)


def _group(group: Mapping[str, Any]) -> list[Found]:
    found = []
    for version in group["versions"]:
        for entry in version.get("resources", ()):
            resource = Resource(
                group=group["metadata"].get("name", ""),
                version=version["version"],
                plural=entry["resource"],
                kind=entry["responseKind"]["kind"],
                namespaced=entry["scope"] == "Namespaced",
                singular=entry.get("singularResource", ""),
                short_names=tuple(entry.get("shortNames", ())),
            )
            found.append(Found(resource, tuple(entry.get("categories", ()))))
    return found


def _names(resource: Resource) -> set[str]:
    return {
        resource.plural,
        resource.singular,
        resource.kind.lower(),
        f"{resource.plural}.{resource.group}",
        *resource.short_names,
    }
