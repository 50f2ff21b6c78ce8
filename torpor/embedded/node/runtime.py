"""The container runtime: one small process that starts, watches and stops all pod processes.

It has no event loop library and no threads: a `selectors` loop over the control socket, the containers' output pipes
and a wake-up descriptor for signals. Thereby it can fork at any moment, and a queue-proxy is forked from it with all
its modules loaded (`gc.freeze` keeps the shared pages shared). Because pods hang on this process and not on the node
agent, the agent may crash and come back: it attaches, is told what runs and what ended meanwhile, and goes on.

What dies when:
- a container's first process ends: the rest of its process group, and orphans of it that escaped the group (they are
  re-parented to us, the subreaper) are killed, its exit is announced and kept until the agent says `remove`;
- the runtime gets SIGTERM, or its parent dies: TERM to every application, KILL after `stop_grace`, then it exits;
- the runtime itself is killed: the kernel kills its children; their children are found by the next runtime (`orphans`).

Bounds: messages (`protocol.LINE_LIMIT_BYTES`), connections, unsent output per connection (a peer that does not read
is dropped), containers, log files (`crilog`).
"""

import argparse
import array
import gc
import heapq
import importlib
import os
import selectors
import signal
import socket
import struct
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from torpor.embedded.node import linux, orphans, protocol, spawn
from torpor.embedded.node.cgroups import Cgroups
from torpor.embedded.node.crilog import LogWriter
from torpor.embedded.node.protocol import BadCommand, Exit, Run

__all__ = ["Runtime", "Statistics", "main"]

MAX_CONTAINERS = 2048
"""Running and ended ones together; also bounds the answer to `attach`."""
MAX_CONNECTIONS = 256
MAX_UNSENT_BYTES = 16 * 1024 * 1024
READ_BYTES = 64 * 1024
"""Read at most per pipe and turn of the loop, so that a container that floods its log cannot hold up the others."""
SWEEP_INTERVAL = 0.02
"""Seconds between two looks for what an ended container left behind."""
SWEEP_TIME = 2.0
"""Seconds after which that is given up; what is left then is stuck in the kernel."""
PARENT_CHECK = 2.0


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the runtime holds."""

    running: int
    ended: int
    connections: int
    execs: int
    lost_log_bytes: int


@dataclass
class _Container:
    run: Run
    pid: int
    started_at: float
    log: LogWriter
    streams: dict[int, str]
    """Open output pipes."""
    exit: Exit | None = None
    sweep_until: float = 0.0
    execs: "set[_Exec]" = field(default_factory=set)

    def describe(self) -> dict[str, Any]:
        return {
            "container": self.run.container,
            "pod": self.run.pod,
            "name": self.run.name,
            "kind": self.run.kind,
            "pid": self.pid,
            "started_at": self.started_at,
            "log": self.run.log,
            "meta": self.run.meta,
            "exit": asdict(self.exit) if self.exit else None,
        }


@dataclass(eq=False)
class _Exec:
    pid: int
    container: _Container
    peer: "_Peer"


@dataclass(eq=False)
class _Peer:
    socket: socket.socket
    lines: protocol.Lines = field(default_factory=protocol.Lines)
    unsent: bytearray = field(default_factory=bytearray)
    attached: bool = False
    fds: list[int] = field(default_factory=list)
    """Descriptors that arrived and were not used yet."""
    exec: _Exec | None = None
    closed: bool = False


class Runtime:
    """The runtime's whole state; `serve` runs it.

    Args:
        socket_path: where to listen; made with mode 0600, and the peer's user is checked too.
        state: directory for the record of running containers and for scratch space.
        queue_proxy: what a container of kind `queue-proxy` does.
        stop_grace: seconds between TERM and KILL when the runtime stops.
        cgroups: enforces limits.
    """

    def __init__(
        self,
        *,
        socket_path: Path,
        state: Path,
        queue_proxy: spawn.QueueProxy,
        stop_grace: float = 3.0,
        cgroups: Cgroups | None = None,
    ) -> None:
        self._socket_path = socket_path
        self._state = state
        self._queue_proxy = queue_proxy
        self._stop_grace = stop_grace
        self._cgroups = cgroups or Cgroups(None, "not asked for")
        self._boot = uuid.uuid4().hex
        self._containers: dict[str, _Container] = {}
        self._by_pid: dict[int, _Container | _Exec] = {}
        self._peers: set[_Peer] = set()
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_count = 0
        self._parent = os.getppid()
        self._stop_at: float | None = None
        self._stopped = False

    def statistics(self) -> Statistics:
        """What is held now."""
        running = sum(one.exit is None for one in self._containers.values())
        return Statistics(
            running=running,
            ended=len(self._containers) - running,
            connections=len(self._peers),
            execs=sum(isinstance(one, _Exec) for one in self._by_pid.values()),
            lost_log_bytes=sum(one.log.dropped_bytes for one in self._containers.values()),
        )

    # The loop

    def serve(self) -> None:
        """Run until SIGTERM or until the parent is gone, and then until every container is."""
        self._state.mkdir(parents=True, exist_ok=True)
        if sys.platform == "linux":
            linux.subreaper()
            linux.parent_death_signal(signal.SIGTERM)
        self._records, left = orphans.Records.take_over(self._state / "running.jsonl")
        orphans.kill_survivors(left)
        self._records.rewrite()
        self._wake_on_signals()
        listener = self._listen()
        gc.collect()
        gc.freeze()
        self._check_parent()
        try:
            while not self._stopped:
                for key, mask in self._selector.select(self._timeout()):
                    key.data(mask)
                self._run_timers()
        finally:
            listener.close()
            self._socket_path.unlink(missing_ok=True)

    def _listen(self) -> socket.socket:
        self._socket_path.parent.mkdir(parents=True, exist_ok=True)
        self._socket_path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)
        try:
            listener.bind(str(self._socket_path))
        finally:
            os.umask(mask)
        listener.listen(64)
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ, lambda _: self._accept(listener))
        return listener

    def _wake_on_signals(self) -> None:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setblocking(False)
        self._wakeup = (ours, theirs)  # referenced, so that neither end is closed
        signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        # Ctrl-C reaches the whole foreground process group; the supervisor decides what it means.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._selector.register(ours, selectors.EVENT_READ, self._on_signals)

    def _on_signals(self, _: int) -> None:
        numbers = self._wakeup[0].recv(4096)
        if signal.SIGTERM in numbers or signal.SIGHUP in numbers:
            self.stop()
        self._reap()

    def _at(self, when: float, what: Callable[[], None]) -> None:
        self._timer_count += 1
        heapq.heappush(self._timers, (when, self._timer_count, what))

    def _timeout(self) -> float | None:
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()

    def _check_parent(self) -> None:
        """The parent-death signal's substitute where there is none, and its safety net where there is."""
        if os.getppid() != self._parent and self._stop_at is None:
            self.stop()
        self._at(time.monotonic() + PARENT_CHECK, self._check_parent)

    # Stopping

    def stop(self) -> None:
        """TERM every application now, KILL those that are left after the grace time, then end `serve`.

        Queue-proxies go last and at once: asked nicely they would wait half a minute for more requests, but whoever
        sends those has been stopped before us.
        """
        if self._stop_at is not None:
            return
        self._stop_at = time.monotonic() + self._stop_grace
        for one in self._containers.values():
            if one.exit is None and one.run.kind != "queue-proxy":
                _kill_group(one.pid, signal.SIGTERM)
        self._finish_stop()

    def _finish_stop(self) -> None:
        assert self._stop_at is not None
        now = time.monotonic()
        running = [one for one in self._containers.values() if one.exit is None]
        sweeping = any(one.sweep_until > now for one in self._containers.values())
        if not running and not sweeping:
            self._kill_children()
            self._stopped = True
            return
        if now >= self._stop_at or all(one.run.kind == "queue-proxy" for one in running):
            for one in running:
                _kill_group(one.pid, signal.SIGKILL)
        if now >= self._stop_at + SWEEP_TIME:
            self._kill_children()
            self._stopped = True
            return
        self._at(now + SWEEP_INTERVAL, self._finish_stop)

    def _kill_children(self) -> None:
        """SIGKILL every process that still is our child: daemons that containers left and that nothing else names."""
        deadline = time.monotonic() + 1.0
        while (pids := linux.children()) and time.monotonic() < deadline:
            for pid in pids:
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG) != (0, 0):
                    pass
            time.sleep(0.002)

    # Children

    def _reap(self) -> None:
        while (pid := _ended_child()) != 0:
            owner = self._by_pid.pop(pid, None)
            if owner is not None:
                _kill_group(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            number = os.waitstatus_to_exitcode(status)
            ended = Exit(code=number if number >= 0 else 128 - number, signal=max(0, -number), at=time.time())
            if isinstance(owner, _Container):
                self._ended(owner, ended)
            elif owner is not None:
                owner.container.execs.discard(owner)
                owner.peer.exec = None
                self._send(owner.peer, {"event": "finished", **asdict(ended)})

    def _ended(self, one: _Container, ended: Exit) -> None:
        for fd in list(one.streams):
            self._drain(one, fd)
        if self._cgroups.oom_killed(one.run.container):
            ended = Exit(code=ended.code, signal=ended.signal, at=ended.at, oom_killed=True)
        one.exit = ended
        for command in list(one.execs):
            _kill_group(command.pid, signal.SIGKILL)
        one.sweep_until = time.monotonic() + SWEEP_TIME
        self._sweep(one)
        self._broadcast({"event": "exited", "container": one.run.container, **asdict(ended)})

    def _sweep(self, one: _Container) -> None:
        """Kill orphans of an ended container until there are none; killing one may hand us its children."""
        found = list(orphans.descendants(one.run.container, one.pid))
        for pid in found:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        now = time.monotonic()
        if (found or one.streams) and now < one.sweep_until:
            self._at(now + SWEEP_INTERVAL, lambda: self._sweep(one))
            return
        one.sweep_until = 0.0
        for fd in list(one.streams):
            self._close_stream(one, fd)
        one.log.finish(time.time())
        self._cgroups.remove(one.run.container)
        self._records.ended(one.run.container)

    # Output

    def _on_output(self, one: _Container, fd: int) -> None:
        if fd not in one.streams:  # closed earlier in this turn of the loop
            return
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            one.log.feed(one.streams[fd], data, time.time())
        else:
            self._close_stream(one, fd)

    def _drain(self, one: _Container, fd: int) -> None:
        """Store all that was written before the process ended; more than a pipe holds cannot have been."""
        for _ in range(64):
            if fd not in one.streams:
                return
            try:
                data = os.read(fd, READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._close_stream(one, fd)
                return
            one.log.feed(one.streams[fd], data, time.time())

    def _close_stream(self, one: _Container, fd: int) -> None:
        self._selector.unregister(fd)
        del one.streams[fd]
        os.close(fd)

    # Connections

    def _accept(self, listener: socket.socket) -> None:
        try:
            made, _ = listener.accept()
        except OSError:
            return
        if len(self._peers) >= MAX_CONNECTIONS or not _same_user(made):
            made.close()
            return
        made.setblocking(False)
        peer = _Peer(made)
        self._peers.add(peer)
        self._selector.register(made, selectors.EVENT_READ, lambda mask: self._on_peer(peer, mask))

    def _on_peer(self, peer: _Peer, mask: int) -> None:
        if mask & selectors.EVENT_WRITE and not peer.closed:
            self._flush(peer)
        if mask & selectors.EVENT_READ and not peer.closed:
            try:
                data, fds = _receive(peer.socket)
            except BlockingIOError:
                return
            except OSError:
                data, fds = b"", []
            peer.fds += fds
            if not data or len(peer.fds) > protocol.EXEC_FDS:
                self._drop(peer)
                return
            try:
                messages = peer.lines.feed(data)
            except BadCommand as exc:
                self._send(peer, {"error": str(exc)})
                self._drop(peer)
                return
            for message in messages:
                if not peer.closed:
                    self._answer(peer, message)

    def _answer(self, peer: _Peer, message: dict[str, Any]) -> None:
        number = message.get("id")
        try:
            command = _COMMANDS.get(str(message.get("do")))
            if command is None:
                raise BadCommand(f"unknown command {message.get('do')!r}")
            answer = command(self, peer, message)
        except BadCommand as exc:
            self._send(peer, {"id": number, "error": str(exc), "reason": "BadCommand"})
        except protocol.RuntimeRefused as exc:
            self._send(peer, {"id": number, "error": str(exc), "reason": exc.reason})
        except OSError as exc:
            self._send(peer, {"id": number, "error": str(exc), "reason": "RuntimeError"})
        else:
            if answer is not None:
                self._send(peer, {"id": number, "ok": answer})

    def _send(self, peer: _Peer, message: dict[str, Any]) -> None:
        if peer.closed:
            return
        idle = not peer.unsent
        peer.unsent += protocol.encode(message)
        if idle:
            self._flush(peer)
        elif len(peer.unsent) > MAX_UNSENT_BYTES:
            self._drop(peer)

    def _flush(self, peer: _Peer) -> None:
        try:
            while peer.unsent:
                sent = peer.socket.send(peer.unsent[: 256 * 1024])
                del peer.unsent[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self._drop(peer)
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.unsent else 0)
        key = self._selector.get_key(peer.socket)
        if key.events != events:
            self._selector.modify(peer.socket, events, key.data)

    def _broadcast(self, message: dict[str, Any]) -> None:
        for peer in list(self._peers):
            if peer.attached:
                self._send(peer, message)

    def _drop(self, peer: _Peer) -> None:
        if peer.closed:
            return
        peer.closed = True
        self._peers.discard(peer)
        self._selector.unregister(peer.socket)
        peer.socket.close()
        for fd in peer.fds:
            os.close(fd)
        if peer.exec is not None:
            _kill_group(peer.exec.pid, signal.SIGKILL)

    # Commands: each returns what goes into `ok`, or None if it answers later by itself

    def _hello(self, _: _Peer, __: dict[str, Any]) -> dict[str, Any]:
        return {"boot": self._boot, "pid": os.getpid(), "limits": self._cgroups.reason, **asdict(self.statistics())}

    def _attach(self, peer: _Peer, _: dict[str, Any]) -> dict[str, Any]:
        peer.attached = True
        return {"boot": self._boot, "containers": [one.describe() for one in self._containers.values()]}

    def _run(self, peer: _Peer, message: dict[str, Any]) -> None:
        run = Run.parse(message)
        if self._stop_at is not None:
            raise protocol.RuntimeRefused("the container runtime is stopping")
        if run.container in self._containers:
            raise protocol.RuntimeRefused(f"container {run.container} exists", "AlreadyExists")
        if len(self._containers) >= MAX_CONTAINERS:
            raise protocol.RuntimeRefused(f"there are {MAX_CONTAINERS} containers already", "TooManyContainers")
        scratch = self._state / "scratch" / run.container
        cgroup = self._cgroups.create(run.container, memory_bytes=run.memory_bytes, cpu_milli=run.cpu_milli)
        try:
            started = spawn.start(run, queue_proxy=self._queue_proxy, scratch=scratch, cgroup=cgroup)
        except OSError as exc:
            raise protocol.RuntimeRefused(f"cannot fork: {exc}", "StartError") from exc
        finally:
            if cgroup >= 0:
                os.close(cgroup)
        one = _Container(
            run=run,
            pid=started.pid,
            started_at=time.time(),
            log=LogWriter(Path(run.log)),
            streams={started.stdout: "stdout", started.stderr: "stderr"},
        )
        one.log.create()
        self._records.started(run.container, started.pid)
        self._containers[run.container] = one
        self._by_pid[started.pid] = one
        for fd in one.streams:
            self._selector.register(fd, selectors.EVENT_READ, lambda _, fd=fd: self._on_output(one, fd))

        def running(error: str, warnings: list[str]) -> None:
            if error:
                # The child is gone or about to; it was never a container, so nobody is told that it ended.
                self._containers.pop(run.container, None)
                self._send(peer, {"id": message.get("id"), "error": error, "reason": "StartError"})
            else:
                answer = {"pid": one.pid, "started_at": one.started_at, "warnings": warnings}
                self._send(peer, {"id": message.get("id"), "ok": answer})

        self._watch_start(started.status, running)

    def _watch_start(self, status: int, then: Callable[[str, list[str]], None]) -> None:
        """Call `then(error, warnings)` once the child has executed its program, or could not."""
        text = bytearray()

        def on_status(_: int) -> None:
            try:
                data = os.read(status, 4096)
            except BlockingIOError:
                return
            text.extend(data)
            if data:
                return
            self._selector.unregister(status)
            os.close(status)
            lines = text.decode(errors="replace").splitlines()
            errors = [line[1:] for line in lines if line.startswith("E")]
            then(errors[0] if errors else "", [line[1:] for line in lines if line.startswith("W")])

        self._selector.register(status, selectors.EVENT_READ, on_status)

    def _signal(self, _: _Peer, message: dict[str, Any]) -> dict[str, Any]:
        one = self._find(message)
        number = message.get("signal")
        if not isinstance(number, int) or not 0 < number < signal.NSIG:
            raise BadCommand(f"signal: bad number {number!r}")
        if one.exit is not None:
            return {"sent": False}
        return {"sent": _kill_group(one.pid, number)}

    def _remove(self, _: _Peer, message: dict[str, Any]) -> dict[str, Any]:
        one = self._find(message)
        if one.exit is None:
            raise BadCommand(f"container {one.run.container} is running")
        # An unfinished sweep keeps its own reference and goes on.
        del self._containers[one.run.container]
        return {}

    def _exec(self, peer: _Peer, message: dict[str, Any]) -> None:
        one = self._find(message)
        argv, env, tty = message.get("argv"), message.get("env", {}), bool(message.get("tty"))
        if not isinstance(argv, list) or not argv or not isinstance(env, dict):
            raise BadCommand("exec: argv or env is missing")
        if peer.exec is not None or len(peer.fds) < protocol.EXEC_FDS:
            raise BadCommand("exec: needs a connection of its own and three descriptors")
        if one.exit is not None:
            raise protocol.RuntimeRefused(f"container {one.run.name} is not running", "ContainerNotRunning")
        fds, peer.fds = peer.fds, []
        try:
            stdio = (fds[0], fds[1], fds[2])
            pid, status = spawn.join(one.run, one.pid, tuple(map(str, argv)), env, stdio, tty=tty)
        finally:
            for fd in fds:
                os.close(fd)
        command = _Exec(pid, one, peer)
        self._by_pid[pid] = command
        one.execs.add(command)
        peer.exec = command

        def running(error: str, _: list[str]) -> None:
            if error:
                self._by_pid.pop(pid, None)
                one.execs.discard(command)
                peer.exec = None
                self._send(peer, {"id": message.get("id"), "error": error, "reason": "StartError"})
            else:
                self._send(peer, {"id": message.get("id"), "ok": {"pid": pid}})

        self._watch_start(status, running)

    def _find(self, message: dict[str, Any]) -> _Container:
        one = self._containers.get(str(message.get("container")))
        if one is None:
            raise protocol.RuntimeRefused(f"no container {message.get('container')}", "NotFound")
        return one


_COMMANDS: dict[str, Callable[[Runtime, _Peer, dict[str, Any]], dict[str, Any] | None]] = {
    "hello": Runtime._hello,
    "attach": Runtime._attach,
    "run": Runtime._run,
    "signal": Runtime._signal,
    "remove": Runtime._remove,
    "exec": Runtime._exec,
}


def _ended_child() -> int:
    """A child that ended and was not reaped yet; 0 for none.

    Looking before reaping matters: until it is reaped its pid, and with it the process group, cannot be anyone else's.
    """
    try:
        info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return 0
    return info.si_pid if info is not None else 0


def _kill_group(pgid: int, number: int) -> bool:
    try:
        os.killpg(pgid, number)
    except ProcessLookupError:
        # Forked a moment ago and not yet in a group of its own.
        try:
            os.kill(pgid, number)
        except ProcessLookupError:
            return False
    except PermissionError:  # every member changed its user
        return False
    return True


def _receive(peer: socket.socket) -> tuple[bytes, list[int]]:
    """Data and descriptors that arrived together; empty data means the other side is gone."""
    room = array.array("i", [0] * protocol.EXEC_FDS)
    data, ancillary, _, _ = peer.recvmsg(256 * 1024, socket.CMSG_SPACE(len(room) * room.itemsize))
    fds: list[int] = []
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            received = array.array("i")
            received.frombytes(payload[: len(payload) - len(payload) % received.itemsize])
            fds += received
    for fd in fds:
        os.set_inheritable(fd, False)
    return data, fds


def _same_user(peer: socket.socket) -> bool:
    """The file mode keeps others out already; this also holds while the file is being made."""
    if sys.platform != "linux":
        return True
    _, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return uid in (0, os.getuid())


_ALSO = ("kncore.net.statstream", "encodings.idna")
"""What a queue-proxy here imports once it runs: in the template it is imported once and its pages are shared, in each
child it would be 25 ms of a wake-up."""


def _load(target: str) -> spawn.QueueProxy:
    """The queue-proxy's entry point, with all that it will need imported."""
    module, _, name = target.partition(":")
    for needed in _ALSO:
        importlib.import_module(needed)
    return cast("spawn.QueueProxy", getattr(importlib.import_module(module), name))


def main(arguments: list[str] | None = None) -> int:
    """`python -P -m torpor.embedded.node.runtime`."""
    parser = argparse.ArgumentParser(prog="torpor-runtime", description=__doc__.splitlines()[0])
    parser.add_argument("--socket", type=Path, required=True, help="Unix socket to listen on")
    parser.add_argument("--state", type=Path, required=True, help="directory for records and scratch space")
    parser.add_argument("--stop-grace", type=float, default=3.0, help="seconds between TERM and KILL when stopping")
    parser.add_argument(
        "--queue-proxy",
        default="queueproxy.main:run",
        metavar="MODULE:FUNCTION",
        help="what a queue-proxy container runs",
    )
    options = parser.parse_args(arguments)
    for fd in (0, 1, 2):  # children rely on the first three being taken
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    Runtime(
        socket_path=options.socket,
        state=options.state,
        queue_proxy=_load(options.queue_proxy),
        stop_grace=options.stop_grace,
        cgroups=Cgroups.detect(),
    ).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
