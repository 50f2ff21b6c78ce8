"""Hostile clients over HTTP/1.1, each a coroutine that goes on until it is cancelled; tests use them too, in small.

    python -m benchmarks.attackers NAME PORT HOST SCALE

An attack is what one host can do with one processor: no attack here is about bandwidth.
"""

import asyncio
import contextlib
import itertools
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import uvloop

__all__ = ["ATTACKS", "Target"]


@dataclass(frozen=True)
class Target:
    """Whom, and how hard."""

    port: int
    host: str = "h"
    scale: int = 100
    """Connections at a time, where it is about connections."""


Attack = Callable[[Target], Awaitable[None]]


class Wire(asyncio.Protocol):
    """A connection that sends what it is told, as fast as it is taken, and reads or does not."""

    def __init__(self, *, reads: bool = True) -> None:
        self.transport: asyncio.Transport
        self.reads = reads
        self.lost = asyncio.Event()
        self.clear = asyncio.Event()
        self.clear.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self.transport = transport  # type: ignore[assignment]
        if not self.reads:
            self.transport.pause_reading()

    def pause_writing(self) -> None:
        self.clear.clear()

    def resume_writing(self) -> None:
        self.clear.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()
        self.clear.set()

    async def send(self, data: bytes) -> bool:
        """False once the other side has had enough."""
        if self.transport.is_closing():
            return False
        self.transport.write(data)
        await self.clear.wait()
        return not self.lost.is_set()


async def wire(target: Target, *, reads: bool = True) -> Wire | None:
    """A connection, None if it is refused."""
    loop = asyncio.get_running_loop()
    try:
        _, made = await loop.create_connection(lambda: Wire(reads=reads), "127.0.0.1", target.port)
    except OSError:
        return None
    return made


async def again(target: Target, once: Callable[[Wire], Awaitable[None]], *, reads: bool = True) -> None:
    """`scale` connections at a time, each replaced when it ends."""

    async def one() -> None:
        while True:
            made = await wire(target, reads=reads)
            if made is None:
                await asyncio.sleep(0.05)
                continue
            try:
                await once(made)
            finally:
                made.transport.abort()
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for _ in range(target.scale):
            group.create_task(one())


def head(target: Target, *lines: bytes, method: bytes = b"GET") -> bytes:
    return b"\r\n".join((method + b" / HTTP/1.1", b"Host: " + target.host.encode(), *lines, b"", b""))


async def slow_heads(target: Target) -> None:
    """A byte of a request head now and then, on many connections."""

    async def drip(made: Wire) -> None:
        for byte in itertools.chain(head(target)[:-4], itertools.repeat(ord("x"))):
            if not await made.send(bytes((byte,))):
                return
            await asyncio.sleep(0.25)

    await again(target, drip)


async def slow_bodies(target: Target) -> None:
    """A byte of a request body now and then, on many connections."""

    async def drip(made: Wire) -> None:
        going = await made.send(head(target, b"Content-Length: 1000000", method=b"POST"))
        while going:
            going = await made.send(b"x")
            await asyncio.sleep(0.25)

    await again(target, drip)


async def header_flood(target: Target) -> None:
    """Heads that never end, as fast as they are taken."""

    async def flood(made: Wire) -> None:
        going = await made.send(head(target)[:-2])
        while going:
            going = await made.send(b"X-Header-%d: y\r\n" % id(made) * 200)

    await again(target, flood)


async def connection_flood(target: Target) -> None:
    """More connections than are allowed, which ask nothing; those that are closed are replaced."""
    await again(target, lambda made: made.lost.wait())  # type: ignore[arg-type, return-value]


async def pipelining_unread(target: Target) -> None:
    """Pipelined requests as fast as they are taken, by somebody who reads no answer."""

    async def flood(made: Wire) -> None:
        requests = head(target) * 500
        while await made.send(requests):
            pass

    await again(target, flood, reads=False)


async def pipelining_refused(target: Target) -> None:
    """Pipelined requests for a host that does not exist: each is answered at once."""

    async def flood(made: Wire) -> None:
        requests = head(Target(target.port, "nobody.invalid")) * 5000
        while await made.send(requests):
            pass

    await again(target, flood)


async def tiny_chunks(target: Target) -> None:
    """A body of one byte a chunk."""

    async def flood(made: Wire) -> None:
        going = await made.send(head(target, b"Transfer-Encoding: chunked", method=b"POST"))
        chunks = b"1\r\nx\r\n" * 40_000
        while going:
            going = await made.send(chunks)

    await again(target, flood)


async def bad_requests(target: Target) -> None:
    """Requests that are refused, each on a connection of its own."""

    async def one(made: Wire) -> None:
        await made.send(b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n")
        await made.lost.wait()

    await again(target, one)


async def slow_readers(target: Target) -> None:
    """Answers asked for and not read."""

    async def ask(made: Wire) -> None:
        await made.send(head(target) * 20)
        await made.lost.wait()

    await again(target, ask, reads=False)


async def resets(target: Target) -> None:
    """A request and then a reset, as fast as can be: over HTTP/1.1 a connection each."""

    async def one(made: Wire) -> None:
        await made.send(head(target))

    await again(target, one)


ATTACKS: Final[dict[str, Attack]] = {
    "slow heads": slow_heads,
    "slow bodies": slow_bodies,
    "header flood": header_flood,
    "connection flood": connection_flood,
    "pipelining, unread": pipelining_unread,
    "pipelining, refused": pipelining_refused,
    "tiny chunks": tiny_chunks,
    "bad requests": bad_requests,
    "slow readers": slow_readers,
    "resets": resets,
}


def main() -> None:
    """One attack, until killed."""
    name, port, host, scale = sys.argv[1:]
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(ATTACKS[name](Target(int(port), host, int(scale))))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
