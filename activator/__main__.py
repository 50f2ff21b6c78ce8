"""`python -m activator`: the ingress and activator process."""

import asyncio
import logging
import os
import resource
import socket
import ssl
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from activator.app import Proxy
from activator.backends import Backends, Mesh
from activator.certificates import Certificates, Secrets, hush_odd_names
from activator.config import Config
from activator.observability import Observing
from activator.probe import probe
from activator.reporter import Reporter
from activator.revision import Addresses, Key, Revision, Settings
from activator.routes import Table
from activator.sync import Sync
from activator.tenants import Tenants
from activator.upstreams import Upstreams
from activator.wakes import Wakes
from kncore.api.resources import CONFIG_MAPS, INGRESSES
from kncore.clock import SystemClock
from kncore.errors import ConfigError
from kncore.kube.client import Client
from kncore.kube.cluster import HttpClient
from kncore.kube.errors import ApiError, NotFound
from kncore.kube.informers import Informers
from kncore.net.exchange import Handler
from kncore.net.overload import Turns
from kncore.net.pool import Pool, PoolLimits
from kncore.net.server import BACKLOG, Server
from kncore.net.statstream import StatStream
from kncore.net.ticker import Ticker
from kncore.net.tls import ALPN, CertificateFiles
from kncore.runtime import Part, run, serve, stop_on_signals
from kncore.telemetry import logs

if TYPE_CHECKING:
    from activator.systemtls import SystemTls
    from activator.telemetry import Telemetry
    from kncore.config.observability import Observability
    from kncore.net.pool import Address

NOT_CONNECTED: Final = "connection has not yet been established"
PING: Final = 20.0
"""Seconds after which a silent queue-proxy that owes answers in HTTP/2 is asked whether its node is still there."""
STOPPING: Final = "received SIGTERM from kubelet"
RETRY: Final = 0.5
"""Seconds between questions to an API server that is away."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listener:
    """A socket, what answers on it, and what it proves itself with if that is TLS."""

    name: str
    sock: socket.socket
    handler: Handler
    tls: Callable[[], ssl.SSLContext] | None = None


class Front:
    """The listeners: bound at once, served when the routes are known, closed last.

    While a restarted activator reads its routes, who connects waits instead of being refused.
    """

    name = "listeners"

    def __init__(self, config: Config, listeners: Sequence[Listener], informers: Informers, ticker: Ticker) -> None:
        self._config = config
        self._informers = informers
        self._listeners = listeners
        self._servers = [Server(listener.handler, ticker=ticker) for listener in listeners]
        self.stopping = False

    @property
    def servers(self) -> dict[str, Server]:
        """By name."""
        return {listener.name: server for listener, server in zip(self._listeners, self._servers, strict=True)}

    async def run(self) -> None:
        """Serve until cancelled."""
        await self._informers.wait_synced()
        for server, listener in zip(self._servers, self._listeners, strict=True):
            await server.listen(sock=listener.sock, tls=listener.tls)
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


def _certificate_files(config: Config) -> CertificateFiles | None:
    """What `--certificate` names; a certificate that is not there yet may still come."""
    if config.certificate is None:
        return None
    files = CertificateFiles(config.certificate, config.tls, alpn=ALPN)
    files.refresh_if_touched()
    return files


def _touched(files: CertificateFiles) -> ssl.SSLContext | None:
    """The certificate as it is in the files now."""
    files.refresh_if_touched()
    return files.context


async def _network(client: Client, config: Config) -> dict[str, str]:
    """What config-network says now; what we need of it is read once, as in the original."""
    while True:
        try:
            found = await client.get(CONFIG_MAPS, "config-network", config.system_namespace)
        except NotFound:
            return {}
        except ApiError as exc:  # without the API server there are no routes either
            log.warning("config-network cannot be read", extra={"error": exc.message})
            await asyncio.sleep(RETRY)
        else:
            return found.get("data") or {}


async def _system_tls(data: dict[str, str], client: Client, informers: Informers, config: Config) -> "SystemTls | None":
    """What our own parts speak TLS with, None if config-network does not want that.

    Raises:
        ConfigError: it wants TLS, and there is no certificate.
    """
    if data.keys().isdisjoint(("system-internal-tls", "internal-encryption")):
        return None
    from kncore.config.network import Network  # few need these, and everybody starts

    if not Network.parse(data).system_internal_tls:
        return None
    from activator.systemtls import SystemTls

    made = SystemTls(config.system_namespace, config.internal_tls, alpn=ALPN)
    await made.start(client, informers)
    return made


def allow_many_files() -> None:
    """Have as many descriptors as we may: each request takes two, and shells start programs with 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # macOS says "unlimited" and means a number
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def main(config: Config) -> None:
    """Put the activator together and serve.

    Raises:
        ConfigError: an address to listen on cannot be had, or TLS is wanted inside and there is no certificate for it.
    """
    public = _listener(config.public, config.public_fd, "--public")
    internal = _listener(config.internal, config.internal_fd, "--internal")
    https = _listener(config.https, config.https_fd, "--https") if config.https else None
    files = _certificate_files(config)
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

    limits = PoolLimits(
        idle=config.idle_connections,
        idle_per_upstream=config.idle_connections_per_pod,
        ping=PING,
    )
    try:
        network = await _network(client, config)
        backends.mesh = Mesh.read(network)
        inside = await _system_tls(network, client, informers, config)
        async with Pool(limits, ticker=ticker) as pool:
            upstreams: Upstreams[Address] = Upstreams(pool)
            addresses = Addresses(take=upstreams.take, drop=upstreams.drop)
            secured: dict[str, Addresses] = {}

            def addresses_of(namespace: str) -> Addresses:
                if inside is None:
                    return addresses
                if namespace not in secured:
                    own: Upstreams[Address] = Upstreams(inside.pods(namespace, pool))
                    secured[namespace] = Addresses(take=own.take, drop=own.drop)
                return secured[namespace]

            def make(key: Key, settings: Settings) -> Revision:
                return Revision(
                    key,
                    settings,
                    self_ip=config.pod_ip,
                    addresses=addresses_of(key[0]),
                    backends=backends,
                    reporter=reporter,
                    wakes=wakes,
                    tenants=tenants,
                    ticker=ticker,
                )

            classes = config.classes
            table = Table(serves=lambda class_: classes is None or class_ in classes)
            proxy = Proxy(
                table,
                wakes,
                healthy=unfit,
                cluster_domain=config.cluster_domain,
                any_domain=config.any_domain,
                elsewhere=upstreams.elsewhere if config.any_domain else None,
                https_port=config.https_port,
            )
            listeners = [Listener("public", public, proxy.public), Listener("internal", internal, proxy.internal)]
            parts: list[Part] = [informers, backends, stream, reporter]
            if https is not None or inside is not None:
                certificates = Certificates(
                    proxy.host,
                    config.tls,
                    alpn=ALPN,
                    default=partial(_touched, files) if files is not None else lambda: None,
                    inside=lambda: None if inside is None else inside.context,
                    serves=table.serves,
                )
                hush_odd_names()
                secrets = Secrets(client, certificates.secret_changed)
                certificates.wanted = secrets.want
                informers.of(INGRESSES).add_handler(certificates.ingress_changed)
                parts.append(secrets)
                if https is not None:
                    dispatcher = certificates.dispatcher()
                    listeners.append(Listener("https", https, proxy.https, lambda: dispatcher))
                if inside is not None:
                    sock = _listener(config.internal_https, None, "--internal-https")
                    trusted = certificates.dispatcher(config.internal_tls, inside=True)
                    listeners.append(Listener("internal-https", sock, proxy.internal, lambda: trusted))
            front = Front(config, listeners, informers, ticker)

            def look(_: float) -> bool:
                tenants.look(front.servers.values())
                return False

            ticker.add(look)
            Sync(informers, proxy, backends, make=make)

            def make_telemetry(observability: "Callable[[], Observability]") -> "Telemetry":
                from activator.telemetry import Telemetry  # most run without

                return Telemetry(
                    observability,
                    proxy=proxy,
                    wakes=wakes,
                    reporter=reporter,
                    stream=stream,
                    backends=backends,
                    tenants=tenants,
                    pool=pool,
                    servers=front.servers,
                    ticker=ticker,
                    pod=config.pod_name,
                    host=config.internal[0],
                )

            observing = Observing(informers, config.system_namespace, make_telemetry)

            async def leave() -> None:
                await front.drain()
                await observing.flush()

            await serve([*parts, observing, front], stop, drain=leave)
    finally:
        ticker.close()
        await client.aclose()


if __name__ == "__main__":
    logs.configure("activator")
    allow_many_files()
    try:
        settings = Config.read(sys.argv[1:])
        run(lambda: main(settings))
    except ConfigError as exc:
        sys.exit(f"activator: {exc}")
