"""How a process runs: event loop, signals, the tree of tasks, and how it ends.

    def main() -> None:
        runtime.run(serve_everything)

    async def serve_everything() -> None:
        stop = runtime.stop_on_signals()
        parts = [informers, controller, server]              # each has a name and an async run()
        await runtime.serve(parts, stop, drain=server.drain)

A first SIGTERM or SIGINT sets the stop event: `serve` drains, then ends the parts in reverse order of their start,
each before the next. A second signal exits at once, for people who do not want to wait. A part that raises takes the
process down (in a cluster the kubelet restarts it, on one machine the supervisor): half a process is worse than none.
"""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, Protocol, TypeVar

import uvloop

__all__ = [
    "PART_GRACE",
    "Part",
    "cleanup",
    "run",
    "serve",
    "set_parent_death_signal",
    "settle_memory",
    "stop_on_signals",
]

PART_GRACE: Final = 10.0
"""Seconds a part may take to end after it was cancelled, before the next one is."""

# One full collection walks everything alive, which stops a proxy for tens of milliseconds; the request path makes no
# cycles.
_GC_THRESHOLDS: Final = (100_000, 50, 1000)
_PR_SET_PDEATHSIG: Final = 1
_T = TypeVar("_T")


class Part(Protocol):
    """Something that runs until it is cancelled."""

    @property
    def name(self) -> str:
        """For logs and task names."""

    async def run(self) -> None:
        """Work until cancelled; returning early is fine, raising ends the process."""


def run(main: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Run `main` on uvloop, with the garbage collector set up for long-lived processes; returns what it returns."""
    settle_memory()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


def settle_memory() -> None:
    """Call what exists now permanent: collect once, then keep it out of later collections and make those rare.

    `run` does it for imported modules; a process with a large start-up state does it again when it is ready. Before
    forking it also keeps pages shared, since the collector no longer writes to them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


def stop_on_signals(
    signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT),
    *,
    exit_now: Callable[[int], object] = os._exit,
) -> asyncio.Event:
    """An event that the first of these signals sets; the second ends the process at once with 128 + its number.

    Must be called from a running loop in the main thread; the handlers stay as long as the loop.
    """
    stop = asyncio.Event()

    def handle(number: signal.Signals) -> None:
        if stop.is_set():
            exit_now(128 + number)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in signals:
        loop.add_signal_handler(number, handle, number)
    return stop


async def serve(
    parts: Sequence[Part],
    stop: asyncio.Event,
    *,
    drain: Callable[[], Awaitable[None]] | None = None,
    grace: float = PART_GRACE,
) -> None:
    """Run all parts until `stop` is set, drain, and end them in reverse order.

    Args:
        parts: started in this order.
        stop: ends it.
        drain: awaited before any part ends: fail readiness, stop accepting, finish what is in flight. Must be bounded
            by itself.
        grace: longest wait for one part to end, seconds; then the next is cancelled too, and all are awaited at the
            end.
    Raises:
        ExceptionGroup: a part (or the drain) failed; all others were cancelled.
    """
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(part.run(), name=part.name) for part in parts]
        await stop.wait()
        if drain is not None:
            await drain()
        for task in reversed(tasks):
            task.cancel()
            await asyncio.wait([task], timeout=grace)


async def cleanup(work: Coroutine[Any, Any, _T], *, bound: float) -> _T:
    """Finish `work` even if the caller is cancelled meanwhile, but within `bound` seconds.

    For the few endings that must await: releasing a lease, sending a close frame. A cancellation that arrives is
    delivered when the work is over.

    Raises:
        TimeoutError: the bound passed; the work was cancelled.
        CancelledError: the caller was cancelled while this went on.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + bound
    cancelled: asyncio.CancelledError | None = None
    task = loop.create_task(work, name="cleanup")
    while not task.done():
        try:
            await asyncio.wait([task], timeout=max(0.0, deadline - loop.time()))
        except asyncio.CancelledError as exc:
            cancelled = exc
            continue
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # looked at: the cancellation is what the caller must see
        raise cancelled
    if task.cancelled():
        raise TimeoutError(f"cleanup did not finish within {bound} s")
    return task.result()


def set_parent_death_signal(number: signal.Signals, *, parent: int | None = None) -> bool:
    """Have the kernel send `number` to this process when its parent dies; False where there is no such thing (not
    Linux).

    Args:
        number: the signal.
        parent: the parent's process id. If it died before this call, nothing would ever arrive, so the signal is
            raised at once.
    """
    if not sys.platform.startswith("linux"):
        return False
    import ctypes  # only here, and a megabyte

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0:
        return False
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), number)
    return True
