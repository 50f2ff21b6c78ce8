"""When does an application begin to listen? Seen from outside, without connecting to it.

The cold-start timeline tells how long the application itself took. Connecting to find out would show in its logs, so
the kernel's table of listening sockets is read instead, for all ports at once, every 10 ms while any is waited for
(less often if it takes long).
"""

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

__all__ = ["Listening", "listening_ports"]

INTERVAL = 0.010
SLOW_INTERVAL = 0.1
"""When all that are waited for have taken longer than `HURRY` already."""
HURRY = 3.0
PATIENCE = 120.0
"""Seconds after which a port is no longer waited for."""

_LISTEN = b"0A"
_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))


def listening_ports(tables: Iterable[Path] = _TABLES) -> set[int]:
    """TCP ports that something on this machine listens on; empty where the kernel does not tell."""
    found = set()
    for table in tables:
        try:
            lines = table.read_bytes().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split(None, 4)
            if len(fields) > 3 and fields[3] == _LISTEN:
                found.add(int(fields[1].rpartition(b":")[2], 16))
    return found


class Listening:
    """Tells when ports are first listened on."""

    name = "listening"

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[Callable[[], None], float]] = {}
        self._wake = asyncio.Event()

    def expect(self, port: int, then: Callable[[], None]) -> None:
        """Call `then` once something listens on the port."""
        self._waiting[port] = (then, asyncio.get_running_loop().time() + PATIENCE)
        self._wake.set()

    def forget(self, port: int) -> None:
        """Nobody waits for the port any more."""
        self._waiting.pop(port, None)

    async def run(self) -> None:
        """Look until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            while not self._waiting:
                self._wake.clear()
                await self._wake.wait()
            newest = max(until for _, until in self._waiting.values()) - PATIENCE
            await asyncio.sleep(INTERVAL if loop.time() - newest < HURRY else SLOW_INTERVAL)
            open_ = listening_ports()
            now = loop.time()
            for port, (then, until) in list(self._waiting.items()):
                if port in open_:
                    del self._waiting[port]
                    then()
                elif now > until:
                    del self._waiting[port]
