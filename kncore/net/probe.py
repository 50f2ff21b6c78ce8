"""Health probes: one attempt each, bounded by a deadline, without an HTTP library.

`http`, `tcp` and `grpc` follow what kubelet does for the probes of a pod spec (serving §6.6): an HTTP answer of
200..399 passes (redirects on the same host are followed, others count as passed), a TCP connection passes by coming
up, gRPC asks `grpc.health.v1.Health/Check`. All return None when the probe passes and otherwise the reason, for
people.

`http2` is `http` for a server that speaks HTTP/2 without TLS and without being asked to (h2c, prior knowledge).

Both HTTP/2 exchanges are one small request, so a few frames by hand do: headers are sent as HPACK literals. Of gRPC's
answer only its DATA frame is read, because the status SERVING is nowhere else; of the other only its first head.

Bounded: every probe by its deadline, an HTTP answer by 10 KiB read, an HTTP/2 answer by 64 frames.
"""

import asyncio
import re
import ssl
import struct
from collections.abc import Sequence
from typing import Final
from urllib.parse import urljoin, urlsplit

__all__ = ["grpc", "http", "http2", "tcp"]

ANSWER_LIMIT: Final = 10 * 1024
"""Bytes read of an HTTP answer; kubelet's own bound."""
REDIRECTS: Final = 10
USER_AGENT: Final = b"kube-probe/"
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: |\r|$)")
_LOCATION: Final = re.compile(rb"\r\nlocation:[ \t]*([\x21-\x7e]+)", re.IGNORECASE)


async def tcp(host: str, port: int, deadline: float) -> str | None:
    """Whether a connection comes up before `deadline` (loop time)."""
    try:
        async with asyncio.timeout_at(deadline):
            _, writer = await asyncio.open_connection(host, port)
        writer.close()
    except TimeoutError:
        return "timed out"
    except OSError as exc:
        return _why(exc)
    return None


async def http(
    host: str,
    port: int,
    path: str,
    deadline: float,
    *,
    headers: Sequence[tuple[str, str]] = (),
    tls: bool = False,
) -> str | None:
    """Whether `GET path` is answered with 200..399; certificates are not checked, as kubelet does not either."""
    url = f"{'https' if tls else 'http'}://{_authority(host, port)}{path if path.startswith('/') else '/' + path}"
    try:
        async with asyncio.timeout_at(deadline):
            for _ in range(REDIRECTS):
                status, answer = await _get(url, headers)
                if not 300 <= status < 400:
                    break
                found = _LOCATION.search(answer)
                after = urljoin(url, found[1].decode("ascii")) if found else ""
                if not after or urlsplit(after).netloc != urlsplit(url).netloc:
                    break
                url = after
    except TimeoutError:
        return "timed out"
    except (OSError, ValueError, asyncio.IncompleteReadError) as exc:
        return _why(exc)
    return None if 200 <= status < 400 else f"status {status}"


async def http2(
    host: str, port: int, path: str, deadline: float, *, headers: Sequence[tuple[str, str]] = ()
) -> str | None:
    """Whether `GET path` over h2c is answered with 200..399; redirects are not followed."""
    try:
        async with asyncio.timeout_at(deadline):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(_http2_request(_authority(host, port), path, headers))
                status = await _http2_status(reader, writer)
            finally:
                writer.transport.abort()
    except TimeoutError:
        return "timed out"
    except asyncio.IncompleteReadError:
        return "no HTTP/2 answer"
    except (OSError, ValueError) as exc:
        return _why(exc)
    return None if 200 <= status < 400 else f"status {status}"


async def grpc(host: str, port: int, service: str, deadline: float) -> str | None:
    """Whether the health service there says SERVING for `service` (empty: the server as a whole)."""
    try:
        async with asyncio.timeout_at(deadline):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(_grpc_request(_authority(host, port), service))
                return await _grpc_answer(reader, writer)
            finally:
                writer.close()
    except TimeoutError:
        return "timed out"
    except (asyncio.IncompleteReadError, ValueError):
        return "no gRPC answer"
    except OSError as exc:
        return _why(exc)


def _why(exc: Exception) -> str:
    if isinstance(exc, ConnectionRefusedError):
        return "connection refused"
    return str(exc) or type(exc).__name__


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _get(url: str, headers: Sequence[tuple[str, str]]) -> tuple[int, bytes]:
    """Status and the first bytes of the answer."""
    parts = urlsplit(url)
    context = None
    if parts.scheme == "https":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=context)
    try:
        target = (parts.path or "/") + ("?" + parts.query if parts.query else "")
        given = {name.lower() for name, _ in headers}
        lines = [f"GET {target} HTTP/1.1"]
        if "host" not in given:
            lines.append(f"Host: {parts.netloc}")
        if "user-agent" not in given:
            lines.append("User-Agent: kube-probe/")
        if "accept" not in given:
            lines.append("Accept: */*")
        lines += [f"{name}: {value}" for name, value in headers]
        lines += ["Connection: close", "", ""]
        writer.write("\r\n".join(lines).encode("latin-1"))
        answer = b""
        while len(answer) < ANSWER_LIMIT:
            more = await reader.read(ANSWER_LIMIT - len(answer))
            if not more:
                break
            answer += more
            if b"\r\n\r\n" in answer and _complete(answer):
                break
    finally:
        writer.transport.abort()
    found = _STATUS.match(answer)
    if found is None:
        raise ValueError("malformed HTTP response" if answer else "EOF")
    return int(found[1]), answer


_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*\r\n", re.IGNORECASE)


def _complete(answer: bytes) -> bool:
    """The answer says its length and is there: no need to wait for the server to close."""
    head, _, body = answer.partition(b"\r\n\r\n")
    found = _LENGTH.search(head + b"\r\n")
    return found is not None and len(body) >= int(found[1])


_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _CONTINUATION = 0x0, 0x1, 0x3, 0x4, 0x6, 0x7, 0x9
_FRAMES_LIMIT: Final = 64
_SERVING: Final = b"\x08\x01"
"""HealthCheckResponse{status: SERVING}."""


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _literal(name: bytes, value: bytes) -> bytes:
    """HPACK: literal header field without indexing, new name (RFC 7541 §6.2.2)."""
    return b"\x00" + _length(len(name)) + name + _length(len(value)) + value


def _length(size: int) -> bytes:
    """HPACK: an integer with a prefix of seven bits (RFC 7541 §5.1)."""
    if size < 127:
        return bytes((size,))
    made, size = bytearray(b"\x7f"), size - 127
    while size >= 128:
        made.append(size & 127 | 128)
        size >>= 7
    made.append(size)
    return bytes(made)


def _http2_request(authority: str, path: str, headers: Sequence[tuple[str, str]]) -> bytes:
    fields = [
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":path", (path if path.startswith("/") else "/" + path).encode("latin-1", "replace")),
        (b":authority", authority.encode()),
    ]
    given = {name.lower(): value for name, value in headers}
    given.setdefault("user-agent", "kube-probe/")
    for name, value in given.items():
        if name == "host":
            fields[3] = (b":authority", value.encode("latin-1", "replace"))
        else:
            fields.append((name.encode("latin-1", "replace"), value.encode("latin-1", "replace")))
    block = b"".join(_literal(*field) for field in fields)
    if len(block) > 16384:
        raise ValueError("probe headers too large")
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0, b"") + _frame(_HEADERS, 0x5, 1, block)


async def _http2_status(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
    """The status of the first final head."""
    from hpack import Decoder  # who probes in HTTP/1 need not load it
    from hpack.exceptions import HPACKError

    decoder, block = Decoder(max_header_list_size=ANSWER_LIMIT), b""
    for _ in range(_FRAMES_LIMIT):
        kind, flags, payload = await _next_frame(reader, writer)
        if kind in (_RST_STREAM, _GOAWAY):
            raise ValueError("request refused")
        if kind not in (_HEADERS, _CONTINUATION):
            continue
        if kind == _HEADERS:
            padding = payload[0] if flags & 0x8 else 0
            start = (1 if flags & 0x8 else 0) + (5 if flags & 0x20 else 0)
            payload = payload[start : len(payload) - padding]
        block += payload
        if len(block) > ANSWER_LIMIT:
            break
        if flags & 0x4:
            try:
                status = dict(decoder.decode(block, raw=True)).get(b":status", b"")
            except HPACKError as exc:
                raise ValueError("no HTTP/2 answer") from exc
            if not (status.isdigit() and len(status) == 3):
                break
            if not status.startswith(b"1"):
                return int(status)
            block = b""
    raise ValueError("no HTTP/2 answer")


async def _next_frame(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[int, int, bytes]:
    """(type, flags, payload) of the next frame; what has to be acknowledged is."""
    head = await reader.readexactly(9)
    size, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
    if size > 16384:
        raise ValueError("no HTTP/2 answer")  # an HTTP/1 server's error page, read as a frame
    payload = await reader.readexactly(size)
    if kind == _SETTINGS and not flags & 1:
        writer.write(_frame(_SETTINGS, 1, 0, b""))
    elif kind == _PING and not flags & 1:
        writer.write(_frame(_PING, 1, 0, payload))
    return kind, flags, payload


def _grpc_request(authority: str, service: str) -> bytes:
    name = service.encode()[:100]
    message = b"\x0a" + bytes((len(name),)) + name if name else b""
    fields = b"".join(
        _literal(*field)
        for field in (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", b"/grpc.health.v1.Health/Check"),
            (b":authority", authority.encode()[:100]),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            (b"user-agent", b"kube-probe/"),
        )
    )
    return (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + _frame(_SETTINGS, 0, 0, b"")
        + _frame(_HEADERS, 0x4, 1, fields)
        + _frame(_DATA, 0x1, 1, struct.pack(">BI", 0, len(message)) + message)
    )


async def _grpc_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str | None:
    body = b""
    for _ in range(_FRAMES_LIMIT):
        kind, flags, payload = await _next_frame(reader, writer)
        size = len(payload)
        if kind == _DATA:
            body += payload[1 : size - payload[0]] if flags & 0x8 and size else payload
            if len(body) >= 5 and len(body) >= 5 + int.from_bytes(body[1:5], "big"):
                return None if body[5:] == _SERVING else "not serving"
        elif kind in (_RST_STREAM, _GOAWAY):
            return "call refused"
        if kind in (_DATA, _HEADERS) and flags & 1:
            return "not serving (no health service, or it does not know the service)"
    return "no gRPC answer"
