"""Asking one pod's queue-proxy whether its app answers (serving §5.5)."""

import asyncio

from activator.backends import Answer

__all__ = ["probe"]

MAX_BYTES = 4096  # of an answer; it is a status line, a few headers and one word

_REQUEST = (
    b"GET /healthz HTTP/1.1\r\nHost: %b\r\nUser-Agent: Knative-Activator-Probe\r\n"
    b"K-Network-Probe: queue\r\nConnection: close\r\n\r\n"
)


async def probe(address: str, timeout: float) -> Answer:
    """Probe `ip:port` within `timeout` seconds; never raises, whatever answers there."""
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port), limit=MAX_BYTES)
            try:
                writer.write(_REQUEST % address.encode())
                answer = await reader.read(MAX_BYTES)
                while len(answer) < MAX_BYTES and (more := await reader.read(MAX_BYTES - len(answer))):
                    answer += more
            finally:
                writer.transport.abort()
    except (OSError, TimeoutError, ValueError):
        return Answer.NOT_READY
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head[9:12]
    if status == b"200":
        return Answer.READY if body.strip() == b"queue" else Answer.NOT_READY
    # A queue-proxy says 503 itself when its app is not ready; a mesh says it with a body of its own.
    mesh = status == b"502" or (status == b"503" and b"envoy" in head.lower())
    return Answer.MESH if mesh else Answer.NOT_READY
