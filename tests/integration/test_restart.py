"""Activators that are stopped and started under load: no request of 64 connections fails.

The listening sockets belong to the test, as they do to `torpor up`: connections wait in them while no activator runs.
"""

import asyncio
import collections
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from kncore.api.resources import ENDPOINT_SLICES, INGRESSES, REVISIONS
from kncore.kube.cluster import HttpClient
from kncore.net.pool import Pool
from kncore.net.server import Server
from kncore.net.ticker import Ticker
from kncore.testing.rawclient import RawClient
from kncore.testing.upstream import ScriptedUpstream
from torpor.embedded.apiserver.server import ApiServer

ROOT = Path(__file__).parents[2]
HOST = b"hello.default.example.com"
GET = b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % HOST
POST = b"POST / HTTP/1.1\r\nHost: %b\r\nContent-Length: 5\r\n\r\nhello" % HOST
CONNECTIONS = 64
POD = f"127.78.{os.getpid() >> 8 & 255}.{os.getpid() % 250 + 2}"
"""An address of its own for each process that runs tests: pods all listen on one port."""


async def until(condition: Callable[[], object], within: float = 20.0) -> None:
    """Wait for something to become true."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110  what is waited for has no event of its own
            await asyncio.sleep(0.01)


class Clients:
    """Keep-alive connections that ask without a pause, and connect again when told to close."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.answers: collections.Counter[int] = collections.Counter()
        self.told = 0
        """Connections that were closed in order."""
        self.stop = False

    @asynccontextmanager
    async def running(self, count: int) -> AsyncIterator["Clients"]:
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(self._run(GET if number % 2 else POST))
            yield self
            self.stop = True

    async def _run(self, raw: bytes) -> None:
        while not self.stop:
            async with await RawClient.connect(self.port) as client:
                while not self.stop:
                    answer = await client.ask(raw)
                    self.answers[answer.status] += 1
                    if answer.headers.get("connection") == "close":
                        self.told += 1
                        break


# one listener ---------------------------------------------------------------------------------------------------------


def test_draining_under_load_loses_no_request() -> None:
    async def run() -> None:
        ticker = Ticker()
        async with ScriptedUpstream() as app, Pool(ticker=ticker) as pool:
            upstream = pool.upstream("127.0.0.1", app.port)
            with socket.create_server(("127.0.0.1", 0), backlog=256) as sock:
                port = sock.getsockname()[1]
                servers = [Server(lambda exchange: exchange.forward(upstream), ticker=ticker) for _ in range(4)]
                await servers[0].listen(sock=sock.dup())
                async with Clients(port).running(CONNECTIONS) as clients:
                    for old, new in itertools.pairwise(servers):
                        before = clients.answers[200]
                        await until(lambda before=before: clients.answers[200] > before + 500)
                        drained = asyncio.get_running_loop().create_task(
                            old.drain(asyncio.get_running_loop().time() + 10)
                        )
                        await asyncio.sleep(0.05)
                        await new.listen(sock=sock.dup())
                        assert await drained, "nothing was cut"
                        assert old.statistics().connections == 0
                assert set(clients.answers) == {200}
                assert clients.told == 3 * CONNECTIONS
                await servers[-1].drain(asyncio.get_running_loop().time() + 5)
        ticker.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


# the process ----------------------------------------------------------------------------------------------------------


def objects(address: str) -> list[tuple[Any, dict[str, Any]]]:
    """A revision, its pod, and the route to it."""
    split = {"serviceName": "hello-1", "serviceNamespace": "default", "servicePort": 80, "percent": 100}
    rule = {"hosts": [HOST.decode()], "visibility": "ExternalIP", "http": {"paths": [{"splits": [split]}]}}
    labels = {
        "serving.knative.dev/revision": "hello-1",
        "networking.internal.knative.dev/serviceType": "Private",
        "kubernetes.io/service-name": "hello-1-private",
    }
    annotations = {"networking.knative.dev/ingress.class": "torpor.ingress.networking.knative.dev"}
    return [
        (
            REVISIONS,
            {
                "apiVersion": REVISIONS.api_version,
                "kind": REVISIONS.kind,
                "metadata": {"name": "hello-1", "namespace": "default"},
                "spec": {"containers": [{"image": "dev.local/hello"}], "timeoutSeconds": 10},
            },
        ),
        (
            ENDPOINT_SLICES,
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {"name": "hello-1", "namespace": "default", "labels": labels},
                "addressType": "IPv4",
                "ports": [{"name": "http", "port": 8012}],
                "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
            },
        ),
        (
            INGRESSES,
            {
                "apiVersion": INGRESSES.api_version,
                "kind": INGRESSES.kind,
                "metadata": {"name": "hello", "namespace": "default", "annotations": annotations},
                "spec": {"rules": [rule]},
            },
        ),
    ]


async def serve_pod(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A queue-proxy with an app behind it."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if b"K-Network-Probe: queue" in head:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nqueue")
                break
            if head.startswith(b"POST"):
                await reader.readexactly(5)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


class Activators:
    """One activator after the other on the same sockets."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.public = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.internal = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.public.getsockname()[1]
        self.log = directory / "activator.log"

    async def start(self) -> asyncio.subprocess.Process:
        fds = (self.public.fileno(), self.internal.fileno())
        with self.log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *("sh", "-c", 'ulimit -S -n 100; exec "$@"', "sh"),  # fewer descriptors than its connections need
                *(sys.executable, "-P", "-m", "activator", "--drain", "0", "--grace", "10"),
                *("--public-fd", str(fds[0]), "--internal-fd", str(fds[1])),
                env={
                    "PATH": os.environ["PATH"],
                    "PYTHONPATH": str(ROOT),
                    "KUBECONFIG": str(self.directory / "kubeconfig"),
                    "POD_NAME": "activator-1",
                    "POD_IP": "127.0.0.1",
                    "SYSTEM_NAMESPACE": "knative-serving",
                    "AUTOSCALER_URL": "ws://127.0.0.1:1",
                },
                pass_fds=fds,
                stdout=log,
                stderr=log,
            )

    async def restart(self, running: asyncio.subprocess.Process) -> asyncio.subprocess.Process:
        """As a supervisor does: SIGTERM, wait, start the next."""
        running.send_signal(signal.SIGTERM)
        assert await running.wait() == 0, self.log.read_text()
        return await self.start()

    def close(self) -> None:
        self.public.close()
        self.internal.close()


@pytest.fixture
async def activators(tmp_path: Path) -> AsyncIterator[Activators]:
    """Activators whose one service has one pod."""
    server = ApiServer(tmp_path / "state")
    await server.start()
    server.write_kubeconfig(tmp_path / "kubeconfig")
    client = HttpClient.from_kubeconfig(str(tmp_path / "kubeconfig"))
    made = Activators(tmp_path)
    try:
        async with await asyncio.start_server(serve_pod, POD, 8012):
            for resource, obj in objects(POD):
                await client.create(resource, obj)
            yield made
    finally:
        made.close()
        await client.aclose()
        await server.stop()


@asynccontextmanager
async def running(activators: Activators, restarts: int, progress: Callable[[int], Awaitable[None]]) -> AsyncIterator:
    """Restart the activator several times, each time once there was some `progress`; yields when that is over."""
    process = await activators.start()
    try:
        for number in range(restarts):
            await progress(number)
            process = await activators.restart(process)
        await progress(restarts)
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def test_restarted_activator_loses_no_request(activators: Activators) -> None:
    async with Clients(activators.port).running(CONNECTIONS) as clients:

        async def progress(_: int) -> None:
            before = clients.answers[200]
            await until(lambda: clients.answers[200] > before + 500)

        async with running(activators, 2, progress):
            assert set(clients.answers) == {200}, activators.log.read_text()
            assert clients.told == 2 * CONNECTIONS
            clients.stop = True


@pytest.mark.skipif(shutil.which("wrk") is None, reason="needs wrk")
async def test_restarted_activator_under_wrk(activators: Activators) -> None:
    wrk = await asyncio.create_subprocess_exec(
        *("wrk", "-t1", f"-c{CONNECTIONS}", "-d6s", "--timeout", "10s", "-H", f"Host: {HOST.decode()}"),
        f"http://127.0.0.1:{activators.port}/",
        stdout=subprocess.PIPE,
    )

    async def progress(number: int) -> None:
        if number < 2:
            async with await RawClient.connect(activators.port) as client:
                assert (await client.ask(GET)).status == 200
            await asyncio.sleep(0.5)

    async with running(activators, 2, progress):
        out = (await wrk.communicate())[0].decode()
    assert "Socket errors" not in out, out
    assert "Non-2xx" not in out, out
    found = re.search(r"(\d+) requests in", out)
    assert found is not None
    assert int(found[1]) > 500
