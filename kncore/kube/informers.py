"""One shared informer per watched collection, so that ten controllers cost one watch and one copy.

Everybody asks `of` for what they need while the process is put together; `run` then follows all of them, and any that
are asked for later, in one task group.
"""

import asyncio
from collections.abc import Mapping
from typing import Protocol

from kncore.api.resources import Resource
from kncore.kube.client import Client
from kncore.kube.informer import Indexer, Informer, Statistics

__all__ = ["Informers", "Synced"]


class Informers:
    """The informers of one process, shared by resource, namespace and selectors."""

    name = "informers"

    def __init__(self, client: Client, *, resync: float = 36000.0) -> None:
        self._client = client
        self._resync = resync
        self._informers: dict[tuple[Resource, str | None, str, str], Informer] = {}
        self._group: asyncio.TaskGroup | None = None

    def of(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        labels: str = "",
        fields: str = "",
        indexers: Mapping[str, Indexer] | None = None,
    ) -> Informer:
        """The informer of this collection, made on first use; indexers of all callers add up."""
        key = (resource, namespace, labels, fields)
        informer = self._informers.get(key)
        if informer is None:
            informer = self._informers[key] = Informer(
                self._client, resource, namespace=namespace, labels=labels, fields=fields, resync=self._resync
            )
            if self._group is not None:
                self._group.create_task(informer.run(), name=informer.name)
        if indexers:
            informer.add_indexers(indexers)
        return informer

    async def run(self) -> None:
        """Follow every informer until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                for informer in self._informers.values():
                    group.create_task(informer.run(), name=informer.name)
                await asyncio.get_running_loop().create_future()
            finally:
                self._group = None

    async def wait_synced(self, deadline: float | None = None) -> None:
        """Wait until every informer asked for so far is complete.

        Raises:
            NotSynced: the deadline (loop time) passed.
        """
        for informer in list(self._informers.values()):
            await informer.wait_synced(deadline)

    def statistics(self) -> dict[str, Statistics]:
        """Counters per collection, named `resource[/namespace][ selectors]`."""
        return {
            " ".join(filter(None, (f"{resource}/{namespace}" if namespace else str(resource), labels, fields))): (
                informer.statistics()
            )
            for (resource, namespace, labels, fields), informer in self._informers.items()
        }


class Synced:
    """A part that begins once the informers asked for so far are complete: what is not there yet must not look as if
    it did not exist.

    Args:
        part: anything with a `name` and an async `run()`.
    """

    def __init__(self, part: "_Part", informers: Informers) -> None:
        self.part = part
        self.name = part.name
        self._informers = informers

    async def run(self) -> None:
        """Wait, then be the part."""
        await self._informers.wait_synced()
        await self.part.run()


class _Part(Protocol):
    @property
    def name(self) -> str: ...

    async def run(self) -> None: ...
