"""The example app without a platform: what its own start takes, and a control that shows what the machine takes.

The app is started exactly as the node starts it (same interpreter, directory and environment) and asked for /health
every millisecond, the way the platform's probes do. What a cold start takes beyond this is the platform's.
"""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.client import POLL, ask, poll_health
from benchmarks.ports import free_port
from torpor.embedded.images import Image

__all__ = ["HELLO", "control", "start_many", "start_once"]

EXAMPLES = Path(__file__).parents[1] / "examples"
HELLO = Image(match="hello", directory=EXAMPLES / "hello" / "app", command=("python", "app.py"))


def start_once() -> float:
    """Seconds from starting the app's process until it answers /health with 200."""
    port = free_port()
    begun = time.perf_counter()
    process = _start(port)
    try:
        poll_health(("127.0.0.1", port))
        return time.perf_counter() - begun
    finally:
        _kill([process])


def start_many(count: int) -> list[float]:
    """Seconds until each of many apps started at once answers: what so many processes cost this machine alone."""
    ports = [free_port() for _ in range(count)]
    begun = time.perf_counter()
    processes = [_start(port) for port in ports]
    took: list[float] = []
    try:
        waiting = set(ports)
        while waiting and time.perf_counter() - begun < 60:
            for port in sorted(waiting):
                with contextlib.suppress(OSError):
                    if ask(("127.0.0.1", port), "/health", "localhost").status == 200:
                        took.append(time.perf_counter() - begun)
                        waiting.discard(port)
            time.sleep(POLL)
        if waiting:
            raise TimeoutError(f"{len(waiting)} of {count} apps did not answer within a minute")
        return took
    finally:
        _kill(processes)


@contextlib.contextmanager
def control() -> Iterator[tuple[str, int]]:
    """The app, running by itself: its address. A request to it takes what this machine takes just now."""
    port = free_port()
    process = _start(port)
    try:
        poll_health(("127.0.0.1", port))
        yield "127.0.0.1", port
    finally:
        _kill([process])


def _start(port: int) -> subprocess.Popen[bytes]:
    environment = {
        "HOME": os.environ.get("HOME", "/"),
        **HELLO.environment(),
        "LOG_LEVEL": "info",
        "PORT": str(port),
    }
    return subprocess.Popen(
        HELLO.argv(None, None),
        cwd=HELLO.cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _kill(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.wait(10)
