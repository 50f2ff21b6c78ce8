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
OURS = ("lock", "logs")


async def down(path: Path, say: Callable[[str], None]) -> int:
    """Stop what runs on `path` and remove it; nothing there is success.

    Raises:
        KnError: the directory is not a state directory, or what runs there does not stop.
    """
    if not path.exists():
        say(f"nothing to remove: {path} does not exist")
        return 0
    if not all((path / name).exists() for name in OURS):
        raise KnError(f"{path} does not look like a state directory of torpor; not removing it")
    state = StateDir(path)
    if state.in_use():
        await _stop(state, say)
    await asyncio.to_thread(shutil.rmtree, path)
    say(f"removed {path}")
    return 0


async def _stop(state: StateDir, say: Callable[[str], None]) -> None:
    try:
        pid = int((state.path / "lock").read_text())
    except ValueError:
        raise KnError(f"{state.path} is in use, but by no process that says its number") from None
    say(f"stopping the platform (pid {pid})")
    try:
        os.kill(pid, signal.SIGTERM)
        async with asyncio.timeout(STOP_TIMEOUT):
            while state.in_use():  # noqa: ASYNC110  another process, only seen by asking
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise KnError(
            f"the platform (pid {pid}) did not stop within {STOP_TIMEOUT:.0f} s; kill it and try again"
        ) from None
    except ProcessLookupError:
        return
