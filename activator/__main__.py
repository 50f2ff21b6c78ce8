"""`python -m activator`: the ingress and activator process."""

import asyncio
import os
import socket
import sys
from collections.abc import Sequence
from typing import Final

from activator.app import Proxy
from activator.backends import Backends
from activator.config import Config
from activator.probe import probe
from activator.reporter import Reporter
from activator.revision import Addresses, Key, Revision, Settings
from activator.routes import Table
from activator.sync import Sync
from activator.tenants import Tenants
from activator.upstreams import Upstreams
from activator.wakes import Wakes
from kncore.clock import SystemClock
from kncore.errors import ConfigError
from kncore.kube.cluster import HttpClient
from kncore.kube.informers import Informers
from kncore.net.overload import Turns
from kncore.net.pool import Pool, PoolLimits, UpstreamAddress
from kncore.net.server import BACKLOG, Server
from kncore.net.statstream import StatStream
from kncore.net.ticker import Ticker
from kncore.runtime import run, serve, stop_on_signals
from kncore.telemetry import logs

NOT_CONNECTED: Final = "connection has not yet been established"
STOPPING: Final = "received SIGTERM from kubelet"


class Front:
    """The two listeners: bound at once, served when the routes are known, closed last.

    While a restarted activator reads its routes, who connects waits instead of being refused.

    Args:
        sockets: of the public and the internal listener.
    """

    name = "listeners"

    def __init__(
        self,
        config: Config,
        sockets: Sequence[socket.socket],
        proxy: Proxy,
        informers: Informers,
        ticker: Ticker,
    ) -> None:
        self._config = config
        self._informers = informers
        self._sockets = sockets
        self._servers = (Server(proxy.public, ticker=ticker), Server(proxy.internal, ticker=ticker))
        self.stopping = False

    async def run(self) -> None:
        """Serve until cancelled."""
        await self._informers.wait_synced()
        for server, sock in zip(self._servers, self._sockets, strict=True):
            await server.listen(sock=sock)
        await asyncio.get_running_loop().create_future()

    async def drain(self) -> None:
        """Fail readiness, serve on until load balancers noticed, finish what is in flight."""
        self.stopping = True
        await asyncio.sleep(self._config.drain_seconds)
        deadline = asyncio.get_running_loop().time() + self._config.grace_seconds
        async with asyncio.TaskGroup() as group:
            for server in self._servers:
                group.create_task(server.drain(deadline))


def _listener(address: tuple[str, int], inherited: int | None, option: str) -> socket.socket:
    """A listening socket: the one we were given, else a new one."""
    if inherited is not None:
        return socket.socket(fileno=inherited)
    host, port = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server(address, family=family, backlog=BACKLOG)
    except OSError as exc:
        why = os.strerror(exc.errno) if exc.errno else str(exc)
        raise ConfigError(f"{option} {host}:{port}: {why}; is another process listening there?") from exc


async def main(config: Config) -> None:
    """Put the activator together and serve.

    Raises:
        ConfigError: an address to listen on cannot be had.
    """
    sockets = (
        _listener(config.public, config.public_fd, "--public"),
        _listener(config.internal, config.internal_fd, "--internal"),
    )
    stop = stop_on_signals()
    client = HttpClient.from_kubeconfig(config.kubeconfig) if config.kubeconfig else HttpClient.in_cluster()
    informers = Informers(client)
    ticker = Ticker()
    wakes = Wakes()
    loop = asyncio.get_running_loop()
    tenants = Tenants(Turns(loop), weights=config.weights)
    backends = Backends(probe)
    stream = StatStream(config.autoscaler_url, lambda up: reporter.connected(up))
    reporter = Reporter(config.pod_name, stream.send_nowait, SystemClock())

    def unfit() -> str | None:
        if front.stopping:
            return STOPPING
        return None if stream.connected else NOT_CONNECTED

    limits = PoolLimits(idle=config.idle_connections, idle_per_upstream=config.idle_connections_per_pod)
    try:
        async with Pool(limits, ticker=ticker) as pool:
            upstreams: Upstreams[UpstreamAddress] = Upstreams(pool)
            addresses = Addresses(take=upstreams.take, drop=upstreams.drop)

            def make(key: Key, settings: Settings) -> Revision:
                return Revision(
                    key,
                    settings,
                    self_ip=config.pod_ip,
                    addresses=addresses,
                    backends=backends,
                    reporter=reporter,
                    wakes=wakes,
                    tenants=tenants,
                )

            classes = config.classes
            proxy = Proxy(
                Table(serves=lambda class_: classes is None or class_ in classes),
                wakes,
                healthy=unfit,
                cluster_domain=config.cluster_domain,
                any_domain=config.any_domain,
                elsewhere=upstreams.elsewhere if config.any_domain else None,
            )
            front = Front(config, sockets, proxy, informers, ticker)
            Sync(informers, proxy, backends, make=make)
            await serve([informers, backends, stream, reporter, front], stop, drain=front.drain)
    finally:
        ticker.close()
        await client.aclose()


if __name__ == "__main__":
    logs.configure("activator")
    try:
        settings = Config.read(sys.argv[1:])
        run(lambda: main(settings))
    except ConfigError as exc:
        sys.exit(f"activator: {exc}")
