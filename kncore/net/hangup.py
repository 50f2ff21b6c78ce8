"""What the kernel knows of a connection before the loop does: whether its peer has hung up, or sent something.

While reading is paused the loop does not look at a connection, so its end is noticed when reading goes on: for a
request that waits in a queue, when its turn comes. The kernel knows better: it reports the peer's FIN and reset
whether or not there are bytes in front of them. One look costs a few microseconds, and only paused connections need
it. What it cannot tell is the FIN of a client that died with more unsent than our socket's buffer takes: that stands
behind those bytes, on the client's side.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio

__all__ = ["hung_up", "readable"]

_GONE: Final = select.POLLHUP | select.POLLERR | select.POLLNVAL
_HALF: Final[int] = getattr(select, "POLLRDHUP", 0)  # Linux


def hung_up(transport: asyncio.BaseTransport, *, half: bool) -> bool:
    """Whether the peer has closed or reset its connection.

    Args:
        half: also if it only said that it sends nothing more (which looks the same from here when it closed).
    """
    sock = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return False
    look = select.poll()
    look.register(sock.fileno(), _HALF if half else 0)
    found = look.poll(0)
    return bool(found) and bool(found[0][1] & (_GONE | (_HALF if half else 0)))


def readable(transport: asyncio.BaseTransport) -> bool:
    """Whether bytes (or the end) of the peer's are there that nobody has read."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return False
    look = select.poll()
    look.register(sock.fileno(), select.POLLIN)
    return bool(look.poll(0))
