"""Reading container logs back: since, tail, follow, over the rotated file and the current one.

Blocking file reads are done in a worker thread, in pieces. Following looks at the file again every 50 ms, which costs
one stat(2) and, unlike inotify, works everywhere.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from torpor.embedded.node.crilog import parse, stamp

__all__ = ["Selection", "read", "runs", "tail_offset"]

CHUNK_BYTES = 256 * 1024
FOLLOW_INTERVAL = 0.05


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which lines, and how."""

    tail_lines: int | None = None
    since: float | None = None
    """Unix seconds."""
    timestamps: bool = False
    limit_bytes: int | None = None


def runs(directory: Path) -> list[Path]:
    """The log files of a container's runs, oldest first; `<number>.log`."""
    found = [path for path in directory.glob("*.log") if path.stem.isdecimal()]
    return sorted(found, key=lambda path: int(path.stem))


def tail_offset(path: Path, lines: int) -> tuple[int, int]:
    """(offset, count): where the last `lines` complete lines of a log begin, and how many there are from there on."""
    count = 0
    with path.open("rb") as file:
        position = file.seek(0, os.SEEK_END)
        rest = b""
        while position > 0:
            start = max(0, position - CHUNK_BYTES)
            file.seek(start)
            block = file.read(position - start) + rest
            # Walk the stored lines of this block from its end; the first may have begun before it.
            cursor = len(block)
            while cursor > 0:
                begin = block.rfind(b"\n", 0, cursor - 1) + 1
                if begin == 0 and start > 0:
                    break
                entry = parse(block[begin:cursor].rstrip(b"\n"))
                if entry is not None and entry.complete:
                    if count == lines:
                        return start + cursor, count
                    count += 1
                cursor = begin
            rest = block[:cursor]
            position = start
    return 0, count


async def read(path: Path, selection: Selection, running: Callable[[], bool] | None = None) -> AsyncIterator[bytes]:
    """The output of one run.

    Args:
        running: follow the file while this is true; None: what is there now.
    """
    formatter = _Formatter(selection)
    rotated = path.with_name(path.name + ".1")
    plan = await asyncio.to_thread(_plan, [rotated, path], selection.tail_lines)
    try:
        for file in plan:
            last = file is plan[-1]
            while True:
                alive = running() if running is not None and last else False
                data = await asyncio.to_thread(file.read, CHUNK_BYTES)
                if data:
                    if text := formatter.feed(data):
                        yield text
                    if formatter.full:
                        return
                elif last and (following := await asyncio.to_thread(_successor, file, path)) is not None:
                    plan.append(following)
                    break
                elif alive:
                    await asyncio.sleep(FOLLOW_INTERVAL)
                else:
                    break
    finally:
        for file in plan:
            file.close()


def _plan(paths: Sequence[Path], tail_lines: int | None) -> list[BinaryIO]:
    """The files to read, opened at where to begin."""
    opened: list[BinaryIO] = []
    missing = tail_lines
    for path in reversed(paths):
        try:
            file = path.open("rb")
        except FileNotFoundError:
            continue
        if missing is not None:
            offset, count = tail_offset(path, missing) if missing > 0 else (file.seek(0, os.SEEK_END), 0)
            file.seek(offset)
            missing -= count
        opened.insert(0, file)
    return opened


def _successor(file: BinaryIO, path: Path) -> BinaryIO | None:
    """The file that now has the name `path`, if `file` is no longer it."""
    try:
        if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
            return None
        return path.open("rb")
    except OSError:
        return None


class _Formatter:
    """Stored lines in, text for the user out."""

    def __init__(self, selection: Selection) -> None:
        self._since = stamp(selection.since) if selection.since is not None else ""
        self._timestamps = selection.timestamps
        self._room = selection.limit_bytes
        self._rest = b""
        self._open: dict[str, bool] = {}
        """Streams in the middle of a line."""
        self.full = False

    def feed(self, data: bytes) -> bytes:
        *lines, self._rest = (self._rest + data).split(b"\n")
        text = b"".join(self._lines(lines))
        if self._room is not None:
            text = text[: self._room]
            self._room -= len(text)
            self.full = self._room <= 0
        return text

    def _lines(self, lines: Sequence[bytes]) -> Iterator[bytes]:
        for line in lines:
            entry = parse(line)
            if entry is None or entry.time < self._since:
                continue
            if self._timestamps and not self._open.get(entry.stream):
                yield entry.time.encode() + b" "
            yield entry.text
            self._open[entry.stream] = not entry.complete
            if entry.complete:
                yield b"\n"
