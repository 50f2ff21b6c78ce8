"""A client that sends exactly the bytes it is told to and says exactly what came back."""

import asyncio
import socket
import struct
from dataclasses import dataclass, field
from typing import Self

__all__ = ["RawClient", "Response"]


@dataclass(frozen=True)
class Response:
    """One answer as received."""

    status: int
    headers: dict[str, str]
    """Lower-case names; of repeated ones the last."""
    body: bytes
    trailers: dict[str, str] = field(default_factory=dict)
    complete: bool = True
    """False: the connection ended before the body did."""


class RawClient:
    """A TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int, host: str = "127.0.0.1") -> Self:
        """A new connection."""
        return cls(*await asyncio.open_connection(host, port, limit=1 << 20))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()
        await asyncio.sleep(0)

    async def send(self, data: bytes) -> None:
        """Send it all."""
        self.writer.write(data)
        await self.writer.drain()

    async def drip(self, data: bytes) -> None:
        """Send byte by byte, each in a segment of its own."""
        for at in range(len(data)):
            self.writer.write(data[at : at + 1])
            await asyncio.sleep(0)

    def half_close(self) -> None:
        """Send nothing more, but keep reading."""
        self.writer.write_eof()

    def reset(self) -> None:
        """Close with a reset."""
        sock: socket.socket = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def rest(self) -> bytes:
        """Everything until the server closes."""
        try:
            return await self.reader.read()
        except ConnectionError:
            return b""

    async def ask(self, data: bytes, *, head: bool = False) -> Response:
        """Send a request and read one answer."""
        await self.send(data)
        return await self.response(head=head)

    async def response(self, *, head: bool = False) -> Response:
        """Read one answer; `head`: it answers a HEAD.

        Raises:
            asyncio.IncompleteReadError: the connection ended before a complete head.
        """
        start, headers = _fields(await self.reader.readuntil(b"\r\n\r\n"))
        status = int(start.split(" ")[1])
        if head or status < 200 or status in (204, 304):
            return Response(status, headers, b"")
        try:
            if headers.get("transfer-encoding") == "chunked":
                body, trailers = await self._chunks()
                return Response(status, headers, body, trailers)
            if "content-length" in headers:
                return Response(status, headers, await self.reader.readexactly(int(headers["content-length"])))
        except asyncio.IncompleteReadError as exc:
            return Response(status, headers, exc.partial, complete=False)
        return Response(status, headers, await self.rest())

    async def _chunks(self) -> tuple[bytes, dict[str, str]]:
        body = b""
        try:
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                body += await self.reader.readexactly(size)
                await self.reader.readexactly(2)
            lines = b"\r\n"
            while not lines.endswith(b"\r\n\r\n"):
                lines += await self.reader.readuntil(b"\r\n")
        except asyncio.IncompleteReadError as exc:
            raise asyncio.IncompleteReadError(body + exc.partial, None) from exc
        return body, _fields(b"x" + lines)[1]


def _fields(head: bytes) -> tuple[str, dict[str, str]]:
    start, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return start, headers
