"""Kubernetes' protobuf bodies as objects: kubectl 1.32 and later sends them from `create` and `auth`.

A body is `k8s\\0` and a `runtime.Unknown`: the type's name, and the object itself in that type's encoding. Which field
number is which JSON field comes from `data/messages.tsv` (see `generate_messages.py` beside it); a message's line is
parsed when the first object of its kind arrives. Absent and zero are told apart as Go's JSON does, so the result is
what the same client would have sent as JSON.

The body is outside data: nesting, size and the number of values are bounded, and every malformed byte is a ValueError.
Unknown field numbers are skipped, as protobuf wants: they are newer than our table.
"""

import base64
import functools
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from torpor.embedded.apiserver.builtin import PACKAGES

__all__ = ["MAX_BYTES", "MEDIA_TYPE", "decode"]

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"

MAX_BYTES = 3 * 1024 * 1024
"""Bytes of a body; what a real API server takes."""

MAX_DEPTH = 40
"""Nested messages; a CronJob's probes are about 12 deep."""

MAX_VALUES = 200_000
"""Values of one body: an empty message costs two bytes on the wire and a hundred times that here."""

_MAGIC = b"k8s\x00"
_META = "io.k8s.apimachinery.pkg.apis.meta.v1"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class _Field(NamedTuple):
    name: str
    type: str
    shape: str
    """Empty, `[]` for repeated or `{}` for a map from strings."""
    keep_zero: bool
    embedded: bool


def decode(body: bytes) -> dict[str, Any]:
    """The object in a protobuf body, as its JSON would read.

    Raises:
        ValueError: not such a body, malformed, over a bound, or of a kind the table lacks.
    """
    if len(body) > MAX_BYTES:
        raise ValueError(f"protobuf body is larger than {MAX_BYTES} bytes")
    if not body.startswith(_MAGIC):
        raise ValueError("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")
    budget = _Budget()
    api_version = kind = encoding = media_type = ""
    raw = memoryview(b"")
    for number, wire, value in _read(memoryview(body)[len(_MAGIC) :]):
        if number <= 4 and wire != _BYTES:
            raise ValueError(f"protobuf: field {number} of runtime.Unknown has wire type {wire}")
        match number:
            case 1:
                for inner, inner_wire, text in _read(value):
                    if inner_wire == _BYTES and inner == 1:
                        api_version = _utf8(text)
                    elif inner_wire == _BYTES and inner == 2:
                        kind = _utf8(text)
            case 2:
                raw = value
            case 3:
                encoding = _utf8(value)
            case 4:
                media_type = _utf8(value)
    if encoding or media_type not in ("", MEDIA_TYPE):
        raise ValueError(f"protobuf: unsupported content {media_type or 'of the default type'!r} encoded {encoding!r}")
    message = _message_of(api_version, kind)
    if message is None:
        raise ValueError(f'protobuf: no kind "{kind}" is readable for version "{api_version}"')
    return {"kind": kind, "apiVersion": api_version, **_decode(raw, message, 0, budget)}


class _Budget:
    """Counts the values made from one body."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = MAX_VALUES

    def spend(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise ValueError(f"protobuf body has more than {MAX_VALUES} values")


def _decode(data: memoryview, message: str, depth: int, budget: _Budget) -> Any:
    """One message as a dict, or as a list if it is a named list."""
    if depth > MAX_DEPTH:
        raise ValueError(f"protobuf: messages are nested deeper than {MAX_DEPTH}")
    fields = _fields(message)
    made: dict[str, Any] = {}
    for number, wire, raw in _read(data):
        budget.spend()
        field = fields.get(number)
        if field is None:
            continue
        if field.embedded:
            made.update(_value(field.type, wire, raw, depth, budget))
        elif field.shape == "[]":
            items = made.setdefault(field.name, [])
            if wire == _BYTES and field.type in ("i", "o"):
                items.extend(_packed(field.type, raw, budget))
            else:
                items.append(_value(field.type, wire, raw, depth, budget))
        elif field.shape == "{}":
            key, item = _entry(field.type, wire, raw, depth, budget)
            made.setdefault(field.name, {})[key] = item
        else:
            value = _value(field.type, wire, raw, depth, budget)
            if value is not None and (field.keep_zero or value not in ("", 0, False, {})):
                made[field.name] = value
            else:
                made.pop(field.name, None)
    return made.get("=", []) if _is_named_list(fields) else made


def _value(kind: str, wire: int, raw: Any, depth: int, budget: _Budget) -> Any:
    """One value of a type of the table; None for a zero time."""
    if wire != _WIRES.get(kind, _BYTES):
        raise ValueError(f"protobuf: wire type {wire} where {kind} is wanted")
    match kind:
        case "s":
            return _utf8(raw)
        case "i":
            return _signed(raw)
        case "o":
            return bool(raw)
        case "f":
            return raw
        case "y":
            return base64.b64encode(raw).decode()
        case "Time" | "MicroTime":
            return _time(raw, micro=kind == "MicroTime")
        case "Quantity":
            return _utf8(_only(raw, 1, b""))
        case "IntOrString":
            if _signed(_only(raw, 1, 0)) == 1:
                return _utf8(_only(raw, 3, b""))
            return _signed(_only(raw, 2, 0))
        case "FieldsV1" | "RawExtension":
            return _json(_only(raw, 1, b""))
    return _decode(raw, kind, depth + 1, budget)


_WIRES = {"i": _VARINT, "o": _VARINT, "f": _FIXED64}


def _entry(kind: str, wire: int, raw: Any, depth: int, budget: _Budget) -> tuple[str, Any]:
    """One entry of a map: a message of a key and a value."""
    if wire != _BYTES:
        raise ValueError(f"protobuf: wire type {wire} where a map entry is wanted")
    key = ""
    empty = 0 if kind in _WIRES else memoryview(b"")
    found: tuple[int, Any] = (_WIRES.get(kind, _BYTES), empty)
    for number, inner, value in _read(raw):
        if number == 1 and inner == _BYTES:
            key = _utf8(value)
        elif number == 2:
            found = (inner, value)
    return key, _value(kind, *found, depth, budget)


def _packed(kind: str, raw: Any, budget: _Budget) -> Iterator[Any]:
    """Repeated numbers in one length-delimited field."""
    at = 0
    while at < len(raw):
        number, at = _varint(raw, at)
        budget.spend()
        yield bool(number) if kind == "o" else _signed(number)


def _time(raw: Any, *, micro: bool) -> str | None:
    """A timestamp as RFC 3339; the empty message is the zero time, which JSON writes as null."""
    if not len(raw):
        return None
    seconds = _signed(_only(raw, 1, 0))
    nanos = _signed(_only(raw, 2, 0))
    try:
        moment = datetime.fromtimestamp(0, UTC) + timedelta(seconds=seconds, microseconds=nanos // 1000)
    except OverflowError:
        raise ValueError(f"protobuf: time {seconds} is out of range") from None
    return moment.isoformat(timespec="microseconds" if micro else "seconds").replace("+00:00", "Z")


def _only(raw: Any, wanted: int, missing: Any) -> Any:
    """The last value of one field of a small message; `missing` also says which wire type it must have."""
    found = missing
    for number, wire, value in _read(raw):
        if number == wanted:
            if wire != (_VARINT if isinstance(missing, int) else _BYTES):
                raise ValueError(f"protobuf: wire type {wire} in field {number}")
            found = value
    return found


def _json(raw: Any) -> Any:
    if not len(raw):
        return None
    try:
        return orjson.loads(raw)
    except ValueError:
        raise ValueError("protobuf: raw JSON is malformed") from None


def _utf8(raw: Any) -> str:
    try:
        return str(raw, "utf-8")
    except UnicodeDecodeError:
        raise ValueError("protobuf: text is not UTF-8") from None


def _signed(number: int) -> int:
    """A varint as int64."""
    return number - (1 << 64) if number >= 1 << 63 else number


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("protobuf: malformed varint")
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7


def _read(data: memoryview) -> Iterator[tuple[int, int, Any]]:
    """Field number, wire type and value of each field: an int, a float (fixed64), or the bytes."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise ValueError(f"protobuf: field number {number}")
        if wire == _VARINT:
            value: Any
            value, at = _varint(data, at)
        elif wire == _BYTES:
            length, at = _varint(data, at)
            if length > end - at:
                raise ValueError("protobuf: a field is longer than its message")
            value = data[at : at + length]
            at += length
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
            if size > end - at:
                raise ValueError("protobuf: a field is longer than its message")
            value = struct.unpack_from("<d" if size == 8 else "<f", data, at)[0]
            at += size
        else:
            raise ValueError(f"protobuf: wire type {wire}")
        yield number, wire, value


# ----------------------------------------------------------------------------------------------------------- table


def _message_of(api_version: str, kind: str) -> str | None:
    """The message of a kind, or None; DeleteOptions may come as any version's."""
    if kind == "DeleteOptions":
        return f"{_META}.{kind}"
    group, _, version = api_version.rpartition("/")
    name = f"{PACKAGES.get(group)}.{version}.{kind}"
    return name if name in _lines() else None


@functools.cache
def _lines() -> dict[str, str]:
    text = (Path(__file__).parent / "data" / "messages.tsv").read_text(encoding="utf-8")
    return dict(line.split("\t", 1) for line in text.splitlines())


@functools.cache
def _fields(message: str) -> dict[int, _Field]:
    """The fields of a message by number."""
    fields = {}
    for item in _lines()[message].split():
        number, name, spelled = item.split(":", 2)
        shape = spelled[:2] if spelled[:2] in ("[]", "{}") else ""
        kind = spelled.removeprefix(shape).rstrip("?<")
        fields[int(number)] = _Field(name, kind, shape, spelled.endswith("?"), spelled.endswith("<"))
    return fields


def _is_named_list(fields: dict[int, _Field]) -> bool:
    return any(field.name == "=" for field in fields.values())
