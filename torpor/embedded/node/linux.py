"""The few system calls that Python does not offer, for code that runs between fork and exec.

Loaded once, before any fork: looking a symbol up in a child costs time and may take a lock. Off Linux every call is
unavailable and says so with `OSError(ENOSYS)`; callers have a fallback (see `runtime`).
"""

import ctypes
import errno
import os
import sys
from pathlib import Path

__all__ = [
    "CLONE_NEWNS",
    "CLONE_NEWUSER",
    "MS_BIND",
    "MS_PRIVATE",
    "MS_RDONLY",
    "MS_REC",
    "MS_REMOUNT",
    "children",
    "environment",
    "mount",
    "parent_death_signal",
    "process_stat",
    "set_name",
    "setns",
    "subreaper",
    "unshare",
]

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 0x1, 0x20, 0x1000, 0x4000, 0x40000

_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 1, 15, 36

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
if _libc is not None:
    _prctl, _unshare, _mount, _setns = _libc.prctl, _libc.unshare, _libc.mount, _libc.setns
    _mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def _need_linux(what: str) -> None:
    if _libc is None:
        raise OSError(errno.ENOSYS, f"{what}: only Linux has it")


def parent_death_signal(number: int) -> None:
    """Have the kernel send us `number` when the thread that forked us ends; 0 turns it off. Cleared by our own fork."""
    _need_linux("prctl")
    _check(_prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")


def subreaper() -> None:
    """Become the parent of orphaned descendants, in place of init."""
    _need_linux("prctl")
    _check(_prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl(PR_SET_CHILD_SUBREAPER)")


def set_name(name: str) -> None:
    """What `ps` and /proc/<pid>/comm show; cut to 15 bytes."""
    _need_linux("prctl")
    _check(_prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0), "prctl(PR_SET_NAME)")


def unshare(flags: int) -> None:
    """Leave the parent's namespaces of the given kinds for new ones."""
    _need_linux("unshare")
    _check(_unshare(flags), "unshare")


def setns(fd: int, kind: int) -> None:
    """Enter the namespace that `fd` (an open /proc/<pid>/ns/...) stands for."""
    _need_linux("setns")
    _check(_setns(fd, kind), "setns")


def mount(source: str, target: str, filesystem: str = "none", flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    _need_linux("mount")
    result = _mount(source.encode(), target.encode(), filesystem.encode(), flags, data.encode())
    _check(result, f"mount {source} on {target}")


def process_stat(pid: int) -> tuple[str, int, int, int] | None:
    """(state letter, parent pid, session id, start time in clock ticks since boot) of a process, or None if it is gone.

    The start time makes a pid unambiguous: a reused pid has a later one. Source: proc(5), fields 3, 4, 6 and 22.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The command name (field 2) is in parentheses and may hold anything, spaces and parentheses included.
    fields = text[text.rfind(b")") + 2 :].split()
    return fields[0].decode(), int(fields[1]), int(fields[3]), int(fields[19])


def environment(pid: int) -> list[bytes]:
    """The `NAME=value` strings a process was executed with; empty if it is gone or not ours to look at."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def children() -> list[int]:
    """Pids of our direct children, zombies included."""
    pid = os.getpid()
    try:
        return [int(one) for one in Path(f"/proc/self/task/{pid}/children").read_bytes().split()]
    except OSError:  # kernels built without CONFIG_PROC_CHILDREN
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            stat = process_stat(int(entry.name))
            if stat is not None and stat[1] == pid:
                found.append(int(entry.name))
        return found
