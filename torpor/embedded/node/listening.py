"""When does an application begin to listen? Seen from outside, without connecting to it.

The cold-start timeline tells how long the application itself took. Connecting to find out would show in its logs, so
the kernel is asked for its listening sockets, for all ports at once, every 10 ms while any is waited for (less often
if it takes long). Asked over netlink it answers with the listeners alone; `/proc/net/tcp`, for systems without, lists
every connection as well, and reading it while thousands linger costs more than the rest of a wake-up.
"""

import asyncio
import socket
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

__all__ = ["Listening", "listening_ports", "listening_ports_in"]

INTERVAL = 0.010
SLOW_INTERVAL = 0.1
"""When all that are waited for have taken longer than `HURRY` already."""
HURRY = 3.0
PATIENCE = 120.0
"""Seconds after which a port is no longer waited for."""

_LISTEN = b"0A"
_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))

# linux/sock_diag.h, linux/inet_diag.h: a header, then family, protocol, extensions, padding, states, and a socket id
_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _DUMP_REQUEST, _NLMSG_ERROR, _NLMSG_DONE = 4, 20, 0x301, 2, 3
_LISTENERS = 1 << 10
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBBI48x")
_SOURCE_PORT = struct.Struct(">H")
_RECEIVE_BYTES = 1 << 16


def listening_ports() -> set[int]:
    """TCP ports that something on this machine listens on; empty where the kernel does not tell."""
    try:
        return _ask(socket.AF_INET) | _ask(socket.AF_INET6)
    except (OSError, AttributeError, struct.error):
        return listening_ports_in(_TABLES)


def _ask(family: int) -> set[int]:
    """The listening ports of one address family, from the kernel's socket diagnosis.

    Raises:
        OSError, AttributeError: this kernel or system has none.
        struct.error: it answered with something else.
    """
    found: set[int] = set()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as diag:
        body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, _LISTENERS)
        diag.send(_HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _DUMP_REQUEST, 1, 0) + body)
        while True:
            data = diag.recv(_RECEIVE_BYTES)  # the kernel answers within the call
            at = 0
            while at < len(data):
                length, kind, _, _, _ = _HEADER.unpack_from(data, at)
                if kind == _NLMSG_DONE:
                    return found
                if kind == _NLMSG_ERROR or length < _HEADER.size:
                    raise OSError("socket diagnosis refused")
                found.add(_SOURCE_PORT.unpack_from(data, at + _HEADER.size + 4)[0])
                at += (length + 3) & ~3


def listening_ports_in(tables: Iterable[Path]) -> set[int]:
    """The same, read from tables of the form of `/proc/net/tcp`."""
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
