"""A core of the API server over a scratch directory: no sockets, a clock that the test moves."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kncore.testing import FakeClock
from torpor.embedded.apiserver.addresses import AddressPool
from torpor.embedded.apiserver.admission import KnativeAdmission
from torpor.embedded.apiserver.builtin import Kind
from torpor.embedded.apiserver.core import Core
from torpor.embedded.apiserver.lifecycle import Deletion
from torpor.embedded.apiserver.patching import How
from torpor.embedded.apiserver.resources import Page, Resources, Selection, Write
from torpor.embedded.apiserver.selectors import parse_fields, parse_labels

Obj = dict[str, Any]

PLACES = {
    "pods": ("", "v1"),
    "services": ("", "v1"),
    "configmaps": ("", "v1"),
    "secrets": ("", "v1"),
    "events": ("", "v1"),
    "namespaces": ("", "v1"),
    "nodes": ("", "v1"),
    "serviceaccounts": ("", "v1"),
    "deployments": ("apps", "v1"),
    "customresourcedefinitions": ("apiextensions.k8s.io", "v1"),
    "ksvc": ("serving.knative.dev", "v1"),
    "revisions": ("serving.knative.dev", "v1"),
}
PLURALS = {"ksvc": "services"}


@dataclass
class Api:
    """Short forms of the verbs, by resource name and plain objects."""

    core: Core
    clock: FakeClock
    write: Write = field(default_factory=lambda: Write(user="ada", manager="test"))

    @property
    def resources(self) -> Resources:
        return self.core.resources

    def kind(self, resource: str) -> Kind:
        if "/" in resource:  # group/version/plural, for what a test defines
            return self.core.kind(*resource.split("/"))
        return self.core.kind(*PLACES[resource], PLURALS.get(resource, resource))

    async def create(self, resource: str, name: str = "", namespace: str = "default", **fields: Any) -> Obj:
        kind = self.kind(resource)
        metadata = {**({"name": name} if name else {}), **fields.pop("metadata", {})}
        obj = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, **fields}
        write = self.write
        record = await self.resources.create(kind, namespace if kind.namespaced else "", obj, write)
        return record.fresh()

    def get(self, resource: str, name: str, namespace: str = "default") -> Obj:
        kind = self.kind(resource)
        return self.resources.get(kind, namespace if kind.namespaced else "", name).fresh()

    def has(self, resource: str, name: str) -> bool:
        return any(record.key.name == name for record in self.list(resource, None).records)

    def list(self, resource: str, namespace: str | None = "default", **options: Any) -> Page:
        labels, fields = options.pop("labels", ""), options.pop("fields", "")
        kind = self.kind(resource)
        selection = Selection(
            namespace=namespace, labels=parse_labels(labels), fields=parse_fields(fields, kind.fields)
        )
        return self.resources.select(kind, selection, **options)

    async def update(self, resource: str, obj: Obj, subresource: str = "", namespace: str = "default") -> Obj:
        kind = self.kind(resource)
        place = namespace if kind.namespaced else ""
        name = obj["metadata"]["name"]
        record = await self.resources.update(kind, place, name, obj, self.write, subresource=subresource)
        return record.fresh()

    async def patch(
        self,
        resource: str,
        name: str,
        body: Any,
        how: How = How.MERGE,
        subresource: str = "",
        namespace: str = "default",
    ) -> Obj:
        kind = self.kind(resource)
        place = namespace if kind.namespaced else ""
        record, _ = await self.resources.patch(kind, place, name, how, body, self.write, subresource=subresource)
        return record.fresh()

    async def delete(self, resource: str, name: str, namespace: str = "default", **options: Any) -> bool:
        """Whether it is gone at once."""
        kind = self.kind(resource)
        place = namespace if kind.namespaced else ""
        _, gone = await self.resources.delete(kind, place, name, Deletion(**options), self.write)
        return gone

    async def quiet(self) -> None:
        """Return when the keepers have nothing left to do."""
        async with asyncio.timeout(5.0):
            idle = 0
            while idle < 20:  # a step awaits commits, during which nothing waits
                await asyncio.sleep(0)
                busy = self.core.waiting or self.core.store.statistics().writes_waiting
                idle = 0 if busy else idle + 1


async def make(directory: Path) -> tuple[Api, "asyncio.Task[None]"]:
    """A core with its keepers running."""
    clock = FakeClock()
    core = Core(directory, admission=KnativeAdmission(), clock=clock, cluster_ips=AddressPool("10.0.0.0/29"))
    await core.open()
    return Api(core, clock), asyncio.create_task(core.run())


@pytest.fixture
async def reopen(tmp_path: Path) -> AsyncIterator[Callable[[], Awaitable[Api]]]:
    """Closes the core of the test's directory, if one is open, and opens it again."""
    current: list[tuple[Api, asyncio.Task[None]]] = []

    async def close() -> None:
        while current:
            api, keepers = current.pop()
            keepers.cancel()
            await asyncio.wait([keepers])
            await api.core.close()

    async def again() -> Api:
        await close()
        current.append(await make(tmp_path))
        return current[0][0]

    yield again
    await close()


@pytest.fixture
async def api(reopen: Callable[[], Awaitable[Api]]) -> Api:
    """A fresh core, done with furnishing its first namespaces."""
    made = await reopen()
    await made.quiet()
    return made
