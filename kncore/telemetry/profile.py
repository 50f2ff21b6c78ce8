"""Where a running process spends its time: stacks sampled from outside, by a thread that exists while one is wanted.

    profiler = Profiler()
    profiler.take(30.0, done)          # done(text) from that thread: one line per distinct stack, with its count

The text is what flame graph tools read ("collapsed" or "folded" stacks: `main;serve;parse 17`). It is wall-clock time
of every thread; an event loop that waits shows as its outermost frame. A sample costs about 20 us, so a running
profile costs 0.2 %, and none costs nothing.

What is bounded: one profile at a time, its length, the depth of a stack, and the number of distinct stacks.
"""

import asyncio
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Final

__all__ = ["LONGEST", "Profiler", "tasks"]

LONGEST: Final = 120.0
"""Seconds one profile may take."""
RATE: Final = 99
"""Samples a second; not 100, so as not to beat with what happens a hundred times a second."""
DEPTH: Final = 128
STACKS: Final = 10_000


class Profiler:
    """Takes profiles of this process, one at a time."""

    def __init__(self) -> None:
        self._stop: threading.Event | None = None

    def take(self, seconds: float, done: Callable[[str], None]) -> bool:
        """Sample for so long and call back, from another thread; False if a profile is being taken already."""
        if self._stop is not None:
            return False
        self._stop = threading.Event()
        thread = threading.Thread(target=self._run, args=(min(seconds, LONGEST), done), name="profiler", daemon=True)
        thread.start()
        return True

    def cancel(self) -> None:
        """Nobody wants the result any more: end with what there is."""
        if self._stop is not None:
            self._stop.set()

    def _run(self, seconds: float, done: Callable[[str], None]) -> None:
        assert self._stop is not None
        own = threading.get_ident()
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        seen: Counter[str] = Counter()
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self._stop.wait(1 / RATE):
            for ident, frame in sys._current_frames().items():
                if ident != own:
                    stack = f"{names.get(ident, ident)};{_stack(frame)}"
                    seen[stack if stack in seen or len(seen) < STACKS else "(too many stacks)"] += 1
        self._stop = None
        done("".join(f"{stack} {count}\n" for stack, count in seen.most_common()))


def _stack(frame: FrameType | None) -> str:
    """Outermost first; of a deeper stack the inner part."""
    names: list[str] = []
    while frame is not None and len(names) < DEPTH:
        code = frame.f_code
        names.append(f"{code.co_qualname} ({code.co_filename.rpartition('/')[2]}:{code.co_firstlineno})")
        frame = frame.f_back
    return ";".join(reversed(names))


def tasks() -> str:
    """Every task of the running loop and where it waits."""
    lines = []
    for task in sorted(asyncio.all_tasks(), key=lambda task: task.get_name()):
        lines.append(f"{task.get_name()}\n")
        lines += (
            f"    {frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}\n" for frame in task.get_stack()
        )
    return "".join(lines)
