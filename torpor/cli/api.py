"""The API server as the commands see it: kinds by any of their names, tables as the server renders them.

Nothing here is particular to embedded mode: with KUBECONFIG pointing at a cluster the same commands work there.
"""

import asyncio
import contextlib
import difflib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from kncore.api import meta
from kncore.api.resources import Resource
from kncore.errors import ConfigError, KnError
from kncore.kube.client import Patch
from kncore.kube.cluster import HttpClient
from kncore.kube.errors import Forbidden, NotFound, Unauthorized, Unreachable, from_status
from torpor.cli.output import emphasis, say
from torpor.state import StateDir, find_state_dir

__all__ = ["Api", "Found", "UnknownKind", "connect", "translate"]

_DISCOVERY = ",".join(
    f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList" for version in ("v2", "v2beta1")
)
_TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
FIELD_MANAGER = "torpor"
REWATCH = 0.1  # seconds before a watch that the server ended is continued
USUAL = ("ksvc", "revision", "route", "configuration", "kpa", "pod", "deployment", "configmap", "event")


class UnknownKind(KnError):
    """A kind that the API server does not serve."""

    def __init__(self, text: str, known: list[str]) -> None:
        close = difflib.get_close_matches(text.lower(), known, n=1, cutoff=0.7)
        hint = f'did you mean "{close[0]}"?' if close else f"known are {', '.join(USUAL)} and others"
        super().__init__(f'the server has no kind "{text}": {hint}')


@dataclass(frozen=True)
class Found:
    """What a kind name stands for; `categories` such as `all` stand for several."""

    resource: Resource
    categories: tuple[str, ...]

    @property
    def names(self) -> set[str]:
        """Every name people use for it."""
        one = self.resource
        named = {one.plural, one.singular or one.kind.lower(), one.kind.lower(), *one.short_names}
        if one.group:
            named |= {f"{name}.{one.group}" for name in named}
        return named


@contextlib.asynccontextmanager
async def connect(kubeconfig: str = "", *, warn: bool = True) -> AsyncIterator["Api"]:
    """The API server of a kubeconfig, else of `$KUBECONFIG`, else of the platform that runs here.

    Args:
        warn: tell the server's warnings; not about objects that a person did not write.
    Raises:
        NotRunning: none was named and no platform runs.
        ConfigError: the kubeconfig is missing or broken.
        KnError: while connected, the server could not be reached or did not let us in; the message says what to do.
    """
    path = kubeconfig or os.environ.get("KUBECONFIG", "") or StateDir(find_state_dir()).running().kubeconfig
    try:
        client = HttpClient.from_kubeconfig(path, on_warning=_warning if warn else None)
    except ConfigError as exc:
        raise ConfigError(" ".join(str(exc).split())) from exc  # the YAML parser explains itself over several lines
    try:
        yield Api(client)
    except (Unreachable, Unauthorized) as exc:
        raise translate(exc, path, client.connection.server) from exc
    finally:
        await client.aclose()


def _warning(text: str) -> None:
    say(f"{emphasis('warning', 'busy')}: {text}")


def translate(exc: Unreachable | Unauthorized, kubeconfig: str, server: str) -> KnError:
    """What a person can do about a server that does not answer, or not them."""
    if isinstance(exc, Unauthorized):
        return KnError(f"the API server at {server} does not accept the credentials in {kubeconfig}: {exc}")
    return KnError(f"no answer from the API server at {server} (from {kubeconfig}): is `torpor up` running? {exc}")


class Api:
    """Requests on behalf of one command."""

    def __init__(self, client: HttpClient) -> None:
        self.client = client
        self._found: list[Found] | None = None

    async def resources(self, text: str) -> list[Resource]:
        """The resources a name stands for: plural, singular, kind, short name (`ksvc`), `plural.group`, a category
        (`all`), or several of these with commas.

        Raises:
            UnknownKind: one of them is none of that.
        """
        chosen: dict[Resource, None] = {}
        for name in filter(None, text.split(",")):
            chosen |= dict.fromkeys(await self._named(name))
        if not chosen:
            raise UnknownKind(text, [])
        return list(chosen)

    async def _named(self, text: str) -> list[Resource]:
        wanted = text.lower()
        found = await self._discover()
        exact = [one.resource for one in found if wanted in one.names]
        if exact:
            return exact[:1]  # the server lists the core group first, and of a group the preferred version
        if members := [one.resource for one in found if wanted in one.categories]:
            return members
        raise UnknownKind(text, sorted({name for one in found for name in (*one.names, *one.categories)}))

    async def resource(self, text: str) -> Resource:
        """The one resource a name stands for."""
        found = await self.resources(text)
        if len(found) > 1:
            raise KnError(f"{text} stands for several kinds; name one, such as {found[0].group_resource}")
        return found[0]

    async def resource_of(self, obj: Mapping[str, Any]) -> Resource:
        """The resource of an object, by its apiVersion and kind.

        Raises:
            UnknownKind: the server does not serve it.
        """
        found = await self._discover()
        for one in found:
            if one.resource.api_version == obj["apiVersion"] and one.resource.kind == obj["kind"]:
                return one.resource
        versions = [one.resource.api_version for one in found if one.resource.kind == obj["kind"]]
        if versions:
            closest = difflib.get_close_matches(obj["apiVersion"], versions, n=1, cutoff=0)[0]
            raise KnError(f"the server has no {obj['kind']} in apiVersion {obj['apiVersion']}: did you mean {closest}?")
        raise UnknownKind(obj["kind"], [one.resource.kind for one in found])

    async def table(
        self, resource: Resource, namespace: str | None, name: str = "", *, labels: str = "", fields: str = ""
    ) -> dict[str, Any]:
        """Objects as the server's Table: `columnDefinitions` and `rows` with `cells`."""
        query = _selectors(labels, fields)
        found: dict[str, Any] = await self.client.raw(
            "GET", resource.path(namespace, name or None), query, accept=_TABLE
        )
        return found

    async def watch_table(
        self, resource: Resource, namespace: str | None, *, resource_version: str, labels: str = "", fields: str = ""
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Changes as Tables of one row, for ever; a stream that ends or breaks is continued where it was.

        Raises:
            Gone: the server no longer has that history; ask for the table again.
            Unreachable: the server is not there to continue.
        """
        version = resource_version
        broken = False
        while True:
            query = {"watch": "true", "resourceVersion": version, **_selectors(labels, fields)}
            try:
                async with contextlib.aclosing(self._events(resource.path(namespace), query)) as events:
                    async for event in events:
                        broken = False
                        for row in event["object"].get("rows", ()):
                            version = meta.resource_version(row.get("object") or {}) or version
                        yield event["object"]
            except Unreachable:
                if broken:  # twice without a word in between
                    raise
                broken = True
            await asyncio.sleep(REWATCH)

    async def _events(self, path: str, query: Mapping[str, str]) -> AsyncGenerator[dict[str, Any], None]:
        """The events of one watch."""
        pending = b""
        async with contextlib.aclosing(self.client.stream(path, query, accept=_TABLE)) as chunks:
            async for chunk in chunks:
                *lines, pending = (pending + chunk).split(b"\n")
                for line in filter(None, lines):
                    event = orjson.loads(line)
                    if event["type"] == "ERROR":
                        raise from_status(event["object"])
                    if event["type"] != "BOOKMARK":
                        yield event

    async def apply(self, obj: dict[str, Any], namespace: str, *, force: bool = False) -> tuple[dict[str, Any], str]:
        """Apply an object on the server; returns it and `created`, `configured` or `unchanged`.

        Fields that the schema does not know are refused (`fieldValidation=Strict`), as kubectl does: a typo in YAML
        must not become a silent default.

        Raises:
            Conflict: another manager owns a field, and not `force`.
            Invalid, BadRequest, Forbidden: refused, with the server's reasons.
            NotFound: the namespace does not exist.
        """
        resource = await self.resource_of(obj)
        space = (meta.namespace(obj) or namespace) if resource.namespaced else None
        try:
            before = await self.client.get(resource, meta.name(obj), space)
        except NotFound:
            before = None
        query = {
            "fieldManager": FIELD_MANAGER,
            "force": "true" if force else "false",
            "fieldValidation": "Strict",
        }
        path = resource.path(space, meta.name(obj))
        after: dict[str, Any] = await self.client.raw("PATCH", path, query, obj, media_type=Patch.APPLY.value)
        if before is None:
            return after, "created"
        same = meta.resource_version(before) == meta.resource_version(after)
        return after, "unchanged" if same else "configured"

    async def _discover(self) -> list[Found]:
        if self._found is None:
            self._found = []
            for root in ("/api", "/apis"):
                try:
                    groups = await self.client.raw("GET", root, accept=_DISCOVERY)
                except Forbidden as exc:
                    raise KnError(f"the API server does not show its kinds: {exc}") from exc
                for group in groups.get("items", ()):
                    self._found.extend(_group(group))
            if not self._found:
                raise KnError(f"{self.client.connection.server} does not speak aggregated discovery (Kubernetes 1.27)")
        return self._found


def _selectors(labels: str, fields: str) -> dict[str, str]:
    return {name: text for name, text in (("labelSelector", labels), ("fieldSelector", fields)) if text}


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
