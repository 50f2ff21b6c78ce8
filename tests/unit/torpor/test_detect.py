"""What a directory is taken for: by its own word first, then by what its source says, never by running it."""

import os
from pathlib import Path

import pytest

from kncore.errors import KnError
from torpor import detect as module
from torpor.detect import Undetected, detect

SERVE = str(Path(module.__file__).with_name("serve.py"))


def program(tmp_path: Path, **files: str) -> Path:
    for name, content in files.items():
        path = tmp_path / name.replace("__", "/").replace("_py", ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return tmp_path


def served(kind: str, target: str) -> tuple[str, ...]:
    return ("python", "-P", SERVE, kind, target)


@pytest.mark.parametrize(
    ("source", "kind", "target"),
    [
        ("from flask import Flask\napp = Flask(__name__)\n", "wsgi", "app:app"),
        ("import flask\napplication = flask.Flask('x')\n", "wsgi", "app:application"),
        ("from fastapi import FastAPI\napi: FastAPI = FastAPI(title='x')\n", "asgi", "app:api"),
        ("from starlette.applications import Starlette\napp = Starlette(routes=[])\n", "asgi", "app:app"),
        ("app = get_wsgi_application()\n", "wsgi", "app:app"),
        ("def create_app():\n    app = Flask(__name__)\n    return app\n", "wsgi", "app:create_app()"),
        ("def make_app(debug=False):\n    return FastAPI()\n", "asgi", "app:make_app()"),
        ("app = Flask(__name__)\nif __name__ == '__main__':\n    app.run(port=8080)\n", "wsgi", "app:app"),
    ],
)
def test_an_application_object_is_served(tmp_path: Path, source: str, kind: str, target: str) -> None:
    found = detect(program(tmp_path, app_py=source))
    assert (found.kind, found.command) == (kind, served(kind, target))


def test_a_factory_that_wants_arguments_is_not_called(tmp_path: Path) -> None:
    found = detect(program(tmp_path, app_py="def create_app(config):\n    return Flask(config)\n"))
    assert found.kind == "script"


def test_the_usual_file_names_come_before_the_others(tmp_path: Path) -> None:
    program(tmp_path, aaa_py="app = Flask('a')\n", main_py="api = FastAPI()\n")
    assert detect(tmp_path).command == served("asgi", "main:api")


@pytest.mark.parametrize("path", ["func.py", "function/func.py"])
@pytest.mark.parametrize(
    ("source", "entry"),
    [
        ("def new():\n    return F()\n", "new()"),
        ("async def handle(scope, receive, send):\n    pass\n", "handle()"),
    ],
)
def test_a_function_is_known_by_what_it_defines(tmp_path: Path, path: str, source: str, entry: str) -> None:
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_text(source)
    found = detect(tmp_path)
    assert (found.kind, found.command) == ("function", served("function", path))
    assert entry in found.why


def test_a_func_py_without_an_entry_point_is_no_function(tmp_path: Path) -> None:
    with pytest.raises(Undetected):
        detect(program(tmp_path, func_py="def main(context):\n    return 'old contract'\n"))


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("web: gunicorn app:app", ("gunicorn", "app:app")),
        ("web:   node server.js --name 'a b'  ", ("node", "server.js", "--name", "a b")),
        ("web: gunicorn --bind :$PORT app:app", ("/bin/sh", "-c", "exec gunicorn --bind :$PORT app:app")),
        ("web: ./migrate && ./server -p $PORT", ("/bin/sh", "-c", "./migrate && ./server -p $PORT")),
        ("web: DEBUG=1 ./server", ("/bin/sh", "-c", "DEBUG=1 ./server")),
        ("worker: ./work\n\nweb: ./server\n", ("./server",)),
    ],
)
def test_a_procfile_says_it_all(tmp_path: Path, line: str, command: tuple[str, ...]) -> None:
    program(tmp_path, app_py="app = Flask(__name__)\n", Procfile=line)
    found = detect(tmp_path)
    assert (found.kind, found.command) == ("procfile", command)


@pytest.mark.parametrize(
    ("content", "says"),
    [("worker: ./work\n", "no line that begins with `web:`"), ("web: echo 'a\n", "cannot be parsed"), ("", "web:")],
)
def test_a_broken_procfile_is_not_guessed_around(tmp_path: Path, content: str, says: str) -> None:
    with pytest.raises(KnError, match="Procfile") as caught:
        detect(program(tmp_path, app_py="app = Flask(__name__)\n", Procfile=content))
    assert says in str(caught.value)


def test_scripts_and_executables_come_last(tmp_path: Path) -> None:
    script = tmp_path / "script"
    program(script, serve_py="if __name__ == '__main__':\n    print()\n", library_py="def f(): ...\n")
    assert detect(script).command == ("python", "serve.py")
    binary = tmp_path / "binary"
    program(binary, server="#!/bin/sh\n")
    with pytest.raises(Undetected):  # not executable yet
        detect(binary)
    (binary / "server").chmod(0o755)
    assert detect(binary).command == ("./server",)


def test_what_is_not_known_is_said_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(Undetected) as caught:
        detect(program(tmp_path, README="hello"))
    assert "Procfile" in str(caught.value)
    assert "web: COMMAND THAT LISTENS ON $PORT" in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_what_is_no_directory_is_said(tmp_path: Path) -> None:
    with pytest.raises(KnError, match="no such directory"):
        detect(tmp_path / "absent")
    file = tmp_path / "app.py"
    file.touch()
    with pytest.raises(KnError, match="is not a directory"):
        detect(file)


@pytest.mark.parametrize(
    "source",
    [
        b"app = Flask(\n",
        b"\x00\xff\xfe",
        b"-" * 200_000 + b"1",
        b"(" * 100_000,
        b"a" + b".a" * 50_000,
        b"x = '\\d'\n",  # a SyntaxWarning
        b"# coding: no-such-codec\n",
        b"#" * (2 << 20),
    ],
    ids=["syntax", "bytes", "unary", "parentheses", "attributes", "warning", "codec", "large"],
)
def test_hostile_sources_are_passed_over(tmp_path: Path, source: bytes) -> None:
    (tmp_path / "aaa.py").write_bytes(source)
    (tmp_path / "zzz.py").write_text("app = Flask(__name__)\n")
    assert detect(tmp_path).command == served("wsgi", "zzz:app")


def test_a_pipe_is_not_waited_for_and_nothing_is_run(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "app.py")
    trace = tmp_path / "ran"
    (tmp_path / "main.py").write_text(f"open({str(trace)!r}, 'w')\napp = Flask(__name__)\n")
    assert detect(tmp_path).command == served("wsgi", "main:app")
    assert not trace.exists()
