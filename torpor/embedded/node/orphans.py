"""Nothing outlives the runtime: a record on disk of what it started, and the clean-up at the next start.

The kernel kills our direct children when we die, but not their children. So every container is noted in a file with
its pid and start time before anything else happens to it, and a new runtime kills what is left of the old one. A pid
alone is never enough, pids are reused: a process is killed only if it is the noted process itself (same start time)
or carries the marker of a noted container in its environment and is younger than that container's first process.
"""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import orjson

from torpor.embedded.node import linux
from torpor.embedded.node.spawn import MARKER

__all__ = ["Record", "Records", "descendants", "kill_survivors"]

_COMPACT_AFTER = 1000
"""Lines in the file after which it is rewritten."""


@dataclass(frozen=True, slots=True)
class Record:
    """A container's first process."""

    container: str
    pid: int
    start_ticks: int
    """From /proc/<pid>/stat: ticks since boot."""
    boot: str
    """Which boot of the machine `start_ticks` counts from."""


class Records:
    """The file of running containers: one JSON line each, appended at start and at end, rewritten now and then.

    A failed write (full disk) is not an error: it costs the certainty of one clean-up, not a pod.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._live: dict[str, Record] = {}
        self._lines = 0
        self._boot = boot_id()
        self._fd = -1

    @classmethod
    def take_over(cls, path: Path) -> tuple[Self, list[Record]]:
        """A fresh file, and what the old one said was running."""
        records = cls(path)
        found: dict[str, Record] = {}
        try:
            lines = path.read_bytes().splitlines()
        except OSError:
            lines = []
        for line in lines:
            try:
                entry = orjson.loads(line)
                if entry.get("ended"):
                    found.pop(entry["container"], None)
                else:
                    found[entry["container"]] = Record(
                        entry["container"], int(entry["pid"]), int(entry["start_ticks"]), entry["boot"]
                    )
            except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
                continue  # a torn last line
        return records, list(found.values())

    def started(self, container: str, pid: int) -> None:
        """Note a process that was just forked."""
        stat = linux.process_stat(pid)
        record = Record(container, pid, stat[3] if stat else 0, self._boot)
        self._live[container] = record
        self._append(_line(record))

    def ended(self, container: str) -> None:
        """Forget a container of which nothing is left."""
        if self._live.pop(container, None) is not None:
            self._append(orjson.dumps({"container": container, "ended": True}) + b"\n")

    def rewrite(self) -> None:
        """Write the file anew with only what is running."""
        fresh = self._path.with_suffix(".new")
        try:
            fresh.write_bytes(b"".join(map(_line, self._live.values())))
            fresh.replace(self._path)
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return
        self._lines = len(self._live)

    def _append(self, line: bytes) -> None:
        if self._fd < 0 or self._lines > _COMPACT_AFTER + 2 * len(self._live):
            self.rewrite()
            return
        try:
            os.write(self._fd, line)
            self._lines += 1
        except OSError:
            return


def kill_survivors(records: list[Record], *, patience: float = 5.0) -> list[int]:
    """SIGKILL what an earlier runtime left behind, and wait until it is gone; pids killed.

    Args:
        patience: seconds to wait at most; a process stuck in the kernel is left to die on its own.
    """
    boot = boot_id()
    known = {record.container: record for record in records if record.boot == boot}
    leaders = {record.pid: record for record in known.values()}
    killed: dict[int, int] = {}
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        left = dict(_survivors(known, leaders)) if known else {}
        if not left:
            break
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        killed.update(left)
        time.sleep(0.01)
    return list(killed)


def _survivors(known: dict[str, Record], leaders: dict[int, Record]) -> Iterator[tuple[int, int]]:
    for entry in Path("/proc").glob("[0-9]*"):
        pid = int(entry.name)
        stat = linux.process_stat(pid)
        if stat is None or stat[0] in "ZX" or pid == os.getpid():
            continue
        leader, marked = leaders.get(pid), known.get(_marker(pid))
        if (leader and leader.start_ticks == stat[3]) or (marked and stat[3] >= marked.start_ticks):
            yield pid, stat[3]


def descendants(container: str, session: int) -> Iterator[int]:
    """Our children that belong to a container without being its first process: orphans that were handed to us."""
    for pid in linux.children():
        stat = linux.process_stat(pid)
        if stat is None or stat[0] in "ZX":
            continue
        if stat[2] == session or _marker(pid) == container:
            yield pid


def _marker(pid: int) -> str:
    prefix = f"{MARKER}=".encode()
    return next((one[len(prefix) :].decode() for one in linux.environment(pid) if one.startswith(prefix)), "")


def boot_id() -> str:
    """A text that changes when the machine boots."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _line(record: Record) -> bytes:
    return (
        orjson.dumps(
            {
                "container": record.container,
                "pid": record.pid,
                "start_ticks": record.start_ticks,
                "boot": record.boot,
            }
        )
        + b"\n"
    )
