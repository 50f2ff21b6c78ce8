"""What a queue-proxy holds of large bodies: its memory while gigabytes pass, in both directions, over some connections.

    python -m benchmarks bodies

The slow case is the interesting one: one side takes a little at a time, and what the other offers must stay with it.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import cast

from benchmarks.ports import free_port
from benchmarks.procfs import memory
from benchmarks.report import Report
from benchmarks.samples import table

__all__ = ["Sample", "Transfer", "measure", "queue_proxy", "run"]

PIECE = bytes(256 * 1024)


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """What is sent."""

    upload: bool
    size: int
    """Bytes of each body."""
    connections: int = 1
    pause: float = 0.0
    """Seconds between two reads of the side that takes it; 0 is as fast as it goes."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What it took."""

    seconds: float
    grown: int
    """Bytes by which the proxy's memory grew at most, per connection."""
    moved: int
    """Bytes that passed."""


class _End(asyncio.Protocol):
    """One end of a transfer: gives `left` bytes, or takes as many."""

    transport: asyncio.Transport

    def __init__(self, transfer: Transfer) -> None:
        self.transfer = transfer
        self.taken = 0
        self.left = 0
        self.buffer = b""
        self.heading = True
        self.going = True
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def pause_writing(self) -> None:
        self.going = False

    def resume_writing(self) -> None:
        self.going = True
        self.give()

    def give(self) -> None:
        while self.going and self.left and not self.transport.is_closing():
            piece = PIECE[: self.left]
            self.left -= len(piece)
            self.transport.write(piece)

    def data_received(self, data: bytes) -> None:
        if self.heading:
            head, end, data = (self.buffer + data).partition(b"\r\n\r\n")
            if not end:
                self.buffer = head
                return
            self.heading = False
            self.headed(head)
        self.taken += len(data)
        if self.transfer.pause and data:
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(self.transfer.pause, self._read_on)
        self.took()

    def _read_on(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def headed(self, head: bytes) -> None:
        raise NotImplementedError

    def took(self) -> None:
        raise NotImplementedError

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("closed too early"))
            self.done.exception()  # whoever waits sees it


class _App(_End):
    def headed(self, head: bytes) -> None:
        if not self.transfer.upload:
            self.left = self.transfer.size
            self.transport.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % self.left)
            self.give()

    def took(self) -> None:
        if self.transfer.upload and self.taken == self.transfer.size:
            self.transport.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")


class _Client(_End):
    def start(self) -> None:
        if self.transfer.upload:
            self.left = self.transfer.size
            self.transport.write(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % self.left)
            self.give()
        else:
            self.transport.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")

    def headed(self, head: bytes) -> None:
        if self.transfer.upload and not self.done.done():
            self.done.set_result(None)

    def took(self) -> None:
        if not self.transfer.upload and self.taken == self.transfer.size and not self.done.done():
            self.done.set_result(None)


@contextlib.asynccontextmanager
async def queue_proxy(app: int) -> AsyncIterator[tuple[int, int]]:
    """A queue-proxy before an app: its process and its port."""
    port = free_port()
    environ = {
        **os.environ,
        "SERVING_NAMESPACE": "ns",
        "SERVING_REVISION": "rev",
        "SERVING_POD": "pod",
        "SERVING_POD_IP": "127.0.0.1",
        "REVISION_TIMEOUT_SECONDS": "3600",
        "USER_PORT": str(app),
        "QUEUE_SERVING_PORT": str(port),
        "TORPOR_ADMIN_PORT": str(free_port()),
        "TORPOR_METRICS_PORT": str(free_port()),
    }
    command = [sys.executable, "-P", "-m", "queueproxy"]
    process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.transport.abort()
                break
            await asyncio.sleep(0.05)
        yield process.pid, port
    finally:
        process.kill()
        process.wait()


async def run(transfer: Transfer, *, enough: float = float("inf")) -> Sample:
    """Do it through a queue-proxy of its own; a transfer that takes longer than `enough` seconds is left there."""
    loop = asyncio.get_running_loop()
    apps: list[_App] = []

    def accept() -> _App:
        apps.append(_App(transfer))
        return apps[-1]

    app = await loop.create_server(accept, "127.0.0.1", 0)
    async with queue_proxy(app.sockets[0].getsockname()[1]) as (pid, port):
        clients = []
        for _ in range(transfer.connections):
            _, client = await loop.create_connection(lambda: _Client(transfer), "127.0.0.1", port)
            clients.append(client)
        before = peak = memory(pid).rss
        begun = loop.time()
        for client in clients:
            client.start()
        moving = asyncio.gather(*(client.done for client in clients))
        while not moving.done() and loop.time() - begun < enough:
            await asyncio.wait((moving,), timeout=0.02)
            peak = max(peak, memory(pid).rss)
        took = loop.time() - begun
        if moving.done():
            moving.result()
        moved = sum(transfer.size - client.left if transfer.upload else client.taken for client in clients)
        for end in (*clients, *apps):
            end.transport.abort()
        moving.cancel()
        await asyncio.gather(moving, return_exceptions=True)
    app.close()
    await asyncio.sleep(0)  # the transports close
    return Sample(seconds=took, grown=(peak - before) // transfer.connections, moved=moved)


async def measure(report: Report) -> None:
    """Take the samples and summarise them."""
    size = 10_000_000_000 if not report.options.quick else 500_000_000
    many = size // 50
    rows = {}
    for name, transfer, enough in (
        ("upload", Transfer(upload=True, size=size), 3600.0),
        ("download", Transfer(upload=False, size=size), 3600.0),
        ("upload, 50 at once", Transfer(upload=True, size=many, connections=50), 3600.0),
        ("download, 50 at once", Transfer(upload=False, size=many, connections=50), 3600.0),
        ("upload, slow app, 50", Transfer(upload=True, size=size, connections=50, pause=0.1), 5.0),
        ("download, slow client, 50", Transfer(upload=False, size=size, connections=50, pause=0.1), 5.0),
    ):
        sample = await run(transfer, enough=enough)
        rows[name] = (sample.moved / 1e9, sample.seconds, sample.moved / sample.seconds / 1e6, sample.grown / 1e6)
        report.samples[f"{name}, bytes grown per connection"] = sample.grown
        report.summary[name] = {"mb_per_connection": round(sample.grown / 1e6, 3)}
        report.note(f"{name}: {sample.grown / 1e6:.2f} MB per connection while {sample.moved / 1e9:.1f} GB passed")
    columns = ("GB", "seconds", "MB/s", "MB grown per connection")
    report.say(
        "memory of a queue-proxy while large bodies pass (bound: 2 MB per connection)", *table(columns, rows, digits=2)
    )
