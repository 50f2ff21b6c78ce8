"""The command itself: quick to start, one line for every mistake, the exit codes of other commands."""

import errno
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pytest

from kncore.errors import KnError
from torpor.cli.main import _told, main

COMMANDS = {
    *("up", "down", "demo", "apply", "get", "patch", "delete"),
    *("logs", "status", "deploy", "run", "doctor", "version"),
}


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


Torpor: TypeAlias = Callable[..., Done]


@pytest.fixture
def torpor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Torpor:
    """Run the command in this process, with an empty home."""

    def run(*arguments: str, **environment: str) -> Done:
        for name in ("KUBECONFIG", "TORPOR_STATE_DIR", "XDG_STATE_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {"HOME": str(tmp_path), "COLUMNS": "80", **environment}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["torpor", *arguments])
        with pytest.raises(SystemExit) as exit_:
            main()
        code = exit_.value.code or 0
        assert isinstance(code, int)
        return Done(code, *capsys.readouterr())

    return run


def test_help_names_every_command_in_one_line_each(torpor: Torpor) -> None:
    done = torpor("--help")
    assert done.code == 0
    lines = done.out.partition("Commands:\n")[2].splitlines()
    assert {line.split()[0] for line in lines} == COMMANDS
    assert not [line for line in lines if line.endswith("...")]  # cut off at 80 columns


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_option_says_what_it_is_for(command: str, torpor: Torpor) -> None:
    text = torpor(command, "-h").out
    described = text.partition("Options:\n")[2]
    for line in described.splitlines():
        words = line.split()
        if words and words[0].startswith("-") and words[-1].startswith(("-", "<")):
            following = described.partition(line)[2].lstrip("\n").splitlines()[0]
            assert following.startswith("    "), f"{command}: {line.strip()} has no help"
    assert described.strip()


def test_a_command_loads_only_what_it_needs() -> None:
    """`torpor --help` and completion must not wait for an HTTP library."""
    code = (
        "import sys, torpor.cli.main\n"
        "heavy = {'asyncio', 'aiohttp', 'yaml', 'rich', 'orjson', 'ssl', 'uvloop', 'kubernetes_asyncio', 'sqlite3'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_version(torpor: Torpor) -> None:
    assert torpor("--version").out == torpor("version").out
    assert torpor("version").out.startswith("torpor 0.")
    assert '"python"' in torpor("version", "-o", "json").out
    assert torpor("version", "-o", "url").code == 1


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["frobnicate"], 2, "No such command"),
        (["get", "--frobnicate"], 2, "No such option"),
        (["get", "-o", "jsonpath"], 2, "json"),
        (["up", "--port", "0"], 2, "'--port'"),
        (["apply"], 2, "--filename"),
        (["get", "ksvc"], 1, "no platform is running"),
        (["status"], 1, "no platform is running"),
        (["run", "--", "true"], 1, "no platform is running"),
        (["deploy", "/nonexistent/dir"], 1, "/nonexistent/dir: no such directory"),
        (["deploy", "/"], 1, "cannot tell how to run /"),
        (["apply", "-f", "/nonexistent.yaml"], 1, "/nonexistent.yaml: No such file"),
        (["up", "-f", "/nonexistent.yaml"], 1, "/nonexistent.yaml: No such file"),
        (["up", "-f", "-"], 1, "standard input"),
        (["up", "--domain", "example.com/x"], 1, "--domain example.com/x: a domain is lower-case letters"),
        (["up", "--images", "/nonexistent.yaml"], 1, "/nonexistent.yaml: cannot be read"),
        (["patch", "ksvc", "-p", "{}"], 1, "one name"),
        (["patch", "ksvc/x", "-p", "{"], 1, "--patch is not JSON"),
        (["patch", "ksvc/x", "-p", "[]"], 1, "JSON object"),
        (["patch", "ksvc/x", "--type", "json", "-p", "{}"], 1, "JSON list"),
        (["delete"], 1, "delete needs KIND NAME"),
        (["delete", "ksvc"], 1, "delete needs KIND NAME"),
        (["get", "ksvc", "a", "-A"], 1, "not both"),
        (["logs", "node/x"], 1, "revision/NAME or pod/NAME"),
        (["logs", "x", "--since", "soon"], 1, "--since soon: expected a duration"),
    ],
)
def test_mistakes_end_in_one_line_without_a_traceback(
    arguments: list[str], code: int, says: str, torpor: Torpor
) -> None:
    done = torpor(*arguments)
    assert done.code == code, done.err
    assert says in done.err
    assert "Traceback" not in done.err
    assert done.out == ""
    if code == 1:
        assert done.err.startswith("error: ")
        assert done.err.count("\n") == 1


def test_a_broken_kubeconfig_is_one_line(tmp_path: Path, torpor: Torpor) -> None:
    (tmp_path / "config").write_text("clusters: [\n")
    done = torpor("get", "ksvc", KUBECONFIG=str(tmp_path / "config"))
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert str(tmp_path / "config") in done.err


def test_a_state_directory_that_cannot_be_made(tmp_path: Path, torpor: Torpor) -> None:
    (tmp_path / "file").touch()
    done = torpor("up", "--state-dir", str(tmp_path / "file" / "state"))
    assert done.code == 1
    assert done.err == f"error: cannot use {tmp_path / 'file' / 'state'} as state directory: Not a directory; " + (
        "give another with --state-dir\n"
    )


def test_completion_for_the_shells(torpor: Torpor) -> None:
    script = torpor("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert "_TORPOR_COMPLETE=complete_bash" in script.out
    environment = {"_TORPOR_COMPLETE": "complete_bash", "COMP_CWORD": "2"}
    kinds = torpor(**environment, COMP_WORDS="torpor get k")
    assert kinds.out.split() == ["ksvc", "kpa", "king", "knative"]
    names = torpor(**environment, COMP_WORDS="torpor logs h")  # nobody to ask: no names, no noise
    assert (names.out.strip(), names.err) == ("", "")


def test_a_full_disk_is_one_line_and_a_bug_is_a_traceback(torpor: Torpor, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(error: Exception) -> Callable[..., None]:
        def show(*_: object) -> None:
            raise error

        return show

    monkeypatch.setattr("torpor.cli.output.show", failing(OSError(errno.ENOSPC, "No space left on device", "/state/x")))
    done = torpor("version", "-o", "json")
    assert (done.code, done.err) == (1, "error: /state/x: No space left on device\n")
    monkeypatch.setattr("torpor.cli.output.show", failing(OSError(errno.ENOENT, "No such file or directory", "/x")))
    with pytest.raises(FileNotFoundError):
        torpor("version", "-o", "json")


def test_errors_of_tasks_are_told_as_errors_and_bugs_as_bugs() -> None:
    ours, theirs = KnError("ours"), LookupError("theirs")
    assert _told(ExceptionGroup("", [ExceptionGroup("", [ours]), KnError("second")])) is ours
    mixed = ExceptionGroup("", [ours, theirs])
    assert _told(mixed) is mixed
