"""Run a WSGI or ASGI application, or a function, on `$PORT`: `python -P torpor/serve.py KIND TARGET`.

What `torpor deploy` starts for applications that bring no server of their own. KIND is `wsgi` or `asgi` with TARGET
`module:name` or `module:factory()`, or `function` with a path to a func.py: its `new()` returns an object with an ASGI
`handle(scope, receive, send)` and, optionally, `start(config)`, `stop()`, `alive()` and `ready()`, plain or async; a
module with a `handle` of its own is served as it is. Servers are waitress and uvicorn: the program's own where its
interpreter has them, else those of Torpor, whose packages `$TORPOR_PACKAGES` names.

Started by path and on its own: it imports nothing of Torpor, because the program's `.venv` need not hold Torpor.
"""

import importlib
import importlib.util
import inspect
import os
import signal
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

__all__ = ["Function", "main"]

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

USAGE = "usage: python -P serve.py wsgi|asgi MODULE:NAME[()] | function FILE\n"
THREADS = 32  # of waitress; waiting requests are queued by the queue-proxy, not here
HEALTH = {"/health/liveness": "alive", "/health/readiness": "ready"}
HOOKS = {"lifespan.startup": "start", "lifespan.shutdown": "stop"}


class Unusable(Exception):
    """The target is not what it was said to be; the message is for the program's log."""


def main(arguments: list[str]) -> int:
    """Serve until SIGTERM; returns the exit code."""
    if len(arguments) != 2 or arguments[0] not in {"wsgi", "asgi", "function"}:
        sys.stderr.write(USAGE)
        return 2
    kind, target = arguments
    sys.path.insert(0, str(Path.cwd()))
    port = int(os.environ.get("PORT", "8080"))
    try:
        if kind == "wsgi":
            _serve_wsgi(_load(target), port)
        elif kind == "asgi":
            _serve_asgi(_load(target), port, lifespan="auto")
        else:
            # A failing start() must end the process, not be taken for an application without a lifespan.
            _serve_asgi(Function(_function(Path(target))), port, lifespan="on")
    except Unusable as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    return 0


def _load(target: str) -> Any:
    """The application at `module:name`, or what the factory at `module:name()` makes."""
    name, _, attribute = target.partition(":")
    module = importlib.import_module(name)
    call = attribute.endswith("()")
    try:
        found = getattr(module, attribute.removesuffix("()"))
    except AttributeError as exc:
        raise Unusable(f"{target}: {exc}") from exc
    return found() if call else found


def _function(path: Path) -> Any:
    """The object with `handle` that a func.py offers."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise Unusable(f"{path}: no such Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    sys.path.insert(0, str(path.parent.resolve()))
    spec.loader.exec_module(module)
    instance = module.new() if hasattr(module, "new") else module
    if not callable(getattr(instance, "handle", None)):
        raise Unusable(f"{path}: new() must return an object with handle(scope, receive, send)")
    return instance


def _server(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        ours = os.environ.get("TORPOR_PACKAGES")
        if exc.name != name or not ours or ours in sys.path:
            raise
        sys.path.append(ours)  # last: the program's own packages win
        return importlib.import_module(name)


def _serve_wsgi(application: Any, port: int) -> None:
    waitress = _server("waitress")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # waitress then finishes what its threads are at
    waitress.serve(application, host="127.0.0.1", port=port, threads=THREADS, ident=None)


def _serve_asgi(application: Any, port: int, *, lifespan: str) -> None:
    uvicorn = _server("uvicorn")
    uvicorn.run(application, host="127.0.0.1", port=port, log_level="warning", lifespan=lifespan, server_header=False)


class Function:
    """A function object as an ASGI application: lifespan events become `start` and `stop`, health paths `alive` and
    `ready`, everything else goes to `handle`.
    """

    def __init__(self, instance: Any) -> None:
        self._instance = instance

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http" and (check := HEALTH.get(scope["path"])):
            await self._health(check, send)
        else:
            await self._instance.handle(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            event = (await receive())["type"]
            hook = getattr(self._instance, HOOKS[event], None)
            if hook is not None:
                await _maybe_async(hook(dict(os.environ)) if event == "lifespan.startup" else hook())
            await send({"type": f"{event}.complete"})
            if event == "lifespan.shutdown":
                return

    async def _health(self, check: str, send: Send) -> None:
        """`alive()` and `ready()` return a bool, or a pair of bool and text."""
        hook = getattr(self._instance, check, None)
        answer = True if hook is None else await _maybe_async(hook())
        healthy, text = answer if isinstance(answer, tuple) else (answer, "")
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200 if healthy else 503, "headers": headers})
        await send({"type": "http.response.body", "body": str(text or ("OK" if healthy else "not OK")).encode()})


async def _maybe_async(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
