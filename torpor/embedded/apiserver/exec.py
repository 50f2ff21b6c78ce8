"""`pods/<name>/exec` over a WebSocket: the channel protocols v4 and v5 of Kubernetes.

Each binary message begins with its channel: 0 stdin, 1 stdout, 2 stderr, 3 the final `Status`, 4 terminal size as JSON;
in v5, 255 followed by a channel closes it, which is how a client says that its stdin has ended. Output waits for the
client to read; a client that leaves kills the command.
"""

import asyncio
from typing import Any

import orjson
from aiohttp import WSMsgType, web

from torpor.embedded.apiserver.errors import StatusError
from torpor.embedded.apiserver.pods import ExecSession

__all__ = ["PROTOCOLS", "serve_exec"]

PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
STDIN, STDOUT, STDERR, FAULT, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
_MESSAGE = 1 << 20
"""Bytes of one message from a client; client-go sends 32 KiB."""
_HEARTBEAT = 30.0


async def serve_exec(request: web.BaseRequest, session: ExecSession) -> web.WebSocketResponse:
    """Connect a started command with a client until either ends; closes the session."""
    socket = web.WebSocketResponse(protocols=PROTOCOLS, max_msg_size=_MESSAGE, heartbeat=_HEARTBEAT)
    try:
        await socket.prepare(request)
        async with asyncio.TaskGroup() as group:
            both = [
                group.create_task(_deliver(socket, session), name="exec output"),
                group.create_task(_feed(socket, session), name="exec input"),
            ]
            # the command has ended, or the client has left: either way nothing is left to pass on
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for task in both:
                task.cancel()
        await socket.close()
    finally:
        await session.aclose()
    return socket


async def _deliver(socket: web.WebSocketResponse, session: ExecSession) -> None:
    """Output, then how the command ended."""
    try:
        while (piece := await session.read()) is not None:
            channel, data = piece
            await socket.send_bytes(bytes((channel,)) + data)
        try:
            outcome = _outcome(await session.wait())
        except StatusError as fault:
            outcome = fault.status()
        await socket.send_bytes(bytes((FAULT,)) + orjson.dumps(outcome))
    except ConnectionError:
        return  # the client has left


async def _feed(socket: web.WebSocketResponse, session: ExecSession) -> None:
    """Input and terminal sizes, until the client leaves."""
    async for message in socket:
        if message.type is not WSMsgType.BINARY or not message.data:
            continue
        channel, data = message.data[0], message.data[1:]
        if channel == STDIN:
            if data:
                try:
                    await session.write(data)
                except ConnectionError:
                    continue  # the command has closed its stdin; what it still says matters
        elif channel == RESIZE:
            try:
                size = orjson.loads(data)
                session.resize(int(size["Width"]), int(size["Height"]))
            except (ValueError, KeyError, TypeError):
                continue
        elif channel == CLOSE and data[:1] == bytes((STDIN,)):
            await session.close_stdin()


def _outcome(code: int) -> dict[str, Any]:
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    fault = StatusError(
        500,
        "NonZeroExitCode",
        f"command terminated with non-zero exit code: exit status {code}",
        {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    )
    return fault.status()
