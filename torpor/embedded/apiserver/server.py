"""The embedded API server: its parts, put together, started in order and stopped in reverse.

    journal -> store -> registry (built-in kinds, stored definitions)
                     -> resources (verbs) <- admission
                     -> keepers: garbage collection, namespaces, definitions, expiry of Events
    app (HTTP) on a loopback listener, TLS by default

Everything runs on the caller's event loop. A keeper that dies of a bug takes the server down (`failed` says so):
objects that nobody collects would be a slower and more obscure end.
"""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kncore.api import crds
from kncore.clock import Clock, SystemClock
from torpor.embedded.apiserver import app, store
from torpor.embedded.apiserver import tls as credentials
from torpor.embedded.apiserver.addresses import AddressPool, ClusterIps
from torpor.embedded.apiserver.admission import Admission, KnativeAdmission
from torpor.embedded.apiserver.app import App, Limits
from torpor.embedded.apiserver.auth import Gate, User
from torpor.embedded.apiserver.builtin import Kind
from torpor.embedded.apiserver.crds import DefinitionKeeper
from torpor.embedded.apiserver.expiry import EventExpiry
from torpor.embedded.apiserver.gc import Collector
from torpor.embedded.apiserver.journal import Journal
from torpor.embedded.apiserver.listener import Listener
from torpor.embedded.apiserver.namespaces import NamespaceKeeper
from torpor.embedded.apiserver.pods import PodAccess
from torpor.embedded.apiserver.registry import Registry, collection_of
from torpor.embedded.apiserver.resources import Resources, Write
from torpor.embedded.apiserver.store import Change, Collection, Key, Store

__all__ = ["NAMESPACES", "ApiServer", "Statistics"]

log = logging.getLogger(__name__)

NAMESPACES = ("default", "kube-system", "kube-public", "knative-serving", "knative-eventing")
"""Namespaces that exist from the first start."""

ADMIN = User("kubernetes-admin")
"""Who the token in the kubeconfig belongs to."""


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """The server's parts, as they are now."""

    store: store.Statistics
    app: app.Statistics
    connections: int


class ApiServer:
    """One API server over one state directory.

    Args:
        state_dir: where the objects are kept; made if missing. One server at a time may use it.
        listen: address and port; port 0 takes a free one.
        tls: HTTPS with a certificate authority of its own; without it, the token crosses the loopback in the clear.
        admission: the last word on writes; None: Knative's defaulting and validation.
        pods: access to running pods; None: logs and exec are answered 404.
        cluster_ips: addresses of Services; None: a range of its own.
        credentials_dir: where certificates and token are kept; None: `<state_dir>/credentials`. A new run of the
            platform removes it first, a restarted process finds its credentials again.
        hosts: further names the server may be called by.
        knative: install Knative's CustomResourceDefinitions.
        max_pages: bound on the size of the state in pages of 4 KiB; None: none.
    """

    def __init__(
        self,
        state_dir: Path | str,
        *,
        listen: tuple[str, int] = ("127.0.0.1", 0),
        tls: bool = True,
        admission: Admission | None = None,
        pods: PodAccess | None = None,
        cluster_ips: ClusterIps | None = None,
        clock: Clock | None = None,
        credentials_dir: Path | str | None = None,
        hosts: Iterable[str] = (),
        limits: Limits | None = None,
        knative: bool = True,
        max_pages: int | None = None,
    ) -> None:
        self._state_dir = Path(state_dir)
        self._credentials_dir = Path(credentials_dir) if credentials_dir else self._state_dir / "credentials"
        self._listen = listen
        self._tls = tls
        self._pods = pods
        self._clock = clock or SystemClock()
        self._cluster_ips = cluster_ips or AddressPool("10.96.0.0/16")
        self._hosts = tuple(dict.fromkeys(("127.0.0.1", "localhost", "::1", listen[0], *hosts)))
        self._limits = limits or Limits()
        self._knative = knative
        self._journal = Journal(self._state_dir, max_pages=max_pages)
        self.store = Store(self._journal)
        self.registry = Registry()
        self.admission: Admission = admission or KnativeAdmission()
        self.resources = Resources(
            self.store, self.registry, self.admission, clock=self._clock, cluster_ips=self._cluster_ips
        )
        self._identity: credentials.Identity | None = None
        self._app: App | None = None
        self._listener: Listener | None = None
        self._keepers: asyncio.Task[None] | None = None
        self._ready = False

    # ------------------------------------------------------------------------------------------------ life cycle

    async def start(self) -> None:
        """Read the state, bring it up to date and listen.

        Raises:
            ConfigError: the state cannot be used, or belongs to a running server.
            OSError: the address cannot be listened on.
        """
        await self.store.open()
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        self._identity = await loop.run_in_executor(None, credentials.load_or_make, self._credentials_dir, self._hosts)
        collector = Collector(self.resources, self._kind_of)
        namespaces = NamespaceKeeper(self.resources, self._kind_of, ca_pem=self.ca_pem)
        definitions = DefinitionKeeper(self.resources, self.registry, self._kind_of)
        events = EventExpiry(self.resources, self._needed("events"), self._clock)
        definitions.load()
        collector.load()
        namespaces.load()
        events.load()
        self._load_services()
        self._load_admission()
        for part in (definitions, collector, namespaces, events):
            self.store.subscribe(part.observe)
        self.store.subscribe(self._observe)
        await self._seed(definitions)
        self._keepers = asyncio.create_task(
            self._keep(definitions, collector, namespaces, events), name="apiserver keepers"
        )
        gate = Gate({self.token: ADMIN}, self._hosts)
        self._app = App(
            self.resources,
            self.registry,
            gate,
            clock=self._clock,
            pods=self._pods,
            limits=self._limits,
            ready=lambda: self._ready,
        )
        context = None
        if self._tls:
            context = await loop.run_in_executor(None, credentials.server_context, self._credentials_dir)
        self._listener = Listener(self._app.handle, context, body_bytes=self._limits.body_bytes)
        await self._listener.start(*self._listen)
        self._app.address = self.url.partition("://")[2]
        self._ready = True

    async def stop(self) -> None:
        """Stop listening, finish the writes under way and release the state; may be called more than once."""
        self._ready = False
        if self._listener is not None:
            await self._listener.stop()
            self._listener = None
        if self._keepers is not None:
            self._keepers.cancel()
            await asyncio.wait([self._keepers])
            self._keepers = None
        await self.store.close()

    async def _keep(self, *keepers: Any) -> None:
        """The parent of all background work."""
        try:
            async with asyncio.TaskGroup() as group:
                for keeper in keepers:
                    group.create_task(keeper.run(), name=type(keeper).__name__)
        except Exception:
            log.exception("the API server has lost a part and stops answering")
            self._ready = False
            raise

    async def failed(self) -> None:
        """Return never, or raise when a background part has died."""
        if self._keepers is not None:
            await asyncio.shield(self._keepers)

    # -------------------------------------------------------------------------------------------------- contents

    async def _seed(self, definitions: DefinitionKeeper) -> None:
        """Namespaces of the first start, and Knative's definitions of this version, all in one commit."""
        write = Write(user="system:apiserver", manager="torpor-apiserver")
        kind = self._needed("namespaces")

        async def namespace(name: str) -> None:
            if self.store.collection("namespaces").get(Key("", name)) is None:
                obj = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
                await self.resources.create(kind, "", obj, write)

        async with asyncio.TaskGroup() as group:
            for name in NAMESPACES:
                group.create_task(namespace(name))
            if self._knative:
                for definition in crds.load():
                    group.create_task(definitions.install([definition]))

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
        learn = getattr(self.admission, "observe", None)
        if learn is None:
            return
        for name in ("namespaces", "configmaps"):
            collection = self.store.collection(name)
            for record in collection.records():
                learn(collection, Change("ADDED", record, None))
        self.store.subscribe(learn)

    def _observe(self, collection: Collection, change: Change) -> None:
        """Give the addresses of deleted Services back."""
        if collection.name == "services" and change.type == "DELETED":
            address = (change.record.obj.get("spec") or {}).get("clusterIP")
            if address and address != "None":
                self._cluster_ips.release(address)

    def _kind_of(self, collection: str) -> Kind | None:
        generation, kinds = self._kinds_cache
        if generation != self.registry.generation:
            kinds = {collection_of(kind): kind for kind in self.registry.stored()}
            self._kinds_cache = (self.registry.generation, kinds)
        return kinds.get(collection)

    _kinds_cache: tuple[int, dict[str, Kind]] = (-1, {})

    def _needed(self, collection: str) -> Kind:
        kind = self._kind_of(collection)
        if kind is None:
            raise LookupError(collection)
        return kind

    # --------------------------------------------------------------------------------------------------- access

    @property
    def url(self) -> str:
        """Where the server listens, e.g. `https://127.0.0.1:6443`."""
        port = self._listener.port if self._listener is not None else self._listen[1]
        host = self._listen[0]
        return f"{'https' if self._tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"

    @property
    def token(self) -> str:
        """The bearer token of the one user."""
        return self._identity.token if self._identity is not None else ""

    @property
    def ca_pem(self) -> str:
        """The certificate authority, PEM; empty without TLS."""
        return self._identity.ca_pem if self._identity is not None and self._tls else ""

    def write_kubeconfig(self, path: Path | str, *, name: str = "torpor") -> None:
        """Write a kubeconfig for the one user, readable by its owner only."""
        text = credentials.kubeconfig(self.url, self.token, ca_pem=self.ca_pem, name=name)
        credentials.write_private(Path(path), text)

    def statistics(self) -> Statistics:
        """Sizes and counters of all parts."""
        if self._app is None or self._listener is None:
            raise RuntimeError("the server is not running")
        return Statistics(
            store=self.store.statistics(),
            app=self._app.statistics(),
            connections=self._listener.connections,
        )
