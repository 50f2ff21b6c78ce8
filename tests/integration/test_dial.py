"""Dialling an address that does not answer at once."""

import asyncio
import socket
import sys

import pytest

from kncore.net.dial import dial
from kncore.net.errors import ConnectFailed

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="other kernels refuse what their queue of connections does not take"
)


def full(listener: socket.socket) -> list[socket.socket]:
    """Connections that fill the listener's queue, so that the first packets of others are dropped."""
    made = [socket.socket() for _ in range(3)]
    for sock in made:
        sock.setblocking(False)
        sock.connect_ex(listener.getsockname())
    return made


async def test_it_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        crowd = full(listener)
        with pytest.raises(ConnectFailed, match="timed out"):
            await dial(asyncio.Protocol, "127.0.0.1", listener.getsockname()[1], seconds=0.3)
        for sock in crowd:
            sock.close()


async def test_it_can_be_cancelled() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        crowd = full(listener)
        dialling = asyncio.ensure_future(dial(asyncio.Protocol, "127.0.0.1", listener.getsockname()[1], seconds=5.0))
        await asyncio.sleep(0.05)
        dialling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialling
        for sock in crowd:
            sock.close()


async def test_refusal_is_an_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectFailed, match="connection refused"):
        await dial(asyncio.Protocol, "127.0.0.1", port, seconds=5.0)
