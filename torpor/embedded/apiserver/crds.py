"""CustomResourceDefinitions: objects that change which kinds are served.

Knative's own definitions are installed at every start, so that a newer Torpor serves its newer schemas over older
state. Users may create more; a definition is served from the moment it is stored. Deleting one deletes its objects
first (the finalizer `customresourcecleanup`), then the kind is no longer served and its watchers are told to go.
"""

import logging
from typing import Any

from torpor.embedded.apiserver.errors import StatusError
from torpor.embedded.apiserver.lifecycle import Deletion
from torpor.embedded.apiserver.registry import Registry
from torpor.embedded.apiserver.resources import Resources, Write
from torpor.embedded.apiserver.store import Change, Collection, Key
from torpor.embedded.apiserver.strategy import CRD_CLEANUP
from torpor.embedded.apiserver.work import Work

__all__ = ["CRDS", "DefinitionKeeper"]

log = logging.getLogger(__name__)

Obj = dict[str, Any]

CRDS = "customresourcedefinitions.apiextensions.k8s.io"


class DefinitionKeeper:
    """Keeps the registry in step with the stored definitions."""

    def __init__(self, resources: Resources, registry: Registry) -> None:
        self._resources = resources
        self._registry = registry
        self._work: Work[str] = Work("definitions")
        self._write = Write(user="system:apiserver", manager="torpor-crds", validation="Ignore")

    def load(self) -> None:
        """Serve what was read from disk."""
        for record in self._resources.store.collection(CRDS).records():
            self._define(record.obj)
            if "deletionTimestamp" in record.obj["metadata"]:
                self._work.put(record.key.name)

    def __len__(self) -> int:
        """Definitions that wait to be looked at."""
        return len(self._work)

    async def install(self, definition: Obj) -> None:
        """Store a definition unless it is there already, just so."""
        kind = self._registry.stored_in(CRDS)
        name = definition["metadata"]["name"]
        present = self._resources.store.collection(CRDS).get(Key("", name))
        if kind is None:
            return
        if present is None:
            await self._resources.create(kind, "", definition, self._write)
        else:
            metadata = {**present.fresh()["metadata"], **definition["metadata"]}
            await self._resources.update(kind, "", name, {**definition, "metadata": metadata}, self._write)

    def observe(self, collection: Collection, change: Change) -> None:
        """Serve, serve differently, or stop serving; the store calls this with every change."""
        if collection.name == CRDS:
            name = change.record.key.name
            if change.type == "DELETED":
                self._registry.undefine(name)
                for watcher in list(self._resources.store.collection(name).watchers):
                    watcher.cut()
            else:
                self._define(change.record.obj)
                if "deletionTimestamp" in change.record.obj["metadata"]:
                    self._work.put(name)
        elif change.type == "DELETED" and not len(collection):
            self._work.put(collection.name)  # perhaps the last object its definition waits for

    def _define(self, definition: Obj) -> None:
        """One that was stored but cannot be served, by whatever way it came in, must not keep the server from
        starting."""
        try:
            self._registry.define(definition)
        except (AttributeError, KeyError, TypeError, ValueError):
            log.exception("definition cannot be served", extra={"definition": definition["metadata"]["name"]})

    async def run(self) -> None:
        """Clean up after deleted definitions, for ever."""
        await self._work.run(self._step)

    async def _step(self, name: str) -> None:
        """A collection is named as its definition is."""
        record = self._resources.store.collection(CRDS).get(Key("", name))
        definition, kind = self._registry.stored_in(CRDS), self._registry.stored_in(name)
        if record is None or definition is None or "deletionTimestamp" not in record.obj["metadata"]:
            return
        left = 0
        if kind is not None:
            for one in self._resources.store.collection(name).records():
                left += 1
                if "deletionTimestamp" in one.obj["metadata"]:
                    continue
                try:
                    options = Deletion(propagation="Background", uid=one.uid)
                    _, gone = await self._resources.delete(kind, one.key.namespace, one.key.name, options, self._write)
                except StatusError as error:
                    if error.code not in (404, 409):
                        raise
                    gone = error.code == 404
                left -= gone
        if not left:
            kept = [one for one in record.obj["metadata"].get("finalizers") or () if one != CRD_CLEANUP]
            await self._resources.edit_metadata(definition, record, {"finalizers": kept or None}, self._write)
