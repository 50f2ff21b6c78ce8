"""The control process of embedded mode: API server, controllers, autoscaler, workload controllers and node agent on
one loop.

They are the same components as in a cluster and use the API server through the same `Client`. As they share its
process, the verbs are called without HTTP between: a small write costs a quarter, and the processor is what a starting
app waits for. The activator, kubectl and everybody else use HTTPS.

Reports to `torpor up` on standard output, one JSON object a line: `{"api": true}` when the API server listens,
`{"ready": true}` when everything runs, `{"say": "..."}` for the person in front of it, `{"failed": "..."}` when it
cannot start, and why.

Order: the API server, the objects a platform starts with, then everything else at once. On SIGTERM the reverse; pods
are not touched, they belong to the runtime process and a restarted control takes them over.
"""

import argparse
import asyncio
import contextlib
import ipaddress
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import orjson

import autoscaler.app
import controller.app
import torpor.embedded.workloads.app
from kncore.clock import SystemClock
from kncore.config.store import Store
from kncore.errors import KnError
from kncore.kube.events import Recorder
from kncore.kube.informers import Informers, Synced
from kncore.runtime import Part, run, serve, stop_on_signals
from kncore.telemetry import logs
from torpor.embedded import seed
from torpor.embedded.announce import Announcer
from torpor.embedded.apiserver.addresses import AddressPool
from torpor.embedded.apiserver.errors import too_many
from torpor.embedded.apiserver.local import LocalClient
from torpor.embedded.apiserver.pods import ExecSession, LogOptions
from torpor.embedded.apiserver.server import ApiServer
from torpor.embedded.authority import LOCAL, Authority
from torpor.embedded.images import Images
from torpor.embedded.issuer import DataPlaneCertificates, IngressCertificate
from torpor.embedded.node.access import NodeAccess
from torpor.embedded.node.host import Network, find_network
from torpor.embedded.node.kubelet import Kubelet
from torpor.embedded.node.runtime_client import RuntimeClient
from torpor.embedded.node.settings import Settings as NodeSettings
from torpor.embedded.node.settings import machine_room
from torpor.embedded.workloads.scheduler import NodeRoom
from torpor.environment import cluster_names
from torpor.state import StateDir

__all__ = ["Settings", "main"]

CLUSTER_DOMAIN = "cluster.local"
AUTOSCALER_PORT = 8080
DRAIN_QUIET = 3.0
"""Seconds without a request after which a leaving pod ends. A cluster's 30 wait for load balancers that hear late of
it; here the only ones, the activator and the service proxy, hear of it in milliseconds."""
RELIEF = 5.0  # seconds without a write that failed


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What `torpor up` decided for this run."""

    state: StateDir
    api: socket.socket
    """Listens already; `torpor up` keeps it open while this process restarts."""
    ingress_port: int
    https_port: int
    domain: str
    images: Sequence[Path]

    @classmethod
    def read(cls, arguments: Sequence[str]) -> "Settings":
        """Parse the command line."""
        parser = argparse.ArgumentParser(prog="python -m torpor.embedded.control")
        parser.add_argument("--api-fd", type=int, required=True, help="descriptor of the listening socket")
        parser.add_argument("--ingress-port", type=int, required=True)
        parser.add_argument("--https-port", type=int, required=True)
        parser.add_argument("--domain", default="localhost")
        parser.add_argument("--images", type=Path, action="append", default=[])
        given = parser.parse_args(arguments)
        return cls(
            state=StateDir.create(Path(os.environ["TORPOR_STATE_DIR"])),
            api=socket.socket(fileno=given.api_fd),
            ingress_port=given.ingress_port,
            https_port=given.https_port,
            domain=given.domain,
            images=given.images,
        )


def report(**facts: object) -> None:
    """Tell `torpor up` something; it may have gone, and then so will we."""
    sys.stdout.buffer.write(orjson.dumps(facts) + b"\n")
    sys.stdout.buffer.flush()


def tell(text: str) -> None:
    """Tell the person in front of `torpor up`."""
    report(say=text)


class Storage:
    """Tells the person in front when changes cannot be stored any more (a full disk), and when they can again."""

    def __init__(self, directory: Path, say: Callable[[str], None]) -> None:
        self._directory = directory
        self._say = say
        self._told = False
        self._relief: asyncio.TimerHandle | None = None

    def changed(self, trouble: str) -> None:
        """Writes begin to fail for this reason, or (empty) one has succeeded; see `Journal`."""
        if self._relief is not None:
            self._relief.cancel()
            self._relief = None
        if not trouble:
            # On a nearly full disk small writes fit and large ones do not: that is not worth a line each time.
            self._relief = asyncio.get_running_loop().call_later(RELIEF, self._relieved)
        elif not self._told:
            self._told = True
            self._say(f"changes cannot be stored in {self._directory} and are refused ({trouble}); what runs goes on")

    def _relieved(self) -> None:
        self._told = False
        self._say(f"changes can be stored in {self._directory} again")


class Pods:
    """The API server's door to pods: it is made before the node agent, which needs the API server."""

    node: NodeAccess | None = None

    def log(self, namespace: str, pod: str, container: str, options: LogOptions) -> AsyncIterator[bytes]:
        """See `PodAccess.log`."""
        return self._open().log(namespace, pod, container, options)

    async def exec(
        self, namespace: str, pod: str, container: str, command: tuple[str, ...], *, stdin: bool, tty: bool
    ) -> ExecSession:
        """See `PodAccess.exec`."""
        return await self._open().exec(namespace, pod, container, command, stdin=stdin, tty=tty)

    def _open(self) -> NodeAccess:
        if self.node is None:
            raise too_many("the node agent is starting")
        return self.node


class _ApiServerPart:
    """The running API server as a part: it ends the process if one of its own parts dies, and is stopped last."""

    name = "api server"

    def __init__(self, server: ApiServer) -> None:
        self._server = server

    async def run(self) -> None:
        try:
            await self._server.failed()
        finally:
            await self._server.stop()


async def main(settings: Settings) -> None:
    """Run the control plane until SIGTERM.

    Raises:
        KnError: a component cannot start; the message says which and why.
    """
    stop = stop_on_signals()
    state, network, clock = settings.state, find_network(), SystemClock()
    images = Images(state.path / "images", settings.images)
    pods = Pods()
    server = ApiServer(
        state.path / "apiserver",
        listen=settings.api.getsockname(),
        sock=settings.api,
        pods=pods,
        cluster_ips=AddressPool(str(network.cluster_ips)),
        on_trouble=Storage(state.path, tell).changed,
    )
    await server.start()
    server.write_kubeconfig(state.kubeconfig)
    report(api=True)
    client = LocalClient(server.core.resources)
    await seed.plant(client, domain=settings.domain, activator=network.activator, autoscaler=network.autoscaler)

    informers = Informers(client)
    config = Store()
    recorder = Recorder(client, "torpor")
    async with aiohttp.ClientSession() as session:
        scaling = autoscaler.app.build(
            client,
            informers,
            config,
            clock,
            listen=(network.autoscaler, AUTOSCALER_PORT),
            probe=autoscaler.app.public_service_probe(
                session, cluster_domain=CLUSTER_DOMAIN, proxy=f"http://{network.activator}:8012"
            ),
        )
        controllers = controller.app.build(
            client,
            informers,
            config,
            clock=clock,
            recorder=recorder,
            resolver=images,
            cluster_domain=CLUSTER_DOMAIN,
            external_ports={"http": settings.ingress_port, "https": settings.https_port},
            any_ingress_class=True,
        )
        runtime = RuntimeClient(state.path / "runtime.sock")
        node = node_settings(settings, network)
        kubelet = Kubelet(client, informers, runtime, images, node, record=recorder.event, clock=clock)
        pods.node = NodeAccess(kubelet, runtime)
        workloads = torpor.embedded.workloads.app.build(
            client,
            informers,
            node=NodeRoom(name=node.node_name, cpu_milli=node.cpu_milli, memory_bytes=node.memory_bytes),
            serves=lambda address: ipaddress.ip_address(address) in network.cluster_ips,
            clock=clock,
            record=recorder.event,
        )
        kubelet.announce = workloads.announce
        authority = Authority.load_or_make(state.path, "ca", {*LOCAL, settings.domain})
        ingress_certificate = IngressCertificate(informers, authority, state.ingress, settings.domain, tell)
        inside = DataPlaneCertificates(client, informers, config, state.path / "apiserver")
        parts: list[Part] = [
            _ApiServerPart(server),
            informers,
            recorder,
            images,
            *controllers,
            *scaling.parts,
            *(Synced(part, informers) for part in workloads),
            kubelet,
            ingress_certificate,
            Synced(inside, informers),
            Readiness(informers, scaling.server.ready),
        ]
        Announcer(informers, tell)
        await serve(parts, stop)


def node_settings(settings: Settings, network: Network) -> NodeSettings:
    """The node agent's settings: what pods find in their environment."""
    cpu_milli, memory_bytes = machine_room()
    return NodeSettings(
        network=network,
        directory=settings.state.path / "node",
        cpu_milli=cpu_milli,
        memory_bytes=memory_bytes,
        user_env=cluster_names(f"{network.activator}:8012"),
        queue_proxy_env={
            "TORPOR_STATS_URL": f"ws://{network.autoscaler}:{AUTOSCALER_PORT}",
            "TORPOR_DRAIN_QUIET": str(DRAIN_QUIET),
        },
        home=str(Path.home()),
    )


class Readiness:
    """Tells `torpor up` once the caches are complete and the stat server listens."""

    name = "readiness"

    def __init__(self, informers: Informers, stat_server: asyncio.Event) -> None:
        self._informers = informers
        self._stat_server = stat_server

    async def run(self) -> None:
        await self._informers.wait_synced()
        await self._stat_server.wait()
        report(ready=True)


if __name__ == "__main__":
    logs.configure("control")
    try:
        run(lambda: main(Settings.read(sys.argv[1:])))
    except KnError as exc:
        with contextlib.suppress(OSError):
            report(failed=str(exc))  # its log may be on the disk that is full
        sys.exit(f"control: {exc}")
