"""The stat messages between proxies and autoscaler, byte-compatible with Knative.

Four proto3 messages are too few to need a generated codec, and the sidecar must stay small:

    Stat             1 string pod_name            2..6 double (below, in field order)     7 int64 timestamp
    WireStatMessage  1 string namespace           2 string name                           3 Stat stat
    WireStatMessages 1 repeated WireStatMessage

Decoding accepts what the original's decoder accepts: fields in any order, repeated (the last wins, sub-messages
merge), unknown fields and groups skipped. Everything else raises `WireError`; input is never trusted and the work is
linear in its length.

Source: knative/serving pkg/autoscaler/metrics/stat.proto (serving §4.2).
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from kncore.errors import KnError

__all__ = [
    "SCRAPE_LIMIT_BYTES",
    "Stat",
    "WireError",
    "decode_messages",
    "decode_stat",
    "encode_messages",
    "encode_stat",
    "read_scrape_body",
]

SCRAPE_LIMIT_BYTES: Final = 336
"""What is read of a pod's answer: six numbers of at most 10 bytes, a name of 256 and 20 to spare."""

_VARINT, _FIXED64, _BYTES, _GROUP, _END_GROUP, _FIXED32 = range(6)
_MAX_FIELD: Final = (1 << 29) - 1
_DOUBLE: Final = struct.Struct("<d")
_NAN: Final = bytes.fromhex("010000000000f87f")  # Go's NaN, which is not Python's; a NaN has many encodings
_Fields = list[str | float | int]


class WireError(KnError):
    """Bytes that are not the expected message."""


@dataclass(frozen=True, slots=True)
class Stat:
    """What one pod or activator saw of one revision since its last report."""

    pod_name: str = ""
    """Name of the reporting pod."""
    average_concurrent_requests: float = 0.0
    """Requests in flight, averaged over the period, proxied ones included."""
    average_proxied_concurrent_requests: float = 0.0
    """Of these, the ones that came through an activator, which reports them itself."""
    request_count: float = 0.0
    """Requests that arrived per second, proxied ones included."""
    proxied_request_count: float = 0.0
    """Of these, the proxied ones."""
    process_uptime: float = 0.0
    """Age of the reporting process, seconds."""
    timestamp: int = 0
    """Unix seconds; 0 lets the receiver stamp it."""


_EMPTY: Final[_Fields] = ["", 0.0, 0.0, 0.0, 0.0, 0.0, 0]


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _delimited(tag: int, body: bytes) -> bytes:
    length = len(body)
    return (bytes((tag, length)) if length < 0x80 else bytes((tag,)) + _varint(length)) + body


def encode_stat(stat: Stat) -> bytes:
    """The message; zeros, also -0, are left out."""
    parts = []
    if stat.pod_name:
        parts.append(_delimited(0x0A, stat.pod_name.encode(errors="replace")))
    for tag, value in (
        (b"\x11", stat.average_concurrent_requests),
        (b"\x19", stat.average_proxied_concurrent_requests),
        (b"\x21", stat.request_count),
        (b"\x29", stat.proxied_request_count),
        (b"\x31", stat.process_uptime),
    ):
        if value:
            parts.append(tag + (_DOUBLE.pack(value) if value == value else _NAN))
    if stat.timestamp:
        parts.append(b"\x38" + _varint(stat.timestamp & 0xFFFFFFFFFFFFFFFF))
    return b"".join(parts)


def encode_messages(messages: Iterable[tuple[str, str, Stat | None]]) -> bytes:
    """One frame: (namespace, revision name, stat) for each revision."""
    out = []
    for namespace, name, stat in messages:
        body = b""
        if namespace:
            body += _delimited(0x0A, namespace.encode(errors="replace"))
        if name:
            body += _delimited(0x12, name.encode(errors="replace"))
        if stat is not None:
            body += _delimited(0x1A, encode_stat(stat))
        out.append(_delimited(0x0A, body))
    return b"".join(out)


def _read_varint(data: bytes, pos: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if shift >= 64:
            raise WireError("integer overflow")
        if pos >= end:
            raise WireError("unexpected end of message")
        byte = data[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, pos
        shift += 7


def _read_tag(data: bytes, pos: int, end: int) -> tuple[int, int, int]:
    tag, pos = _read_varint(data, pos, end)
    field, kind = tag >> 3, tag & 7
    if not 0 < field <= _MAX_FIELD:
        raise WireError(f"illegal field number {field}")
    return field, kind, pos


def _read_length(data: bytes, pos: int, end: int) -> tuple[int, int]:
    """Where a length-delimited value starts and stops."""
    length, pos = _read_varint(data, pos, end)
    if length > end - pos:
        raise WireError("unexpected end of message")
    return pos, pos + length


def _skip(data: bytes, pos: int, end: int, kind: int) -> int:
    """Position after the value of an unknown field; groups may nest, so they are counted rather than recursed into."""
    depth = 0
    while True:
        if kind == _VARINT:
            pos = _read_varint(data, pos, end)[1]
        elif kind == _FIXED64:
            pos += 8
        elif kind == _FIXED32:
            pos += 4
        elif kind == _BYTES:
            pos = _read_length(data, pos, end)[1]
        elif kind == _GROUP:
            depth += 1
        elif kind == _END_GROUP and depth:
            depth -= 1
        else:
            raise WireError(f"illegal wire type {kind}")
        if pos > end:
            raise WireError("unexpected end of message")
        if not depth:
            return pos
        _, kind, pos = _read_tag(data, pos, end)


def _expect(field: str, kind: int, wanted: int) -> None:
    if kind != wanted:
        raise WireError(f"wrong wire type {kind} for field {field}")


def _merge_stat(data: bytes, pos: int, end: int, fields: _Fields) -> None:
    """Read a Stat into `fields`, a list indexed by field number - 1."""
    while pos < end:
        field, kind, pos = _read_tag(data, pos, end)
        if field == 1:
            _expect("pod_name", kind, _BYTES)
            start, pos = _read_length(data, pos, end)
            fields[0] = data[start:pos].decode(errors="replace")
        elif field <= 6:
            _expect(str(field), kind, _FIXED64)
            if end - pos < 8:
                raise WireError("unexpected end of message")
            fields[field - 1] = _DOUBLE.unpack_from(data, pos)[0]
            pos += 8
        elif field == 7:
            _expect("timestamp", kind, _VARINT)
            value, pos = _read_varint(data, pos, end)
            fields[6] = value - (1 << 64) if value >> 63 else value
        else:
            pos = _skip(data, pos, end, kind)


def decode_stat(data: bytes) -> Stat:
    """The Stat in `data`.

    Raises:
        WireError: malformed.
    """
    fields = _EMPTY.copy()
    _merge_stat(data, 0, len(data), fields)
    return Stat(*fields)  # type: ignore[arg-type]  # fields holds one value per field, in order and of its type


def decode_messages(data: bytes) -> list[tuple[str, str, Stat | None]]:
    """The (namespace, name, stat) of each message in a frame; stat is None where the sender left it out.

    Raises:
        WireError: malformed; nothing of the frame is used then.
    """
    out: list[tuple[str, str, Stat | None]] = []
    pos, end = 0, len(data)
    while pos < end:
        field, kind, pos = _read_tag(data, pos, end)
        if field != 1:
            pos = _skip(data, pos, end, kind)
            continue
        _expect("messages", kind, _BYTES)
        start, pos = _read_length(data, pos, end)
        out.append(_decode_message(data, start, pos))
    return out


def _decode_message(data: bytes, pos: int, end: int) -> tuple[str, str, Stat | None]:
    names = ["", ""]
    fields: _Fields | None = None
    while pos < end:
        field, kind, pos = _read_tag(data, pos, end)
        if field > 3:
            pos = _skip(data, pos, end, kind)
            continue
        _expect(("namespace", "name", "stat")[field - 1], kind, _BYTES)
        start, pos = _read_length(data, pos, end)
        if field < 3:
            names[field - 1] = data[start:pos].decode(errors="replace")
        else:
            fields = _EMPTY.copy() if fields is None else fields
            _merge_stat(data, start, pos, fields)
    stat = None if fields is None else Stat(*fields)  # type: ignore[arg-type]  # as in decode_stat
    return names[0], names[1], stat


def read_scrape_body(body: bytes) -> Stat:
    """The Stat a pod's metrics port answered with; only the first 336 bytes count, so a longer answer does not decode.

    Raises:
        WireError: malformed or too long.
    """
    return decode_stat(body[:SCRAPE_LIMIT_BYTES])
