"""`torpor down`: stop the platform on a state directory and remove the directory."""

import asyncio
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

from kncore.errors import KnError
from torpor.state import StateDir

__all__ = ["down"]

STOP_TIMEOUT = 40.0  # seconds; longer than every grace of `torpor up` together
POLL = 0.05


async def down(path: Path, say: Callable[[str], None]) -> int:
    """Stop what runs on `path` and remove it; nothing there is success.

    Raises:
        KnError: the directory is not a state directory, or what runs there does not stop.
    """
    if not path.exists():
        say(f"nothing to remove: {path} does not exist")
        return 0
    state = StateDir(path)
    if not state.exists():
        raise KnError(f"{path} does not look like a state directory of torpor; not removing it")
    if (pid := state.holder()) is not None:
        await _stop(state, pid, say)
    lock = state.lock()  # nobody starts on what is being removed
    try:
        await asyncio.to_thread(shutil.rmtree, path)
    except OSError as exc:
        raise KnError(f"cannot remove {exc.filename or path}: {exc.strerror}") from exc
    finally:
        os.close(lock)
    say(f"removed {path}")
    return 0


async def _stop(state: StateDir, pid: int, say: Callable[[str], None]) -> None:
    if pid == 0:
        raise KnError(f"{state.path} is in use, but by no process that says its number; try again")
    say(f"stopping the platform (pid {pid})")
    try:
        os.kill(pid, signal.SIGTERM)
    except PermissionError as exc:
        raise KnError(f"the platform (pid {pid}) belongs to another user: {exc.strerror}") from exc
    except ProcessLookupError:
        pass  # it went by itself; the lock says so in a moment
    try:
        async with asyncio.timeout(STOP_TIMEOUT):
            while state.in_use():  # noqa: ASYNC110  another process, only seen by asking
                await asyncio.sleep(POLL)
    except TimeoutError:
        raise KnError(
            f"the platform (pid {pid}) did not stop within {STOP_TIMEOUT:.0f} s; kill it and try again"
        ) from None
