"""`torpor down`: stops, removes, and touches nothing that is not its own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kncore.errors import KnError
from torpor import down as module
from torpor.down import down
from torpor.state import StateDir

HOLDER = (
    "import signal, sys, time; from pathlib import Path; from torpor.state import StateDir\n"
    "if sys.argv[2] == 'stubborn': signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "StateDir(Path(sys.argv[1])).lock(); print('held', flush=True); time.sleep(60)"
)


def holder(path: Path, how: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path), how], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    process.stdout.close()
    return process


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    made = StateDir.create(tmp_path / "state")
    os.close(made.lock())
    (made.path / "apiserver" / "objects.db").write_text("x")
    return made


async def test_nothing_there_is_success(tmp_path: Path) -> None:
    said: list[str] = []
    assert await down(tmp_path / "absent", said.append) == 0
    assert said == [f"nothing to remove: {tmp_path / 'absent'} does not exist"]


async def test_what_nobody_uses_is_removed(state: StateDir) -> None:
    said: list[str] = []
    assert await down(state.path, said.append) == 0
    assert not state.path.exists()
    assert said == [f"removed {state.path}"]


async def test_a_running_platform_is_stopped_first(state: StateDir) -> None:
    process = holder(state.path, "obedient")
    said: list[str] = []
    assert await down(state.path, said.append) == 0
    assert process.wait(5) == -signal.SIGTERM
    assert not state.path.exists()
    assert said[0] == f"stopping the platform (pid {process.pid})"


async def test_one_that_does_not_stop_is_left_alone_with_its_state(
    state: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STOP_TIMEOUT", 0.2)
    process = holder(state.path, "stubborn")
    try:
        with pytest.raises(KnError, match=f"pid {process.pid}.*did not stop"):
            await down(state.path, print)
        assert process.poll() is None
        assert (state.path / "apiserver" / "objects.db").exists()
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("name", ["a directory", "a file"])
async def test_what_is_not_ours_is_not_removed(tmp_path: Path, name: str) -> None:
    place = tmp_path / name
    if name == "a file":
        place.touch()
    else:
        (place / "precious").mkdir(parents=True)
    with pytest.raises(KnError, match="does not look like a state directory"):
        await down(place, print)
    assert place.exists()
