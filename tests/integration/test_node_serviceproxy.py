"""Cluster IPs over real sockets."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import uvloop

from kncore.api.resources import SERVICES
from kncore.kube.informers import Informers
from kncore.testing.kube import MemoryClient
from torpor.embedded.node.host import Network, Ports, claim_network
from torpor.embedded.workloads import serviceproxy
from torpor.embedded.workloads.serviceproxy import ServiceProxy, backends


class World:
    def __init__(self, network: Network) -> None:
        self.network = network
        self.client = MemoryClient()
        self.informers = Informers(self.client)
        self.proxy = ServiceProxy(self.informers, serves=lambda address: address.startswith(network.prefix))
        self.port = Ports().take()

    def slice(self, *addresses: tuple[str, bool], port: int | None = None) -> None:
        self.client.seed(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": "s-1",
                    "namespace": "default",
                    "labels": {"kubernetes.io/service-name": "s"},
                },
                "addressType": "IPv4",
                "ports": [{"name": "http", "port": port or self.port, "protocol": "TCP"}],
                "endpoints": [{"addresses": [ip], "conditions": {"ready": ready}} for ip, ready in addresses],
            }
        )

    async def service(self, ip: str, **labels: str) -> None:
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "s", "namespace": "default", "labels": labels},
            "spec": {"clusterIP": ip, "ports": [{"name": "http", "port": 80}, {"port": 53, "protocol": "UDP"}]},
        }
        await self.client.create(SERVICES, service)

    async def until(self, listeners: int = -1, connections: int = -1) -> None:
        async with asyncio.timeout(5):
            while True:
                found = self.proxy.statistics()
                if listeners in (-1, found.listeners) and connections in (-1, found.connections):
                    return
                await asyncio.sleep(0.005)


@asynccontextmanager
async def running() -> AsyncIterator[World]:
    network = claim_network()
    made = World(network)
    tasks = [asyncio.ensure_future(made.informers.run()), asyncio.ensure_future(made.proxy.run())]
    await made.informers.wait_synced()
    try:
        yield made
    finally:
        for task in reversed(tasks):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        network.release()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running() as made:
        yield made


async def backend(host: str, port: int, answer: bytes) -> asyncio.Server:
    """Reads to the end, then answers with a word and what it read."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            writer.write(answer + await reader.read())
            await writer.drain()
        writer.close()

    return await asyncio.start_server(serve, host, port)


async def ask(host: str, port: int, data: bytes = b"") -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(data)
        writer.write_eof()
        return await reader.read()
    finally:
        writer.close()


async def refuses(host: str, port: int) -> bool:
    """Whether a client gets an error instead of an answer."""
    try:
        await ask(host, port)
    except OSError:
        return True
    return False


async def test_connections_go_to_ready_endpoints_in_turn(world: World) -> None:
    ip = str(world.network.cluster_ips[5])
    one, two, down = (str(world.network.pod_ips[number]) for number in (1, 2, 3))
    async with await backend(one, world.port, b"1"), await backend(two, world.port, b"2"):
        world.slice((one, True), (two, True), (down, False))
        await world.service(ip)
        await world.until(listeners=1)
        answers = [await ask(ip, 80, b"x") for _ in range(4)]
        assert sorted(answers) == [b"1x", b"1x", b"2x", b"2x"]
        big = b"y" * 3_000_000  # more than any buffer on the way
        assert (await ask(ip, 80, big))[1:] == big
        world.slice((two, True))
        await asyncio.sleep(0.05)
        assert {await ask(ip, 80) for _ in range(3)} == {b"2"}
        await world.until(connections=0)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_either_side_may_speak_first_or_say_nothing(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """On both loops, since they differ in when a connection that was just accepted is read."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello ")
        writer.write(await reader.read())
        writer.close()

    async def check() -> None:
        async with running() as world:
            ip, pod = str(world.network.cluster_ips[6]), str(world.network.pod_ips[1])
            world.slice((pod, True))
            await world.service(ip)
            await world.until(listeners=1)
            async with await asyncio.start_server(greet, pod, world.port):
                assert await ask(ip, 80) == b"hello "
                assert await ask(ip, 80, b"x") == b"hello x"
                assert await ask(ip, 80, b"y" * 3_000_000) == b"hello " + b"y" * 3_000_000
                reader, writer = await asyncio.open_connection(ip, 80)
                assert await reader.readexactly(6) == b"hello "
                writer.write_eof()
                assert await reader.read() == b""
                writer.close()
                await world.until(connections=0)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(check())


async def test_nobody_there_looks_like_a_closed_port(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ip = str(world.network.cluster_ips[5])
    await world.service(ip)
    await world.until(listeners=1)
    assert await refuses(ip, 80)
    world.slice((str(world.network.pod_ips[1]), True))  # listed, but nothing listens there
    await asyncio.sleep(0.05)
    assert await refuses(ip, 80)
    assert world.proxy.statistics().refused == 1
    pod = str(world.network.pod_ips[1])
    async with await backend(pod, world.port, b"1"):
        monkeypatch.setattr(serviceproxy, "MAX_CONNECTIONS", 1)
        first, writer = await asyncio.open_connection(ip, 80)
        await world.until(connections=1)
        assert await refuses(ip, 80)
        writer.write_eof()
        assert await first.read() == b"1"
        writer.close()
    await world.until(connections=0)


async def test_listeners_follow_services(world: World) -> None:
    ip = str(world.network.cluster_ips[7])
    await world.service(ip)
    await world.until(listeners=1)
    await world.client.patch(SERVICES, "s", {"spec": {"ports": [{"port": 81}, {"port": 82}]}}, "default")
    await world.until(listeners=2)
    await world.client.patch(SERVICES, "s", {"metadata": {"labels": {PRIVATE: "Private"}}}, "default")
    await world.until(listeners=0)
    await world.client.patch(SERVICES, "s", {"metadata": {"labels": {PRIVATE: None}}}, "default")
    await world.until(listeners=2)
    await world.client.delete(SERVICES, "s", "default")
    await world.until(listeners=0)


PRIVATE = "networking.internal.knative.dev/serviceType"


async def test_address_in_use_is_survived(world: World) -> None:
    ip = str(world.network.cluster_ips[9])
    async with await backend(ip, 80, b"squatter"):
        await world.service(ip)
        await asyncio.sleep(0.1)
        assert world.proxy.statistics().listeners == 0
        assert await ask(ip, 80) == b"squatter"


def test_backends_are_those_of_the_same_port_name() -> None:
    def slice_(name: Any, port: int, ip: str) -> Any:
        return {"ports": [{"name": name, "port": port}], "endpoints": [{"addresses": [ip], "conditions": {}}]}

    slices = [slice_("http", 8080, "127.2.128.1"), slice_("", 9090, "127.2.128.2"), slice_("http", 8081, "127.2.128.3")]
    assert backends({"name": "http", "port": 80}, slices) == [("127.2.128.1", 8080), ("127.2.128.3", 8081)]
    assert backends({"port": 80}, slices) == [("127.2.128.2", 9090)]
