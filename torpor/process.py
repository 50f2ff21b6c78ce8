"""Children that must not outlive us: start, watch, restart with back-off, stop.

A `Child` is one long-lived component process of `torpor up`. It is started with a parent-death signal where the
system has one (Linux), in its own session so that a Ctrl-C in the terminal reaches only us and the order of shutdown
stays ours. When it ends by itself it is started again after a back-off that grows to `MAX_BACKOFF` and is forgotten
once it has lived for `SETTLED` seconds.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kncore.runtime import set_parent_death_signal

__all__ = ["Child", "python_module"]

FIRST_BACKOFF = 0.05  # seconds; a first crash should hardly be noticed
MAX_BACKOFF = 5.0
SETTLED = 10.0

log = logging.getLogger(__name__)


def python_module(module: str, *arguments: str) -> list[str]:
    """The command that runs one of our modules; -P keeps the current directory from shadowing its imports."""
    return [sys.executable, "-P", "-m", module, *arguments]


@dataclass(frozen=True, kw_only=True)
class Exit:
    """How a child ended: exit code, negative for a signal."""

    code: int
    lived: float


class Child:
    """One component process, kept alive until `stop`.

    Args:
        command: argv; the environment is `environment` alone.
        log_path: where its stderr goes, appended.
        on_line: called with each line of its stdout, without the newline; None if that goes to the log too.
        on_exit: called when it ended without being asked to.
        death_signal: what the kernel sends it when we die, however we die.
        sockets: listening sockets it inherits under the same numbers. They are ours: while the child restarts, its
            clients' connections wait in the kernel's queue instead of being refused.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        log_path: Path,
        on_line: Callable[[str], None] | None = None,
        on_exit: Callable[[Exit], None] = lambda exit_: None,
        death_signal: signal.Signals = signal.SIGKILL,
        sockets: Sequence[socket.socket] = (),
    ) -> None:
        self.name = name
        self._command = list(command)
        self._environment = dict(environment)
        self._log_path = log_path
        self._on_line = on_line
        self._on_exit = on_exit
        self._death_signal = death_signal
        self._descriptors = [one.fileno() for one in sockets]
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def run(self) -> None:
        """Keep the child running; returns after `stop`."""
        backoff = FIRST_BACKOFF
        while not self._stopping.is_set():
            started = time.monotonic()
            code = await self._once()
            if self._stopping.is_set():
                return
            lived = time.monotonic() - started
            self.restarts += 1
            self._on_exit(Exit(code=code, lived=lived))
            backoff = FIRST_BACKOFF if lived > SETTLED else min(backoff * 2, MAX_BACKOFF)
            await asyncio.sleep(backoff)

    async def stop(self, grace: float) -> None:
        """Ask with SIGTERM, insist with SIGKILL after `grace` seconds; returns when it is gone."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(grace):
                await process.wait()
        except TimeoutError:
            self.kill()
            await process.wait()

    def kill(self) -> None:
        """SIGKILL, now."""
        self._stopping.set()
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def tail(self, lines: int = 5) -> str:
        """The last lines of its log, for a message about its death."""
        try:
            with self._log_path.open("rb") as file:
                file.seek(max(0, self._log_path.stat().st_size - 8192))
                return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    async def _once(self) -> int:
        parent = os.getpid()

        def tie() -> None:  # in the child, before exec
            set_parent_death_signal(self._death_signal, parent=parent)

        with self._log_path.open("ab") as errors:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=errors if self._on_line is None else asyncio.subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                preexec_fn=tie,
                pass_fds=self._descriptors,
                limit=1 << 20,
            )
        lines = self._process.stdout
        while lines is not None and self._on_line is not None:
            try:
                line = await lines.readline()
            except ValueError:  # a line over the limit: drop what was buffered and go on
                continue
            if not line:
                break
            self._on_line(line.decode(errors="replace").rstrip("\n"))
        return await self._process.wait()
