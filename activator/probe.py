"""Asking one pod's queue-proxy whether its app answers (serving §5.5).

Many pods may wake at once on a machine that is busy starting them; so this is one small protocol, not an HTTP client.
"""

import asyncio
from typing import Final, cast

from activator.backends import Answer
from activator.upstreams import split_address

__all__ = ["probe"]

MAX_BYTES: Final = 4096
"""Of an answer; it is a status line, a few headers and one word."""

_REQUEST: Final = (
    b"GET /healthz HTTP/1.1\r\nHost: %b\r\nUser-Agent: Knative-Activator-Probe\r\n"
    b"K-Network-Probe: queue\r\n%b%bConnection: close\r\n\r\n"
)
_GRACE: Final = 0.3
"""Seconds that an answer may be later than we asked it to wait."""


class _Question(asyncio.Protocol):
    """One request; `answer` is all there came of the response, set when its end, or `MAX_BYTES`, is there."""

    def __init__(self, request: bytes) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._request = request
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if len(self._received) >= MAX_BYTES:
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        if not self.answer.done():
            self.answer.set_result(self._received)


async def probe(address: str, timeout: float, /, *, host: str = "") -> Answer:
    """Probe `ip:port` within `timeout` seconds; never raises, whatever answers there. With a `host`, a mesh in between
    is told to pass it on to just this pod.

    From a second on, the queue-proxy is asked not to answer before its app is ready or that time is over (RFC 7240
    `wait`): the answer comes the moment the app is ready, and nobody has to ask again and again meanwhile. One that
    does not know the wish answers at once.
    """
    loop = asyncio.get_running_loop()
    wait = int(timeout)
    request = _REQUEST % (
        (host or address).encode(),
        b"K-Passthrough-Lb: true\r\n" if host else b"",
        b"Prefer: wait=%d\r\n" % wait if wait else b"",
    )
    try:
        async with asyncio.timeout(timeout + _GRACE if wait else timeout):
            transport, question = await loop.create_connection(lambda: _Question(request), *split_address(address))
            try:
                answer = await question.answer
            finally:
                transport.abort()
    except (OSError, TimeoutError):
        return Answer.NOT_READY
    return judge(answer)


def judge(answer: bytes) -> Answer:
    """What an HTTP response says about the pod."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head[9:12]
    if status == b"200":
        return Answer.READY if body.strip() == b"queue" else Answer.NOT_READY
    # A queue-proxy says 503 itself when its app is not ready; a mesh says it with a body of its own.
    mesh = status == b"502" or (status == b"503" and b"envoy" in head.lower())
    return Answer.MESH if mesh else Answer.NOT_READY
