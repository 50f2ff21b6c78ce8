"""The request log: one line per request on standard output (serving §6.8).

The line is a Go template. The default one is rendered directly; for any other, `kncore.gotemplate` is loaded. Lines
of one loop iteration are written together.
"""

import asyncio
import os
from collections.abc import Callable
from typing import Any, Final

from kncore.errors import ProxyError
from kncore.net.exchange import Exchange, Handler
from kncore.strconv import format_float
from queueproxy.config import Config
from queueproxy.proxy import Layer

__all__ = ["DEFAULT_TEMPLATE", "Renderer", "Writer", "renderer", "write"]

Renderer = Callable[[Exchange, float], str]
"""(exchange, latency in seconds) -> line."""

DEFAULT_TEMPLATE: Final = (
    '{"httpRequest": {"requestMethod": "{{.Request.Method}}", "requestUrl": "{{js .Request.RequestURI}}", '
    '"requestSize": "{{.Request.ContentLength}}", "status": {{.Response.Code}}, '
    '"responseSize": "{{.Response.Size}}", "userAgent": "{{js .Request.UserAgent}}", '
    '"remoteIp": "{{js .Request.RemoteAddr}}", "serverIp": "{{.Revision.PodIP}}", '
    '"referer": "{{js .Request.Referer}}", "latency": "{{.Response.Latency}}s", '
    '"protocol": "{{.Request.Proto}}"}, "traceId": "{{.TraceID}}"}'
)


def renderer(config: Config) -> Renderer:
    """What turns an exchange into a line.

    Raises:
        kncore.gotemplate.TemplateError: the template does not parse.
    """
    from kncore import gotemplate

    template = gotemplate.Template("requestLog", config.request_log_template or DEFAULT_TEMPLATE)
    revision = gotemplate.Struct(
        "Revision",
        {
            "Name": config.revision,
            "Namespace": config.namespace,
            "Service": config.service,
            "Configuration": config.configuration,
            "PodName": config.pod,
            "PodIP": config.pod_ip,
        },
    )

    def render(exchange: Exchange, latency: float) -> str:
        request = _request(exchange)
        response = {
            "Code": exchange.status or (exchange.error.status if isinstance(exchange.error, ProxyError) else 500),
            "Size": exchange.bytes_out,
            "Latency": latency,
        }
        data = gotemplate.Struct(
            "RequestLogTemplateInput",
            {
                "Request": gotemplate.Struct("http.Request", request),
                "Response": gotemplate.Struct("RequestLogResponse", response),
                "Revision": revision,
                "TraceID": _trace_id(exchange),
            },
        )
        try:
            return template.execute(data)
        except gotemplate.TemplateError:
            return (
                f"Invalid request log template: method: {request['Method']}, response code: {response['Code']}, "
                f"latency: {format_float(latency)}, url: {request['RequestURI']}"
            )

    return render


def _request(exchange: Exchange) -> dict[str, Any]:
    def text(name: bytes) -> str:
        return exchange.value(name).decode("utf-8", "replace")

    peer = f"[{exchange.peer}]" if ":" in exchange.peer else exchange.peer
    headers: dict[str, list[str]] = {}
    for name, value in exchange.headers:
        if name != b"host":
            headers.setdefault(name.decode("latin-1").title(), []).append(value.decode("utf-8", "replace"))
    return {
        "Method": exchange.method.decode("latin-1"),
        "RequestURI": exchange.target.decode("latin-1"),
        "ContentLength": exchange.head.length,
        "UserAgent": text(b"user-agent"),
        "RemoteAddr": f"{peer}:{exchange.peer_port}",
        "Referer": text(b"referer"),
        "Proto": "HTTP/1.0" if exchange.head.old else "HTTP/1.1",
        "Host": exchange.host.decode("latin-1"),
        "Header": headers,
        "TLS": None,
    }


def _trace_id(exchange: Exchange) -> str:
    parent = exchange.value(b"traceparent").split(b"-")
    found = parent[1] if len(parent) > 1 else exchange.value(b"x-b3-traceid")
    return found.decode("latin-1")


class Writer:
    """Writes lines to a descriptor, those of one loop iteration in one call."""

    def __init__(self, fd: int, loop: asyncio.AbstractEventLoop) -> None:
        self._fd = fd
        self._loop = loop
        self._lines: list[str] = []

    def line(self, text: str) -> None:
        """Write soon; a missing newline is added."""
        if not self._lines:
            self._loop.call_soon(self._flush)
        self._lines.append(text if text.endswith("\n") else text + "\n")

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        data = "".join(lines).encode("utf-8", "replace")
        while data:
            data = data[os.write(self._fd, data) :]


def write(render: Renderer, writer: Writer, loop: asyncio.AbstractEventLoop) -> Layer:
    """Log every request that reaches this layer, when it is over."""

    def done(exchange: Exchange) -> None:
        writer.line(render(exchange, loop.time() - exchange.started))

    def layer(inner: Handler) -> Handler:
        def handle(exchange: Exchange) -> None:
            exchange.on_done(done)
            inner(exchange)

        return handle

    return layer
