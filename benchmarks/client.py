"""A small HTTP client that measures others rather than itself: blocking sockets, one connection per request.

A request on an open connection would hide the cost of accepting one, and an HTTP library would add its own time.
"""

import asyncio
import socket
import time
from dataclasses import dataclass

__all__ = ["Answer", "ask", "ask_nowait", "poll_health"]

POLL = 0.001  # seconds between two looks at an app that starts
LONGEST = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answered request. Seconds."""

    status: int
    body: bytes
    took: float
    """From before the connection was opened until the last byte of the answer."""
    at: float
    """Unix time when it began."""


def request(path: str, host: str) -> bytes:
    """The bytes of a GET that asks for the connection to be closed, so that the end of the answer is its end."""
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\nConnection: close\r\n\r\n".encode()


def ask(address: tuple[str, int], path: str, host: str, *, within: float = 60.0) -> Answer:
    """GET a path.

    Raises:
        OSError: refused, reset, or silent for longer than `within`.
    """
    at, begun = time.time(), time.perf_counter()
    with socket.create_connection(address, timeout=within) as connection:
        connection.sendall(request(path, host))
        received = b""
        while (chunk := connection.recv(65536)) and len(received) < LONGEST:
            received += chunk
    return _answer(received, time.perf_counter() - begun, at)


async def ask_nowait(address: tuple[str, int], path: str, host: str, *, within: float = 60.0) -> Answer:
    """As `ask`, for many at once on one loop.

    Raises:
        OSError, TimeoutError: as `ask`.
    """
    at, begun = time.time(), time.perf_counter()
    async with asyncio.timeout(within):
        reader, writer = await asyncio.open_connection(*address)
        try:
            writer.write(request(path, host))
            received = await reader.read(-1)
        finally:
            writer.close()
    return _answer(received, time.perf_counter() - begun, at)


def poll_health(address: tuple[str, int], path: str = "/health", *, within: float = 30.0) -> None:
    """Ask every millisecond until the answer is 200.

    Raises:
        TimeoutError: it never was.
    """
    deadline = time.perf_counter() + within
    while time.perf_counter() < deadline:
        try:
            if ask(address, path, "localhost", within=within).status == 200:
                return
        except OSError:
            pass
        time.sleep(POLL)
    raise TimeoutError(f"{address[0]}:{address[1]}{path} did not answer 200 within {within:.0f} s")


def _answer(received: bytes, took: float, at: float) -> Answer:
    head, _, body = received.partition(b"\r\n\r\n")
    words = head.split(None, 2)
    if len(words) < 2 or not words[1].isdigit():
        raise ConnectionError(f"not an HTTP answer: {received[:80]!r}")
    return Answer(status=int(words[1]), body=body, took=took, at=at)
