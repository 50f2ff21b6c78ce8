"""What a client may do on an HTTP/2 connection, and how misbehaviour is counted (ANCHORS of DESIGN.md §5).

Much of what floods are made of is legal: a PING, a reset, an empty frame. So most of it is counted, not forbidden: a
`Budget` is spent by frames that cost work and bring none, and earned back with time and with work that was useful
(answers completed, DATA sent). A client that overdraws it is told to calm down (GOAWAY) and closed.
"""

from dataclasses import dataclass
from typing import Final

__all__ = ["Budget", "Http2Limits"]


@dataclass(frozen=True, kw_only=True)
class Http2Limits:
    """Bounds of an HTTP/2 connection; those of heads, idleness and bodies are the listener's (`Limits`)."""

    streams: int = 250
    """Requests in progress (Go's default); more are refused, to be sent again later. A place is free again when our
    work for it has ended, not when the client loses interest."""
    stream_window: int = 256 * 1024
    """Bytes of one request body on their way or not yet taken by its upstream; 64 KiB while no upstream has it."""
    connection_window: int = 2 * 1024 * 1024
    """The same over all streams: what a connection can make us hold of request bodies."""
    block_bytes: int = 128 * 1024
    """A header block, compressed; beyond the listener's `head_bytes` it is refused, beyond this the connection."""
    continuations: int = 16
    """CONTINUATION frames in a block. A block of 64 KiB needs three."""
    control_frames: int = 1000
    """Answers to PING, SETTINGS and faults that wait for a client which does not read (Envoy's number)."""
    waiting_bytes: int = 8 * 1024 * 1024
    """Of answers that wait for windows, over all streams: beyond this no upstream is read and no request begun. One
    stream holds what came in one read, at most 256 KiB."""
    resets: int = 1000
    """Streams that ended in a reset, by the client before it had its answer or by us for its fault: so many at once,
    and a tenth of it each second, and one for every answer that was completed. An activator whose clients leave all at
    once resets as many streams as it has."""
    glitches: int = 1000
    """Frames that are legal but no use (empty, PING, SETTINGS, PRIORITY, WINDOW_UPDATE, for closed streams, unknown):
    so many at once, a tenth of it each second, and more with answers completed and DATA sent."""
    stall_time: float = 300.0
    """A client that opened no window for a stream, or took no byte of what waits for it, is given up, seconds (Envoy's
    number): a film may be paused for a while."""


ANSWER_EARNS: Final = 8
"""Glitches that come with an ordinary exchange: PRIORITY, two WINDOW_UPDATEs, a PING."""
DATA_EARNS: Final = 10
"""Glitches for each DATA frame sent: window updates for stream and connection, pings that measure bandwidth. Envoy
allows 20 WINDOW_UPDATEs."""


class Budget:
    """A counter that decays."""

    __slots__ = ("_burst", "_rate", "_since", "level")

    def __init__(self, burst: int, now: float) -> None:
        self.level = 0.0
        self._burst = burst
        self._rate = burst / 10
        self._since = now

    def spend(self, cost: float, earned: float, now: float) -> bool:
        """Count something; False when that is too much.

        Args:
            earned: what useful work since the last call gives back.
        """
        level = self.level - earned - (now - self._since) * self._rate
        self._since = now
        self.level = level = cost + (level if level > 0.0 else 0.0)
        return level <= self._burst
