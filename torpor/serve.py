"""Run a WSGI or ASGI application, or a function, on `$PORT`: `python -P -m torpor.serve KIND TARGET`.

What `torpor deploy` starts for applications that bring no server of their own. KIND is `wsgi` or `asgi` with TARGET
`module:name`, or `function` with a path to a func.py: its `new()` returns an object with an ASGI `handle(scope,
receive, send)` and, optionally, `start(config)` and `stop()`; a bare `handle` is served as it is. Servers are
waitress and uvicorn.
"""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["main"]

THREADS = 32  # of waitress; waiting requests are queued by the queue-proxy, not here


def main(arguments: list[str]) -> int:
    """Serve until SIGTERM; returns the exit code."""
    if len(arguments) != 2 or arguments[0] not in {"wsgi", "asgi", "function"}:
        sys.stderr.write("usage: python -P -m torpor.serve wsgi|asgi MODULE:NAME | function FILE\n")
        return 2
    kind, target = arguments
    sys.path.insert(0, str(Path.cwd()))
    port = int(os.environ.get("PORT", "8080"))
    if kind == "wsgi":
        _serve_wsgi(_load(target), port)
    elif kind == "asgi":
        _serve_asgi(_load(target), port)
    else:
        _serve_asgi(_Function(Path(target)), port)
    return 0


def _load(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _serve_wsgi(application: Any, port: int) -> None:
    import signal

    import waitress

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    waitress.serve(application, host="127.0.0.1", port=port, threads=THREADS, ident=None)


def _serve_asgi(application: Any, port: int) -> None:
    import uvicorn

    uvicorn.run(application, host="127.0.0.1", port=port, log_level="warning", lifespan="auto", server_header=False)


class _Function:
    """A func.py as an ASGI application: the lifespan events become `start` and `stop`."""

    def __init__(self, path: Path) -> None:
        spec = importlib.util.spec_from_file_location("func", path)
        if spec is None or spec.loader is None:
            raise FileNotFoundError(path)
        module = importlib.util.module_from_spec(spec)
        sys.path.insert(0, str(path.parent.resolve()))
        spec.loader.exec_module(module)
        self._instance: Any = module.new() if hasattr(module, "new") else module

    async def __call__(self, scope: dict[str, Any], receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope.get("path") in {"/health/liveness", "/health/readiness"}:
            await self._health("alive" if scope["path"].endswith("liveness") else "ready", send)
        else:
            await self._instance.handle(scope, receive, send)

    async def _lifespan(self, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        while True:
            message = await receive()
            hook = {"lifespan.startup": "start", "lifespan.shutdown": "stop"}[message["type"]]
            function = getattr(self._instance, hook, None)
            if function is not None:
                function(dict(os.environ)) if hook == "start" else function()
            await send({"type": f"{message['type']}.complete"})
            if hook == "stop":
                return

    async def _health(self, check: str, send: Callable[[Any], Any]) -> None:
        answer = getattr(self._instance, check, lambda: True)()
        healthy, text = answer if isinstance(answer, tuple) else (bool(answer), "")
        await send({"type": "http.response.start", "status": 200 if healthy else 503, "headers": []})
        await send({"type": "http.response.body", "body": str(text or "OK").encode()})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
