"""The embedded API server: the core behind an HTTP listener on loopback, with its own certificate authority.

Everything runs on the caller's event loop. A keeper that dies of a bug takes the server down (`failed` says so):
objects that nobody collects would be a slower and more obscure end.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from kncore.clock import Clock, SystemClock
from torpor.embedded.apiserver import app, store
from torpor.embedded.apiserver import tls as credentials
from torpor.embedded.apiserver.addresses import AddressPool, ClusterIps
from torpor.embedded.apiserver.admission import Admission, KnativeAdmission
from torpor.embedded.apiserver.app import App, Limits
from torpor.embedded.apiserver.auth import Gate, User
from torpor.embedded.apiserver.core import Core
from torpor.embedded.apiserver.listener import Listener
from torpor.embedded.apiserver.pods import PodAccess

__all__ = ["ApiServer", "Statistics"]

log = logging.getLogger(__name__)

ADMIN = User("kubernetes-admin")
"""Who the token in the kubeconfig belongs to."""


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """The server's parts, as they are now."""

    store: store.Statistics
    app: app.Statistics
    connections: int
    keepers_waiting: int
    """Objects, namespaces and definitions that background work has yet to look at."""


class ApiServer:
    """One API server over one state directory.

    Args:
        state_dir: where the objects are kept; made if missing. One server at a time may use it.
        listen: address and port; port 0 takes a free one.
        tls: HTTPS with a certificate authority of its own; without it, the token crosses the loopback in the clear.
        admission: the last word on writes; None: Knative's defaulting and validation.
        pods: access to running pods; None: logs and exec are answered 404. May be set until `start`.
        cluster_ips: addresses of Services; None: a range of its own.
        credentials_dir: where certificates and token are kept; None: `<state_dir>/credentials`. A new run of the
            platform removes it first, a restarted process finds its credentials again.
        hosts: further names the server may be called by.
        knative: install Knative's CustomResourceDefinitions.
        max_pages: bound on the size of the state in pages of 4 KiB; None: none.
        on_trouble: told when writes begin to fail (a full disk) and when they succeed again; see `Journal`.
        sock: a socket that listens on `listen` already, from whoever keeps it open while this process restarts.
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
        on_trouble: Callable[[str], None] = lambda why: None,
        sock: socket.socket | None = None,
    ) -> None:
        directory = Path(state_dir)
        self.pods = pods
        self._credentials_dir = Path(credentials_dir) if credentials_dir else directory / "credentials"
        self._listen = listen
        self._sock = sock
        self._tls = tls
        self._clock = clock or SystemClock()
        self._hosts = tuple(dict.fromkeys(("127.0.0.1", "localhost", "::1", listen[0], *hosts)))
        self._limits = limits or Limits()
        self.core = Core(
            directory,
            admission=admission or KnativeAdmission(),
            clock=self._clock,
            cluster_ips=cluster_ips or AddressPool("10.96.0.0/16"),
            knative=knative,
            max_pages=max_pages,
            on_trouble=on_trouble,
        )
        self._identity: credentials.Identity | None = None
        self._app: App | None = None
        self._listener: Listener | None = None
        self._keepers: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the state, bring it up to date and listen.

        Raises:
            ConfigError: the state cannot be used, or belongs to a running server.
            OSError: the address cannot be listened on.
        """
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        self._identity = await loop.run_in_executor(None, credentials.load_or_make, self._credentials_dir, self._hosts)
        await self.core.open(ca_pem=self.ca_pem)
        # the one task without a TaskGroup above it: its parent is this object, from `start` to `stop`
        self._keepers = asyncio.create_task(self._keep(), name="apiserver keepers")
        self._app = App(
            self.core.resources,
            self.core.registry,
            Gate({self.token: ADMIN}, self._hosts),
            clock=self._clock,
            pods=self.pods,
            limits=self._limits,
            ready=self._alive,
        )
        context = None
        if self._tls:
            context = await loop.run_in_executor(None, credentials.server_context, self._credentials_dir)
        self._listener = Listener(self._app.handle, context, body_bytes=self._limits.body_bytes)
        await self._listener.start(*self._listen, self._sock)
        self._app.address = self.url.partition("://")[2]

    async def stop(self) -> None:
        """Stop listening, finish the writes under way and release the state; may be called more than once."""
        if self._listener is not None:
            self.core.store.end_watches()
            await self._listener.stop()
            self._listener = None
        if self._keepers is not None:
            self._keepers.cancel()
            await asyncio.wait([self._keepers])
            self._keepers = None
        await self.core.close()

    async def _keep(self) -> None:
        try:
            await self.core.run()
        except Exception:
            log.exception("the API server has lost a part and is not ready any more")
            raise

    def _alive(self) -> bool:
        return self._keepers is not None and not self._keepers.done()

    async def failed(self) -> None:
        """Return never, or raise when a background part has died."""
        if self._keepers is not None:
            await asyncio.shield(self._keepers)

    @property
    def url(self) -> str:
        """Where the server listens, e.g. `https://127.0.0.1:6443`."""
        port = self._listener.port if self._listener is not None else self._listen[1]
        host = self._listen[0]
        return f"{'https' if self._tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"

    @property
    def token(self) -> str:
        """The bearer token of the one user; known once started."""
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
        """Sizes and counters of all parts of a running server."""
        if self._app is None or self._listener is None:
            raise RuntimeError("the server is not running")
        return Statistics(
            store=self.core.store.statistics(),
            app=self._app.statistics(),
            connections=self._listener.connections,
            keepers_waiting=self.core.waiting,
        )
