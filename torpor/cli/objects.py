"""`torpor apply`, `get`, `patch` and `delete`."""

import asyncio
import sys
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import orjson

from kncore.api import meta
from kncore.api.resources import Resource
from kncore.errors import KnError
from kncore.kube.errors import ApiError, NotFound
from torpor.cli.api import Api, connect
from torpor.cli.manifests import read
from torpor.cli.output import Output, columns, fail, name_of, say, show

__all__ = ["apply", "delete", "get", "patch"]

DELETE_TIMEOUT = 60.0  # seconds; a pod's grace period is not waited for longer


async def apply(files: Sequence[str], namespace: str, *, output: Output | None) -> int:
    """Apply every object; a refused one does not keep the others from being applied, but makes the exit code 1."""
    failed = False
    async with connect() as api:
        for where, obj in read(files):
            try:
                applied, outcome = await api.apply(obj, namespace)
            except (ApiError, KnError) as exc:
                fail(f"{where}: {name_of(obj)}: {exc}")
                failed = True
                continue
            if output is None:
                print(f"{name_of(applied)} {outcome}", flush=True)
            else:
                show(applied, output)
    return int(failed)


def _split(kind: str, name: str) -> tuple[str, str]:
    """`ksvc hello` and `ksvc/hello` are the same."""
    if "/" in kind and not name:
        kind, _, name = kind.partition("/")
    return kind, name


async def get(kind: str, name: str, namespace: str | None, *, labels: str, watch: bool, output: Output | None) -> int:
    """Print objects: a table, or `output`."""
    kind, name = _split(kind, name)
    async with connect() as api:
        resources = await api.resources(kind)
        if output is not None:
            return await _get_objects(api, resources, name, namespace, labels, output)
        printed = 0
        for resource in resources:
            table = await api.table(resource, namespace if resource.namespaced else None, name, labels=labels)
            if not table["rows"] and len(resources) > 1:
                continue
            if printed:
                print()
            prefix = f"{resource.singular or resource.kind.lower()}.{resource.group}/" if len(resources) > 1 else ""
            _print_table(table, prefix=prefix, with_namespace=namespace is None and resource.namespaced)
            printed += len(table["rows"])
            if watch and len(resources) == 1:
                await _watch(api, resource, namespace, name, labels, table)
        if not printed and not watch:
            say(f"no {kind} found" + (f" in namespace {namespace}" if namespace else ""))
    return 0


async def _get_objects(
    api: Api, resources: Sequence[Resource], name: str, namespace: str | None, labels: str, output: Output
) -> int:
    if name:
        show(await api.client.get(resources[0], name, namespace), output)
        return 0
    items: list[dict[str, Any]] = []
    for resource in resources:
        items.extend((await api.client.list(resource, namespace, labels=labels)).items)
    show({"apiVersion": "v1", "kind": "List", "items": items}, output)
    return 0


async def _watch(
    api: Api, resource: Resource, namespace: str | None, name: str, labels: str, table: dict[str, Any]
) -> None:
    version = table["metadata"]["resourceVersion"]
    changes = api.watch_table(resource, namespace, resource_version=version, name=name, labels=labels)
    async with aclosing(changes):
        async for change in changes:
            _print_table(change, header=False, like=table, with_namespace=namespace is None)


def _print_table(
    table: dict[str, Any],
    *,
    prefix: str = "",
    header: bool = True,
    like: dict[str, Any] | None = None,
    with_namespace: bool = False,
) -> None:
    """Print the columns that kubectl shows without `-o wide`; `like` gives the definitions of a watch's rows."""
    definitions = (like or table)["columnDefinitions"]
    shown = [index for index, column in enumerate(definitions) if not column.get("priority")]
    rows: list[list[str]] = []
    if header and table["rows"]:
        rows.append([definitions[index]["name"].upper() for index in shown])
    for row in table["rows"]:
        cells = ["" if row["cells"][index] is None else str(row["cells"][index]) for index in shown]
        cells[0] = prefix + cells[0]
        rows.append(cells)
    if with_namespace:
        spaces = [meta.namespace(row.get("object", {})) for row in table["rows"]]
        titles = ["NAMESPACE"] if header and table["rows"] else []
        rows = [[space, *row] for space, row in zip([*titles, *spaces], rows, strict=True)]
    if rows:
        print(columns(rows), flush=True)


async def patch(kind: str, name: str, namespace: str, text: str, *, output: Output | None) -> int:
    """Apply a JSON merge patch."""
    kind, name = _split(kind, name)
    if not name:
        raise KnError("patch needs a name: torpor patch ksvc/hello -p '{...}'")
    try:
        body = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise KnError(f"--patch is not JSON: {exc}") from exc
    if not isinstance(body, dict):
        raise KnError("--patch must be a JSON object")
    async with connect() as api:
        resource = await api.resource(kind)
        patched = await api.client.patch(resource, name, body, namespace if resource.namespaced else None)
    if output is None:
        print(f"{name_of(patched)} patched")
    else:
        show(patched, output)
    return 0


async def delete(kind: str, name: str, files: Sequence[str], namespace: str, *, wait: bool) -> int:
    """Delete one object, or all that the manifests name."""
    async with connect() as api:
        targets: list[tuple[Resource, str, str | None]] = []
        for _, obj in read(files) if files else ():
            resource = await api.resource_of(obj)
            space = (meta.namespace(obj) or namespace) if resource.namespaced else None
            targets.append((resource, meta.name(obj), space))
        if kind:
            kind, name = _split(kind, name)
            if not name:
                raise KnError("delete needs a name: torpor delete ksvc hello")
            resource = await api.resource(kind)
            targets.append((resource, name, namespace if resource.namespaced else None))
        if not targets:
            raise KnError("delete needs KIND NAME, or -f FILE")
        failed = False
        for resource, target, space in targets:
            try:
                await api.client.delete(resource, target, space)
            except NotFound as exc:
                fail(str(exc))
                failed = True
                continue
            print(f'{resource.kind.lower()}.{resource.group or "core"} "{target}" deleted', flush=True)
        if wait:
            for resource, target, space in targets:
                await _gone(api, resource, target, space)
    return int(failed)


async def _gone(api: Api, resource: Resource, name: str, namespace: str | None) -> None:
    try:
        async with asyncio.timeout(DELETE_TIMEOUT):
            while True:
                await api.client.get(resource, name, namespace)
                await asyncio.sleep(0.05)
    except NotFound:
        return
    except TimeoutError:
        sys.stderr.write(f'{resource.kind} "{name}" still exists after {DELETE_TIMEOUT:.0f} s: a finalizer holds it\n')
