"""Answers: objects, lists, Tables and errors as HTTP responses, in the form the client asked for."""

from collections.abc import Iterable
from typing import Any

import orjson
import yaml
from aiohttp import web

from torpor.embedded.apiserver import table, views
from torpor.embedded.apiserver.builtin import Kind
from torpor.embedded.apiserver.errors import StatusError
from torpor.embedded.apiserver.negotiate import Form
from torpor.embedded.apiserver.resources import Page
from torpor.embedded.apiserver.store import Record

__all__ = ["Frames", "error", "json_reply", "listing", "obj_reply", "partial", "record_reply", "warn"]

Obj = dict[str, Any]

JSON = "application/json"
_HEADERS = {"Cache-Control": "no-cache, private"}


def json_reply(body: bytes, *, status: int = 200, media_type: str = JSON) -> web.Response:
    """Bytes that are JSON already."""
    return web.Response(body=body, status=status, headers={**_HEADERS, "Content-Type": media_type})


def obj_reply(obj: Any, form: Form | None = None, *, status: int = 200) -> web.Response:
    """Any value as JSON or YAML."""
    if form is not None and form.yaml:
        return json_reply(yaml.safe_dump(obj, sort_keys=True).encode(), status=status, media_type="application/yaml")
    return json_reply(orjson.dumps(obj), status=status)


def error(fault: StatusError) -> web.Response:
    """A refusal."""
    reply = obj_reply(fault.status(), status=fault.code)
    if seconds := fault.details.get("retryAfterSeconds"):
        reply.headers["Retry-After"] = str(seconds)
    return reply


def warn(reply: web.StreamResponse, warnings: Iterable[str]) -> None:
    """Add `Warning` headers, which kubectl prints; each text once."""
    for text in dict.fromkeys(warnings):
        safe = "".join(char if char.isprintable() else " " for char in text)
        quoted = safe.replace("\\", "\\\\").replace('"', '\\"')
        reply.headers.add("Warning", f'299 - "{quoted}"')


def partial(obj: Obj) -> Obj:
    """Only an object's metadata."""
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


def record_reply(
    kind: Kind, record: Record, form: Form, *, include_object: str = "Metadata", now: float, status: int = 200
) -> web.Response:
    """One object."""
    if form.shape == "Object" and not form.yaml:
        return json_reply(views.data_as(kind, record), status=status)
    obj = views.obj_as(kind, record)
    if form.shape == "Table":
        version = {"resourceVersion": obj["metadata"].get("resourceVersion", "")}
        shown = table.render(kind, [obj], metadata=version, include_object=include_object, now=now)
        return obj_reply(shown, status=status)
    return obj_reply(partial(obj) if form.shape == "PartialObjectMetadata" else obj, form, status=status)


def listing(kind: Kind, page: Page, form: Form, *, include_object: str, now: float) -> web.Response:
    """A page of a list; the usual form is put together from the stored bytes."""
    metadata: Obj = {"resourceVersion": str(page.version)}
    if page.continue_:
        metadata["continue"] = page.continue_
        if page.remaining is not None:
            metadata["remainingItemCount"] = page.remaining
    if form.shape == "Table":
        objects = (views.obj_as(kind, record) for record in page.records)
        return obj_reply(table.render(kind, objects, metadata=metadata, include_object=include_object, now=now))
    if form.shape == "PartialObjectMetadata":
        items = [partial(views.obj_as(kind, record)) for record in page.records]
        head = {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}
        return obj_reply({**head, "items": items}, form)
    head = {"kind": kind.list_kind, "apiVersion": kind.api_version, "metadata": metadata}
    if form.yaml:
        return obj_reply({**head, "items": [views.obj_as(kind, record) for record in page.records]}, form)
    parts = [orjson.dumps(head)[:-1], b',"items":[', b",".join([views.data_as(kind, one) for one in page.records])]
    return json_reply(b"".join([*parts, b"]}"]))


class Frames:
    """Watch events as lines of JSON, in one form; Tables name their columns only once per watch."""

    def __init__(self, kind: Kind, form: Form, include_object: str) -> None:
        self._kind = kind
        self._form = form
        self._include_object = include_object
        self._first = True

    def event(self, type_: str, record: Record, now: float) -> bytes:
        """One change."""
        if self._form.shape == "Object":
            return b'{"type":"%b","object":%b}\n' % (type_.encode(), views.data_as(self._kind, record))
        obj: Obj = views.obj_as(self._kind, record)
        if self._form.shape == "Table":
            obj = table.render_event(self._kind, obj, first=self._first, include_object=self._include_object, now=now)
            self._first = False
        else:
            obj = partial(obj)
        return orjson.dumps({"type": type_, "object": obj}, option=orjson.OPT_APPEND_NEWLINE)

    def bookmark(self, version: int, *, initial_end: bool = False) -> bytes:
        """How far the watch has come; `initial_end` says that all present objects were sent."""
        metadata: Obj = {"resourceVersion": str(version), "creationTimestamp": None}
        if initial_end:
            metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
        obj: Obj = {"kind": self._kind.kind, "apiVersion": self._kind.api_version, "metadata": metadata}
        if self._form.shape == "Table":
            obj = {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": None}
            obj["rows"] = []
        elif self._form.shape == "PartialObjectMetadata":
            obj = partial(obj)
        return orjson.dumps({"type": "BOOKMARK", "object": obj}, option=orjson.OPT_APPEND_NEWLINE)

    @staticmethod
    def error(fault: StatusError) -> bytes:
        """The last event of a watch that cannot go on."""
        return orjson.dumps({"type": "ERROR", "object": fault.status()}, option=orjson.OPT_APPEND_NEWLINE)
