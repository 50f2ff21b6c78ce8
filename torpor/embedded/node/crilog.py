"""Container logs in the form kubelet's container runtimes write: `<RFC 3339 time> <stream> <F|P> <text>`.

`F` ends a line, `P` marks a piece of one that was too long or unfinished; readers join the pieces. With the time and
the stream on every line, `kubectl logs --since --timestamps --tail` need no index. A full file is renamed to
`<name>.1` and a new one started, so a container's log takes two files of `ROTATE_BYTES` at most.

The writer is synchronous and never raises: a full disk must neither block nor kill the application. What could not be
written is counted, and said in the log itself once writing works again.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["LINE_BYTES", "ROTATE_BYTES", "Entry", "LogWriter", "parse", "stamp"]

ROTATE_BYTES = 10 * 1024 * 1024
"""Size at which a log file is set aside; kubelet's containerLogMaxSize."""
LINE_BYTES = 16 * 1024
"""Longest piece of a line kept in memory; containerd's and dockerd's limit."""


def stamp(seconds: float) -> str:
    """A Unix time as RFC 3339 with nanoseconds, UTC."""
    whole = int(seconds)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{int((seconds - whole) * 1e9):09d}Z"


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored piece of a line."""

    time: str
    """RFC 3339, UTC, fixed width: two of them compare as text."""
    stream: str
    complete: bool
    """False: the next entry of this stream continues the line."""
    text: bytes


def parse(line: bytes) -> Entry | None:
    """The entry in one stored line (without its newline), or None if it is not one (a torn write)."""
    parts = line.split(b" ", 3)
    if len(parts) < 3 or parts[2] not in (b"F", b"P"):
        return None
    return Entry(
        parts[0].decode("ascii", "replace"), parts[1].decode(), parts[2] == b"F", parts[3] if parts[3:] else b""
    )


class LogWriter:
    """Appends the output of one container's streams to a rotating file.

    Args:
        path: the file; its directory is made. `<path>.1` takes the older half.
        rotate_bytes: see `ROTATE_BYTES`.
    """

    def __init__(self, path: Path, *, rotate_bytes: int = ROTATE_BYTES) -> None:
        self.path = path
        self.dropped_bytes = 0
        """Output that could not be written and was not yet reported in the log."""
        self._rotate_bytes = rotate_bytes
        self._fd = -1
        self._size = 0
        self._partial: dict[str, bytes] = {}

    def create(self) -> None:
        """Make the file, empty if it is new: a container that says nothing has a log too."""
        try:
            self._open()
        except OSError:
            return  # `feed` will try again, and count what it cannot write

    def feed(self, stream: str, data: bytes, now: float) -> None:
        """Store output as it arrived; an unfinished line waits for its end, up to `LINE_BYTES`."""
        *lines, rest = (self._partial.pop(stream, b"") + data).split(b"\n")
        head = f"{stamp(now)} {stream} ".encode()
        out: list[bytes] = []
        for line in lines:
            *pieces, last = _pieces(line)
            out += (head + b"P " + piece + b"\n" for piece in pieces)
            out.append(head + b"F " + last + b"\n")
        if len(rest) >= LINE_BYTES:
            *pieces, rest = _pieces(rest)
            out += (head + b"P " + piece + b"\n" for piece in pieces)
        if rest:
            self._partial[stream] = rest
        if out:
            self._write(b"".join(out))

    def finish(self, now: float) -> None:
        """Store what is left of unfinished lines and close the file; `feed` may reopen it."""
        for stream, rest in self._partial.items():
            self._write(f"{stamp(now)} {stream} F ".encode() + rest + b"\n")
        self._partial.clear()
        self._close()

    def _write(self, block: bytes) -> None:
        try:
            if self._fd < 0:
                self._open()
            if self._size >= self._rotate_bytes:
                self._close()
                self.path.replace(self.path.with_name(self.path.name + ".1"))
                self._open()
            if self.dropped_bytes:
                lost = f"[{self.dropped_bytes} bytes of output were lost: the log could not be written]"
                note = f"{stamp(time.time())} stderr F {lost}\n"
                self._append(note.encode())
                self.dropped_bytes = 0
            self._append(block)
        except OSError:
            self.dropped_bytes += len(block)

    def _append(self, block: bytes) -> None:
        written = os.write(self._fd, block)
        self._size += written
        if written < len(block):  # the disk filled up half-way: end the torn line so that the next one is readable
            self.dropped_bytes += len(block) - written
            self._size += os.write(self._fd, b"\n")

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        self._size = os.fstat(self._fd).st_size

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _pieces(line: bytes) -> Iterator[bytes]:
    """The line in pieces of at most `LINE_BYTES`; at least one, the last may be empty."""
    start = 0
    while len(line) - start > LINE_BYTES:
        yield line[start : start + LINE_BYTES]
        start += LINE_BYTES
    yield line[start:]
