"""Dialling an address that does not answer at once."""

import asyncio
import socket
import sys
from contextlib import suppress

import pytest
import uvloop

from kncore.net.dial import dial
from kncore.net.errors import ConnectFailed

IN_TIME = 0.9
"""The kernel sends a first packet again after a second; who is connected by now was not waiting for that."""


class Connected(asyncio.Protocol):
    made = 0

    def __init__(self) -> None:
        Connected.made += 1


def full(listener: socket.socket) -> list[socket.socket]:
    """Connections that fill the listener's queue, so that the first packets of others are dropped."""
    made = [socket.socket() for _ in range(3)]
    for sock in made:
        sock.setblocking(False)
        sock.connect_ex(listener.getsockname())
    return made


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels refuse what their queue does not take")
@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_it_is_repeated_before_the_kernel_does_that(factory) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
            listener.setblocking(False)
            crowd = full(listener)
            Connected.made = 0
            dialling = loop.create_task(dial(Connected, "127.0.0.1", listener.getsockname()[1], seconds=IN_TIME))
            await asyncio.sleep(0.2)
            assert not dialling.done()
            for sock in crowd:
                sock.close()
            accepted = []
            while not dialling.done():
                with suppress(BlockingIOError):
                    accepted.append(listener.accept()[0])
                await asyncio.sleep(0.01)
            protocol = await dialling
            assert isinstance(protocol, Connected)
            for sock in accepted:
                sock.close()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(run())


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels refuse what their queue does not take")
async def test_it_is_given_up_in_time_and_leaves_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        crowd = full(listener)
        with pytest.raises(ConnectFailed, match="timed out"):
            await dial(Connected, "127.0.0.1", listener.getsockname()[1], seconds=0.3)
        for sock in crowd:
            sock.close()


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels refuse what their queue does not take")
async def test_it_can_be_cancelled() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        crowd = full(listener)
        for wait in (0.01, 0.06, 0.1):  # in a try, in a pause, in the next try
            dialling = asyncio.ensure_future(dial(Connected, "127.0.0.1", listener.getsockname()[1], seconds=5.0))
            await asyncio.sleep(wait)
            dialling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await dialling
        for sock in crowd:
            sock.close()


async def test_refusal_is_an_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    Connected.made = 0
    with pytest.raises(ConnectFailed, match="connection refused"):
        await dial(Connected, "127.0.0.1", port, seconds=5.0)
