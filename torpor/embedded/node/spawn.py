"""From a `Run` to a process: fork, prepare the child, execute (or, for the queue-proxy, simply go on).

The child gets a session and process group of its own, /dev/null as input, pipes as output, no other descriptor, default
signal handling, and dies with the runtime (parent-death signal; the check of the parent afterwards closes the race
with a runtime that died in between). What goes wrong before the program runs travels back through the status pipe,
which closes by itself when the program is executed: an empty answer means it runs.

A forked queue-proxy skips execution: the runtime has its modules loaded already, so the fork is the start.
"""

import fcntl
import os
import resource
import shutil
import signal
import sys
import termios
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torpor.embedded.node import linux, mounts
from torpor.embedded.node.protocol import Run

__all__ = ["MARKER", "QueueProxy", "Started", "join", "start"]

MARKER = "TORPOR_CONTAINER"
"""Environment variable that names a process's container: how processes that lost their parent are recognised."""

QueueProxy = Callable[[Mapping[str, str]], int]
"""Runs a queue-proxy until it ends; returns its exit status."""

_CANNOT_START = 128
"""Exit status of a child that could not execute its program; docker's."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
"""What the runtime handles."""


@dataclass(frozen=True, slots=True)
class Started:
    """A child that was just forked; the descriptors are ours to close, and non-blocking."""

    pid: int
    stdout: int
    stderr: int
    status: int
    """Readable until the program runs: `E<text>` it will not, `W<text>` it will, but without something. Then EOF."""


def start(run: Run, *, queue_proxy: QueueProxy, scratch: Path, cgroup: int = -1) -> Started:
    """Fork a container's first process.

    Args:
        run: what to start.
        queue_proxy: what a container of kind `queue-proxy` does.
        scratch: for `mounts.enter`.
        cgroup: descriptor of a `cgroup.procs` file that the child joins; -1 for none.
    Raises:
        OSError: no more processes or descriptors.
    """
    pipes: list[int] = []
    try:
        for _ in range(3):
            pipes += os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        out_read, out_write, err_read, err_write, status_read, status_write = pipes
        for fd in (out_write, err_write):
            os.set_blocking(fd, True)
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        pipes.append(null)
        parent = os.getpid()
        pid = _fork()
        if pid == 0:
            _child(run, parent, queue_proxy, scratch, (null, out_write, err_write), status_write, cgroup)
    except OSError:
        for fd in pipes:
            os.close(fd)
        raise
    for fd in (out_write, err_write, status_write, null):
        os.close(fd)
    return Started(pid=pid, stdout=out_read, stderr=err_read, status=status_read)


def join(
    run: Run, leader: int, argv: tuple[str, ...], env: Mapping[str, str], stdio: tuple[int, int, int], *, tty: bool
) -> tuple[int, int]:
    """Fork another process for a running container (`kubectl exec`, an exec probe).

    Args:
        run: the container.
        leader: pid of its first process, whose mount namespace and root directory are entered.
        argv: program and arguments.
        env: added to the container's environment.
        stdio: descriptors for input, output and errors; the caller keeps them.
        tty: they are a terminal, which shall be the command's controlling one.
    Returns:
        pid, and the status pipe as in `Started`.
    Raises:
        OSError: no more processes or descriptors.
    """
    status_read, status_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        parent = os.getpid()
        pid = _fork()
        if pid == 0:
            _joined_child(run, parent, leader, argv, env, stdio, status_write, tty)
    except OSError:
        os.close(status_read)
        raise
    finally:
        os.close(status_write)
    return pid, status_read


def _fork() -> int:
    """fork(2) with signals held: a handler of the runtime must not run in a child, where it would wake the runtime."""
    sys.stdout.flush()
    sys.stderr.flush()
    held = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
    return pid


def _child(
    run: Run,
    parent: int,
    queue_proxy: QueueProxy,
    scratch: Path,
    stdio: tuple[int, int, int],
    status: int,
    cgroup: int,
) -> None:
    """Never returns."""
    code = _CANNOT_START
    try:
        _detach(parent, stdio, {status, cgroup})
        if cgroup >= 0:
            os.write(cgroup, b"0")
            os.close(cgroup)
        if run.mounts:
            try:
                mounts.enter(run.mounts, scratch)
            except OSError as exc:
                os.write(status, f"W{exc}\n".encode())
        if run.kind == "queue-proxy":
            os.chdir(run.cwd)
            os.close(status)
            code = _queue_proxy({**run.env, MARKER: run.container}, queue_proxy)
        else:
            _execute(run.argv, {**run.env, MARKER: run.container}, run.cwd)
    except OSError as exc:
        _report(status, exc)
    finally:
        os._exit(code)


def _joined_child(
    run: Run,
    parent: int,
    leader: int,
    argv: tuple[str, ...],
    env: Mapping[str, str],
    stdio: tuple[int, int, int],
    status: int,
    tty: bool,
) -> None:
    """Never returns."""
    try:
        _detach(parent, stdio, {status})
        if run.mounts:
            _enter_namespace(leader)
        if tty:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        _execute(argv, {**run.env, **env, MARKER: run.container}, run.cwd)
    except OSError as exc:
        _report(status, exc)
    finally:
        os._exit(_CANNOT_START)


def _detach(parent: int, stdio: tuple[int, int, int], keep: set[int]) -> None:
    """Own session, dies with the runtime, the given standard streams and nothing else open."""
    os.setsid()
    if sys.platform == "linux":
        linux.parent_death_signal(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(_CANNOT_START)
    for number, fd in enumerate(stdio):
        os.dup2(fd, number)
    below = 3
    for fd in sorted(one for one in keep if one >= 3):
        os.closerange(below, fd)
        below = fd + 1
    os.closerange(below, os.sysconf("SC_OPEN_MAX"))
    os.umask(0o022)
    # Every connection is a descriptor; shells start programs with a soft limit of 1024.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def _queue_proxy(env: dict[str, str], queue_proxy: QueueProxy) -> int:
    os.environ.clear()
    os.environ.update(env)
    if sys.platform == "linux":
        linux.set_name("queue-proxy")
    try:
        return queue_proxy(env)
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    except BaseException:
        # The outermost frame of this process: above it is the runtime's loop, which must not run twice.
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _execute(argv: tuple[str, ...], env: dict[str, str], cwd: str) -> None:
    """Replace this process by the program.

    Raises:
        OSError: the directory or the program is missing, or it is not executable.
    """
    try:
        os.chdir(cwd)
    except OSError as exc:
        raise OSError(exc.errno, f"chdir to cwd ({cwd!r}): {exc.strerror}") from exc
    program = shutil.which(argv[0], path=env.get("PATH", os.defpath))
    if program is None:
        missing = "no such file, or it is not executable" if "/" in argv[0] else "executable file not found in $PATH"
        raise OSError(f'exec: "{argv[0]}": {missing}')
    # Python ignores these two, and ignored signals stay ignored in the program.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    try:
        os.execve(program, argv, env)
    except OSError as exc:
        raise OSError(exc.errno, f'exec: "{argv[0]}": {(exc.strerror or "").lower()}') from exc


def _enter_namespace(leader: int) -> None:
    """The view of the file system that the container's first process has."""
    root = os.open(f"/proc/{leader}/root", os.O_RDONLY)
    kinds = (
        [("mnt", linux.CLONE_NEWNS)]
        if os.getuid() == 0
        else [("user", linux.CLONE_NEWUSER), ("mnt", linux.CLONE_NEWNS)]
    )
    opened = [(os.open(f"/proc/{leader}/ns/{name}", os.O_RDONLY), kind) for name, kind in kinds]
    for fd, kind in opened:
        linux.setns(fd, kind)
        os.close(fd)
    os.fchdir(root)
    os.chroot(".")
    os.close(root)


def _report(status: int, exc: OSError) -> None:
    text = exc.args[-1] if exc.args else str(exc)
    os.write(status, f"E{text}\n".encode())
