"""`torpor apply`, `get`, `patch` and `delete`."""

import asyncio
import re
import time
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import orjson

from kncore.api import meta
from kncore.api.resources import Resource
from kncore.errors import KnError
from kncore.kube.client import Obj, Patch
from kncore.kube.errors import (
    ApiError,
    BadRequest,
    Conflict,
    Gone,
    Invalid,
    NotFound,
    Unauthorized,
    Unreachable,
    UnsupportedMediaType,
)
from torpor.cli.api import Api, connect
from torpor.cli.manifests import read
from torpor.cli.output import Output, columns, emphasis, fail, name_of, say, show, widths

__all__ = ["apply", "delete", "get", "patch", "refusal", "split"]

DELETE_TIMEOUT = 60.0  # seconds; a pod's grace period is not waited for longer
DELETE_POLL = 0.05


async def apply(files: Sequence[str], namespace: str, *, force: bool, output: Output | None) -> int:
    """Apply every object; a refused one does not keep the others from being applied, but makes the exit code 1."""
    found = read(files)
    failed = False
    applied: list[Obj] = []
    async with connect() as api:
        for where, obj in found:
            own = meta.namespace(obj)
            if namespace and own and own != namespace:
                raise KnError(f'{where}: {name_of(obj)} is in namespace "{own}", not in "{namespace}" as -n says')
            try:
                made, outcome = await api.apply(obj, own or namespace or api.client.namespace, force=force)
            except (Unreachable, Unauthorized):
                raise
            except KnError as exc:
                fail(f"{where}: {name_of(obj)}: {refusal(exc)}")
                failed = True
                continue
            if output is None:
                print(f"{name_of(made)} {outcome}", flush=True)
            applied.append(made)
    if output is not None and applied:
        show(applied[0] if len(found) == 1 else _list(applied), output)
    return int(failed)


_UNDECLARED = re.compile(r"failed to create typed patch object .*: \.(\S+): field not declared in schema")
_STRICT = "strict decoding error: "


def refusal(exc: KnError) -> str:
    """Why the server refused an object, in one line; of what it says of unknown fields, the fields."""
    text = str(exc)
    if found := _UNDECLARED.search(text):
        return f'unknown field "{found[1]}"'
    if _STRICT in text:
        return text.partition(_STRICT)[2]
    line = "; ".join(filter(None, map(str.strip, text.splitlines()))).replace(":; ", ": ")
    causes = exc.details.get("causes", ()) if isinstance(exc, Conflict) else ()
    if any(cause.get("reason") == "FieldManagerConflict" for cause in causes):
        line += "; --force-conflicts takes the fields over"
    return line


def _list(items: Sequence[Obj]) -> Obj:
    return {"apiVersion": "v1", "kind": "List", "items": list(items)}


def split(kind: str, names: Sequence[str]) -> tuple[str, list[str]]:
    """Kind and names of `ksvc hello` or `ksvc/hello`."""
    if "/" in kind:
        kind, _, name = kind.partition("/")
        return kind, [name, *names] if name else list(names)
    return kind, list(names)


# get


async def get(
    kind: str,
    names: Sequence[str],
    namespace: str,
    *,
    everywhere: bool,
    labels: str,
    watch: bool,
    output: Output | None,
) -> int:
    """Print objects: a table, or `output`."""
    kind, names = split(kind, names)
    if names and everywhere:
        raise KnError("a name is in one namespace: give the name, or -A, not both")
    if names and labels:
        raise KnError("give names, or -l, not both")
    async with connect() as api:
        resources = await api.resources(kind)
        if names and len(resources) > 1:
            raise KnError(f"a name is of one kind: give the kind of {', '.join(names)} instead of {kind}")
        if watch and (len(resources) > 1 or len(names) > 1 or output is not None):
            raise KnError("-w watches one kind as a table: no category, no list of names, no -o")
        space = None if everywhere else namespace or api.client.namespace
        if output is not None:
            return await _get_objects(api, resources, names, space, labels, output)
        if watch:
            return await _watch(api, resources[0], names, space, labels)
        return await _get_tables(api, resources, names, space, labels, kind)


async def _get_objects(
    api: Api, resources: Sequence[Resource], names: Sequence[str], namespace: str | None, labels: str, output: Output
) -> int:
    if names:
        found = [await api.client.get(resources[0], name, namespace) for name in names]
        show(found[0] if len(found) == 1 else _list(found), output)
        return 0
    items: list[Obj] = []
    for resource in resources:
        items.extend((await api.client.list(resource, namespace, labels=labels)).items)
    show(_list(items), output)
    return 0


async def _get_tables(
    api: Api, resources: Sequence[Resource], names: Sequence[str], namespace: str | None, labels: str, kind: str
) -> int:
    failed = False
    printed = False
    for resource in resources:
        tables = []
        for name in names or [""]:
            try:
                tables.append(await api.table(resource, namespace, name, labels=labels))
            except NotFound as exc:
                if not name:
                    raise
                fail(str(exc))
                failed = True
        rows = [row for table in tables for row in table["rows"]]
        if not rows:
            continue
        if printed:
            print()
        view = _View(tables[0], namespace is None and resource.namespaced, resource if len(resources) > 1 else None)
        view.show(rows, header=True)
        printed = True
    if not printed and not failed:
        say(f"no {kind} found" + (f" in namespace {namespace}" if namespace and resources[0].namespaced else ""))
    return int(failed)


async def _watch(api: Api, resource: Resource, names: Sequence[str], namespace: str | None, labels: str) -> int:
    """Print the table, then each change as a row, until interrupted."""
    fields = f"metadata.name={names[0]}" if names else ""
    view: _View | None = None
    while True:
        table = await api.table(resource, namespace, labels=labels, fields=fields)
        header = view is None
        if view is None:
            view = _View(table, namespace is None and resource.namespaced, None)
        if table["rows"]:
            view.show(table["rows"], header=header)
        changes = api.watch_table(
            resource, namespace, resource_version=meta.resource_version(table), labels=labels, fields=fields
        )
        try:
            async with aclosing(changes):
                async for change in changes:
                    view.show(change["rows"], header=not view.shown)
        except Gone:
            continue  # nothing happened for so long that the server forgot where we were: show everything again


class _View:
    """One printed table, without the columns that kubectl shows only with `-o wide`; rows may be added later.

    Args:
        table: gives the columns.
        with_namespace: begin with a column for it.
        named: begin names with the resource's, as kubectl does where kinds are mixed.
    """

    def __init__(self, table: dict[str, Any], with_namespace: bool, named: Resource | None) -> None:
        definitions = table["columnDefinitions"]
        self._indices = [index for index, column in enumerate(definitions) if not column.get("priority")]
        self._titles = [definitions[index]["name"].upper() for index in self._indices]
        self._with_namespace = with_namespace
        self._prefix = _prefix(named) if named else ""
        self._widths: list[int] = []
        self.shown = False

    def show(self, rows: Sequence[dict[str, Any]], *, header: bool) -> None:
        lines = [(["NAMESPACE"] if self._with_namespace else []) + self._titles] if header else []
        for row in rows:
            cells = ["" if row["cells"][index] is None else str(row["cells"][index]) for index in self._indices]
            cells[0] = self._prefix + cells[0]
            lines.append(([meta.namespace(row.get("object") or {})] if self._with_namespace else []) + cells)
        if not lines:
            return
        print(columns(lines, self._widths), flush=True)
        self._widths = [max(pair) for pair in zip(widths(lines), self._widths or widths(lines), strict=True)]
        self.shown = True


def _prefix(resource: Resource) -> str:
    return _kind(resource) + "/"


def _kind(resource: Resource) -> str:
    """A kind as kubectl names it in front of names: `service.serving.knative.dev`, `pod`."""
    return resource.kind.lower() + (f".{resource.group}" if resource.group else "")


# patch


PATCHES = {"merge": Patch.MERGE, "json": Patch.JSON, "strategic": Patch.STRATEGIC}


async def patch(kind: str, name: str, namespace: str, text: str, how: str, *, output: Output | None) -> int:
    """Patch an object."""
    kind, names = split(kind, [name] if name else [])
    if len(names) != 1:
        raise KnError("patch needs one name: torpor patch ksvc/hello -p '{...}'")
    try:
        body = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise KnError(f"--patch is not JSON: {exc}") from exc
    if not isinstance(body, list if how == "json" else dict):
        raise KnError(f"--patch must be a JSON {'list of operations' if how == 'json' else 'object'} for --type {how}")
    async with connect() as api:
        resource = await api.resource(kind)
        before = await api.client.get(resource, names[0], namespace or api.client.namespace)
        query = {"fieldManager": "torpor", "fieldValidation": "Strict"}
        path = resource.path(meta.namespace(before), names[0])
        try:
            patched: Obj = await api.client.raw("PATCH", path, query, body, media_type=PATCHES[how].value)
        except (BadRequest, Invalid, UnsupportedMediaType) as exc:
            raise KnError(f"{name_of(before)}: {refusal(exc)}") from exc
    if output is None:
        same = meta.resource_version(before) == meta.resource_version(patched)
        print(f"{name_of(patched)} patched{' (no change)' if same else ''}")
    else:
        show(patched, output)
    return 0


# delete


async def delete(kind: str, names: Sequence[str], files: Sequence[str], namespace: str, *, wait: bool) -> int:
    """Delete objects by name, or all that the manifests name."""
    kind, names = split(kind, names)
    if bool(kind) == bool(files) or bool(kind) != bool(names):
        raise KnError("delete needs KIND NAME, or -f FILE: torpor delete ksvc hello")
    found = read(files) if files else []
    async with connect() as api:
        space = namespace or api.client.namespace
        targets: list[tuple[Resource, str, str | None]] = []
        for _, obj in found:
            resource = await api.resource_of(obj)
            targets.append((resource, meta.name(obj), (meta.namespace(obj) or space) if resource.namespaced else None))
        if names:
            resource = await api.resource(kind)
            targets += [(resource, name, space if resource.namespaced else None) for name in names]
        failed = False
        deleted: list[tuple[Resource, Obj]] = []
        for resource, name, where in targets:
            try:
                obj = await api.client.get(resource, name, where)
                await api.client.delete(resource, name, where, uid=meta.uid(obj))
            except (NotFound, Conflict) as exc:
                fail(str(exc))
                failed = True
                continue
            print(f'{_kind(resource)} "{name}" deleted', flush=True)
            deleted.append((resource, obj))
        if wait:
            deadline = time.monotonic() + DELETE_TIMEOUT
            for resource, obj in deleted:
                failed |= not await _gone(api, resource, obj, deadline)
    return int(failed)


async def _gone(api: Api, resource: Resource, obj: Obj, deadline: float) -> bool:
    """Wait until this very object is gone."""
    while True:
        try:
            now = await api.client.get(resource, meta.name(obj), meta.namespace(obj) or None)
        except NotFound:
            return True
        except ApiError as exc:
            if isinstance(exc, Unreachable | Unauthorized):
                raise
            now = obj
        if meta.uid(now) != meta.uid(obj):
            return True
        if time.monotonic() > deadline:
            held = ", ".join(meta.finalizers(now)) or "none"
            fail(f"{name_of(now)} still exists after {DELETE_TIMEOUT:.0f} s (finalizers: {emphasis(held, 'bold')})")
            return False
        await asyncio.sleep(DELETE_POLL)
