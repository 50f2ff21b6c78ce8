"""Which kinds are served: the built-in ones, and those that CustomResourceDefinitions add and take away while we run.

Everything that answers from it (discovery, OpenAPI) keeps what it computed together with `generation` and computes
again when that moved.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from torpor.embedded.apiserver.builtin import KINDS, REVIEWS, Kind, from_crd

__all__ = ["Registry", "collection_of"]

_SHARED = {"events.events.k8s.io": "events"}
"""Resources that are another view of the same objects."""


def collection_of(kind: Kind) -> str:
    """Name of the store's collection that holds a kind's objects, whatever version they are asked in."""
    return _SHARED.get(kind.resource, kind.resource)


class Registry:
    """The served kinds by their place in the URL space."""

    def __init__(self, builtin: Iterable[Kind] = KINDS, reviews: Iterable[Kind] = REVIEWS) -> None:
        self.generation = 0
        """Moves whenever the set of kinds changes."""
        self._builtin = tuple(builtin)
        self._reviews = tuple(reviews)
        self._custom: dict[str, list[Kind]] = {}
        self._by_path: dict[tuple[str, str, str], Kind] = {}
        self._by_collection: dict[str, Kind] = {}
        self._index()

    def kinds(self, *, reviews: bool = False) -> list[Kind]:
        """All served kinds: built-in first, then custom ones in the order of their definitions' names."""
        custom = [kind for name in sorted(self._custom) for kind in self._custom[name]]
        return [*self._builtin, *(self._reviews if reviews else ()), *custom]

    def find(self, group: str, version: str, plural: str) -> Kind | None:
        """The kind served at `/apis/<group>/<version>/<plural>` (`/api/v1/<plural>` for the core group)."""
        return self._by_path.get((group, version, plural))

    def of(self, api_version: str, kind: str) -> Kind | None:
        """The kind of objects with this `apiVersion` and `kind`, served in exactly this version or (for owners, whose
        version may have moved on) in another one of the group."""
        group = api_version.rpartition("/")[0]
        found = None
        for one in self.kinds():
            if one.group == group and one.kind == kind:
                if one.api_version == api_version:
                    return one
                found = found or one
        return found

    def versions(self, group: str) -> list[str]:
        """Served versions of a group, preferred one first; empty when there is no such group."""
        return list(dict.fromkeys(kind.version for kind in self.kinds(reviews=True) if kind.group == group))

    def stored(self) -> list[Kind]:
        """One kind per collection: the version that objects are stored in."""
        return [kind for kind in self.kinds() if kind.storage and kind.resource not in _SHARED]

    def stored_in(self, collection: str) -> Kind | None:
        """The version in which a collection's objects are stored; None when it is not served (any more)."""
        return self._by_collection.get(collection)

    def define(self, crd: Mapping[str, Any]) -> None:
        """Serve what a CustomResourceDefinition defines, in place of what it defined before."""
        self._custom[crd["metadata"]["name"]] = from_crd(crd)
        self._index()

    def undefine(self, name: str) -> None:
        """Stop serving what the CustomResourceDefinition of this name defined."""
        if self._custom.pop(name, None) is not None:
            self._index()

    def _index(self) -> None:
        self._by_path = {(kind.group, kind.version, kind.plural): kind for kind in self.kinds(reviews=True)}
        self._by_collection = {collection_of(kind): kind for kind in self.stored()}
        self.generation += 1
