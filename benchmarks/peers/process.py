"""One process of a benchmark: started on a processor, waited for until it answers, ended at the end."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.client import ask
from benchmarks.procfs import pin
from kncore.runtime import set_parent_death_signal

__all__ = ["NotStarted", "Running", "answers", "die_with_parent", "process", "program"]

READY_WITHIN = 30.0
ROOT = Path(__file__).parents[2]
Address = tuple[str, int]


class NotStarted(Exception):
    """A process ended or never answered; the message holds what it said last."""


@dataclass(frozen=True, kw_only=True)
class Running:
    """A proxy under measurement, or the backend."""

    name: str
    address: Address
    pid: int
    headers: Mapping[str, str] | None = None
    """What a request must carry besides `Host` to be served."""
    host: str = "localhost"
    http2: "Running | None" = None
    """How HTTP/2 loads address it, if that differs; with a `pid` of 0 the process is the same."""
    admin: Address | None = None
    """Where it shows its metrics, if it does."""


def answers(address: Address, *, path: str = "/", host: str = "localhost") -> Callable[[], bool]:
    """A check for `process`: a GET is answered 200."""

    def check() -> bool:
        try:
            return ask(address, path, host, within=2.0).status == 200
        except OSError:
            return False

    return check


@contextlib.contextmanager
def process(
    name: str,
    command: Sequence[str],
    address: Address,
    *,
    ready: Callable[[], bool] | None = None,
    processor: int | None = None,
    environment: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    host: str = "localhost",
    http2: Running | None = None,
    admin: Address | None = None,
    folder: Path | None = None,
) -> Iterator[Running]:
    """Start a command and wait until it is ready.

    Args:
        ready: asked every 20 ms; by default, whether a GET to the address is answered 200.
        processor: the one it may run on; None is any.
        environment: added to ours.
        folder: working directory; by default the repository.
    Raises:
        NotStarted: it ended, or was not ready within half a minute.
    """
    with tempfile.TemporaryFile() as said:
        started = subprocess.Popen(
            command,
            cwd=folder or ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            preexec_fn=die_with_parent,
        )
        try:
            if processor is not None:
                pin([started.pid], {processor})
            check = ready or answers(address, host=host)
            deadline = time.monotonic() + READY_WITHIN
            while not check():
                if started.poll() is not None or time.monotonic() > deadline:
                    said.seek(0)
                    text = said.read()[-2000:].decode(errors="replace")
                    raise NotStarted(f"{name} ended or does not answer on {address[0]}:{address[1]}\n{text}")
                time.sleep(0.02)
            yield Running(
                name=name, address=address, pid=started.pid, headers=headers, host=host, http2=http2, admin=admin
            )
        finally:
            _end(started)


def die_with_parent() -> None:
    """Run in a child before its program: a benchmark that is killed shall leave no proxies behind."""
    set_parent_death_signal(signal.SIGKILL)


def _end(started: subprocess.Popen[bytes]) -> None:
    """At once: nothing here has anything to finish, and the original drains for half a minute."""
    started.send_signal(signal.SIGKILL)
    started.wait(10)


def program(name: str, package: str) -> str:
    """The path of an installed program.

    Raises:
        NotStarted: it is not there; says what to install.
    """
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if path is None:
        raise NotStarted(f"{name} is not installed (Debian: apt-get install {package})")
    return path
