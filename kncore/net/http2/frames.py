"""HTTP/2 frames: their constants, how they are written, and the faults a peer can commit (RFC 9113 §4, §6, §7).

Reading is a loop in each codec, for speed; it looks like this:

    while size - pos >= 9:
        high, low, kind, flags, stream = read_header(data, pos)     # the length is in two parts: Struct has no 24 bits
        end = pos + 9 + (high << 8 | low)
        if end > size:
            break                                                   # keep data[pos:] until the rest is there
        ...
        pos = end

Writing gives bytes, to be joined and sent in one write. A stream's number is passed as its four bytes (`stream_bytes`):
they are needed in every frame of the stream.

A fault is raised where it is found and ends either the stream (`StreamFault`: RST_STREAM) or the connection
(`ConnectionFault`: GOAWAY); its text is for the statistics and the debug data of GOAWAY.

Trust: hardened; frame payloads come from both peers.
"""

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Final

from kncore.errors import KnError

__all__ = [
    "ACK",
    "CONTINUATION",
    "DATA",
    "DEFAULT_FRAME_BYTES",
    "DEFAULT_WINDOW",
    "END_HEADERS",
    "END_STREAM",
    "GOAWAY",
    "HEADERS",
    "HEADER_BYTES",
    "MAX_WINDOW",
    "PADDED",
    "PING",
    "PREFACE",
    "PRIORITY",
    "PRIORITY_FLAG",
    "PUSH_PROMISE",
    "RST_STREAM",
    "SETTINGS",
    "SETTINGS_ACK",
    "WINDOW_UPDATE",
    "Code",
    "ConnectionFault",
    "PeerSettings",
    "Setting",
    "StreamFault",
    "data_frames",
    "goaway",
    "header_frames",
    "ping",
    "read_header",
    "rst_stream",
    "settings",
    "stream_bytes",
    "unpadded",
    "window_update",
    "write_header",
]

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client sends first (RFC 9113 §3.4)."""

HEADER_BYTES: Final = 9

# types
DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

# flags
END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITY_FLAG: Final = 0x20

DEFAULT_WINDOW: Final = 65_535
MAX_WINDOW: Final = 2**31 - 1
DEFAULT_FRAME_BYTES: Final = 16_384
"""Largest payload that need not be announced; the smallest that may be."""
_LARGEST_FRAME_BYTES: Final = 2**24 - 1


class Code(IntEnum):
    """Error codes of RST_STREAM and GOAWAY (RFC 9113 §7)."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


class Setting(IntEnum):
    """Identifiers in SETTINGS (RFC 9113 §6.5.2, RFC 8441)."""

    HEADER_TABLE_SIZE = 0x1
    ENABLE_PUSH = 0x2
    MAX_CONCURRENT_STREAMS = 0x3
    INITIAL_WINDOW_SIZE = 0x4
    MAX_FRAME_SIZE = 0x5
    MAX_HEADER_LIST_SIZE = 0x6
    ENABLE_CONNECT_PROTOCOL = 0x8


class ConnectionFault(KnError):
    """The connection cannot be gone on with: GOAWAY with `code`, then close."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        """A constant phrase: statistics count by it."""


class StreamFault(KnError):
    """The stream cannot be gone on with: RST_STREAM with `code`."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


_HEADER: Final = struct.Struct(">HBBBL")
_SETTING: Final = struct.Struct(">HL")

read_header: Final = _HEADER.unpack_from
"""(length >> 8, length & 255, type, flags, stream) at an offset; the stream's highest bit is reserved: mask it off."""
write_header: Final = _HEADER.pack
"""The same, as nine bytes."""


def stream_bytes(stream: int) -> bytes:
    """A stream's number as it stands in frames."""
    return stream.to_bytes(4, "big")


def settings(values: Sequence[tuple[Setting, int]]) -> bytes:
    """A SETTINGS frame."""
    payload = b"".join(_SETTING.pack(*value) for value in values)
    return write_header(0, len(payload), SETTINGS, 0, 0) + payload


SETTINGS_ACK: Final = write_header(0, 0, SETTINGS, ACK, 0)


def ping(payload: bytes, *, ack: bool) -> bytes:
    """A PING frame; eight bytes of payload."""
    return write_header(0, 8, PING, ACK if ack else 0, 0) + payload


def goaway(last_stream: int, code: Code, debug: bytes = b"") -> bytes:
    """A GOAWAY frame: streams above `last_stream` were not and will not be looked at."""
    return b"%b%b%b%b" % (
        write_header(0, 8 + len(debug), GOAWAY, 0, 0),
        stream_bytes(last_stream),
        stream_bytes(code),
        debug,
    )


def rst_stream(stream: int, code: Code) -> bytes:
    """A RST_STREAM frame."""
    return write_header(0, 4, RST_STREAM, 0, stream) + stream_bytes(code)


def window_update(stream: int, more: int) -> bytes:
    """A WINDOW_UPDATE frame; stream 0 is the connection."""
    return write_header(0, 4, WINDOW_UPDATE, 0, stream) + stream_bytes(more)


def header_frames(stream: int, block: bytes, *, end: bool, frame_bytes: int = DEFAULT_FRAME_BYTES) -> bytes:
    """A header block as HEADERS and, if it is long, CONTINUATION frames; `end`: nothing follows in this direction."""
    size = len(block)
    flags = END_STREAM if end else 0
    if size <= frame_bytes:
        return write_header(size >> 8, size & 255, HEADERS, flags | END_HEADERS, stream) + block
    parts = [write_header(frame_bytes >> 8, frame_bytes & 255, HEADERS, flags, stream), block[:frame_bytes]]
    for at in range(frame_bytes, size, frame_bytes):
        piece = block[at : at + frame_bytes]
        last = END_HEADERS if at + frame_bytes >= size else 0
        parts += write_header(len(piece) >> 8, len(piece) & 255, CONTINUATION, last, stream), piece
    return b"".join(parts)


def data_frames(stream: int, data: bytes, *, end: bool, frame_bytes: int = DEFAULT_FRAME_BYTES) -> list[bytes]:
    """Bytes as DATA frames, in parts to be written together; the caller has looked at the windows."""
    size = len(data)
    flags = END_STREAM if end else 0
    if size <= frame_bytes:
        return [write_header(size >> 8, size & 255, DATA, flags, stream), data]
    parts: list[bytes] = []
    for at in range(0, size, frame_bytes):
        piece = data[at : at + frame_bytes]
        last = flags if at + frame_bytes >= size else 0
        parts += write_header(len(piece) >> 8, len(piece) & 255, DATA, last, stream), piece
    return parts


def unpadded(data: bytes, pos: int, end: int, flags: int) -> tuple[int, int]:
    """Where the content of a DATA or HEADERS payload in data[pos:end] begins and ends.

    Raises:
        ConnectionFault: padding longer than the payload.
    """
    if flags & PADDED:
        if pos >= end:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "frame too short")
        end -= data[pos]
        pos += 1
        if end < pos:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "padding longer than its frame")
    return pos, end


class PeerSettings:
    """What the peer announced, as far as it concerns a sender."""

    __slots__ = ("_table_bytes", "connect_protocol", "frame_bytes", "list_bytes", "streams", "table_update", "window")

    def __init__(self) -> None:
        self.window = DEFAULT_WINDOW
        """Initial send window of a stream, bytes."""
        self.frame_bytes = DEFAULT_FRAME_BYTES
        """Largest payload it takes."""
        self.list_bytes = -1
        """Largest header list it takes, -1 without a limit; advice only."""
        self.streams = -1
        """Streams we may have open at once (for a client), -1 without a limit."""
        self.table_update = b""
        """What the next header block to it must begin with, to be cleared then (RFC 7541 §4.2)."""
        self._table_bytes = 4096
        self.connect_protocol = False
        """It takes extended CONNECT (RFC 8441)."""

    def read(self, payload: bytes) -> int:
        """Take over the values of a SETTINGS payload; returns by how much the windows of open streams change.

        We never put anything into the peer's table. But one that wants it smaller than it was may insist on being told
        that it is (nghttp2 and hpack do): it is told once, and that it has no size at all.

        Raises:
            ConnectionFault: a value outside its range, or half a setting.
        """
        if len(payload) % 6:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "SETTINGS of a length that is none")
        before = self.window
        for name, value in _SETTING.iter_unpack(payload):
            if name == Setting.INITIAL_WINDOW_SIZE:
                if value > MAX_WINDOW:
                    raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "initial window too large")
                self.window = value
            elif name == Setting.MAX_FRAME_SIZE:
                if not DEFAULT_FRAME_BYTES <= value <= _LARGEST_FRAME_BYTES:
                    raise ConnectionFault(Code.PROTOCOL_ERROR, "frame size out of range")
                self.frame_bytes = value
            elif name == Setting.HEADER_TABLE_SIZE:
                if value < self._table_bytes:
                    self._table_bytes = 0
                    self.table_update = b"\x20"
            elif name == Setting.ENABLE_PUSH:
                if value > 1:
                    raise ConnectionFault(Code.PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1")
            elif name == Setting.MAX_HEADER_LIST_SIZE:
                self.list_bytes = value
            elif name == Setting.MAX_CONCURRENT_STREAMS:
                self.streams = value
            elif name == Setting.ENABLE_CONNECT_PROTOCOL:
                if value > 1:
                    raise ConnectionFault(Code.PROTOCOL_ERROR, "ENABLE_CONNECT_PROTOCOL is neither 0 nor 1")
                self.connect_protocol = value == 1
        return self.window - before
