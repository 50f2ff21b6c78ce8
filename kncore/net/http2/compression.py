"""HPACK (RFC 7541): a decoder that keeps what it read, and an encoder without memory. The tables are `hpack`'s.

**Decoding.** A decoder of ours and not hpack's, because a field is needed as the line that the rest of the proxy works
with (`b"name: value"`), already judged, and because that work is worth keeping: it is done when a literal is read, and
an entry of the table is the finished `Field`. Short literals and Huffman strings are remembered across connections.
`generation` changes whenever the dynamic table does; as long as it stands still, the same block means the same fields,
so a codec may keep what it made of a block:

    made = kept.get(block)                          # a dict of the codec's, bounded by it
    if made is None:
        before = decoder.generation
        made = ...(decoder.decode(block))
        if decoder.generation == before:
            kept[block] = made
        else:
            kept.clear()

The table a peer may use is the default one, 4096 bytes: nothing is announced, every peer has it from the first byte
on, and the usual clients' blocks then repeat exactly from their second request on.

**Encoding.** Literals without indexing, names from the static table where it has them, no Huffman code: a block
depends on its fields only, so encoded fields and blocks can be kept and joined. Nothing of one client's ever gets into
a table that another one's fields are compared with (RFC 7541 §7.1). Secrets are marked "never indexed" for whoever
passes them on.

What is bounded: Huffman codes are the one thing here that takes long; `work` counts what was decoded of them and not
remembered, for the codec to charge its peer. Short strings are remembered by all, a few thousand of them; of each
peer's long ones (cookies, tokens) the last `_RECENT`. A list beyond `list_bytes` or `fields` is read to its end, since
the table must stay in step, but not kept, and is then refused (`TooLarge`); beyond four times that, or 1024 fields, the
connection is ended.

Trust: hardened against both peers; compared with hpack's decoder by property tests.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, NamedTuple

from hpack.table import HeaderTable

from kncore.errors import KnError
from kncore.net.http2 import huffman
from kncore.net.http2.frames import Code, ConnectionFault

__all__ = ["STATUS_FIELDS", "TABLE_BYTES", "Decoder", "Field", "TooLarge", "encode", "field", "literal"]

TABLE_BYTES: Final = 4096
"""The dynamic table's size while nothing else was agreed on (RFC 9113 §6.5.2)."""
_FIELDS: Final = 1024
"""Fields in a block beyond which the peer is no client; cookies in crumbs count too."""
_SHORT: Final = 256
"""Strings up to this length are remembered, bytes."""
_LONG: Final = 4096
"""Longer strings are not remembered by a connection either, bytes."""
_RECENT: Final = 8

_NAME: Final = re.compile(rb":?[!#$%&'*+.^_`|~0-9a-z-]+")
_VALUE: Final = re.compile(rb"(?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?")
"""RFC 9113 §8.2.1, and no control characters at all (RFC 9110 §5.5): HTTP/1 would refuse them further on."""


class Field(NamedTuple):
    """One decoded header field."""

    name: bytes
    value: bytes
    line: bytes
    """`name: value`."""
    size: int
    """As the limits count it: 32 and both lengths (RFC 7541 §4.1)."""
    sound: bool
    """It may stand in a message: a lower-case token, and a value without blanks around it or control characters."""


class TooLarge(KnError):
    """A header list beyond the limits; the decoder is still in step."""


def _make(name: bytes, value: bytes) -> Field:
    sound = _NAME.fullmatch(name) is not None and _VALUE.fullmatch(value) is not None
    return Field(name, value, b"%b: %b" % (name, value), 32 + len(name) + len(value), sound)


_make_short: Final = lru_cache(maxsize=2048)(_make)
_STATIC: Final = (_make(b"x", b""), *(_make(*entry) for entry in HeaderTable.STATIC_TABLE))
"""By index; there is no 0."""
_LAST_STATIC: Final = len(_STATIC) - 1
_TRUNCATED: Final = "header block ends in the middle of a field"


class Decoder:
    """The receiving end of one direction of a connection."""

    __slots__ = ("_limit", "_recent", "_size", "_table", "_table_bytes", "fields", "generation", "work")

    def __init__(self, *, list_bytes: int = 64 * 1024, fields: int = _FIELDS) -> None:
        self.generation = 0
        """Counts changes of the table."""
        self.fields = fields
        self.work = 0
        """Bytes of Huffman codes decoded that nobody remembered; whoever charges for it sets it back."""
        self._recent: dict[bytes, bytes] = {}
        self._limit = list_bytes
        self._table: list[Field] = []  # newest last
        self._size = 0
        self._table_bytes = TABLE_BYTES

    def decode(self, block: bytes) -> list[Field]:
        """The fields of a whole header block.

        Raises:
            TooLarge: beyond the limits, refuse the message.
            ConnectionFault: not a header block, or far beyond the limits.
        """
        fields: list[Field] = []
        limit = self._limit
        total = count = pos = 0
        size = len(block)
        try:
            while pos < size:
                byte = block[pos]
                if byte & 0x80:
                    index = byte & 0x7F
                    pos += 1
                    if index == 0x7F:
                        index, pos = _integer(block, pos, index)
                    found = _STATIC[index] if 0 < index <= _LAST_STATIC else self._dynamic(index)
                elif byte & 0x40:
                    found, pos = self._literal(block, pos, byte & 0x3F, 0x3F)
                    self._add(found)
                elif byte & 0x20:
                    if count:
                        raise ConnectionFault(Code.COMPRESSION_ERROR, "table size update behind a field")
                    index, pos = _integer(block, pos + 1, 0x1F) if byte & 0x1F == 0x1F else (byte & 0x1F, pos + 1)
                    self._resize(index)
                    continue
                else:
                    found, pos = self._literal(block, pos, byte & 0x0F, 0x0F)
                count += 1
                total += found.size
                if total <= limit:
                    fields.append(found)
                elif total > 4 * limit:
                    raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "header list far too large")
                if count > _FIELDS:
                    raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "too many header fields")
        except IndexError:
            raise ConnectionFault(Code.COMPRESSION_ERROR, _TRUNCATED) from None
        if total > limit or count > self.fields:
            raise TooLarge(f"header list of {count} fields and {total} bytes")
        return fields

    def _dynamic(self, index: int) -> Field:
        place = index - _LAST_STATIC
        if 0 < place <= len(self._table):
            return self._table[-place]
        raise ConnectionFault(Code.COMPRESSION_ERROR, "no such entry in the header table")

    def _literal(self, block: bytes, pos: int, index: int, full: int) -> tuple[Field, int]:
        """The literal at `pos`, and the position behind it."""
        pos += 1
        if index:
            if index == full:
                index, pos = _integer(block, pos, full)
            name = (_STATIC[index] if index <= _LAST_STATIC else self._dynamic(index)).name
        else:
            name, pos = self._string(block, pos)
        value, pos = self._string(block, pos)
        return (_make_short(name, value) if len(name) + len(value) <= _SHORT else _make(name, value)), pos

    def _string(self, block: bytes, pos: int) -> tuple[bytes, int]:
        """A string literal (RFC 7541 §5.2), and the position behind it."""
        byte = block[pos]
        pos += 1
        length = byte & 0x7F
        if length == 0x7F:
            length, pos = _integer(block, pos, length)
        end = pos + length
        text = block[pos:end]
        if len(text) != length:
            raise ConnectionFault(Code.COMPRESSION_ERROR, _TRUNCATED)
        if byte & 0x80:
            text = _huffman_short(text) if length <= _SHORT else self._huffman_long(text)
        return text, end

    def _huffman_long(self, code: bytes) -> bytes:
        recent = self._recent
        text = recent.get(code)
        if text is None:
            self.work += len(code)
            text = _huffman(code)
            if len(code) <= _LONG:
                if len(recent) >= _RECENT:
                    del recent[next(iter(recent))]
                recent[code] = text
        return text

    def _add(self, added: Field) -> None:
        self.generation += 1
        self._table.append(added)
        self._size += added.size
        if self._size > self._table_bytes:
            self._evict()

    def _resize(self, size: int) -> None:
        if size > TABLE_BYTES:
            raise ConnectionFault(Code.COMPRESSION_ERROR, "header table larger than announced")
        self.generation += 1
        self._table_bytes = size
        self._evict()

    def _evict(self) -> None:
        table = self._table
        gone = 0
        while self._size > self._table_bytes:
            self._size -= table[gone].size
            gone += 1
        del table[:gone]


def _integer(block: bytes, pos: int, full: int) -> tuple[int, int]:
    """An integer that did not fit its prefix, `full` being the prefix's largest value (RFC 7541 §5.1)."""
    value = full
    for shift in (0, 7, 14, 21):
        byte = block[pos]
        pos += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, pos
    raise ConnectionFault(Code.COMPRESSION_ERROR, "integer too long")


@lru_cache(maxsize=2048)
def _huffman_short(code: bytes) -> bytes:
    return _huffman(code)


def _huffman(code: bytes) -> bytes:
    try:
        return huffman.decode(code)
    except ValueError:
        raise ConnectionFault(Code.COMPRESSION_ERROR, "malformed Huffman code") from None


# encoding -------------------------------------------------------------------------------------------------------------
_INDEX: Final = {found.name: index for index, found in reversed(tuple(enumerate(_STATIC)))}
"""Name -> its first index in the static table."""
STATUS_FIELDS: Final = {
    int(found.value): bytes((0x80 | index,)) for index, found in enumerate(_STATIC) if found.name == b":status"
}
"""The statuses that one byte says."""
_SECRET: Final = frozenset({b"authorization", b"cookie", b"proxy-authorization", b"set-cookie"})
_UNSENT: Final = frozenset(
    {b"connection", b"http2-settings", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)
"""Fields that HTTP/2 does not know (RFC 9113 §8.2.2)."""


def literal(name: bytes, value: bytes) -> bytes:
    """A field, encoded; the name in lower case."""
    form = 0x10 if name in _SECRET else 0
    index = _INDEX.get(name, 0)
    start = _prefixed(form, 0x0F, index) if index else b"%c%b%b" % (form, _prefixed(0, 0x7F, len(name)), name)
    return b"%b%b%b" % (start, _prefixed(0, 0x7F, len(value)), value)


def _field(line: bytes) -> bytes:
    name, _, value = line.partition(b":")
    name = name.lower()
    return b"" if name in _UNSENT else literal(name, value.strip(b" \t"))


field = lru_cache(maxsize=2048)(_field)
"""A header line, encoded; empty for one that HTTP/2 does not carry. For lines up to 256 bytes, since it remembers."""


def encode(lines: Iterable[bytes]) -> bytes:
    """Header lines as (the rest of) a header block."""
    return b"".join([field(line) if len(line) <= _SHORT else _field(line) for line in lines])


def _prefixed(form: int, full: int, value: int) -> bytes:
    """An integer with a prefix (RFC 7541 §5.1)."""
    if value < full:
        return bytes((form | value,))
    out = bytearray((form | full,))
    value -= full
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
