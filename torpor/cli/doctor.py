"""`torpor doctor`: is this machine fit, and is the platform well?"""

import os
import resource
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import orjson

from kncore.errors import ConfigError
from kncore.kube import kubeconfig
from torpor.cli.output import Output, emphasis, show
from torpor.state import NotRunning, Running, StateDir

__all__ = ["Check", "checks", "doctor"]

MIN_OPEN_FILES = 4096
MIN_FREE_BYTES = 512 << 20
MIN_PROCESSES = 1024
OLDEST_KUBECTL = (1, 29)
PUBLIC_PORT = 8080
TIMEOUT = 2.0  # seconds a listener on this machine may take to accept


@dataclass(frozen=True)
class Check:
    """One finding: `good` or not, what was seen, and what to do if it is not."""

    good: bool
    what: str
    fix: str = ""


def doctor(state_dir: Path, *, output: Output | None = None) -> int:
    """Print every finding; 1 if something needs attention."""
    found = list(checks(state_dir))
    if output is not None:
        show({"items": [asdict(check) for check in found]}, output)
    else:
        for check in found:
            print(f"{_mark(check.good)}  {check.what}")
            if check.fix and not check.good:
                print(f"     {check.fix}")
    return int(not all(check.good for check in found))


def _mark(good: bool) -> str:
    return emphasis("ok ", "good", stream=sys.stdout) if good else emphasis("FIX", "bad", stream=sys.stdout)


def checks(state_dir: Path) -> Iterator[Check]:
    """Everything that is examined, in order: the machine, then the platform."""
    yield python()
    yield kubectl()
    yield open_files()
    yield processes()
    yield loopback()
    yield disk(state_dir)
    try:
        running = StateDir(state_dir).running()
    except NotRunning:
        yield port(PUBLIC_PORT)
        yield Check(True, f"no platform is running on {state_dir}; `torpor up` starts one")
        return
    yield Check(True, f"platform running on {state_dir} (pid {running.pid}), ready after {running.ready_seconds} s")
    yield from listeners(running)
    yield pointed_at(running, os.environ.get("KUBECONFIG", ""))


# the machine


def python(version: tuple[int, ...] = sys.version_info[:3]) -> Check:
    """Whether the interpreter is new enough."""
    return Check(version >= (3, 11), f"Python {'.'.join(map(str, version))}", "install Python 3.11 or newer")


def kubectl(program: str | None = None) -> Check:
    """Whether kubectl, if there is one, can talk to the embedded API server."""
    program = program or shutil.which("kubectl")
    if program is None:
        return Check(
            True, "kubectl is not installed; `torpor apply`, `get`, `patch`, `delete` and `logs` do without it"
        )
    try:
        done = subprocess.run(
            [program, "version", "--client", "-o", "json"], capture_output=True, timeout=10, check=True
        )
        version = orjson.loads(done.stdout)["clientVersion"]
        number = (int(version["major"]), int("".join(filter(str.isdigit, version["minor"]))))
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
        return Check(False, f"{program} does not tell its version", "reinstall kubectl")
    oldest = ".".join(map(str, OLDEST_KUBECTL))
    fix = f"use kubectl {oldest} or newer: older ones need a form of the API's description that is not served"
    return Check(number >= OLDEST_KUBECTL, f"kubectl {version['gitVersion']} at {program}", fix)


def open_files() -> Check:
    """Whether enough files may be open: a connection is one, on each side."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    best = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    return _limit(soft, MIN_OPEN_FILES, "open files", f"ulimit -n {best}")


def processes() -> Check:
    """Whether enough processes may run: a pod is two or more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    best = "unlimited" if hard == resource.RLIM_INFINITY else hard
    return _limit(soft, MIN_PROCESSES, "processes", f"ulimit -u {best}")


def _limit(soft: int, least: int, what: str, command: str) -> Check:
    if soft == resource.RLIM_INFINITY:
        return Check(True, f"any number of {what} allowed")
    fix = f"at least {least} are needed under load; before `torpor up`: {command}"
    return Check(soft >= least, f"{soft} {what} allowed", fix)


def loopback(address: str = "127.2.128.1") -> Check:
    """Whether pods can have addresses of their own."""
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError as exc:
            what = f"pods cannot have loopback addresses such as {address}: {exc.strerror}"
            return Check(False, what, f"on macOS add aliases, one for each pod: sudo ifconfig lo0 alias {address}")
    return Check(True, "pods can have addresses in 127/8")


def disk(state_dir: Path, least: int = MIN_FREE_BYTES) -> Check:
    """Whether the state directory can be made and has room."""
    place = state_dir.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if not os.access(place, os.W_OK | os.X_OK):
        return Check(False, f"{place} cannot be written", "give a directory of your own with --state-dir")
    what = f"{free >> 20} MiB free at {place}"
    return Check(free >= least, what, f"free {least >> 20} MiB, or give another place with --state-dir")


def port(number: int) -> Check:
    """Whether the public port is free; a taken one is no fault, the next one is used."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", number))
        except OSError:
            return Check(True, f"port {number} is taken; `torpor up` will use the next free one")
    return Check(True, f"port {number} is free")


# the platform


def listeners(running: Running) -> Iterator[Check]:
    """Whether each component accepts connections."""
    for name, address in (
        ("API server", urlsplit(running.api_url).netloc),
        ("ingress", running.ingress),
        ("ingress in TLS", running.https),
        ("activator", running.internal),
        ("autoscaler", running.autoscaler),
    ):
        host, _, number = address.rpartition(":")
        try:
            with socket.create_connection((host, int(number)), timeout=TIMEOUT):
                yield Check(True, f"{name} answers at {address}")
        except OSError as exc:
            logs = Path(running.kubeconfig).parent / "logs"
            yield Check(False, f"{name} does not answer at {address}: {exc}", f"see {logs}, or start `torpor up` anew")


def pointed_at(running: Running, named: str) -> Check:
    """Whether $KUBECONFIG leads to this platform."""
    export = f"export KUBECONFIG={shlex.quote(running.kubeconfig)}"
    if not named:
        return Check(True, f"KUBECONFIG is not set; for kubectl: {export}")
    try:
        server = kubeconfig.load(named).server
    except ConfigError as exc:
        return Check(False, f"KUBECONFIG: {exc}", export)
    return Check(server == running.api_url, f"KUBECONFIG leads to {server}", f"for this platform: {export}")
