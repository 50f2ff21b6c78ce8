"""The node's door for `kubectl logs` and `kubectl exec`: the API server's `PodAccess`."""

import asyncio
import fcntl
import os
import struct
import termios
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress

from torpor.embedded.apiserver.errors import bad_request, internal
from torpor.embedded.apiserver.pods import ExecSession, LogOptions
from torpor.embedded.node import logs
from torpor.embedded.node.container import ContainerWorker
from torpor.embedded.node.kubelet import Kubelet
from torpor.embedded.node.protocol import RuntimeRefused
from torpor.embedded.node.runtime_client import Exec, Runtime

__all__ = ["NodeAccess"]

READ_BYTES = 32 * 1024
_END_OF_TRANSMISSION = b"\x04"


class NodeAccess:
    """A `torpor.embedded.apiserver.pods.PodAccess` for the pods of one kubelet."""

    def __init__(self, kubelet: Kubelet, runtime: Runtime) -> None:
        self._kubelet = kubelet
        self._runtime = runtime

    async def log(self, namespace: str, pod: str, container: str, options: LogOptions) -> AsyncIterator[bytes]:
        """See `PodAccess.log`."""
        worker = self._worker(namespace, pod, container)
        found = self._kubelet.worker(namespace, pod)
        assert found is not None
        files = {int(path.stem): path for path in await asyncio.to_thread(logs.runs, found.logs(container))}
        # While it waits to be restarted, the run that ended last is what a user means, with and without "previous".
        ended = [number for number in files if not worker.running or number < worker.status.restarts]
        if options.previous:
            if not ended:
                raise bad_request(f'previous terminated container "{container}" in pod "{pod}" not found')
            current = files[max(ended)]
        elif files:
            current = files[max(files)]
        else:
            reason = worker.status.reason if worker.status.state == "waiting" else "ContainerCreating"
            raise bad_request(f'container "{container}" in pod "{pod}" is waiting to start: {reason}')
        run = worker.container_id
        selection = logs.Selection(
            tail_lines=options.tail_lines,
            since=options.since,
            timestamps=options.timestamps,
            limit_bytes=options.limit_bytes,
        )
        following = options.follow and not options.previous
        alive = (lambda: worker.running and worker.container_id == run) if following else None
        async for piece in logs.read(current, selection, alive):
            yield piece

    async def exec(
        self, namespace: str, pod: str, container: str, command: tuple[str, ...], *, stdin: bool, tty: bool
    ) -> ExecSession:
        """See `PodAccess.exec`."""
        worker = self._worker(namespace, pod, container)
        if not worker.running:
            raise internal(f'container not found ("{container}")')
        ours, theirs = _terminal() if tty else _pipes(stdin)
        try:
            session = await self._runtime.exec(
                worker.container_id, command, stdio=theirs, env={"TERM": "xterm"} if tty else None, tty=tty
            )
        except RuntimeRefused as exc:
            _close(*ours)
            raise internal(f"error executing command in container: {exc}") from exc
        except BaseException:
            _close(*ours)
            raise
        finally:
            _close(*theirs)
        return _Session(session, ours, tty=tty)

    def _worker(self, namespace: str, pod: str, container: str) -> ContainerWorker:
        found = self._kubelet.worker(namespace, pod)
        worker = found.worker(container) if found is not None else None
        if worker is None:
            raise bad_request(f'container "{container}" in pod "{pod}" is waiting to start: ContainerCreating')
        return worker


def _pipes(stdin: bool) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """(our ends, the command's ends), each stdin, stdout, stderr; ours are non-blocking, -1 for none."""
    out_read, out_write = os.pipe2(os.O_CLOEXEC)
    err_read, err_write = os.pipe2(os.O_CLOEXEC)
    if stdin:
        in_read, in_write = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(in_write, False)
    else:
        in_read, in_write = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), -1
    for fd in (out_read, err_read):
        os.set_blocking(fd, False)
    return (in_write, out_read, err_read), (in_read, out_write, err_write)


def _terminal() -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """As `_pipes`, with both directions through a new pseudo-terminal."""
    ours, theirs = os.openpty()
    os.set_blocking(ours, False)
    return (ours, ours, -1), (theirs, os.dup(theirs), os.dup(theirs))


def _close(*fds: int) -> None:
    for fd in {one for one in fds if one >= 0}:
        with suppress(OSError):
            os.close(fd)


class _Session:
    """An `ExecSession`. Reads and writes are made when the caller asks, so back-pressure is the pipes'."""

    def __init__(self, session: Exec, fds: tuple[int, int, int], *, tty: bool) -> None:
        self._session = session
        self._stdin, stdout, stderr = fds
        self._open = {channel: fd for channel, fd in ((1, stdout), (2, stderr)) if fd >= 0}
        self._tty = tty
        self._fds = fds
        self._closed = False

    async def read(self) -> tuple[int, bytes] | None:
        while self._open:
            for channel, fd in list(self._open.items()):
                try:
                    data = os.read(fd, READ_BYTES)
                except BlockingIOError:
                    continue
                except OSError:  # a terminal whose other end was closed
                    data = b""
                if data:
                    return channel, data
                del self._open[channel]
            if self._open:
                await _ready(self._open.values(), write=False)
        return None

    async def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view and self._stdin >= 0:
            try:
                view = view[os.write(self._stdin, view) :]
            except BlockingIOError:
                await _ready([self._stdin], write=True)
            except OSError:  # the command does not read any more
                return

    async def close_stdin(self) -> None:
        if self._tty:
            await self.write(_END_OF_TRANSMISSION)
        elif self._stdin >= 0:
            _close(self._stdin)
            self._stdin = -1

    def resize(self, columns: int, rows: int) -> None:
        if self._tty and not self._closed:
            fcntl.ioctl(self._stdin, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    async def wait(self) -> int:
        try:
            return (await self._session.wait()).code
        except RuntimeRefused as exc:
            raise internal(f"the container was stopped: {exc}") from exc

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self._session.kill()
            self._open.clear()
            _close(self._stdin, *self._fds[1:])
            self._stdin = -1


async def _ready(fds: Iterable[int], *, write: bool) -> None:
    """Wait until one of the descriptors can be read or written."""
    loop = asyncio.get_running_loop()
    turn: asyncio.Future[None] = loop.create_future()
    waiting = list(fds)

    def wake() -> None:
        if not turn.done():
            turn.set_result(None)

    for fd in waiting:
        (loop.add_writer if write else loop.add_reader)(fd, wake)
    try:
        await turn
    finally:
        for fd in waiting:
            (loop.remove_writer if write else loop.remove_reader)(fd)
