"""What kind of program a directory holds, and the command that runs it: `torpor deploy DIR`.

Source is read, never imported: finding out must not run it. The order is from explicit to guessed: a `Procfile`'s
`web:` line, a `func.py` with `new()` or `handle`, an ASGI or WSGI application object, a Python script, an executable.
Each finding says why, so that a wrong guess is understood at once and overruled with a Procfile.
"""

import ast
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kncore.errors import KnError

__all__ = ["Program", "Undetected", "detect"]

_FRAMEWORKS = {
    "FastAPI": "asgi",
    "Litestar": "asgi",
    "Quart": "asgi",
    "Starlette": "asgi",
    "Bottle": "wsgi",
    "Flask": "wsgi",
    "get_asgi_application": "asgi",
    "get_wsgi_application": "wsgi",
}
_FIRST = ("app.py", "main.py", "wsgi.py", "asgi.py", "server.py")
_SCRIPTS = ("app.py", "main.py", "server.py", "__main__.py")
_EXECUTABLES = ("run", "run.sh", "start.sh", "server", "main", "app")
_MAX_SOURCE_BYTES = 1 << 20


class Undetected(KnError):
    """A directory that does not say how it is run."""

    def __init__(self, directory: Path) -> None:
        super().__init__(
            f"cannot tell how to run {directory}: expected a Procfile with a `web:` line, a func.py, a Flask, FastAPI "
            f"or other WSGI/ASGI application, one of {', '.join(_SCRIPTS)}, "
            f"or an executable named {', '.join(_EXECUTABLES)}; add a Procfile: "
            "`web: <command that listens on $PORT>`"
        )
        self.directory = directory


@dataclass(frozen=True)
class Program:
    """How to run a directory: `command` is run in it, with `$PORT` in the environment."""

    kind: str
    command: tuple[str, ...]
    why: str


def detect(directory: Path) -> Program:
    """The program in a directory.

    Raises:
        Undetected: nothing known is there.
        KnError: the directory cannot be read, or its Procfile is broken.
    """
    if not directory.is_dir():
        raise KnError(f"{directory} is not a directory")
    for find in (_procfile, _function, _application, _script, _executable):
        if program := find(directory):
            return program
    raise Undetected(directory)


def _procfile(directory: Path) -> Program | None:
    path = directory / "Procfile"
    if not path.is_file():
        return None
    for line in path.read_text(errors="replace").splitlines():
        process, colon, command = line.partition(":")
        if colon and process.strip() == "web" and command.strip():
            try:
                words = shlex.split(command)
            except ValueError as exc:
                raise KnError(f"{path}: the `web:` line cannot be parsed: {exc}") from exc
            # $PORT and friends are the shell's business, as on every platform that reads Procfiles.
            shell = any(mark in command for mark in "$&|;<>`")
            return Program(
                "procfile",
                ("/bin/sh", "-c", f"exec {command.strip()}") if shell else tuple(words),
                "Procfile has a web: line",
            )
    raise KnError(f"{path} has no `web:` line")


def _function(directory: Path) -> Program | None:
    for path in (directory / "func.py", directory / "function" / "func.py"):
        tree = _parse(path)
        if tree is None:
            continue
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        if names & {"new", "handle", "main"}:
            return Program(
                "function",
                ("python", "-P", "-m", "torpor.serve", "function", str(path.relative_to(directory))),
                f"{path.name} defines a function",
            )
    return None


def _application(directory: Path) -> Program | None:
    for path in _sources(directory):
        tree = _parse(path)
        for name, kind, framework in _assigned(tree) if tree else ():
            where = f"{path.stem}:{name}"
            return Program(
                kind,
                ("python", "-P", "-m", "torpor.serve", kind, where),
                f"{path.name} makes `{name}` with {framework}()",
            )
    return None


def _script(directory: Path) -> Program | None:
    for path in _sources(directory):
        tree = _parse(path)
        if tree is not None and (path.name in _SCRIPTS or _has_main_guard(tree)):
            return Program("script", ("python", path.name), f"{path.name} is a Python script")
    return None


def _executable(directory: Path) -> Program | None:
    for name in _EXECUTABLES:
        path = directory / name
        if path.is_file() and os.access(path, os.X_OK):
            return Program("executable", (f"./{name}",), f"{name} is executable")
    return None


def _sources(directory: Path) -> Iterator[Path]:
    """Python files at the top: the usual names first, then the others in order."""
    usual = [directory / name for name in _FIRST]
    yield from (path for path in usual if path.is_file())
    yield from (path for path in sorted(directory.glob("*.py")) if path.name not in _FIRST)


def _parse(path: Path) -> ast.Module | None:
    try:
        if path.stat().st_size > _MAX_SOURCE_BYTES:
            return None
        return ast.parse(path.read_bytes(), str(path))
    except (OSError, SyntaxError, ValueError):
        return None  # absent, or not ours to judge: the next guess may fit


def _assigned(tree: ast.Module) -> Iterator[tuple[str, str, str]]:
    """Module-level `name = Framework(...)`, as (name, kind, framework)."""
    for node in tree.body:
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Call):
            continue
        called = node.value.func
        framework = (
            called.id if isinstance(called, ast.Name) else called.attr if isinstance(called, ast.Attribute) else ""
        )
        if framework in _FRAMEWORKS and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, _FRAMEWORKS[framework], framework


def _has_main_guard(tree: ast.Module) -> bool:
    return any(
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Compare)
        and isinstance(node.test.left, ast.Name)
        and node.test.left.id == "__name__"
        for node in tree.body
    )
