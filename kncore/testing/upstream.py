"""An app under test control: every connection runs a script, or answers politely.

    async with ScriptedUpstream(script) as app:        # async def script(connection: Connection) -> None
        ... app.port, app.requests ...

A script reads requests and sends bytes; what it sends need not be HTTP.
"""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Self

__all__ = ["Connection", "Request", "ScriptedUpstream", "ok"]


@dataclass(frozen=True)
class Request:
    """A request as the app received it."""

    head: bytes
    """With its blank line."""
    body: bytes

    @property
    def line(self) -> str:
        return self.head.split(b"\r\n", 1)[0].decode("latin-1")

    @property
    def headers(self) -> dict[str, str]:
        """Lower-case names; repeated values joined by commas."""
        found: dict[str, str] = {}
        for line in self.head.decode("latin-1").split("\r\n")[1:-2]:
            name, _, value = line.partition(":")
            name = name.lower()
            found[name] = f"{found[name]}, {value.strip()}" if name in found else value.strip()
        return found


class Connection:
    """One connection the app accepted."""

    def __init__(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, requests: list[Request]
    ) -> None:
        self.number = number
        """0 for the first one."""
        self.reader = reader
        self.writer = writer
        self._requests = requests

    async def request(self) -> Request:
        """The next request with its body.

        Raises:
            asyncio.IncompleteReadError: the proxy closed the connection.
        """
        return await self.body(await self.head())

    async def head(self) -> bytes:
        """The next request's head."""
        return await self.reader.readuntil(b"\r\n\r\n")

    async def body(self, head: bytes) -> Request:
        """The rest of the request whose head was read."""
        body = b""
        headers = Request(head, b"").headers
        if headers.get("transfer-encoding") == "chunked":
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                body += await self.reader.readexactly(size)
                await self.reader.readexactly(2)
            while await self.reader.readuntil(b"\r\n") != b"\r\n":
                pass
        elif "content-length" in headers:
            body = await self.reader.readexactly(int(headers["content-length"]))
        made = Request(head, body)
        self._requests.append(made)
        return made

    async def send(self, data: bytes) -> None:
        """Send these bytes."""
        self.writer.write(data)
        await self.writer.drain()

    async def drip(self, data: bytes) -> None:
        """Send byte by byte."""
        for at in range(len(data)):
            self.writer.write(data[at : at + 1])
            await asyncio.sleep(0)

    def close(self) -> None:
        """Close in order."""
        self.writer.close()

    def reset(self) -> None:
        """Close with a reset."""
        sock: socket.socket = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[Connection], Awaitable[None]]


def ok(body: bytes = b"hello", *lines: bytes) -> bytes:
    """A plain 200."""
    return b"\r\n".join((b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *lines, b"", body))


async def polite(connection: Connection) -> None:
    """Answer every request with 200 and its own first line."""
    while True:
        request = await connection.request()
        await connection.send(ok(request.line.encode()))


class ScriptedUpstream:
    """A listening app."""

    def __init__(self, script: Script = polite) -> None:
        self.script = script
        self.port = 0
        self.requests: list[Request] = []
        self.accepted = 0
        self._server: asyncio.Server | None = None
        self._running: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=1 << 20)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def refuse(self) -> None:
        """Take no connections any more; those there are go on."""
        assert self._server is not None
        self._server.close()

    async def __aexit__(self, *_: object) -> None:
        self.refuse()
        for task in tuple(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        connection = Connection(self.accepted, reader, writer, self.requests)
        self.accepted += 1
        try:
            await self.script(connection)
            connection.close()
            await writer.wait_closed()  # an app that ends does not take back what it has said
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the other side left, or the test is over
        finally:
            self._running.discard(task)
            writer.transport.abort()
