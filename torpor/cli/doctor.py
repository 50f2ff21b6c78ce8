"""`torpor doctor`: is this machine fit, and is the platform well?"""

import os
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torpor.cli.output import emphasis
from torpor.state import NotRunning, StateDir

__all__ = ["Check", "checks", "doctor"]

MIN_OPEN_FILES = 4096
MIN_FREE_BYTES = 512 << 20
OLDEST_KUBECTL = (1, 29)


@dataclass(frozen=True)
class Check:
    """One finding: `good` or not, what was seen, and what to do if it is not."""

    good: bool
    what: str
    fix: str = ""


def doctor(state_dir: Path) -> int:
    """Print every finding; 1 if something needs attention."""
    found = list(checks(state_dir))
    for check in found:
        mark = emphasis("ok  ", "good", stream=sys.stdout) if check.good else emphasis("FIX ", "bad", stream=sys.stdout)
        print(f"{mark}{check.what}" + (f"\n    {check.fix}" if check.fix and not check.good else ""))
    return int(not all(check.good for check in found))


def checks(state_dir: Path) -> Iterator[Check]:
    """Everything that is examined, in order."""
    yield Check(sys.version_info >= (3, 11), f"Python {sys.version.split()[0]}", "install Python 3.11 or newer")
    yield _kubectl()
    yield _open_files()
    yield _loopback()
    yield _disk(state_dir)
    try:
        running = StateDir(state_dir).running()
    except NotRunning:
        yield _port(8080)
        yield Check(True, f"no platform running on {state_dir}")
    else:
        yield Check(True, f"platform running on {state_dir} (pid {running.pid}), ready after {running.ready_seconds} s")
        for name, address in (
            ("ingress", running.ingress),
            ("activator", running.internal),
            ("autoscaler", running.autoscaler),
        ):
            yield _listening(name, address)


def _kubectl() -> Check:
    program = shutil.which("kubectl")
    if program is None:
        return Check(True, "kubectl not installed; `torpor apply`, `get`, `delete` and `logs` do without it")
    try:
        done = subprocess.run(
            [program, "version", "--client", "-o", "json"], capture_output=True, timeout=10, check=True
        )
        import orjson

        version = orjson.loads(done.stdout)["clientVersion"]
        number = (int(version["major"]), int("".join(filter(str.isdigit, version["minor"]))))
    except (OSError, subprocess.SubprocessError, ValueError, KeyError):
        return Check(False, f"{program} does not tell its version", "reinstall kubectl")
    fix = f"use kubectl {OLDEST_KUBECTL[0]}.{OLDEST_KUBECTL[1]} or newer: older ones need the protobuf /openapi/v2"
    return Check(number >= OLDEST_KUBECTL, f"kubectl {version['gitVersion']} at {program}", fix)


def _open_files() -> Check:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fix = f"raise it: ulimit -n {min(hard, 65536) if hard != resource.RLIM_INFINITY else 65536}"
    return Check(soft >= MIN_OPEN_FILES, f"{soft} open files allowed", fix)


def _loopback() -> Check:
    with socket.socket() as probe:
        try:
            probe.bind(("127.2.128.1", 0))
        except OSError as exc:
            return Check(
                False,
                f"pods cannot have loopback addresses: {exc.strerror}",
                "on macOS add aliases: sudo ifconfig lo0 alias 127.2.128.1 (one for each pod)",
            )
    return Check(True, "pods can have addresses in 127/8")


def _disk(state_dir: Path) -> Check:
    place = state_dir
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    writable = os.access(place, os.W_OK)
    what = f"{free >> 20} MiB free at {place}" + ("" if writable else ", not writable")
    return Check(free >= MIN_FREE_BYTES and writable, what, "free some space, or use another --state-dir")


def _port(port: int) -> Check:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return Check(True, f"port {port} is taken; `torpor up` will use the next free one")
    return Check(True, f"port {port} is free")


def _listening(name: str, address: str) -> Check:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=2):
            return Check(True, f"{name} answers at {address}")
    except OSError as exc:
        return Check(
            False,
            f"{name} does not answer at {address}: {exc}",
            "see the logs in the state directory, or restart `torpor up`",
        )
