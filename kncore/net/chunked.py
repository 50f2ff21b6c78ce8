"""The chunked transfer coding, decoded strictly (RFC 9112 §7.1). Pure: bytes in, pieces out, no I/O.

Chunk boundaries mean nothing to the next hop, so they are not kept: whatever one read brings is passed on as one
chunk. That also means a peer cannot make us relay a flood of tiny chunks; reading one is done in turns (`TURN`), for a
single read can hold 40,000 of them. Extensions are dropped. Sizes are matched
before they are converted: `int()` alone would take `0x10`, `+1` or `1_0`. The time is linear in the input and a line
is bounded, so one-byte reads cost no more than one read each.
"""

import re
from collections.abc import Sequence
from typing import Final

from kncore.net.errors import BadMessage
from kncore.net.headers import NO_TRAILER

__all__ = ["LAST_CHUNK", "TURN", "ChunkedReader", "chunk"]

LAST_CHUNK: Final = b"0\r\n\r\n"

_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t -~\x80-\xff]*)?")
"""15 digits: the size fits 60 bits, so sums cannot overflow anybody's 64."""
_TRAILER: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[\t -~\x80-\xff]*")
_LINE_LIMIT: Final = 1024
"""Longest chunk-size line with its extensions; none in the wild comes near."""
_TRAILERS_LIMIT: Final = 16 * 1024
_TRAILERS_COUNT: Final = 64
_OVERHEAD_LIMIT: Final = 64 * 1024
"""How far size lines may exceed the data they announce (16 bytes a chunk are free); Go's net/http bounds the same at
16 KiB."""

TURN: Final = 256
"""Chunks decoded in one go, some 150 microseconds; then other connections should have theirs."""
_SIZES: Final = {form % size: size for size in range(1, 256) for form in (b"%x", b"%X")}
"""Size lines of small chunks: a look-up is a tenth of a match and a conversion, which large chunks can afford."""

_SIZE_LINE, _DATA, _DATA_END, _TRAILER_LINE = range(4)


def chunk(pieces: Sequence[bytes], trailers: Sequence[bytes] | None = None) -> bytes:
    """The pieces as one chunk, followed by the last chunk and its trailers unless `trailers` is None."""
    size = sum(map(len, pieces))
    parts = [b"%x\r\n" % size, *pieces, b"\r\n"] if size else []
    if trailers is not None:
        parts.append(b"".join((b"0\r\n", *(line + b"\r\n" for line in trailers), b"\r\n")) if trailers else LAST_CHUNK)
    return b"".join(parts)


class ChunkedReader:
    """Decodes one chunked body, fed piecewise."""

    def __init__(self) -> None:
        self.trailers: list[bytes] = []
        """Trailer lines so far, those that may be forwarded."""
        self.done = False
        self._state = _SIZE_LINE
        self._left = 0
        self._line = b""
        self._overhead = 0
        self._trailer_bytes = 0
        self._trailer_count = 0

    def feed(self, data: bytes, pos: int, pieces: list[bytes]) -> int:
        """Decode from `pos`, appending data to `pieces`; returns where it stopped: before the end when `done`, or when
        there are more chunks than `TURN`.

        Raises:
            BadMessage: not the chunked coding, or beyond a limit.
        """
        size = len(data)
        turns = TURN
        while pos < size and not self.done:
            if self._state == _SIZE_LINE and not self._line:
                if not turns:
                    return pos
                turns -= 1
                end = data.find(b"\r\n", pos, pos + 4)
                length = _SIZES.get(data[pos:end]) if end > 0 else None
                if length is not None:
                    end += 2
                    stop = end + length
                    if data[stop : stop + 2] == b"\r\n":  # a whole chunk, without extensions
                        pieces.append(data[end:stop])
                        pos = stop + 2
                        if self._overhead:
                            self._overhead = max(0, self._overhead - 14 - 2 * length)
                        continue
            if self._state == _DATA:
                piece = data[pos : pos + self._left]
                pieces.append(piece)
                pos += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._state = _DATA_END
                continue
            end = data.find(b"\n", pos)
            if end < 0:
                self._line += data[pos:]
                if self._state == _TRAILER_LINE:
                    if len(self._line) + self._trailer_bytes > _TRAILERS_LIMIT:
                        raise BadMessage("trailer section too large", 431)
                elif len(self._line) > _LINE_LIMIT + 2:
                    raise BadMessage("chunk line too long")
                if b"\r" in self._line[:-1]:
                    raise BadMessage("bare CR in chunk line")
                return size
            line = self._line + data[pos : end + 1] if self._line else data[pos : end + 1]
            self._line = b""
            pos = end + 1
            if line[-2:] != b"\r\n":
                raise BadMessage("bare LF in chunked body")
            self._take_line(line[:-2])
        return pos

    def _take_line(self, line: bytes) -> None:
        if self._state == _SIZE_LINE:
            self._start_chunk(line)
        elif self._state == _DATA_END:
            if line:
                raise BadMessage("chunk longer than its size")
            self._state = _SIZE_LINE
        elif line:
            self._add_trailer(line)
        else:
            self.done = True

    def _start_chunk(self, line: bytes) -> None:
        found = _SIZE.fullmatch(line) if len(line) <= _LINE_LIMIT else None
        if found is None:
            raise BadMessage("bad chunk size")
        self._left = int(found[1], 16)
        self._overhead = max(0, self._overhead + len(line) - 16 - 2 * self._left)
        if self._overhead > _OVERHEAD_LIMIT:
            raise BadMessage("too much chunk overhead")
        self._state = _DATA if self._left else _TRAILER_LINE

    def _add_trailer(self, line: bytes) -> None:
        self._trailer_bytes += len(line) + 2
        self._trailer_count += 1
        if self._trailer_bytes > _TRAILERS_LIMIT or self._trailer_count > _TRAILERS_COUNT:
            raise BadMessage("trailer section too large", 431)
        found = _TRAILER.fullmatch(line)
        if found is None:
            raise BadMessage("bad trailer field")
        if found[1].lower() not in NO_TRAILER:
            self.trailers.append(line)
