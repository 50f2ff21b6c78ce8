"""WebSocket through the proxies, spoken by a library that is not ours: it sees no proxy at all."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK

from tests.chain import Chain, chain
from tests.integration.test_activator import until

TEN_MB = 10 * 1024 * 1024


async def echo(connection: ServerConnection) -> None:
    """Say everything again; close with the code that is asked for."""
    try:
        async for message in connection:
            if isinstance(message, str) and message.startswith("close "):
                await connection.close(int(message.split()[1]), "as you wish")
            else:
                await connection.send(message)
    except ConnectionClosedError:
        pass  # some clients leave like that, on purpose


@asynccontextmanager
async def an_echo() -> AsyncIterator[int]:
    """An echo app; its port."""
    quiet = logging.getLogger("tests.websockets.quiet")
    quiet.setLevel(logging.CRITICAL)
    async with serve(echo, "127.0.0.1", 0, max_size=None, compression=None, logger=quiet) as server:
        yield next(iter(server.sockets)).getsockname()[1]


@pytest.fixture
async def proxies() -> AsyncIterator[Chain]:
    async with an_echo() as port, chain(port) as made:
        yield made


def talk(proxies: Chain, **options: object) -> connect:
    return connect(f"ws://127.0.0.1:{proxies.port}/talk", max_size=None, proxy=None, **options)


async def test_messages_of_every_kind(proxies: Chain) -> None:
    async with talk(proxies) as client:
        for message in ("", "héllo", "x" * 70_000, b"", bytes(range(256)) * 300):
            await client.send(message)
            assert await client.recv() == message
        await client.send(["frag", "ment", "ed"])
        assert await client.recv() == "fragmented"
        await (await client.ping(b"are you there"))  # answered by the app, not by us
        assert proxies.in_flight == 1
    await until(lambda: proxies.in_flight == 0)


async def test_messages_of_10_mb(proxies: Chain) -> None:
    text, binary = "ü" * (TEN_MB // 2), bytes(range(256)) * (TEN_MB // 256)
    async with talk(proxies) as client:
        for message in (text, binary):
            sending = asyncio.ensure_future(client.send(message))
            assert await client.recv() == message
            await sending


async def test_compressed_messages(proxies: Chain) -> None:
    """An extension is negotiated end to end: this app refuses it, whatever the client offers."""
    async with talk(proxies, compression="deflate") as client:
        assert client.protocol.extensions == []
        await client.send("x" * 1000)
        assert await client.recv() == "x" * 1000


@pytest.mark.parametrize("code", [1000, 1001, 1011, 3000, 4999])
async def test_close_codes_of_both_sides(proxies: Chain, code: int) -> None:
    async with talk(proxies) as client:
        await client.send(f"close {code}")
        with pytest.raises((ConnectionClosedOK, ConnectionClosedError)):
            await client.recv()
        assert (client.close_code, client.close_reason) == (code, "as you wish")
    async with talk(proxies) as client:
        await client.close(code, "enough")
        assert (client.close_code, client.close_reason) == (code, "enough")
    await until(lambda: proxies.in_flight == 0)


async def test_many_at_once(proxies: Chain) -> None:
    async def converse(client: ClientConnection, number: int) -> None:
        for round_ in range(20):
            await client.send(f"{number} {round_}")
            assert await client.recv() == f"{number} {round_}"

    clients = [await talk(proxies) for _ in range(50)]
    assert proxies.in_flight == 50
    await asyncio.gather(*(converse(client, number) for number, client in enumerate(clients)))
    await asyncio.gather(*(client.close() for client in clients))
    await until(lambda: proxies.in_flight == 0)


async def test_client_that_vanishes_ends_the_tunnel(proxies: Chain) -> None:
    client = await talk(proxies)
    await client.send("hello")
    await client.recv()
    client.transport.abort()
    await until(lambda: proxies.in_flight == 0)


async def test_autobahn() -> None:
    """The Autobahn test suite, as kosoku runs it: through both proxies every case ends as it does without them.

    Its chapters on large messages and compression take minutes and say nothing about a tunnel.
    """
    kosoku = pytest.importorskip("kosoku", reason="kosoku, a runner for the Autobahn test suite, is not installed")

    async def run(port: int) -> dict[str, tuple[str, str]]:
        try:
            results = await kosoku.run_fuzzingclient(f"127.0.0.1:{port}", None, ["9.*", "12.*", "13.*"], concurrency=8)
        except kosoku.FailureError as failed:
            results = failed.results
        # which of two acceptable endings a case has is a matter of timing
        return {
            result.case_id: (result.behavior.value.replace("NON-STRICT", "OK"), result.behavior_close.value)
            for result in results
        }

    async with an_echo() as port, chain(port) as proxies:
        alone = await run(port)
        assert len(alone) > 240
        assert sum(behavior == "OK" for behavior, _ in alone.values()) > 220
        assert await run(proxies.port) == alone
        await until(lambda: proxies.in_flight == 0)
