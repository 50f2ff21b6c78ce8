"""`torpor/serve.py` as `torpor deploy` starts it: a real process per case, asked over loopback."""

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import torpor.serve
from benchmarks.ports import free_port

SERVE = torpor.serve.__file__

FLASKLIKE = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Path", environ["PATH_INFO"])])
    return [b"wsgi " + environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))]

def create_app():
    return app
"""
ASGI = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 201, "headers": [(b"x-path", scope["path"].encode())]})
    await send({"type": "http.response.body", "body": b"asgi " + body})
"""
FUNCTION = """
import pathlib

def new():
    return Function()

class Function:
    def __init__(self):
        self.text = b"not started"
        self.healthy = True

    def start(self, config):
        self.text = config["GREETING"].encode()

    async def handle(self, scope, receive, send):
        if scope["path"] == "/sicken":
            self.healthy = False
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": self.text})

    async def stop(self):
        pathlib.Path("stopped").write_text(self.text.decode())

    def alive(self):
        return self.healthy, "out of order" if not self.healthy else "fine"
"""


class Server:
    """One started program; `ask` is http.client, which we did not write."""

    def __init__(self, directory: Path, *arguments: str, **environment: str) -> None:
        self.port = free_port()
        base = {"PATH": os.environ["PATH"], "PORT": str(self.port), "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-P", SERVE, *arguments],
            cwd=directory,
            env={**base, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def ask(self, path: str = "/", body: bytes = b"") -> tuple[int, str, http.client.HTTPMessage]:
        deadline = time.monotonic() + 20
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
            with contextlib.closing(connection):
                try:
                    connection.request("POST" if body else "GET", path, body or None)
                except ConnectionRefusedError:
                    if time.monotonic() > deadline or self.process.poll() is not None:
                        raise
                    time.sleep(0.02)
                    continue
                answer = connection.getresponse()
                return answer.status, answer.read().decode(), answer.headers

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(10)

    def ended(self) -> tuple[int, str]:
        """Exit code and output of one that ends by itself."""
        output, _ = self.process.communicate(timeout=20)
        return self.process.returncode, output.decode()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Starter:
    """Starts programs in a directory of the test's own; all are stopped after it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.started: list[Server] = []

    def __call__(self, *arguments: str, **environment: str) -> Server:
        self.started.append(Server(self.directory, *arguments, **environment))
        return self.started[-1]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Starter]:
    starter = Starter(tmp_path)
    yield starter
    for server in starter.started:
        server.close()


@pytest.mark.parametrize("target", ["pages:app", "pages:create_app()"])
def test_a_wsgi_application_answers(serve: Starter, target: str) -> None:
    (serve.directory / "pages.py").write_text(FLASKLIKE)
    server = serve("wsgi", target)
    status, text, headers = server.ask("/a%20b", b"hi")
    assert (status, text, headers["x-path"]) == (200, "wsgi hi", "/a b")
    assert "server" not in headers  # the app's answers are the app's
    assert server.terminate() == 0


def test_an_asgi_application_answers_and_needs_no_lifespan(serve: Starter) -> None:
    (serve.directory / "app.py").write_text(ASGI)
    server = serve("asgi", "app:app")
    status, text, headers = server.ask("/x", b"hi")
    assert (status, text, headers["x-path"]) == (201, "asgi hi", "/x")
    assert "server" not in headers
    assert server.terminate() in {0, -signal.SIGTERM}


def test_a_function_is_started_asked_and_stopped(serve: Starter) -> None:
    (serve.directory / "func.py").write_text(FUNCTION)
    server = serve("function", "func.py", GREETING="good day")
    assert server.ask()[:2] == (200, "good day")
    assert server.ask("/health/readiness")[:2] == (200, "OK")
    assert server.ask("/health/liveness")[:2] == (200, "fine")
    server.ask("/sicken")
    assert server.ask("/health/liveness")[:2] == (503, "out of order")
    server.terminate()
    assert (serve.directory / "stopped").read_text() == "good day"


def test_a_bare_handle_in_a_package_directory_finds_its_neighbours(serve: Starter) -> None:
    (serve.directory / "function").mkdir()
    (serve.directory / "function" / "words.py").write_text("TEXT = b'neighbour'\n")
    (serve.directory / "function" / "func.py").write_text(
        "from words import TEXT\n\n"
        "async def handle(scope, receive, send):\n"
        "    await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n"
        "    await send({'type': 'http.response.body', 'body': TEXT})\n"
    )
    assert serve("function", "function/func.py").ask()[:2] == (200, "neighbour")


@pytest.mark.parametrize(
    ("files", "arguments", "code", "says"),
    [
        ({}, [], 2, "usage"),
        ({}, ["cgi", "app:app"], 2, "usage"),
        ({"app.py": "x = 1\n"}, ["wsgi", "app:app"], 1, "app:app: module 'app' has no attribute 'app'"),
        ({"app.py": "import nowhere\n"}, ["wsgi", "app:app"], 1, "No module named 'nowhere'"),
        ({}, ["function", "func.py"], 1, "func.py: no such Python file"),
        ({"func.py": "def new():\n    return 1\n"}, ["function", "func.py"], 1, "must return an object with handle"),
        (
            {"func.py": FUNCTION.replace('config["GREETING"]', 'config["ABSENT"]')},
            ["function", "func.py"],
            3,
            "KeyError: 'ABSENT'",
        ),
    ],
    ids=["nothing", "kind", "attribute", "import", "file", "no handle", "start fails"],
)
def test_what_cannot_be_served_ends_with_the_reason_in_the_log(
    serve: Starter, files: dict[str, str], arguments: list[str], code: int, says: str
) -> None:
    for name, content in files.items():
        (serve.directory / name).write_text(content)
    ended, output = serve(*arguments).ended()
    assert ended == code
    assert says in output


def test_an_interpreter_without_servers_borrows_torpors(serve: Starter) -> None:
    """A program's own .venv may have neither Torpor nor a server; -S stands for it: no site-packages at all."""
    (serve.directory / "pages.py").write_text(FLASKLIKE)
    blind = [sys.executable, "-S", "-P", SERVE, "wsgi", "pages:app"]
    alone = subprocess.run(blind, cwd=serve.directory, env={"PORT": "0"}, capture_output=True, text=True, check=False)
    assert alone.returncode == 1
    assert "No module named 'waitress'" in alone.stderr
    server = serve("wsgi", "pages:app")  # only to find a free port
    server.close()
    with subprocess.Popen(
        blind,
        cwd=serve.directory,
        env={"PORT": str(server.port), "TORPOR_PACKAGES": sysconfig.get_path("purelib")},
    ) as borrowed:
        server.process = borrowed
        try:
            assert server.ask()[0] == 200
        finally:
            borrowed.kill()
    serve.started.clear()
