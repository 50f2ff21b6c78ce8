"""The Kubernetes API as Torpor uses it: eight verbs over plain dict objects.

Everything above this file (informers, reconcilers, the autoscaler's scale patch) takes a `Client`, and has two to
choose from: `kncore.kube.cluster.HttpClient` speaks HTTP to a cluster or to the embedded API server,
`kncore.testing.kube.MemoryClient` keeps the objects in a dict. One contract test runs against both.

Objects are dicts exactly as they travel, so fields we do not know survive a round trip. What a call returns belongs
to the caller; what a call is given is not kept. All failures are `kncore.kube.errors.ApiError`.
"""

import enum
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, Self, TypeAlias

from kncore.api.meta import Obj
from kncore.api.resources import Resource

__all__ = ["Client", "EventType", "Key", "Obj", "ObjectList", "Patch", "PatchBody", "WatchEvent"]

PatchBody: TypeAlias = dict[str, Any] | list[dict[str, Any]]
"""A merge, strategic or apply patch (an object), or a JSON patch (a list of operations)."""

EventType: TypeAlias = Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]


class Key(NamedTuple):
    """What identifies an object among its kind, and what workqueues hold."""

    namespace: str
    """Empty for objects outside namespaces."""
    name: str

    @classmethod
    def of(cls, obj: Obj) -> Self:
        """The key of an object."""
        meta = obj["metadata"]
        return cls(meta.get("namespace", ""), meta["name"])

    @classmethod
    def parse(cls, text: str) -> Self:
        """The key written as `namespace/name`, or as a bare name."""
        namespace, _, name = text.rpartition("/")
        return cls(namespace, name)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Patch(enum.StrEnum):
    """How a patch is to be read: the media type it travels under."""

    MERGE = "application/merge-patch+json"
    JSON = "application/json-patch+json"
    STRATEGIC = "application/strategic-merge-patch+json"
    APPLY = "application/apply-patch+yaml"


@dataclass(frozen=True, slots=True)
class ObjectList:
    """A consistent snapshot of a collection."""

    items: list[Obj]
    """Each carries `apiVersion` and `kind`, even where the server left them out of list items."""
    resource_version: str
    """Where a watch continues without a gap."""


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One change of a watched collection; a `BOOKMARK`'s object carries nothing but its `metadata.resourceVersion`."""

    type: EventType
    object: Obj


class Client(Protocol):
    """An API server."""

    async def get(self, resource: Resource, name: str, namespace: str | None = None, *, subresource: str = "") -> Obj:
        """One object as it is now, or one of its subresources (`scale`).

        Raises:
            NotFound: no such object.
        """

    async def list(
        self, resource: Resource, namespace: str | None = None, *, labels: str = "", fields: str = ""
    ) -> ObjectList:
        """All objects of one namespace (None: of all) that match the selectors; the server's pages are put together."""

    async def create(self, resource: Resource, obj: Obj, namespace: str | None = None) -> Obj:
        """A new object, as stored; the namespace defaults to the object's own.

        Raises:
            AlreadyExists: the name is taken.
            Invalid, BadRequest, Forbidden: refused.
        """

    async def update(self, resource: Resource, obj: Obj, *, subresource: str = "") -> Obj:
        """The object, replaced as a whole (`status`: only its status), as stored.

        Raises:
            Conflict: the object carries a `resourceVersion` that is not the current one.
            NotFound: no such object.
        """

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
        """The object with the patch applied, as stored.

        Args:
            how: what kind of patch this is; `APPLY` also creates the object if it is missing.
            field_manager: who owns the fields that an `APPLY` sets.
            force: let an `APPLY` take fields from other managers.
        Raises:
            Conflict: the patch carries a stale `metadata.resourceVersion`, or another manager owns a field.
            NotFound: no such object.
        """

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
        """Ask for the object's deletion; it may live on while finalizers or a grace period hold it.

        Args:
            propagation: `Background`, `Foreground` or `Orphan`: what happens to objects it owns.
            uid: delete only this very object, not a later one of the same name.
            grace: seconds a pod gets to stop; None leaves it to the object.
        Raises:
            NotFound: no such object.
            Conflict: it exists with another uid.
        """

    def watch(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        resource_version: str,
        labels: str = "",
        fields: str = "",
    ) -> AsyncGenerator[WatchEvent, None]:
        """Changes after `resource_version`, in order, until the server ends the stream (which it may do at any time).

        Close the generator (`contextlib.aclosing`) to release the connection at once.

        Raises:
            Gone: the server no longer has that history; list again.
            ApiError: the stream broke; continue from the last resource version seen.
        """

    async def aclose(self) -> None:
        """Release all connections; calls under way fail."""
