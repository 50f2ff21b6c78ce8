"""wrk, and what it says."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CONNECTIONS", "Load", "NoWrk", "parse", "run"]

CONNECTIONS = 64
VARY = Path(__file__).parent / "vary.lua"
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


class NoWrk(Exception):
    """wrk is not installed."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """One run. Seconds."""

    requests: int
    seconds: float
    errors: int
    """Answers that were not 2xx or 3xx, and connections that failed."""
    p50: float
    p99: float

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


def run(
    url: str, headers: Mapping[str, str], *, seconds: int, processor: int | None = None, vary: bool = False
) -> Load:
    """Load a URL with one thread and 64 connections that are kept open.

    Args:
        processor: where wrk runs; None leaves that to the kernel.
        vary: no request head is like another.
    Raises:
        NoWrk: it is not there.
    """
    program = shutil.which("wrk")
    if program is None:
        raise NoWrk("wrk is not installed (Debian: apt-get install wrk)")
    given = [argument for name, value in headers.items() for argument in ("-H", f"{name}: {value}")]
    pinned = ["taskset", "-c", str(processor)] if processor is not None else []
    script = ["-s", str(VARY)] if vary else []
    command = [
        *pinned,
        program,
        "-t1",
        f"-c{CONNECTIONS}",
        f"-d{seconds}s",
        "--latency",
        "--timeout",
        "10s",
        *script,
        *given,
        url,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60)
    return parse(done.stdout)


def parse(text: str) -> Load:
    """Read the report wrk prints with --latency.

    Raises:
        ValueError: it is not one.
    """
    total = re.search(r"^\s*(\d+) requests in ([\d.]+)(us|ms|s|m),", text, re.MULTILINE)
    if total is None:
        raise ValueError(f"not a report of wrk: {text[:200]!r}")
    errors = 0
    if bad := re.search(r"Non-2xx or 3xx responses: (\d+)", text):
        errors += int(bad[1])
    if bad := re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text):
        errors += sum(map(int, bad.groups()))
    return Load(
        requests=int(total[1]),
        seconds=float(total[2]) * _UNITS[total[3]],
        errors=errors,
        p50=_latency(text, 50),
        p99=_latency(text, 99),
    )


def _latency(text: str, rank: int) -> float:
    found = re.search(rf"^\s*{rank}(?:\.0+)?%\s+([\d.]+)(us|ms|s|m)\s*$", text, re.MULTILINE)
    return float(found[1]) * _UNITS[found[2]] if found else float("nan")
