"""Everything of the API server but HTTP: state, verbs, and the parts that work behind them.

    journal -> store -> registry (built-in kinds, stored definitions)
                     -> resources (verbs) <- admission
                     -> keepers: garbage collection, namespaces, definitions, expiry of Events

A core serves its verbs from `open` on; its keepers work while `run` runs.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kncore.api import crds
from kncore.clock import Clock
from kncore.errors import ConfigError
from torpor.embedded.apiserver.addresses import ClusterIps
from torpor.embedded.apiserver.admission import Admission
from torpor.embedded.apiserver.builtin import Kind
from torpor.embedded.apiserver.crds import DefinitionKeeper
from torpor.embedded.apiserver.errors import StatusError
from torpor.embedded.apiserver.expiry import EventExpiry
from torpor.embedded.apiserver.gc import Collector
from torpor.embedded.apiserver.journal import Journal
from torpor.embedded.apiserver.namespaces import NamespaceKeeper
from torpor.embedded.apiserver.registry import Registry
from torpor.embedded.apiserver.resources import Resources, Write
from torpor.embedded.apiserver.store import Change, Collection, Key, Store

__all__ = ["NAMESPACES", "Core"]

log = logging.getLogger(__name__)

Obj = dict[str, Any]

NAMESPACES = ("default", "kube-system", "kube-public", "knative-serving", "knative-eventing")
"""Namespaces that exist from the first start."""


class Core:
    """The API of one state directory, without a listener.

    Args:
        knative: install Knative's CustomResourceDefinitions.
        max_pages: bound on the size of the state in pages of 4 KiB; None: none.
        on_trouble: see `Journal`.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        admission: Admission,
        clock: Clock,
        cluster_ips: ClusterIps,
        knative: bool = True,
        max_pages: int | None = None,
        on_trouble: Callable[[str], None] = lambda why: None,
    ) -> None:
        self.store = Store(Journal(state_dir, max_pages=max_pages, on_trouble=on_trouble))
        self.registry = Registry()
        self.resources = Resources(self.store, self.registry, admission, clock=clock, cluster_ips=cluster_ips)
        self._admission = admission
        self._cluster_ips = cluster_ips
        self._knative = knative
        self._collector = Collector(self.resources, self.registry.stored_in)
        self._namespaces = NamespaceKeeper(self.resources, self.registry.stored_in)
        self._definitions = DefinitionKeeper(self.resources, self.registry)
        self._events = EventExpiry(self.resources, self.kind("", "v1", "events"), clock)

    def kind(self, group: str, version: str, plural: str) -> Kind:
        """A served kind.

        Raises:
            LookupError: it is not served.
        """
        found = self.registry.find(group, version, plural)
        if found is None:
            raise LookupError(f"{plural}.{version}.{group} is not served")
        return found

    @property
    def waiting(self) -> int:
        """Things the keepers have yet to look at."""
        return len(self._collector) + len(self._namespaces) + len(self._definitions)

    async def open(self, *, ca_pem: str = "") -> None:
        """Read the state and bring it up to date with this version of the platform.

        Args:
            ca_pem: for every namespace's `kube-root-ca.crt`; empty: none.
        Raises:
            ConfigError: the state cannot be used or written, or belongs to a running server.
        """
        await self.store.open()
        self._namespaces.ca_pem = ca_pem
        self._load_services()
        self._load_admission()
        for keeper in (self._definitions, self._collector, self._namespaces, self._events):
            keeper.load()
            self.store.subscribe(keeper.observe)
        self.store.subscribe(self._observe)
        # files of the package: read in a thread once, so that no request reads them on the loop
        definitions = await asyncio.get_running_loop().run_in_executor(None, self._read_schemas)
        self.resources.platform_definitions = frozenset(one["metadata"]["name"] for one in definitions)
        await self._seed(definitions)

    async def run(self) -> None:
        """Let the keepers work, for ever; ends only with the exception of one that has died."""
        async with asyncio.TaskGroup() as group:
            for keeper in (self._definitions, self._collector, self._namespaces, self._events):
                group.create_task(keeper.run(), name=type(keeper).__name__)

    async def close(self) -> None:
        """Finish the writes under way and release the state; may be called more than once."""
        await self.store.close()

    def _read_schemas(self) -> list[Obj]:
        """Link the schemas of the built-in kinds; Knative's definitions."""
        for kind in self.registry.kinds(reviews=True):
            _ = kind.schema
        return crds.load() if self._knative else []

    async def _seed(self, definitions: list[Obj]) -> None:
        """Namespaces of the first start, and Knative's definitions of this version, all in one commit."""
        write = Write(user="system:apiserver", manager="torpor-apiserver")
        kind = self.kind("", "v1", "namespaces")
        try:
            async with asyncio.TaskGroup() as group:
                for name in NAMESPACES:
                    if self.resources.collection(kind).get(Key("", name)) is None:
                        obj = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
                        group.create_task(self.resources.create(kind, "", obj, write))
                for definition in definitions:
                    group.create_task(self._definitions.install(definition))
        except* StatusError as faults:
            raise ConfigError(f"the API server cannot start: {faults.exceptions[0]}") from faults

    def _load_services(self) -> None:
        """Claim the addresses that stored Services have."""
        for record in self.store.collection("services").records():
            address = (record.obj.get("spec") or {}).get("clusterIP")
            if address and address != "None":
                try:
                    self._cluster_ips.allocate(address)
                except ValueError as error:
                    log.warning("service keeps an address it should not have", extra={"error": str(error)})

    def _load_admission(self) -> None:
        """An admission that learns from changes gets to see what it may need of the past."""
        learn = getattr(self._admission, "observe", None)
        if learn is not None:
            for collection in (self.store.collection(name) for name in ("namespaces", "configmaps")):
                for record in collection.records():
                    learn(collection, Change("ADDED", record, None))
            self.store.subscribe(learn)

    def _observe(self, collection: Collection, change: Change) -> None:
        """Give the addresses of deleted Services back."""
        if collection.name == "services" and change.type == "DELETED":
            address = (change.record.obj.get("spec") or {}).get("clusterIP")
            if address and address != "None":
                self._cluster_ips.release(address)
