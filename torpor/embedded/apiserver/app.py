"""HTTP: from a request to a verb and back.

    gate (host, origin, token) -> path -> verb -> resources -> reply

One function per kind of request, found by a table; everything that can go wrong on the way is a `StatusError`, turned
into a `Status` in one place. aiohttp's low-level server is used, without its router and middlewares: the path grammar
of Kubernetes is fixed, and the cold-start path makes some twenty requests.
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from aiohttp import web

from kncore.clock import Clock
from torpor.embedded.apiserver import discovery, openapi, replies, reviews
from torpor.embedded.apiserver.auth import Gate, User
from torpor.embedded.apiserver.builtin import Kind
from torpor.embedded.apiserver.decode import complete, decode, decode_object, duplicates
from torpor.embedded.apiserver.errors import (
    StatusError,
    bad_request,
    forbidden,
    generic_not_found,
    internal,
    invalid,
    method_not_allowed,
    too_large,
    too_many,
)
from torpor.embedded.apiserver.lifecycle import Deletion
from torpor.embedded.apiserver.negotiate import discovery_version, form
from torpor.embedded.apiserver.patching import How, how_of, patched
from torpor.embedded.apiserver.pods import PodAccess
from torpor.embedded.apiserver.podstreams import PodStreams
from torpor.embedded.apiserver.registry import Registry
from torpor.embedded.apiserver.resources import Resources, Selection, Write
from torpor.embedded.apiserver.routes import Target, find
from torpor.embedded.apiserver.scale import SCALE, to_scale
from torpor.embedded.apiserver.schema import Cause
from torpor.embedded.apiserver.selectors import parse_fields, parse_labels
from torpor.embedded.apiserver.store import Record
from torpor.embedded.apiserver.streams import send_watch
from torpor.embedded.apiserver.views import obj_as

__all__ = ["App", "Limits", "Statistics"]

log = logging.getLogger(__name__)

Obj = dict[str, Any]

VERSION = {
    "major": "1",
    "minor": "33",
    "gitVersion": "v1.33.0+torpor",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "",
    "compiler": "",
    "platform": "",
}
"""Level of the Kubernetes API that is spoken; kubectl warns when it is more than one minor version away."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of the listener."""

    body_bytes: int = 3 << 20
    """Request body; Kubernetes' own limit."""
    body_seconds: float = 30.0
    """Until the whole body has come."""
    watches: int = 1024
    """Watches at the same time; a platform with all its parts holds about fifty."""
    requests: int = 400
    """Other requests at the same time; Kubernetes' default for reads."""


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What the listener holds now, and has done since its start."""

    requests: int
    """Being answered now, watches not counted."""
    watches: int
    served: int
    refused: int
    """Answered 429 because a bound was reached."""
    failed: int
    """Answered 500 because of a bug."""


class App:
    """Answers requests.

    Args:
        pods: access to running pods; None: logs and exec answer 404.
        ready: whether the server has come up; asked by `/readyz`.
    """

    def __init__(
        self,
        resources: Resources,
        registry: Registry,
        gate: Gate,
        *,
        clock: Clock,
        pods: PodAccess | None,
        limits: Limits,
        ready: Callable[[], bool],
    ) -> None:
        self.address = ""
        """`host:port` the server is reached at, for discovery."""
        self._resources = resources
        self._registry = registry
        self._gate = gate
        self._clock = clock
        self._limits = limits
        self._ready = ready
        self._pods = PodStreams(resources, pods)
        self._documents: dict[tuple[str, ...], tuple[int, bytes, str]] = {}
        self._under_way = self._watches = self._served = self._refused = self._failed = 0

    def statistics(self) -> Statistics:
        """Requests and watches."""
        return Statistics(
            requests=self._under_way,
            watches=self._watches,
            served=self._served,
            refused=self._refused,
            failed=self._failed,
        )

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; the outermost frame of everything the server does for a client."""
        self._under_way += 1
        try:
            if self._under_way - self._watches > self._limits.requests:
                self._refused += 1
                raise too_many("too many requests at the same time, please try again")
            return await self._answer(request)
        except StatusError as fault:
            return replies.error(fault)
        except web.HTTPRequestEntityTooLarge:
            return replies.error(too_large(self._limits.body_bytes))
        except RecursionError:
            return replies.error(bad_request("the object is nested too deeply"))
        except web.HTTPException as fault:
            return replies.error(bad_request(fault.text or fault.reason))
        except ConnectionError:
            raise  # the client has left; aiohttp closes the connection
        except Exception as error:
            self._failed += 1
            log.exception("request failed", extra={"method": request.method, "path": request.path})
            return replies.error(internal(f"{type(error).__name__}: {error}"))
        finally:
            self._under_way -= 1
            self._served += 1

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        user = self._gate.check(path, request.headers)
        if user is None:
            return self._open(path, request.query)
        target = find(self._registry, path)
        if target is None:
            return await self._document(path, request)
        if "create" in target.kind.verbs and len(target.kind.verbs) == 1:
            return await self._review(target, request, user)
        if target.subresource:
            return await self._on_subresource(target, request, user)
        operation = (_OBJECT if target.name else _COLLECTION).get(request.method)
        if operation is None:
            raise method_not_allowed(target.kind)
        return await operation(self, target, request, user)

    # ------------------------------------------------------------------------------------------------ documents

    def _open(self, path: str, query: Mapping[str, str]) -> web.Response:
        """What needs no token."""
        if path == "/version":
            return replies.obj_reply(VERSION)
        if path.startswith("/readyz") and not self._ready():
            return web.Response(text="not ready", status=500)
        if "verbose" in query:
            name = path.strip("/").partition("/")[0]
            return web.Response(text=f"[+]ping ok\n[+]store ok\n{name} check passed\n")
        return web.Response(text="ok")

    async def _document(self, path: str, request: web.BaseRequest) -> web.StreamResponse:
        """Discovery and OpenAPI."""
        if request.method not in ("GET", "HEAD"):
            raise generic_not_found()
        parts = tuple(path.strip("/").split("/"))
        version = discovery_version(request.headers.get("Accept", "")) if parts in (("api",), ("apis",)) else ""
        make: Callable[[], Obj] | None = None
        match parts:
            case ("",):
                make = self._root
            case ("api",) | ("apis",) if version:
                core = parts == ("api",)
                make = lambda: discovery.aggregated(self._kinds(), version, core=core)  # noqa: E731
            case ("api",):
                make = lambda: discovery.core_versions(self.address)  # noqa: E731
            case ("apis",):
                make = lambda: discovery.group_list(self._kinds())  # noqa: E731
            case ("apis", group) if group and (versions := self._registry.versions(group)):
                make = lambda: discovery.group(group, versions)  # noqa: E731
            case ("api", "v1") | ("apis", _, _):
                group, served = (parts[1], parts[2]) if len(parts) == 3 else ("", "v1")
                kinds = [one for one in self._kinds() if (one.group, one.version) == (group, served)]
                if kinds:
                    make = lambda: discovery.resource_list("/".join(parts[1:]), kinds)  # noqa: E731
            case ("openapi", "v3"):
                make = lambda: openapi.index(self._kinds())  # noqa: E731
            case ("openapi", "v3", "api", "v1"):
                make = lambda: openapi.document("", "v1", self._kinds())  # noqa: E731
            case ("openapi", "v3", "apis", group, served) if served in self._registry.versions(group):
                make = lambda: openapi.document(group, served, self._kinds())  # noqa: E731
        if make is None:
            raise generic_not_found()
        media_type = "application/json"
        if version:
            media_type = f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
        return await self._cached((*parts, version), make, request, media_type)

    def _root(self) -> Obj:
        groups = {f"/apis/{kind.group}/{kind.version}" for kind in self._kinds() if kind.group}
        others = ("/api", "/api/v1", "/apis", "/healthz", "/livez", "/openapi/v3", "/readyz", "/version")
        return {"paths": sorted(groups.union(others))}

    async def _cached(
        self, key: tuple[str, ...], make: Callable[[], Obj], request: web.BaseRequest, media_type: str
    ) -> web.Response:
        """A document that changes only with the set of kinds, with an ETag; made in a thread, it may take 50 ms."""
        generation, body, tag = self._documents.get(key, (-1, b"", ""))
        if generation != self._registry.generation:
            generation = self._registry.generation
            body = await asyncio.get_running_loop().run_in_executor(None, lambda: orjson.dumps(make()))
            tag = f'"{hashlib.sha256(body).hexdigest().upper()}"'
            self._documents[key] = (generation, body, tag)
        headers = {"Content-Type": media_type, "ETag": tag, "Vary": "Accept", "Cache-Control": "no-cache, private"}
        if request.headers.get("If-None-Match") == tag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, headers=headers)

    def _kinds(self) -> list[Kind]:
        return self._registry.kinds(reviews=True)

    async def _review(self, target: Target, request: web.BaseRequest, user: User) -> web.Response:
        if request.method != "POST" or target.name:
            raise method_not_allowed(target.kind)
        review = decode_object(target.kind, await self._body(request), _media_type(request))
        return replies.obj_reply(reviews.answer(review, user), form(request.headers.get("Accept", "")), status=201)

    # ------------------------------------------------------------------------------------------------- verbs

    async def _list(self, target: Target, request: web.BaseRequest, user: User) -> web.StreamResponse:
        query = request.query
        if _flag(query, "watch"):
            return await self._watch(target, request)
        page = self._resources.select(
            target.kind,
            _selection(target, query),
            limit=_number(query, "limit") or 0,
            continue_=query.get("continue", ""),
            version=query.get("resourceVersion", ""),
            version_match=query.get("resourceVersionMatch", ""),
        )
        shape = form(request.headers.get("Accept", ""))
        include = query.get("includeObject", "Metadata")
        return replies.listing(target.kind, page, shape, include_object=include, now=self._clock.wall())

    async def _watch(self, target: Target, request: web.BaseRequest) -> web.StreamResponse:
        query = request.query
        bookmarks = _flag(query, "allowWatchBookmarks")
        initial = _flag(query, "sendInitialEvents") if "sendInitialEvents" in query else None
        match = query.get("resourceVersionMatch", "")
        if initial is not None and match != "NotOlderThan":
            text = "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            raise invalid(_LIST_OPTIONS, "", [Cause("resourceVersionMatch", "FieldValueForbidden", text)])
        if initial is None and match:
            text = "Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
            raise invalid(_LIST_OPTIONS, "", [Cause("resourceVersionMatch", "FieldValueForbidden", text)])
        if self._watches >= self._limits.watches:
            self._refused += 1
            raise too_many(f"too many watches at the same time (limit {self._limits.watches})", 5)
        selection = _selection(target, query)
        timeout = _number(query, "timeoutSeconds")
        frames = replies.Frames(
            target.kind, form(request.headers.get("Accept", "")), query.get("includeObject", "Metadata")
        )
        self._watches += 1
        try:
            try:
                version = query.get("resourceVersion", "")
                watcher, present = self._resources.watch(target.kind, selection, version=version, initial=initial)
            except StatusError as fault:
                if fault.code != 410:
                    raise
                # as upstream: once a watch is understood, what goes wrong with it is an event of its stream
                body = frames.error(fault)
                return replies.json_reply(body)
            return await send_watch(
                request,
                watcher,
                present,
                frames,
                store=self._resources.store,
                clock=self._clock,
                bookmarks=bookmarks,
                initial_bookmark=bool(initial) and bookmarks,
                timeout=timeout or None,
            )
        finally:
            self._watches -= 1

    async def _get(self, target: Target, request: web.BaseRequest, user: User) -> web.StreamResponse:
        if _flag(request.query, "watch"):
            return await self._watch(target, request)
        record = self._resources.get(target.kind, target.namespace or "", target.name)
        return self._record(target, request, record)

    async def _create(self, target: Target, request: web.BaseRequest, user: User) -> web.StreamResponse:
        kind = target.kind
        if "create" not in kind.verbs:
            raise method_not_allowed(kind)
        if kind.namespaced and target.namespace is None:
            raise method_not_allowed(kind)
        write, obj = await self._incoming(target, request, user)
        record = await self._resources.create(kind, target.namespace or "", obj, write)
        return self._record(target, request, record, write, status=201)

    async def _update(self, target: Target, request: web.BaseRequest, user: User) -> web.StreamResponse:
        write, obj = await self._incoming(target, request, user)
        record = await self._resources.update(
            target.kind, target.namespace or "", target.name, obj, write, subresource=target.subresource
        )
        return self._record(target, request, record, write)

    async def _patch(self, target: Target, request: web.BaseRequest, user: User) -> web.StreamResponse:
        how, body, write = await self._incoming_patch(target, request, user)
        record, created = await self._resources.patch(
            target.kind, target.namespace or "", target.name, how, body, write, subresource=target.subresource
        )
        return self._record(target, request, record, write, status=201 if created else 200)

    async def _delete(self, target: Target, request: web.BaseRequest, user: User) -> web.StreamResponse:
        options, write = await self._deletion(request, user)
        kind = target.kind
        record, gone = await self._resources.delete(kind, target.namespace or "", target.name, options, write)
        if not gone or kind.resource in _RETURN_DELETED:
            return self._record(target, request, record, write)
        details = {"name": target.name, "group": kind.group, "kind": kind.plural, "uid": record.uid}
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
        reply = replies.obj_reply({**status, "details": {key: value for key, value in details.items() if value}})
        replies.warn(reply, write.warnings)
        return reply

    async def _delete_all(self, target: Target, request: web.BaseRequest, user: User) -> web.StreamResponse:
        if "deletecollection" not in target.kind.verbs:
            raise method_not_allowed(target.kind)
        options, write = await self._deletion(request, user)
        selection = _selection(target, request.query)
        deleted = await self._resources.delete_collection(target.kind, selection, options, write)
        listed: Obj = {
            "kind": target.kind.list_kind,
            "apiVersion": target.kind.api_version,
            "metadata": {"resourceVersion": str(self._resources.store.version)},
            "items": [obj_as(target.kind, record) for record in deleted],
        }
        return replies.obj_reply(listed)

    # ------------------------------------------------------------------------------------------- subresources

    async def _on_subresource(self, target: Target, request: web.BaseRequest, user: User) -> web.StreamResponse:
        kind, name, method = target.kind, target.subresource, request.method
        if kind.resource == "pods" and name in ("log", "exec", "attach", "portforward"):
            return await self._pods.serve(target, request)
        if kind.resource == "pods" and name == "eviction" and method == "POST":
            return await self._evict(target, request, user)
        if kind.resource == "pods" and name == "binding" and method == "POST":
            return await self._bind(target, request, user)
        if name not in kind.subresources:
            raise generic_not_found()
        if name == "scale":
            return await self._scale(target, request, user)
        if name == "finalize" and method == "PUT":
            write, obj = await self._incoming(target, request, user)
            record = await self._resources.finalize(target.name, obj, write)
            return self._record(target, request, record, write)
        if name == "status":
            operation = {"GET": App._get, "PUT": App._update, "PATCH": App._patch}.get(method)
            if operation is not None:
                return await operation(self, target, request, user)
        raise method_not_allowed(kind)

    async def _scale(self, target: Target, request: web.BaseRequest, user: User) -> web.StreamResponse:
        kind, namespace = target.kind, target.namespace or ""
        match request.method:
            case "GET":
                record = self._resources.get(kind, namespace, target.name)
                return replies.obj_reply(to_scale(kind, obj_as(kind, record)))
            case "PUT":
                body = decode_object(SCALE, await self._body(request), _media_type(request))
                write = self._write(request, user)
                scale = await self._resources.scale(kind, namespace, target.name, lambda _: body, write)
            case "PATCH":
                how, patch, write = await self._incoming_patch(target, request, user)
                if how is How.APPLY:
                    how = How.MERGE
                change = lambda scale: patched(SCALE, how, scale, patch)  # noqa: E731
                scale = await self._resources.scale(kind, namespace, target.name, change, write)
            case _:
                raise method_not_allowed(kind)
        return replies.obj_reply(scale)

    async def _evict(self, target: Target, request: web.BaseRequest, user: User) -> web.StreamResponse:
        """`kubectl drain` and the like: a deletion by another name, there are no disruption budgets to ask."""
        body = decode(await self._body(request), _media_type(request))
        options = body.get("deleteOptions") if isinstance(body, dict) else None
        deletion = _deletion(options if isinstance(options, dict) else {}, request.query)
        write = self._write(request, user)
        await self._resources.delete(target.kind, target.namespace or "", target.name, deletion, write)
        return replies.obj_reply(
            {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}, status=201
        )

    async def _bind(self, target: Target, request: web.BaseRequest, user: User) -> web.StreamResponse:
        body = decode(await self._body(request), _media_type(request))
        node = ((body.get("target") or {}).get("name") or "") if isinstance(body, dict) else ""
        if not node:
            raise bad_request("target.name: Required value")
        pod = self._resources.get(target.kind, target.namespace or "", target.name)
        if (taken := (pod.obj.get("spec") or {}).get("nodeName")) and taken != node:
            raise forbidden(target.kind, target.name, f"pod {target.name} is already assigned to node {taken}")
        patch = {"metadata": {"uid": pod.uid}, "spec": {"nodeName": node}}
        write = self._write(request, user)
        await self._resources.patch(target.kind, target.namespace or "", target.name, How.MERGE, patch, write)
        return replies.obj_reply(
            {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}, status=201
        )

    # ------------------------------------------------------------------------------------- requests, replies

    async def _body(self, request: web.BaseRequest) -> bytes:
        if (request.content_length or 0) > self._limits.body_bytes:
            raise too_large(self._limits.body_bytes)
        if not request.can_read_body:
            return b""
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                return await request.read()
        except TimeoutError:
            raise StatusError(408, "Timeout", "the body of the request did not come in time") from None

    def _write(self, request: web.BaseRequest, user: User, twice: tuple[str, ...] = ()) -> Write:
        query = request.query
        validation = query.get("fieldValidation", "") or "Warn"
        checked: Literal["Strict", "Warn", "Ignore"]
        match validation:
            case "Strict" | "Warn" | "Ignore":
                checked = validation
            case _:
                text = f'Unsupported value: "{validation}": supported values: "Ignore", "Strict", "Warn"'
                raise invalid(_WRITE_OPTIONS, "", [Cause("fieldValidation", "FieldValueNotSupported", text)])
        manager = query.get("fieldManager", "") or request.headers.get("User-Agent", "").partition("/")[0]
        if len(manager) > 128:
            text = "Too long: may not be more than 128 bytes"
            raise invalid(_WRITE_OPTIONS, "", [Cause("fieldManager", "FieldValueInvalid", text)])
        return Write(
            user=user.name,
            manager=manager or "unknown",
            validation=checked,
            duplicates=twice,
            dry_run=_dry_run(query.getall("dryRun", [])),
            force=_flag(query, "force"),
        )

    async def _incoming(self, target: Target, request: web.BaseRequest, user: User) -> tuple[Write, Obj]:
        """The object of a create or update, and how it is to be written."""
        body, media_type = await self._body(request), _media_type(request)
        obj = decode_object(target.kind, body, media_type)
        strict = request.query.get("fieldValidation") == "Strict" and media_type == "application/json"
        return self._write(request, user, tuple(duplicates(body)) if strict else ()), obj

    async def _incoming_patch(self, target: Target, request: web.BaseRequest, user: User) -> tuple[How, Any, Write]:
        media_type = _media_type(request)
        how = how_of(target.kind, media_type)
        raw = await self._body(request)
        body = decode(raw, media_type)
        write = self._write(request, user)
        if how is How.APPLY:
            if not isinstance(body, dict):
                raise bad_request("the body of an apply must be an object")
            if not request.query.get("fieldManager"):
                text = "Required value: is required for apply patch"
                raise invalid(_WRITE_OPTIONS, "", [Cause("fieldManager", "FieldValueRequired", text)])
            if target.subresource != "scale":
                complete(target.kind, body)
        elif _flag(request.query, "force"):
            text = "Forbidden: may not be specified for non-apply patch"
            raise invalid(_WRITE_OPTIONS, "", [Cause("force", "FieldValueForbidden", text)])
        return how, body, write

    async def _deletion(self, request: web.BaseRequest, user: User) -> tuple[Deletion, Write]:
        raw = await self._body(request)
        body = decode(raw, _media_type(request)) if raw.strip() else {}
        if not isinstance(body, dict):
            raise bad_request("the body of a delete must be DeleteOptions")
        write = self._write(request, user)
        if _dry_run([str(one) for one in body.get("dryRun") or ()]) and not write.dry_run:
            write = Write(user=user.name, manager=write.manager, dry_run=True)
        return _deletion(body, request.query), write

    def _record(
        self, target: Target, request: web.BaseRequest, record: Record, write: Write | None = None, status: int = 200
    ) -> web.Response:
        reply = replies.record_reply(
            target.kind,
            record,
            form(request.headers.get("Accept", "")),
            include_object=request.query.get("includeObject", "Metadata"),
            now=self._clock.wall(),
            status=status,
        )
        if write is not None and write.warnings:
            replies.warn(reply, write.warnings)
        return reply


_Operation = Callable[[App, Target, web.BaseRequest, User], Awaitable[web.StreamResponse]]

_COLLECTION: dict[str, _Operation] = {
    "GET": App._list,
    "HEAD": App._list,
    "POST": App._create,
    "DELETE": App._delete_all,
}
_OBJECT: dict[str, _Operation] = {
    "GET": App._get,
    "HEAD": App._get,
    "PUT": App._update,
    "PATCH": App._patch,
    "DELETE": App._delete,
}

_RETURN_DELETED = frozenset({"pods", "services", "serviceaccounts", "persistentvolumeclaims"})
"""Kinds whose deletion answers with the object even when it is gone at once."""


def _options(kind: str) -> Kind:
    """What faults in query parameters and DeleteOptions are said to be faults of."""
    return Kind(group="meta.k8s.io", version="v1", kind=kind, plural=kind.lower(), singular=kind.lower())


_LIST_OPTIONS = _options("ListOptions")
_WRITE_OPTIONS = _options("PatchOptions")


def _media_type(request: web.BaseRequest) -> str:
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _flag(query: Mapping[str, str], name: str) -> bool:
    """A boolean parameter; `?watch` without a value counts as true, as in Kubernetes."""
    return query.get(name, "false").lower() not in ("false", "0")


def _number(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name, "")
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise bad_request(f'{name}: Invalid value: "{text}": must be a number, zero or more')
    return int(text)


def _dry_run(values: list[str]) -> bool:
    for value in values:
        if value not in ("All", ""):
            text = f'Unsupported value: "{value}": supported values: "All"'
            raise invalid(_WRITE_OPTIONS, "", [Cause("dryRun", "FieldValueNotSupported", text)])
    return "All" in values


def _selection(target: Target, query: Mapping[str, str]) -> Selection:
    try:
        labels = parse_labels(query.get("labelSelector", ""))
        text = query.get("fieldSelector", "")
        if target.name:
            text = f"metadata.name={target.name}"
        fields = parse_fields(text, target.kind.fields)
    except ValueError as error:
        raise bad_request(str(error)) from error
    return Selection(namespace=target.namespace, labels=labels, fields=fields)


_PROPAGATIONS = ("Background", "Foreground", "Orphan")


def _deletion(body: Obj, query: Mapping[str, str]) -> Deletion:
    """DeleteOptions from body and query; the query counts only where there is no body, as in Kubernetes."""
    propagation = body.get("propagationPolicy") or ("" if body else query.get("propagationPolicy", ""))
    orphan = body.get("orphanDependents", None if body else query.get("orphanDependents"))
    if orphan is not None and not propagation:
        propagation = "Orphan" if orphan in (True, "true", "1") else "Background"
    if propagation and propagation not in _PROPAGATIONS:
        text = f'Unsupported value: "{propagation}": supported values: "Background", "Foreground", "Orphan"'
        raise invalid(_options("DeleteOptions"), "", [Cause("propagationPolicy", "FieldValueNotSupported", text)])
    grace = body.get("gracePeriodSeconds")
    if grace is None and not body:
        grace = _number(query, "gracePeriodSeconds")
    if grace is not None and (not isinstance(grace, int) or isinstance(grace, bool)):
        raise bad_request("gracePeriodSeconds must be a number")
    preconditions = body.get("preconditions") or {}
    return Deletion(
        propagation=propagation,
        grace=grace,
        uid=preconditions.get("uid"),
        resource_version=preconditions.get("resourceVersion"),
    )
