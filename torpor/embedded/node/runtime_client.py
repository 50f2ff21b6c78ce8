"""The node agent's side of the container runtime's socket.

One connection carries commands, answers and exit events; each `exec` has its own, so that closing it kills the command.
`run` keeps the connection up: after every (re)connection it attaches, hands the list of containers to `on_attach`,
and from then on every exit to `on_exit`. A runtime that was replaced shows by a new `boot` id: then nothing of what
ran before is left.

A command without a connection waits for one, up to its deadline; a command whose answer was cut off fails with
`RuntimeLost` (it may have been carried out; the next `attach` tells).
"""

import array
import asyncio
import itertools
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torpor.embedded.node import protocol
from torpor.embedded.node.protocol import Exit, Run, RuntimeRefused

__all__ = ["Attached", "Exec", "Running", "Runtime", "RuntimeClient", "RuntimeLost", "Statistics"]

ANSWER_TIMEOUT = 30.0
"""Seconds a command may take; a start is a few milliseconds."""
RECONNECT = (0.005, 0.5)
"""First and longest pause between attempts to connect, seconds; the runtime is started together with us."""


class RuntimeLost(RuntimeRefused):
    """The connection to the runtime broke before the answer came, or none could be made in time."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "RuntimeLost")


@dataclass(frozen=True, kw_only=True)
class Running:
    """A container the runtime knows, running or ended."""

    container: str
    pod: str
    name: str
    pid: int
    started_at: float
    log: str
    meta: Mapping[str, Any]
    exit: Exit | None = None
    warnings: tuple[str, ...] = ()
    """What could not be done for it, e.g. mounts."""


@dataclass(frozen=True)
class Attached:
    """The state of the runtime at the moment of (re)connection."""

    boot: str
    """Another value than before means another runtime process: all earlier containers are gone."""
    containers: tuple[Running, ...]


class Exec(Protocol):
    """A command inside a running container."""

    async def wait(self) -> Exit:
        """How it ended."""

    def kill(self) -> None:
        """End it and everything it started, now."""


class Runtime(Protocol):
    """What the node agent needs of a runtime; `RuntimeClient`, or a fake in tests."""

    async def start(self, run: Run) -> Running:
        """Start a container; returns once its program runs.

        Raises:
            RuntimeRefused: it could not be started; `reason` says why in a word.
        """

    async def signal(self, container: str, number: int) -> bool:
        """Signal a container's process group; False if it had ended."""

    async def remove(self, container: str) -> None:
        """Forget an ended container."""

    async def exec(
        self,
        container: str,
        argv: Sequence[str],
        *,
        stdio: tuple[int, int, int],
        env: Mapping[str, str] | None = None,
        tty: bool = False,
    ) -> Exec:
        """Start a command in a running container with copies of the given descriptors as its standard streams.

        Raises:
            RuntimeRefused: no such container, or no such program.
        """


@dataclass(frozen=True, slots=True)
class Statistics:
    """State of the connection."""

    connected: bool
    unanswered: int
    connections_made: int


@dataclass
class _Exec:
    stream: socket.socket
    lines: protocol.Lines
    pending: list[dict[str, Any]] = field(default_factory=list)

    async def receive(self) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        while not self.pending:
            data = await loop.sock_recv(self.stream, 64 * 1024)
            if not data:
                raise RuntimeLost("the container runtime closed the connection of an exec")
            self.pending = self.lines.feed(data)
        return self.pending.pop(0)

    async def wait(self) -> Exit:
        try:
            message = await self.receive()
        except OSError as exc:
            raise RuntimeLost(f"exec: {exc}") from exc
        finally:
            self.stream.close()
        return _exit(message)

    def kill(self) -> None:
        self.stream.close()


class RuntimeClient:
    """A `Runtime` behind a Unix socket.

    Args:
        path: the runtime's socket.
        on_attach: called with the runtime's state after every connection, before any later exit is reported.
        on_exit: called with (container, exit) for each exit.
    """

    name = "container runtime connection"

    def __init__(
        self,
        path: Path,
        *,
        on_attach: Callable[[Attached], None] = lambda _: None,
        on_exit: Callable[[str, Exit], None] = lambda _, __: None,
    ) -> None:
        self._path = path
        self.on_attach = on_attach
        self.on_exit = on_exit
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._connected = asyncio.Event()
        self._connections = 0

    def statistics(self) -> Statistics:
        """State of the connection."""
        return Statistics(self._connected.is_set(), len(self._waiting), self._connections)

    async def run(self) -> None:
        """Keep the connection until cancelled."""
        pause = RECONNECT[0]
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(str(self._path))
            except OSError:
                await asyncio.sleep(pause)
                pause = min(pause * 2, RECONNECT[1])
                continue
            pause = RECONNECT[0]
            self._connections += 1
            self._writer = writer
            try:
                await self._converse(reader, writer)
            except (OSError, protocol.BadCommand):
                pass
            finally:
                self._writer = None
                self._connected.clear()
                writer.close()
                lost = RuntimeLost("the connection to the container runtime broke")
                for waiting in self._waiting.values():
                    if not waiting.done():
                        waiting.set_exception(lost)
                self._waiting.clear()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = protocol.Lines()
        writer.write(protocol.encode({"id": 0, "do": "attach"}))
        while data := await reader.read(256 * 1024):
            for message in lines.feed(data):
                if message.get("event") == "exited":
                    self.on_exit(message["container"], _exit(message))
                elif message.get("id") == 0:
                    found = message["ok"]
                    self.on_attach(Attached(found["boot"], tuple(map(_running, found["containers"]))))
                    self._connected.set()
                elif (waiting := self._waiting.pop(message.get("id", -1), None)) is not None and not waiting.done():
                    waiting.set_result(message)

    async def _ask(self, do: str, **fields: Any) -> dict[str, Any]:
        number = next(self._numbers)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                if not self._connected.is_set():
                    await self._connected.wait()
                assert self._writer is not None
                self._waiting[number] = answer
                self._writer.write(protocol.encode({"id": number, "do": do, **fields}))
                message = await answer
        except TimeoutError as exc:
            raise RuntimeLost(f"the container runtime did not answer within {ANSWER_TIMEOUT:g} s") from exc
        finally:
            self._waiting.pop(number, None)
        if "error" in message:
            raise RuntimeRefused(message["error"], message.get("reason", "RuntimeError"))
        found: dict[str, Any] = message["ok"]
        return found

    async def hello(self) -> dict[str, Any]:
        """Facts about the runtime: `boot`, `pid`, `limits` (why resource limits are not enforced, or empty), counts."""
        return await self._ask("hello")

    async def start(self, run: Run) -> Running:
        """See `Runtime.start`."""
        found = await self._ask("run", **run.message())
        return Running(
            container=run.container,
            pod=run.pod,
            name=run.name,
            pid=found["pid"],
            started_at=found["started_at"],
            log=run.log,
            meta=run.meta,
            warnings=tuple(found["warnings"]),
        )

    async def signal(self, container: str, number: int) -> bool:
        """See `Runtime.signal`."""
        return bool((await self._ask("signal", container=container, signal=number))["sent"])

    async def remove(self, container: str) -> None:
        """See `Runtime.remove`."""
        await self._ask("remove", container=container)

    async def exec(
        self,
        container: str,
        argv: Sequence[str],
        *,
        stdio: tuple[int, int, int],
        env: Mapping[str, str] | None = None,
        tty: bool = False,
    ) -> Exec:
        """See `Runtime.exec`. Cancelling kills the command."""
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        made.setblocking(False)
        session = _Exec(made, protocol.Lines())
        request = {
            "id": 1,
            "do": "exec",
            "container": container,
            "argv": list(argv),
            "env": dict(env or {}),
            "tty": tty,
        }
        try:
            # Connecting to and sending a line into a local socket does not block for longer than the kernel copies it.
            made.connect(str(self._path))
            rights = array.array("i", stdio)
            made.sendmsg([protocol.encode(request)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            # A command that ends at once may be reported as finished before it is reported as started.
            early: list[dict[str, Any]] = []
            while (message := await session.receive()).get("id") != request["id"]:
                early.append(message)
            session.pending[:0] = early
        except BaseException as exc:
            made.close()
            if isinstance(exc, OSError):
                raise RuntimeLost(f"exec: {exc}") from exc
            raise
        if "error" in message:
            made.close()
            raise RuntimeRefused(message["error"], message.get("reason", "RuntimeError"))
        return session


def _exit(message: Mapping[str, Any]) -> Exit:
    return Exit(
        code=message["code"], signal=message["signal"], at=message["at"], oom_killed=message.get("oom_killed", False)
    )


def _running(found: Mapping[str, Any]) -> Running:
    return Running(
        container=found["container"],
        pod=found["pod"],
        name=found["name"],
        pid=found["pid"],
        started_at=found["started_at"],
        log=found["log"],
        meta=found["meta"],
        exit=_exit(found["exit"]) if found["exit"] else None,
    )
