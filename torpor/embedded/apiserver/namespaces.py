"""The life of a namespace: what a new one starts with, and how a deleted one is emptied.

A new namespace gets the ServiceAccount `default` and the ConfigMap `kube-root-ca.crt`, as the controllers of a cluster
would give it. A deleted one is `Terminating`: it takes nothing new, everything in it is deleted, and with the last
object gone (pods take their grace, finalizers their time) the namespace goes. The store's changes drive this; the
count of what is left is read off the collections.
"""

from collections.abc import Callable
from typing import Any

from torpor.embedded.apiserver.builtin import Kind
from torpor.embedded.apiserver.errors import StatusError
from torpor.embedded.apiserver.lifecycle import Deletion
from torpor.embedded.apiserver.resources import Resources, Write
from torpor.embedded.apiserver.store import Change, Collection, Key
from torpor.embedded.apiserver.work import Work

__all__ = ["NamespaceKeeper"]

NAMESPACES = "namespaces"


class NamespaceKeeper:
    """Furnishes and empties namespaces.

    Args:
        kind_of: the stored kind of a collection; None when it is not served any more.
    """

    def __init__(self, resources: Resources, kind_of: Callable[[str], Kind | None]) -> None:
        self.ca_pem = ""
        """Content of every namespace's `kube-root-ca.crt`; empty for a server without TLS, which gets none."""
        self._resources = resources
        self._kind_of = kind_of
        self._terminating: set[str] = set()
        self._work: Work[str] = Work(NAMESPACES)
        self._write = Write(user="system:serviceaccount:kube-system:namespace-controller", manager="torpor-namespaces")

    def __len__(self) -> int:
        """Namespaces that wait to be looked at."""
        return len(self._work)

    def load(self) -> None:
        """Look at every namespace once: termination may have been interrupted, or the CA be another one."""
        for record in self._resources.store.collection(NAMESPACES).records():
            if "deletionTimestamp" in record.obj["metadata"]:
                self._terminating.add(record.key.name)
            self._work.put(record.key.name)

    def observe(self, collection: Collection, change: Change) -> None:
        """Note which namespaces to look at; the store calls this with every change."""
        key = change.record.key
        if collection.name == NAMESPACES:
            if change.type == "DELETED":
                self._terminating.discard(key.name)
            elif "deletionTimestamp" in change.record.obj["metadata"]:
                self._terminating.add(key.name)
                self._work.put(key.name)
            elif change.type == "ADDED":
                self._work.put(key.name)
        elif key.namespace in self._terminating and change.type != "MODIFIED":
            self._work.put(key.namespace)

    async def run(self) -> None:
        """Furnish and empty, for ever."""
        await self._work.run(self._step)

    async def _step(self, name: str) -> None:
        record = self._resources.store.collection(NAMESPACES).get(Key("", name))
        if record is None:
            return
        if name in self._terminating:
            await self._empty(name)
        else:
            await self._furnish(name)

    async def _empty(self, name: str) -> None:
        left = 0
        for collection in self._resources.store.collections():
            kind = self._kind_of(collection.name)
            if kind is None or not kind.namespaced:
                continue
            for record in collection.records(name):
                left += 1
                if "deletionTimestamp" in record.obj["metadata"]:
                    continue
                options = Deletion(propagation="Background", uid=record.uid)
                try:
                    _, gone = await self._resources.delete(kind, name, record.key.name, options, self._write)
                except StatusError as error:
                    if error.code not in (404, 409):
                        raise
                    gone = error.code == 404
                left -= gone
        if not left:
            await self._resources.finalize(name, {"spec": {}}, self._write)

    async def _furnish(self, name: str) -> None:
        wanted: list[tuple[str, dict[str, Any]]] = [("serviceaccounts", {"metadata": {"name": "default"}})]
        if self.ca_pem:
            annotations = {"kubernetes.io/description": "The certificate authority of the API server."}
            metadata = {"name": "kube-root-ca.crt", "annotations": annotations}
            wanted.append(("configmaps", {"metadata": metadata, "data": {"ca.crt": self.ca_pem}}))
        for resource, obj in wanted:
            kind = self._kind_of(resource)
            if kind is None:
                continue
            key = Key(name, obj["metadata"]["name"])
            present = self._resources.store.collection(resource).get(key)
            whole = {"apiVersion": kind.api_version, "kind": kind.kind, **obj}
            try:
                if present is None:
                    await self._resources.create(kind, name, whole, self._write)
                elif "data" in obj and present.obj.get("data") != obj["data"]:
                    await self._resources.update(kind, name, key.name, whole, self._write)
            except StatusError as error:
                if error.code not in (403, 404, 409):  # terminating, gone, or made by someone else meanwhile
                    raise
