"""A client of the API server in the same process: the verbs without HTTP between.

It is the third `kncore.kube.client.Client` and keeps the same promises: what it returns belongs to the caller, what it
is given is not kept, errors are `ApiError`. Everything a request over HTTP goes through above the socket (schema,
admission, field ownership, commit) it goes through here too; what is left out is TLS, HTTP and half of the JSON, about
three quarters of the time of a small write. Components behave the same on either client.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, TypeVar

import orjson

from kncore.api.resources import Resource
from kncore.kube.client import Obj, ObjectList, Patch, PatchBody, WatchEvent
from kncore.kube.errors import ApiError, from_status
from torpor.embedded.apiserver import views
from torpor.embedded.apiserver.builtin import Kind
from torpor.embedded.apiserver.decode import complete
from torpor.embedded.apiserver.errors import StatusError, bad_request, generic_not_found, unsupported_media_type
from torpor.embedded.apiserver.lifecycle import Deletion
from torpor.embedded.apiserver.patching import How, accepted, patched
from torpor.embedded.apiserver.resources import Resources, Selection, Write
from torpor.embedded.apiserver.scale import SCALE, to_scale
from torpor.embedded.apiserver.selectors import parse_fields, parse_labels

__all__ = ["LocalClient"]

T = TypeVar("T")


class LocalClient:
    """A `Client` of a core.

    Args:
        user: whose writes these are, as admission sees it.
        manager: field manager of writes that do not name one; one that begins with `torpor` is not tracked.
    """

    def __init__(self, resources: Resources, *, user: str = "kubernetes-admin", manager: str = "torpor") -> None:
        self._resources = resources
        self._user = user
        self._manager = manager

    async def get(self, resource: Resource, name: str, namespace: str | None = None, *, subresource: str = "") -> Obj:
        """See `Client.get`."""
        try:
            kind = self._kind(resource)
            record = self._resources.get(kind, _place(kind, namespace), name)
            if subresource == "scale":
                return to_scale(kind, views.obj_as(kind, record))
            return views.fresh_as(kind, record)
        except StatusError as fault:
            raise _api_error(fault) from fault

    async def list(
        self, resource: Resource, namespace: str | None = None, *, labels: str = "", fields: str = ""
    ) -> ObjectList:
        """See `Client.list`."""
        try:
            kind = self._kind(resource)
            page = self._resources.select(kind, _selection(kind, namespace, labels, fields))
        except StatusError as fault:
            raise _api_error(fault) from fault
        return ObjectList([views.fresh_as(kind, record) for record in page.records], str(page.version))

    async def create(self, resource: Resource, obj: Obj, namespace: str | None = None) -> Obj:
        """See `Client.create`."""
        kind = self._kind(resource)
        own = _copy(obj)
        place = _place(kind, namespace or own.get("metadata", {}).get("namespace"))

        async def create() -> Obj:
            complete(kind, own)
            return views.fresh_as(kind, await self._resources.create(kind, place, own, self._write()))

        return await _translated(create)

    async def update(self, resource: Resource, obj: Obj, *, subresource: str = "") -> Obj:
        """See `Client.update`."""
        kind = self._kind(resource)
        own = _copy(obj)
        metadata = own.get("metadata", {})
        place, name = _place(kind, metadata.get("namespace")), metadata.get("name", "")

        async def update() -> Obj:
            if subresource == "scale":
                return await self._resources.scale(kind, place, name, lambda _: own, self._write())
            complete(kind, own)
            record = await self._resources.update(kind, place, name, own, self._write(), subresource=subresource)
            return views.fresh_as(kind, record)

        return await _translated(update)

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: PatchBody,
        namespace: str | None = None,
        *,
        how: Patch = Patch.MERGE,
        subresource: str = "",
        field_manager: str = "torpor",
        force: bool = False,
    ) -> Obj:
        """See `Client.patch`."""
        kind = self._kind(resource)
        place = _place(kind, namespace)
        own = _copy(patch)
        write = Write(user=self._user, manager=field_manager, force=force)

        async def apply() -> Obj:
            kind_of_patch = How(how.value)
            if kind_of_patch not in accepted(kind):
                raise unsupported_media_type(accepted(kind))
            if subresource == "scale":
                merging = How.MERGE if kind_of_patch is How.APPLY else kind_of_patch
                return await self._resources.scale(
                    kind, place, name, lambda scale: patched(SCALE, merging, scale, own), write
                )
            if kind_of_patch is How.APPLY:
                if not isinstance(own, dict):
                    raise bad_request("the body of an apply must be an object")
                complete(kind, own)
            record, _ = await self._resources.patch(
                kind, place, name, kind_of_patch, own, write, subresource=subresource
            )
            return views.fresh_as(kind, record)

        return await _translated(apply)

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        propagation: str = "Background",
        uid: str | None = None,
        grace: int | None = None,
    ) -> None:
        """See `Client.delete`."""
        kind = self._kind(resource)
        options = Deletion(propagation=propagation, uid=uid, grace=grace)

        async def delete() -> None:
            await self._resources.delete(kind, _place(kind, namespace), name, options, self._write())

        await _translated(delete)

    async def watch(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        resource_version: str,
        labels: str = "",
        fields: str = "",
    ) -> AsyncGenerator[WatchEvent, None]:
        """See `Client.watch`."""
        try:
            kind = self._kind(resource)
            selection = _selection(kind, namespace, labels, fields)
            watcher, present = self._resources.watch(kind, selection, version=resource_version)
        except StatusError as fault:
            raise _api_error(fault) from fault
        try:
            for record in present or ():
                yield WatchEvent("ADDED", views.fresh_as(kind, record))
            while events := await watcher.take():
                for event in events:
                    yield WatchEvent(event.type, views.fresh_as(kind, event.record))
        except StatusError as fault:
            raise _api_error(fault) from fault
        finally:
            watcher.close()

    async def aclose(self) -> None:
        """Nothing is held."""

    def _kind(self, resource: Resource) -> Kind:
        kind = self._resources.registry.find(resource.group, resource.version, resource.plural)
        if kind is None:
            raise _api_error(generic_not_found())
        return kind

    def _write(self) -> Write:
        return Write(user=self._user, manager=self._manager)


def _copy(value: Any) -> Any:
    return orjson.loads(orjson.dumps(value))


def _place(kind: Kind, namespace: str | None) -> str:
    return (namespace or "") if kind.namespaced else ""


def _selection(kind: Kind, namespace: str | None, labels: str, fields: str) -> Selection:
    try:
        return Selection(
            namespace=namespace if kind.namespaced else None,
            labels=parse_labels(labels),
            fields=parse_fields(fields, kind.fields),
        )
    except ValueError as error:
        raise bad_request(str(error)) from error


async def _translated(action: Callable[[], Awaitable[T]]) -> T:
    try:
        return await action()
    except StatusError as fault:
        raise _api_error(fault) from fault


def _api_error(fault: StatusError) -> ApiError:
    return from_status(fault.status())
