"""Garbage collection: objects whose owners are gone go too, in the way their deletion asked for.

An index over all objects says which uid exists and who depends on it; the store's changes keep it current, so nothing
is ever scanned or polled. What an owner reference means follows Kubernetes' collector:

- *background*: the owner is gone, each dependent that has no other living owner is deleted; one that has only loses
  the dangling reference.
- *foreground*: the owner waits, holding the finalizer `foregroundDeletion`; its dependents are deleted, and when none
  with `blockOwnerDeletion` is left the finalizer is taken off.
- *orphan*: the owner waits, holding the finalizer `orphan`, until its dependents have lost their reference to it.

A reference to an object of another namespace counts as dangling, as does one whose owner never existed: an object
created just after its owner was deleted is collected as well.
"""

from collections.abc import Callable
from typing import Any

from torpor.embedded.apiserver.builtin import Kind
from torpor.embedded.apiserver.errors import StatusError
from torpor.embedded.apiserver.lifecycle import FOREGROUND, ORPHAN, Deletion
from torpor.embedded.apiserver.resources import Resources, Write
from torpor.embedded.apiserver.store import Change, Collection, Key, Record
from torpor.embedded.apiserver.work import Work

__all__ = ["Collector"]

Obj = dict[str, Any]
Place = tuple[str, Key]
"""Collection and key of an object."""


class Collector:
    """The garbage collector of one API server.

    Args:
        kind_of: the stored kind of a collection; None when it is not served any more.
    """

    def __init__(self, resources: Resources, kind_of: Callable[[str], Kind | None]) -> None:
        self._resources = resources
        self._kind_of = kind_of
        self._objects: dict[str, Place] = {}
        self._dependents: dict[str, dict[Place, None]] = {}
        self._going: set[str] = set()  # owners that wait for their dependents
        self._work: Work[tuple[str, Place]] = Work("garbage collection")
        self._write = Write(user="system:serviceaccount:kube-system:generic-garbage-collector", manager="torpor-gc")

    def __len__(self) -> int:
        """Objects that wait to be looked at."""
        return len(self._work)

    def load(self) -> None:
        """Index what was read from disk and look at everything that may have been left halfway."""
        store = self._resources.store
        records = [(one.name, record) for one in store.collections() for record in one.records()]
        for name, record in records:
            self._objects[record.uid] = (name, record.key)
        for name, record in records:
            self._add(name, record)
            if record.data.find(b'"deletionTimestamp"') >= 0:
                self._look_at_owner(name, record)
            record.forget()

    def observe(self, collection: Collection, change: Change) -> None:
        """Keep the index current and note what to look at; the store calls this with every change."""
        record, old = change.record, change.old
        place = (collection.name, record.key)
        if change.type == "DELETED":
            self._objects.pop(record.uid, None)
            self._going.discard(record.uid)
            for owner in record.owners:
                self._forget(owner, place)
            for dependent in self._dependents.get(record.uid, ()):
                self._work.put(("dependent", dependent))
            return
        self._objects[record.uid] = place
        if old is not None and old.owners != record.owners:
            for owner in old.owners:
                if owner not in record.owners:
                    self._forget(owner, place)
        if old is None or old.owners != record.owners:
            self._add(collection.name, record)
        if "deletionTimestamp" in record.obj["metadata"]:
            self._look_at_owner(collection.name, record)

    async def run(self) -> None:
        """Collect, for ever."""
        await self._work.run(self._step)

    def _add(self, name: str, record: Record) -> None:
        place = (name, record.key)
        for owner in record.owners:
            self._dependents.setdefault(owner, {})[place] = None
            if not self._exists(owner, record.key.namespace) or owner in self._going:
                self._work.put(("dependent", place))

    def _forget(self, owner: str, place: Place) -> None:
        dependents = self._dependents.get(owner)
        if dependents is not None:
            dependents.pop(place, None)
            if not dependents:
                del self._dependents[owner]
        if owner in self._going and (waiting := self._objects.get(owner)):
            self._work.put(("owner", waiting))

    def _look_at_owner(self, name: str, record: Record) -> None:
        finalizers = record.obj["metadata"].get("finalizers") or ()
        if FOREGROUND in finalizers or ORPHAN in finalizers:
            if FOREGROUND in finalizers:
                self._going.add(record.uid)
            self._work.put(("owner", (name, record.key)))
        else:
            self._going.discard(record.uid)

    def _exists(self, uid: str, namespace: str) -> bool:
        place = self._objects.get(uid)
        return place is not None and place[1].namespace in ("", namespace)

    async def _step(self, item: tuple[str, Place]) -> None:
        what, (name, key) = item
        kind = self._kind_of(name)
        record = self._resources.store.collection(name).get(key)
        if kind is None or record is None:
            return
        try:
            if what == "dependent":
                await self._collect(kind, record)
            else:
                await self._release(kind, record)
        except StatusError as error:
            if error.code == 409:  # it has changed meanwhile: look again
                self._work.put(item)
            elif error.code != 404:
                raise

    async def _collect(self, kind: Kind, record: Record) -> None:
        """Delete a dependent without a living owner, or take its dangling references off."""
        references = record.obj["metadata"].get("ownerReferences") or []
        solid: list[Obj] = []
        waiting: list[Obj] = []
        for reference in references:
            if self._exists(reference.get("uid", ""), record.key.namespace):
                (waiting if reference["uid"] in self._going else solid).append(reference)
        if solid:
            if len(solid) < len(references):
                await self._keep_references(kind, record, solid)
            return
        finalizers = record.obj["metadata"].get("finalizers") or ()
        if waiting and record.uid in self._dependents:
            propagation = "Foreground"
        elif ORPHAN in finalizers:
            propagation = "Orphan"
        elif FOREGROUND in finalizers:
            propagation = "Foreground"
        else:
            propagation = "Background"
        if not references or ("deletionTimestamp" in record.obj["metadata"] and propagation == "Background"):
            return
        options = Deletion(propagation=propagation, uid=record.uid)
        await self._resources.delete(kind, record.key.namespace, record.key.name, options, self._write)

    async def _release(self, kind: Kind, record: Record) -> None:
        """Bring an owner closer to its end: its dependents first, then its finalizer."""
        metadata = record.obj["metadata"]
        finalizers = metadata.get("finalizers") or ()
        if "deletionTimestamp" not in metadata:
            return
        dependents = list(self._dependents.get(record.uid, ()))
        if ORPHAN in finalizers:
            for name, key in dependents:
                dependent_kind = self._kind_of(name)
                dependent = self._resources.store.collection(name).get(key)
                if dependent_kind is not None and dependent is not None:
                    kept = [
                        one
                        for one in dependent.obj["metadata"].get("ownerReferences") or ()
                        if one.get("uid") != record.uid
                    ]
                    await self._keep_references(dependent_kind, dependent, kept)
            await self._drop_finalizer(kind, record, ORPHAN)
        elif FOREGROUND in finalizers:
            blocked = False
            for name, key in dependents:
                dependent = self._resources.store.collection(name).get(key)
                if dependent is None:
                    continue
                self._work.put(("dependent", (name, key)))
                blocked = blocked or any(
                    one.get("uid") == record.uid and one.get("blockOwnerDeletion")
                    for one in dependent.obj["metadata"].get("ownerReferences") or ()
                )
            if not blocked:
                await self._drop_finalizer(kind, record, FOREGROUND)

    async def _keep_references(self, kind: Kind, record: Record, kept: list[Obj]) -> None:
        await self._resources.edit_metadata(kind, record, {"ownerReferences": kept or None}, self._write)

    async def _drop_finalizer(self, kind: Kind, record: Record, finalizer: str) -> None:
        kept = [one for one in record.obj["metadata"].get("finalizers") or () if one != finalizer]
        await self._resources.edit_metadata(kind, record, {"finalizers": kept or None}, self._write)
