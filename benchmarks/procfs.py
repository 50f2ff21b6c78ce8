"""What Linux tells about processes: who is whose child, who listens where, memory and CPU time.

Read from /proc alone, so that measuring needs no package and costs the measured processes nothing but the page walk of
`smaps_rollup`. A process that ends while it is being read counts as empty.
"""

import contextlib
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Memory", "Times", "command", "cpu_seconds", "descendants", "listener", "machine_times", "memory", "pin"]

PROC = Path("/proc")


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory of a process. Bytes.

    Pages that several processes map are counted in full by each one's `rss`, divided among them in `pss`, and in
    nobody's `uss`. Only `pss` may be added up.
    """

    rss: int
    pss: int
    uss: int

    def __add__(self, other: "Memory") -> "Memory":
        return Memory(rss=self.rss + other.rss, pss=self.pss + other.pss, uss=self.uss + other.uss)


@dataclass(frozen=True, kw_only=True)
class Times:
    """CPU time of the whole machine since it started, in clock ticks over all processors."""

    busy: int
    steal: int
    """Taken by the hypervisor for others; also in `busy`."""
    total: int


def memory(pid: int) -> Memory:
    """What a process holds now."""
    fields: dict[str, int] = {}
    try:
        for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines()[1:]:
            name, value = line.split()[:2]
            fields[name.rstrip(":")] = int(value) * 1024
    except OSError:
        return Memory(rss=0, pss=0, uss=0)
    return Memory(rss=fields["Rss"], pss=fields["Pss"], uss=fields["Private_Clean"] + fields["Private_Dirty"])


def cpu_seconds(pids: Iterable[int]) -> float:
    """Time the processes' threads have run so far; the scheduler's own count, to the nanosecond."""
    total = 0
    for pid in pids:
        for thread in _threads(pid):
            try:
                total += int((thread / "schedstat").read_text().split()[0])
            except OSError:
                continue
    return total / 1e9


def machine_times() -> Times:
    """The first line of /proc/stat."""
    ticks = [int(word) for word in (PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = ticks
    return Times(busy=user + nice + system + irq + softirq + steal, steal=steal, total=sum(ticks))


def command(pid: int) -> str:
    """The command line, arguments separated by spaces; the short name where there is none."""
    try:
        line = (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        return line or (PROC / str(pid) / "comm").read_text().strip()
    except OSError:
        return ""


def descendants(pid: int) -> Iterator[int]:
    """Children, their children and so on; parents before children."""
    for thread in _threads(pid):
        try:
            children = [int(child) for child in (thread / "children").read_text().split()]
        except OSError:
            continue
        for child in children:
            yield child
            yield from descendants(child)


def listener(host: str, port: int, among: Iterable[int]) -> int | None:
    """Which of the processes listens on an IPv4 address and port."""
    address = struct.unpack("=I", socket.inet_aton(host))[0]
    wanted = f"{address:08X}:{port:04X}"
    inodes = set()
    for line in (PROC / "net" / "tcp").read_text().splitlines()[1:]:
        words = line.split()
        if words[1] == wanted and words[3] == "0A":  # TCP_LISTEN
            inodes.add(f"socket:[{words[9]}]")
    return next((pid for pid in among if not inodes.isdisjoint(_open_files(pid))), None)


def pin(pids: Iterable[int], processors: set[int]) -> None:
    """Keep processes, all their threads included, on the given processors."""
    for pid in pids:
        for thread in _threads(pid):
            os.sched_setaffinity(int(thread.name), processors)


def _open_files(pid: int) -> Iterator[str]:
    try:
        entries = list((PROC / str(pid) / "fd").iterdir())
    except OSError:
        return
    for entry in entries:
        with contextlib.suppress(OSError):  # closed since the directory was read
            yield os.readlink(entry)


def _threads(pid: int) -> list[Path]:
    try:
        return list((PROC / str(pid) / "task").iterdir())
    except OSError:
        return []
