"""Lines of the request log: the direct rendering of the default template against the template itself."""

import asyncio
import json
import os
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from kncore.config.observability import REQUEST_LOG_TEMPLATE
from kncore.net import requestlog
from kncore.net.errors import ClientGone
from kncore.net.requestlog import Identity, Writer, renderer
from tests.unit.kncore.net.conftest import Relay

WHO = Identity(name="hello-1", namespace="ns", service="hello", configuration="hello", pod="p", pod_ip="10.0.0.9")
TRACE = b"Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"


def exchange_of(head: bytes, **changes: object):
    relay = Relay(lambda _: None)
    relay.says(head)
    [exchange] = relay.exchanges
    for name, value in {"status": 200, "bytes_out": 12, **changes}.items():
        setattr(exchange, name, value)
    return exchange


HEADS = [
    b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    b'GET /a?b=<c>&d="\' HTTP/1.1\r\nHost: h\r\nUser-Agent: x"y\\z\r\nReferer: http://r/?a=b\r\n' + TRACE + b"\r\n",
    b"POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nX-B3-TraceId: abc\r\n\r\n",
    b"POST /p HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"GET /old HTTP/1.0\r\n\r\n",
    b"GET /u HTTP/1.1\r\nHost: h\r\nUser-Agent: \xc3\xbc\xff</script>\r\n\r\n",
]


@pytest.mark.parametrize("head", HEADS)
async def test_the_default_line_is_what_its_template_says(head: bytes) -> None:
    exchange = exchange_of(head)
    direct = renderer()(exchange, WHO, 0.001234)
    interpreted = requestlog._custom(REQUEST_LOG_TEMPLATE)(exchange, WHO, 0.001234)
    assert direct == interpreted


async def test_the_default_line_has_every_field() -> None:
    line = json.loads(renderer()(exchange_of(HEADS[2], status=404), WHO, 0.25))
    assert line == {
        "httpRequest": {
            "requestMethod": "POST",
            "requestUrl": "/p",
            "requestSize": "3",
            "status": 404,
            "responseSize": "12",
            "userAgent": "",
            "remoteIp": "192.0.2.7:4711",
            "serverIp": "10.0.0.9",
            "referer": "",
            "latency": "0.25s",
            "protocol": "HTTP/1.1",
        },
        "traceId": "abc",
    }


@pytest.mark.parametrize("value", [b'"},{"', b"-01\\", b"a b", b"\xff\xfe"])
async def test_a_trace_id_that_is_none_cannot_forge_lines(value: bytes) -> None:
    line = renderer()(exchange_of(b"GET / HTTP/1.1\r\nHost: h\r\nX-B3-TraceId: " + value + b"\r\n\r\n"), WHO, 1.0)
    assert json.loads(line)["traceId"] == ""


@pytest.mark.parametrize(
    ("template", "head", "changes", "line"),
    [
        ("TLS: {{.Request.TLS}}", HEADS[0], {}, "TLS: <nil>"),
        ("{{.Request.Proto}} {{.Request.ProtoMajor}}", HEADS[0], {"protocol": "HTTP/2.0"}, "HTTP/2.0 2"),
        ('{{.Request.Header.Get "user-agent"}}|{{.Request.UserAgent}}', HEADS[1], {}, 'x"y\\z|x"y\\z'),
        ('{{index .Request.Header "User-Agent"}}', HEADS[1], {}, '[x"y\\z]'),
        ("{{.Request.URL.Path}} {{.Request.URL.RawQuery}}", b"GET /a?b=c HTTP/1.1\r\nHost: h\r\n\r\n", {}, "/a b=c"),
        (
            "{{.Revision.Service}}/{{.Revision.Name}} {{.Revision.PodName}} {{.TraceID}}",
            HEADS[2],
            {},
            "hello/hello-1 p abc",
        ),
        ("{{.Response.Code}} {{.Response.Size}} {{.Response.Latency}}", HEADS[0], {}, "200 12 1.5"),
        ("{{.Response.Code}}", HEADS[0], {"status": 0, "error": ClientGone("left")}, "499"),
        ("{{.Response.Code}}", HEADS[0], {"status": 0}, "500"),
    ],
)
async def test_templates(template: str, head: bytes, changes: dict[str, object], line: str) -> None:
    assert renderer(template)(exchange_of(head, **changes), WHO, 1.5) == line


async def test_a_request_in_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    exchange = exchange_of(HEADS[0])
    session = SimpleNamespace(
        version=lambda: "TLSv1.3",
        session_reused=False,
        cipher=lambda: ("TLS_AES_256_GCM_SHA384", "TLSv1.3", 256),
        selected_alpn_protocol=lambda: "h2",
        server_hostname=None,
    )
    monkeypatch.setattr(type(exchange), "tls", session)
    assert renderer("TLS: {{.Request.TLS}}")(exchange, WHO, 1.0) == "TLS: {772 true false TLS_AES_256_GCM_SHA384 h2 }"
    assert renderer("{{.Request.TLS.Version}}")(exchange, WHO, 1.0) == "772"


async def test_a_template_that_asks_for_what_is_not_there() -> None:
    line = renderer("{{.Request.Nonsense}}")(exchange_of(HEADS[0]), WHO, 1.5)
    assert line == "Invalid request log template: method: GET, response code: 200, latency: 1.5, url: /"


# -- writing ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    os.set_blocking(read, False)
    yield read, write
    os.close(read)
    os.close(write)


async def test_lines_of_one_iteration_are_one_write(pipe: tuple[int, int]) -> None:
    writer = Writer(pipe[1], asyncio.get_running_loop())
    writer.line("a")
    writer.line("b\n")
    await asyncio.sleep(0)
    assert os.read(pipe[0], 100) == b"a\nb\n"
    assert writer.statistics() == {"waiting_bytes": 0, "dropped": 0}


@pytest.mark.looptime
async def test_a_reader_that_does_not_keep_up_holds_nobody_up_and_loses_what_is_too_much(pipe: tuple[int, int]) -> None:
    writer = Writer(pipe[1], asyncio.get_running_loop())
    sent = 2 * requestlog.BACKLOG // 1000
    for number in range(sent):
        writer.line(f"{number:0999}")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert 0 < writer.statistics()["waiting_bytes"] <= requestlog.BACKLOG
    got = bytearray()
    for _ in range(1000):
        try:
            got += os.read(pipe[0], 1 << 20)
        except BlockingIOError:
            if not writer.statistics()["waiting_bytes"]:
                break
        await asyncio.sleep(0.05)
    lines = got.decode().splitlines()
    assert len(lines) + writer.statistics()["dropped"] == sent
    assert lines == [f"{number:0999}" for number in range(len(lines))]  # the oldest were kept, whole and in order


async def test_a_reader_that_is_gone() -> None:
    read, write = os.pipe()
    os.close(read)
    writer = Writer(write, asyncio.get_running_loop())
    writer.line("a")
    await asyncio.sleep(0)
    assert writer.statistics() == {"waiting_bytes": 0, "dropped": 1}
    os.close(write)
