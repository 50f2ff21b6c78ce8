"""The request log: one line per request on standard output, as a Go template says (serving §6.8).

    layer = write(renderer(template), Identity(...), Writer(1, loop))      # around the rest of a request path
    log = Log(template, writer); log.line(exchange, identity, seconds)     # or line by line

The default template, one JSON object, is rendered directly; for any other `kncore.gotemplate` interprets it (8 us
against 30 us a line). Neither is loaded before a log is switched on.

Lines of one loop iteration are written together. Whoever reads them may be slow: then they are kept, up to
`BACKLOG` bytes, and after that dropped and counted, because a log must not hold up requests.

Trust: everything from the request is escaped where the template says so (`js`); the default template says so for all
    that a client can choose freely.
"""

import asyncio
import os
import select
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from kncore.errors import ProxyError
from kncore.net.exchange import Exchange, Handler
from kncore.strconv import format_float

__all__ = ["BACKLOG", "Identity", "Renderer", "Writer", "facts", "proto", "renderer", "status_of", "write"]

BACKLOG: Final = 1024 * 1024
"""Bytes of lines kept for a reader that does not keep up."""
RETRY: Final = 0.05
PIECE: Final = 4096
"""Bytes that a pipe takes without blocking once it is writable: POSIX' PIPE_BUF on Linux; others guarantee less, but
say writable only with more room than this."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Whose request it was: `.Revision` of the template."""

    name: str
    namespace: str
    service: str = ""
    configuration: str = ""
    pod: str = ""
    pod_ip: str = ""


Renderer = Callable[[Exchange, Identity, float], str]
"""(exchange, whose, latency in seconds) -> line."""


def proto(exchange: Exchange) -> str:
    """The protocol as Go spells it: `HTTP/1.1`."""
    return "HTTP/1.0" if exchange.head.old else exchange.protocol


def status_of(exchange: Exchange) -> int:
    """The status that was sent; of a request that got none the one it would have deserved (499: the client left)."""
    if exchange.status:
        return exchange.status
    return exchange.error.status if isinstance(exchange.error, ProxyError) else 500


def facts(exchange: Exchange) -> dict[str, str | int]:
    """A request that is over as the attributes of a span, by OpenTelemetry's names."""
    return {
        "http.request.method": exchange.method.decode("latin-1"),
        "http.response.status_code": status_of(exchange),
        "url.scheme": exchange.scheme.decode("latin-1"),
        "url.path": exchange.target.partition(b"?")[0].decode("latin-1"),
        "server.address": exchange.host.decode("latin-1"),
        "network.protocol.version": proto(exchange)[5:],
        "client.address": exchange.peer,
    }


def renderer(template: str = "") -> Renderer:
    """What turns an exchange into a line; empty is the default template.

    Raises:
        kncore.gotemplate.TemplateError: the template does not parse.
    """
    from kncore.config.observability import REQUEST_LOG_TEMPLATE

    return _default() if template in ("", REQUEST_LOG_TEMPLATE) else _custom(template)


def _default() -> Renderer:
    from kncore.gotemplate import js_escape

    def quoted(value: bytes) -> str:
        text = value.decode("utf-8", "replace")
        return text if not text or (text.isalnum() and text.isascii()) else js_escape(text)

    def render(exchange: Exchange, identity: Identity, latency: float) -> str:
        value = exchange.value
        return (
            f'{{"httpRequest": {{"requestMethod": "{exchange.method.decode("latin-1")}", '
            f'"requestUrl": "{quoted(exchange.target)}", '
            f'"requestSize": "{exchange.head.length}", "status": {status_of(exchange)}, '
            f'"responseSize": "{exchange.bytes_out}", "userAgent": "{quoted(value(b"user-agent"))}", '
            f'"remoteIp": "{js_escape(_peer(exchange))}", "serverIp": "{identity.pod_ip}", '
            f'"referer": "{quoted(value(b"referer"))}", "latency": "{format_float(latency)}s", '
            f'"protocol": "{proto(exchange)}"}}, "traceId": "{_trace_id(exchange)}"}}'
        )

    return render


def _custom(text: str) -> Renderer:
    from kncore import gotemplate

    template = gotemplate.Template("requestLog", text)
    revisions: dict[Identity, gotemplate.Struct] = {}

    def revision_of(identity: Identity) -> gotemplate.Struct:
        made = revisions.get(identity)
        if made is None:
            if len(revisions) >= 1000:
                revisions.clear()
            made = revisions[identity] = gotemplate.Struct(
                "Revision",
                {
                    "Name": identity.name,
                    "Namespace": identity.namespace,
                    "Service": identity.service,
                    "Configuration": identity.configuration,
                    "PodName": identity.pod,
                    "PodIP": identity.pod_ip,
                },
            )
        return made

    def render(exchange: Exchange, identity: Identity, latency: float) -> str:
        response = {"Code": status_of(exchange), "Size": exchange.bytes_out, "Latency": latency}
        data = gotemplate.Struct(
            "RequestLogTemplateInput",
            {
                "Request": gotemplate.Struct("http.Request", _request(exchange)),
                "Response": gotemplate.Struct("RequestLogResponse", response),
                "Revision": revision_of(identity),
                "TraceID": _trace_id(exchange),
            },
        )
        try:
            return template.execute(data)
        except gotemplate.TemplateError:
            return (
                f"Invalid request log template: method: {exchange.method.decode('latin-1')}, "
                f"response code: {response['Code']}, latency: {format_float(latency)}, "
                f"url: {exchange.target.decode('latin-1')}"
            )

    return render


class _Header(Mapping[str, list[str]]):
    """Go's http.Header: a map with a method; read when the template asks for it."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._made: dict[str, list[str]] | None = None

    @property
    def _fields(self) -> dict[str, list[str]]:
        if self._made is None:
            self._made = {}
            for name, value in self._exchange.headers:
                if name != b"host":
                    values = self._made.setdefault(_canonical(name.decode("latin-1")), [])
                    values.append(value.decode("utf-8", "replace"))
        return self._made

    def __getitem__(self, name: str) -> list[str]:
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def get(self, name: str, default: Any = None) -> Any:
        return self._first if name == "Get" else self._fields.get(name, default)

    def _first(self, name: str) -> str:
        return self._fields.get(_canonical(name), [""])[0]


def _canonical(name: str) -> str:
    return "-".join(part[:1].upper() + part[1:].lower() for part in name.split("-"))


def _request(exchange: Exchange) -> dict[str, Any]:
    from kncore.gotemplate import Struct

    def text(name: bytes) -> str:
        return exchange.value(name).decode("utf-8", "replace")

    target = exchange.target.decode("latin-1")
    path, _, query = target.partition("?")
    protocol = proto(exchange)
    return {
        "Method": exchange.method.decode("latin-1"),
        "URL": Struct("url.URL", {"Path": path, "RawQuery": query, "String": lambda: target}),
        "Proto": protocol,
        "ProtoMajor": int(protocol[5]),
        "ProtoMinor": int(protocol[7]),
        "Header": _Header(exchange),
        "ContentLength": exchange.head.length,
        "Host": exchange.host.decode("latin-1"),
        "RemoteAddr": _peer(exchange),
        "RequestURI": target,
        "TLS": _tls(exchange),
        "UserAgent": lambda: text(b"user-agent"),
        "Referer": lambda: text(b"referer"),
    }


def _tls(exchange: Exchange) -> Any:
    """As much of a tls.ConnectionState as is known; None, which prints as `<nil>`, for a request in clear."""
    session = exchange.tls
    if session is None:
        return None
    from kncore.gotemplate import Struct

    return Struct(
        "tls.ConnectionState",
        {
            "Version": {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}.get(session.version() or "", 0),
            "HandshakeComplete": True,
            "DidResume": session.session_reused,
            "CipherSuite": (session.cipher() or ("",))[0],
            "NegotiatedProtocol": session.selected_alpn_protocol() or "",
            "ServerName": session.server_hostname or "",
        },
    )


def _peer(exchange: Exchange) -> str:
    peer = f"[{exchange.peer}]" if ":" in exchange.peer else exchange.peer
    return f"{peer}:{exchange.peer_port}"


def _trace_id(exchange: Exchange) -> str:
    fields = exchange.fields
    if b"traceparent" in fields:
        parts = exchange.value(b"traceparent").split(b"-")
        if len(parts) > 1:
            return _hex(parts[1])
    return _hex(exchange.value(b"x-b3-traceid")) if b"x-b3-traceid" in fields else ""


def _hex(value: bytes) -> str:
    """A trace id; what is none would not be escaped in the line."""
    text = value.decode("latin-1")
    return text if text.isascii() and text.isalnum() else ""


class Writer:
    """Writes lines to a descriptor, those of one loop iteration together, and never waits for its reader."""

    def __init__(self, fd: int, loop: asyncio.AbstractEventLoop) -> None:
        self.dropped = 0
        """Lines lost since the start, because nobody read them."""
        self._fd = fd
        self._loop = loop
        self._lines: list[str] = []
        self._late: deque[bytes] = deque()
        self._late_bytes = 0
        self._room = select.poll()
        self._room.register(fd, select.POLLOUT)

    def line(self, text: str) -> None:
        """Write soon; a missing newline is added."""
        if not self._lines:
            self._loop.call_soon(self._flush)
        self._lines.append(text if text.endswith("\n") else text + "\n")

    def statistics(self) -> dict[str, int]:
        """Bytes that wait for a reader, and lines that were dropped."""
        return {"waiting_bytes": self._late_bytes, "dropped": self.dropped}

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        waited = bool(self._late)
        for text in lines:
            data = text.encode("utf-8", "replace")
            if self._late_bytes + len(data) > BACKLOG:
                self.dropped += 1
            else:
                self._late.append(data)
                self._late_bytes += len(data)
        if not waited:
            self._write()

    def _write(self) -> None:
        while self._late and self._room.poll(0):
            piece = self._late.popleft()
            while self._late and len(piece) + len(self._late[0]) <= PIECE:
                piece += self._late.popleft()
            try:
                written = os.write(self._fd, piece[:PIECE])
            except BlockingIOError:
                written = 0
            except OSError:  # nobody will ever read them
                self.dropped += len(self._late) + 1
                self._late.clear()
                self._late_bytes = 0
                return
            self._late_bytes -= written
            if written < len(piece):
                self._late.appendleft(piece[written:])
                if not written:
                    break
        if self._late:
            self._loop.call_later(RETRY, self._write)


def write(render: Renderer, identity: Identity, writer: Writer) -> Callable[[Handler], Handler]:
    """A layer that logs every request that reaches it, when it is over."""

    def layer(inner: Handler) -> Handler:
        def handle(exchange: Exchange) -> None:
            started = time.perf_counter()  # the loop's clock has only milliseconds

            def done(exchange: Exchange) -> None:
                writer.line(render(exchange, identity, time.perf_counter() - started))

            exchange.on_done(done)
            inner(exchange)

        return handle

    return layer
