"""The state directory between processes: one holder, many askers, and a file that counts only while it is held."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kncore.errors import KnError
from torpor.state import InUse, NotRunning, Running, StateDir, default_state_dir, find_state_dir


def running(pid: int) -> Running:
    return Running(
        pid=pid,
        api_url="https://127.0.0.1:6443",
        kubeconfig="/k",
        ingress="127.0.0.1:8080",
        internal="127.2.0.3:8012",
        autoscaler="127.2.0.2:8080",
        domain="localhost",
        ready_seconds=1.5,
    )


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    return StateDir.create(tmp_path / "state")


def test_a_second_holder_is_refused_and_told_who_has_it(state: StateDir) -> None:
    held = state.lock()
    with pytest.raises(InUse) as caught:
        state.lock()
    assert caught.value.pid == os.getpid()
    assert f"pid {os.getpid()}" in str(caught.value)
    assert "--state-dir" in str(caught.value)
    assert state.holder() == os.getpid()
    os.close(held)
    assert state.holder() is None
    os.close(state.lock())


def test_the_lock_goes_with_its_process(state: StateDir) -> None:
    code = (
        "import sys; from pathlib import Path; from torpor.state import StateDir\n"
        "StateDir(Path(sys.argv[1])).lock(); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(state.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert state.holder() == process.pid
        process.kill()
        process.wait()
    assert not state.in_use()
    os.close(state.lock())


def test_askers_never_keep_a_starting_platform_from_its_lock(state: StateDir) -> None:
    """The race of `torpor status` in a loop against `torpor up`: asking takes the lock shared for a moment."""
    os.close(state.lock())
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            state.in_use()

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for thread in askers:
        thread.start()
    try:
        for _ in range(50):
            os.close(state.lock())
    finally:
        stop.set()
        for thread in askers:
            thread.join()


def test_run_json_counts_only_while_its_writer_holds_the_lock(state: StateDir) -> None:
    held = state.lock()
    with pytest.raises(NotRunning):
        state.running()  # not ready yet
    state.write_running(running(os.getpid()))
    assert state.running() == running(os.getpid())
    os.close(held)
    with pytest.raises(NotRunning, match="torpor up"):
        state.running()  # killed: the file is still there


def test_a_restarting_platform_is_not_taken_for_the_one_before(state: StateDir) -> None:
    state.write_running(running(1))  # left by one that was killed
    held = state.lock()
    assert not (state.path / "run.json").exists()
    state.write_running(running(1))
    with pytest.raises(NotRunning):  # somebody else's file
        state.running()
    os.close(held)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": 1}', b"\xff"])
def test_a_damaged_run_json_is_no_platform(state: StateDir, content: bytes) -> None:
    (state.path / "run.json").write_bytes(content)
    with pytest.raises(NotRunning):
        state.running()


def test_readers_see_all_of_run_json_or_the_one_before(state: StateDir) -> None:
    """No reader ever sees half a file, however often it is written."""
    held = state.lock()
    me = os.getpid()
    state.write_running(running(me))
    seen: set[float] = set()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.add(state.running().ready_seconds)  # raises NotRunning for half a file

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(200):
        state.write_running(Running(**{**vars(running(me)), "ready_seconds": float(number)}))
    stop.set()
    reader.join()
    assert seen
    os.close(held)


def test_what_holds_secrets_is_private_in_a_directory_that_is_not(tmp_path: Path) -> None:
    (tmp_path / "node").mkdir(mode=0o755)  # as an older version left it
    StateDir.create(tmp_path)
    for name in ("apiserver", "logs", "node"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o700


def test_a_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(KnError, match=r"cannot use .*--state-dir"):
        StateDir.create(tmp_path / "file" / "state")
    with pytest.raises(KnError, match="cannot write in the state directory"):
        StateDir(tmp_path / "absent").lock()


def test_the_directory_is_private(state: StateDir) -> None:
    assert state.path.stat().st_mode & 0o777 == 0o700
    os.close(state.lock())
    assert (state.path / "lock").stat().st_mode & 0o777 == 0o600


def test_where_the_default_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert default_state_dir({}) == Path("/home/ada/.local/state/torpor")
    assert default_state_dir({"XDG_STATE_HOME": "/x"}) == Path("/x/torpor")
    assert default_state_dir({"XDG_STATE_HOME": "/x", "TORPOR_STATE_DIR": "/t"}) == Path("/t")


def test_an_exported_kubeconfig_leads_to_its_platform(state: StateDir, tmp_path: Path) -> None:
    os.close(state.lock())
    other = {"XDG_STATE_HOME": str(tmp_path / "xdg")}
    assert find_state_dir({**other, "KUBECONFIG": str(state.kubeconfig)}) == state.path
    assert find_state_dir({**other, "KUBECONFIG": str(tmp_path / "config")}) == tmp_path / "xdg" / "torpor"
    explicit = {"TORPOR_STATE_DIR": "/t", "KUBECONFIG": str(state.kubeconfig)}
    assert find_state_dir(explicit) == Path("/t")
