"""What a figure depends on besides the code: processor, kernel, versions, commit, and who else uses the machine."""

import os
import platform
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.procfs import Times, machine_times

__all__ = ["Calm", "describe", "wait_until_calm"]

ROOT = Path(__file__).parents[1]
CALM = 0.15
"""Share of all processors in use by others below which a measurement may begin; an idle desktop is below it."""
LOOK = 1.0  # seconds of one look at the load


@dataclass(frozen=True, kw_only=True)
class Calm:
    """What else ran before a measurement."""

    waited: float
    busy: float
    """Share of all processors in the last second before the start, 0..1."""
    load: tuple[float, float, float]
    """Load averages."""
    times: Times

    def since(self) -> dict[str, Any]:
        """As it goes into the file at the end of the measurement: what it was before, and what was stolen since."""
        now = machine_times()
        passed = max(1, now.total - self.times.total)
        return {
            "waited_seconds": round(self.waited, 1),
            "busy_before": round(self.busy, 3),
            "load_before": self.load,
            "load_after": os.getloadavg(),
            "stolen": round((now.steal - self.times.steal) / passed, 4),
        }


def wait_until_calm(patience: float) -> Calm:
    """Wait until others leave the machine alone, at most `patience` seconds; tells what it was like then."""
    begun = time.monotonic()
    while True:
        before = machine_times()
        time.sleep(LOOK)
        after = machine_times()
        busy = (after.busy - before.busy) / max(1, after.total - before.total)
        waited = time.monotonic() - begun
        if busy <= CALM or waited >= patience:
            return Calm(waited=waited, busy=busy, load=os.getloadavg(), times=after)


def describe() -> dict[str, Any]:
    """Hardware, kernel, versions and commit, as written beside every result."""
    return {
        "processor": _processor(),
        "processors": os.cpu_count(),
        "memory_mb": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20,
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        **{name: metadata.version(name) for name in ("uvloop", "httptools", "aiohttp")},
        "nginx": _said("nginx", "-v", pattern=r"nginx/(\S+)"),
        "wrk": _said("wrk", "-v", pattern=r"^wrk (?:\S*/)?(\d\S*)"),
        "commit": _commit(),
    }


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.machine()


def _said(program: str, *arguments: str, pattern: str) -> str | None:
    """A version out of what a program says of itself; None if it is not installed."""
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")
    if path is None:
        return None
    done = subprocess.run([path, *arguments], capture_output=True, text=True, check=False, timeout=10)
    found = re.search(pattern, done.stdout + done.stderr, re.MULTILINE)
    return found[1] if found else "unknown"


def _commit() -> str:
    """Short commit id, with `+changes` when tracked files differ from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=10)
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "--short=10", "HEAD") or "unknown"
    return commit + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
