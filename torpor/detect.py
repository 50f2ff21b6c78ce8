"""What kind of program a directory holds, and the command that runs it: `torpor deploy DIR`.

Source is read, never imported: finding out must not run it. The order is from explicit to guessed: a `Procfile`'s
`web:` line, a `func.py` with `new()` or `handle`, an ASGI or WSGI application object (or a factory of one), a Python
script, an executable. Each finding says why, so that a wrong guess is understood at once and overruled with a Procfile.
"""

import ast
import os
import shlex
import stat
import warnings
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
    "get_asgi_application": "asgi",
    "Bottle": "wsgi",
    "Flask": "wsgi",
    "get_wsgi_application": "wsgi",
}
_FACTORIES = ("create_app", "make_app")
_FIRST = ("app.py", "main.py", "wsgi.py", "asgi.py", "server.py")
_SCRIPTS = ("app.py", "main.py", "server.py", "__main__.py")
_EXECUTABLES = ("run", "run.sh", "start.sh", "server", "main", "app")
_FUNCTIONS = ("func.py", "function/func.py")
_MAX_SOURCE_BYTES = 1 << 20
_MAX_SOURCES = 200
"""Python files that are looked at; a directory with more is a library, not a service."""

_SERVE = Path(__file__).with_name("serve.py")


class Undetected(KnError):
    """A directory that does not say how it is run."""

    def __init__(self, directory: Path) -> None:
        super().__init__(
            f"cannot tell how to run {directory}: expected a Procfile with a `web:` line, a func.py with new() or "
            f"handle, a Flask, FastAPI or other WSGI/ASGI application, one of {', '.join(_SCRIPTS)}, "
            f"or an executable named {', '.join(_EXECUTABLES)}. To say it, write one line into {directory / 'Procfile'}"
            ": web: COMMAND THAT LISTENS ON $PORT"
        )
        self.directory = directory


@dataclass(frozen=True)
class Program:
    """How to run a directory: `command` is run in it, with `$PORT` in the environment."""

    kind: str
    """procfile, function, wsgi, asgi, script or executable."""
    command: tuple[str, ...]
    """`python` as first word is the program's own `.venv`, else the interpreter that runs Torpor."""
    why: str


def detect(directory: Path) -> Program:
    """The program in a directory.

    Raises:
        Undetected: nothing known is there.
        KnError: the directory cannot be read, or its Procfile is broken.
    """
    if not directory.exists():
        raise KnError(f"{directory}: no such directory")
    if not directory.is_dir():
        raise KnError(f"{directory} is not a directory")
    try:
        for find in (_procfile, _function, _application, _script, _executable):
            if program := find(directory):
                return program
    except OSError as exc:
        raise KnError(f"{exc.filename or directory} cannot be read: {exc.strerror}") from exc
    raise Undetected(directory)


def _procfile(directory: Path) -> Program | None:
    path = directory / "Procfile"
    if not path.is_file():
        return None
    for line in path.read_bytes()[:_MAX_SOURCE_BYTES].decode(errors="replace").splitlines():
        process, colon, command = line.partition(":")
        if not colon or process.strip() != "web" or not (command := command.strip()):
            continue
        try:
            words = shlex.split(command)
        except ValueError as exc:
            raise KnError(f"{path}: the web: line cannot be parsed: {exc}") from exc
        # $PORT and friends are the shell's business, as on every platform that reads Procfiles. The program replaces
        # the shell, and gets its signals, unless there is more than one command or a variable is set for it.
        if "=" in words[0] or any(mark in command for mark in "&|;"):
            words = ["/bin/sh", "-c", command]
        elif any(mark in command for mark in "$`*?~<>"):
            words = ["/bin/sh", "-c", f"exec {command}"]
        return Program("procfile", tuple(words), "Procfile has a web: line")
    raise KnError(f"{path} has no line that begins with `web:`")


def _function(directory: Path) -> Program | None:
    for name in _FUNCTIONS:
        tree = _parse(directory / name)
        if tree is None:
            continue
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        for entry in ("new", "handle"):
            if entry in functions:
                return Program("function", _served("function", name), f"{name} defines {entry}()")
    return None


def _application(directory: Path) -> Program | None:
    for path in _sources(directory):
        tree = _parse(path)
        if tree is None:
            continue
        for name, framework in _assigned(tree):
            kind = _FRAMEWORKS[framework]
            return Program(kind, _served(kind, f"{path.stem}:{name}"), f"{path.name} makes `{name}` with {framework}()")
        for name, framework in _factories(tree):
            kind = _FRAMEWORKS[framework]
            return Program(
                kind, _served(kind, f"{path.stem}:{name}()"), f"{path.name} makes a {framework} application in {name}()"
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


def _served(kind: str, target: str) -> tuple[str, ...]:
    """The command for what brings no server; by path, because the program's own interpreter may not have Torpor."""
    return ("python", "-P", str(_SERVE), kind, target)


def _sources(directory: Path) -> Iterator[Path]:
    """Python files at the top: the usual names first, then the others in order."""
    names = sorted(entry.name for entry in os.scandir(directory) if entry.name.endswith(".py"))
    usual = [name for name in _FIRST if name in names]
    others = [name for name in names if name not in _FIRST]
    yield from (directory / name for name in [*usual, *others][:_MAX_SOURCES])


def _parse(path: Path) -> ast.Module | None:
    """The syntax tree of a source; None if it is absent, or not ours to judge: the next guess may fit."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > _MAX_SOURCE_BYTES:
            return None  # a pipe would be read for ever
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about somebody else's code
            return ast.parse(path.read_bytes(), str(path))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):  # the last two: nested absurdly deep
        return None


def _assigned(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Module-level `name = Framework(...)` and `name: T = Framework(...)`, as (name, framework)."""
    for node in tree.body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=value)
            ):
                if framework := _framework(value):
                    yield name, framework


def _factories(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Module-level `def create_app(): ... Framework(...)` that needs no arguments, as (name, framework)."""
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef) or node.name not in _FACTORIES:
            continue
        arguments = node.args
        if len(arguments.posonlyargs) + len(arguments.args) > len(arguments.defaults) or None in arguments.kw_defaults:
            continue
        for inner in ast.walk(node):
            if isinstance(inner, ast.expr) and (framework := _framework(inner)):
                yield node.name, framework
                break


def _framework(value: ast.expr | None) -> str:
    """The framework that an expression calls, or ""."""
    match value:
        case ast.Call(func=ast.Name(id=name)) | ast.Call(func=ast.Attribute(attr=name)) if name in _FRAMEWORKS:
            return name
    return ""


def _has_main_guard(tree: ast.Module) -> bool:
    return any(
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Compare)
        and isinstance(node.test.left, ast.Name)
        and node.test.left.id == "__name__"
        for node in tree.body
    )
