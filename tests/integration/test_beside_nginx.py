"""What an app sees through our proxy and through nginx, for the same bytes from a client.

Requests are made from a grammar with oddities, each named, in pipelines of several. Behind each proxy an app notes
what it got, as h11 reads it. The lists must be the same, modulo `normal`, unless one of the requests has an oddity that
`DIFFERENT` names with the reason: nginx is the more lenient in most of them, and never the other way where framing is
concerned.
"""

import asyncio
import random
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import h11
import pytest

from benchmarks.ports import free_ports
from kncore.testing.upstream import Connection, ScriptedUpstream
from tests.integration.test_http1_proxy import proxying

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
SEED: Final = 4
ROUNDS: Final = 150

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (Debian: apt-get install nginx-light)")

CONFIGURATION = """
daemon off; master_process off; pid {folder}/pid; error_log stderr crit;
events {{ }}
http {{
    access_log off; client_max_body_size 0;
    client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
    uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
    server {{
        listen 127.0.0.1:{listen};
        location / {{
            proxy_pass http://127.0.0.1:{app}; proxy_http_version 1.1; proxy_request_buffering off;
            proxy_set_header Host $http_host;
        }}
    }}
}}
"""


@dataclass(frozen=True)
class Message:
    """A request in the making."""

    method: bytes = b"POST"
    target: bytes = b"/x?y=z"
    version: bytes = b"HTTP/1.1"
    host: bytes = b"Host: h\r\n"
    framing: bytes = b""
    fields: bytes = b"X-Plain: a b\r\n"
    body: bytes = b""
    before: bytes = b""
    odd: tuple[str, ...] = ()

    def __bytes__(self) -> bytes:
        start = b"%b%b %b %b\r\n" % (self.before, self.method, self.target, self.version)
        return start + self.host + self.framing + self.fields + b"\r\n" + self.body


CHUNKED = b"Transfer-Encoding: chunked\r\n"


def sized(message: Message, body: bytes = b"hello") -> Message:
    return replace(message, framing=b"Content-Length: %d\r\n" % len(body), body=body)


def in_chunks(message: Message, body: bytes = b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n") -> Message:
    return replace(message, framing=CHUNKED, body=body)


def fields(text: bytes) -> Callable[[Message], Message]:
    return lambda message: replace(message, fields=message.fields + text)


def target(text: bytes) -> Callable[[Message], Message]:
    return lambda message: replace(message, target=text)


def method(name: bytes) -> Callable[[Message], Message]:
    return lambda message: replace(message, method=name)


def host(lines: bytes) -> Callable[[Message], Message]:
    return lambda message: replace(message, host=lines)


def framed(lines: bytes, body: bytes) -> Callable[[Message], Message]:
    return lambda message: replace(message, framing=lines, body=body)


ODDITIES: Final[dict[str, Callable[[Message], Message]]] = {
    # bodies
    "sized": sized,
    "chunked": in_chunks,
    "GET with a body": lambda message: sized(replace(message, method=b"GET")),
    "GET with chunks": lambda message: in_chunks(replace(message, method=b"GET")),
    "DELETE with a body": lambda message: sized(replace(message, method=b"DELETE")),
    "length zero": framed(b"Content-Length: 0\r\n", b""),
    "length with zeros": framed(b"Content-Length: 0005\r\n", b"hello"),
    "length with blanks": framed(b"Content-Length:   5 \r\n", b"hello"),
    "length with plus": framed(b"Content-Length: +5\r\n", b"hello"),
    "length in hexadecimal": framed(b"Content-Length: 0x5\r\n", b"hello"),
    "length empty": framed(b"Content-Length: \r\n", b""),
    "length list": framed(b"Content-Length: 5, 5\r\n", b"hello"),
    "length twice": framed(b"Content-Length: 5\r\nContent-Length: 5\r\n", b"hello"),
    "length huge": framed(b"Content-Length: 99999999999999999999\r\n", b"hello"),
    "length and chunks": framed(b"Content-Length: 5\r\n" + CHUNKED, b"0\r\n\r\n"),
    "chunks and length": framed(CHUNKED + b"Content-Length: 5\r\n", b"0\r\n\r\n"),
    "chunks in capitals": framed(b"TRANSFER-ENCODING: CHUNKED\r\n", b"0\r\n\r\n"),
    "chunked twice": framed(CHUNKED * 2, b"0\r\n\r\n"),
    "chunked, chunked": framed(b"Transfer-Encoding: chunked, chunked\r\n", b"0\r\n\r\n"),
    "gzip, chunked": framed(b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n"),
    "identity": framed(b"Transfer-Encoding: identity\r\n", b""),
    "xchunked": framed(b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n"),
    "chunk extension": framed(CHUNKED, b'5;a=b;c="d"\r\nhello\r\n0;e\r\n\r\n'),
    "chunk size with zeros": framed(CHUNKED, b"0005\r\nhello\r\n000\r\n\r\n"),
    "chunk size in capitals": framed(CHUNKED, b"A\r\n0123456789\r\n0\r\n\r\n"),
    "chunk size with blank": framed(CHUNKED, b"5 \r\nhello\r\n0\r\n\r\n"),
    "chunk size with prefix": framed(CHUNKED, b"0x5\r\nhello\r\n0\r\n\r\n"),
    "chunk size huge": framed(CHUNKED, b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
    "chunk with LF": framed(CHUNKED, b"5\nhello\n0\n\n"),
    "chunk too long": framed(CHUNKED, b"5\r\nhello!\r\n0\r\n\r\n"),
    "trailers": framed(CHUNKED, b"5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"),
    "trailer without colon": framed(CHUNKED, b"5\r\nhello\r\n0\r\nX\r\n\r\n"),
    # heads
    "blank line before": lambda message: replace(message, before=b"\r\n"),
    "two blank lines before": lambda message: replace(message, before=b"\r\n\r\n"),
    "LF before": lambda message: replace(message, before=b"\n"),
    "field ended by LF": fields(b"X-A: 1\n"),
    "field with CR": fields(b"X-A: 1\r2\r\n"),
    "field with NUL": fields(b"X-A: 1\x002\r\n"),
    "field folded": fields(b"X-A: 1\r\n 2\r\n"),
    "field empty": fields(b"X-A:\r\n"),
    "field with tabs": fields(b"X-A:\t1\t2\t\r\n"),
    "field twice": fields(b"X-A: 1\r\nX-B: 2\r\nx-a: 3\r\n"),
    "field not ASCII": fields(b"X-A: \xc3\xa9\xff\r\n"),
    "field with control character": fields(b"X-A: 1\x022\r\n"),
    "blank before colon": fields(b"X-A : 1\r\n"),
    "name with blank": fields(b"X A: 1\r\n"),
    "name with underscore": fields(b"X_A: 1\r\n"),
    "name with parenthesis": fields(b"X(A: 1\r\n"),
    "name with dots and more": fields(b"X!#$%&'*+.^`|~A: 1\r\n"),
    "name not ASCII": fields(b"X\xc3\xa9: 1\r\n"),
    "name empty": fields(b": 1\r\n"),
    "no colon": fields(b"X-A\r\n"),
    "field of 7 KiB": fields(b"X-A: " + b"a" * 7000 + b"\r\n"),
    "a hundred fields": fields(b"X-A: 1\r\n" * 100),
    "Connection names a field": fields(b"Connection: X-Plain, keep-alive\r\n"),
    "Connection close": fields(b"Connection: close\r\n"),
    "Keep-Alive and TE": fields(b"Keep-Alive: 5\r\nTE: trailers\r\n"),
    "upgrade": fields(b"Connection: upgrade\r\nUpgrade: foo\r\n"),
    "expectation": lambda message: fields(b"Expect: 100-continue\r\n")(sized(message)),
    "expectation unknown": fields(b"Expect: foo\r\n"),
    "cookies": fields(b"Cookie: a=1\r\nCookie: b=2\r\n"),
    "Accept-Encoding": fields(b"Accept-Encoding: gzip\r\n"),
    # start lines and hosts
    "HEAD": method(b"HEAD"),
    "OPTIONS": method(b"OPTIONS"),
    "PATCH": method(b"PATCH"),
    "PROPFIND": method(b"PROPFIND"),
    "TRACE": method(b"TRACE"),
    "CONNECT": method(b"CONNECT"),
    "method unknown": method(b"FOO"),
    "method in lower case": method(b"post"),
    "method with digit": method(b"P0ST"),
    "asterisk": lambda message: replace(message, method=b"OPTIONS", target=b"*"),
    "absolute form": target(b"http://h/abs?q"),
    "absolute form, another host": target(b"http://other/abs"),
    "absolute form without path": target(b"http://h"),
    "absolute form of HTTPS": target(b"https://h/abs"),
    "target with two slashes": target(b"//a//b"),
    "target with dots": target(b"/a/../b/./c"),
    "target above the root": target(b"/../../etc/passwd"),
    "target encoded": target(b"/%41%2f%25?%20"),
    "target with NUL encoded": target(b"/a%00b"),
    "target with bad encoding": target(b"/a%zz"),
    "target with odd characters": target(b'/"<>^`{|}\\'),
    "target not ASCII": target("/ü".encode()),
    "target with fragment": target(b"/a#b"),
    "target without slash": target(b"a"),
    "target with tab": target(b"/a\tb"),
    "HTTP/1.0": lambda message: replace(message, version=b"HTTP/1.0"),
    "HTTP/1.0 kept alive": lambda message: fields(b"Connection: keep-alive\r\n")(replace(message, version=b"HTTP/1.0")),
    "HTTP/1.0 with chunks": lambda message: in_chunks(replace(message, version=b"HTTP/1.0")),
    "HTTP/1.2": lambda message: replace(message, version=b"HTTP/1.2"),
    "HTTP/2.0": lambda message: replace(message, version=b"HTTP/2.0"),
    "version in lower case": lambda message: replace(message, version=b"http/1.1"),
    "version with zero": lambda message: replace(message, version=b"HTTP/1.01"),
    "two blanks": lambda message: replace(message, target=b" /x"),
    "blank at the end": lambda message: replace(message, version=b"HTTP/1.1 "),
    "no Host": host(b""),
    "two Hosts": host(b"Host: h\r\nHost: i\r\n"),
    "Host empty": host(b"Host:\r\n"),
    "Host with port": host(b"Host: h:8080\r\n"),
    "Host in capitals": host(b"HOST: H\r\n"),
    "Host with path": host(b"Host: h/x\r\n"),
    "Host with user": host(b"Host: u@h\r\n"),
    "Host with blank": host(b"Host: h i\r\n"),
}

WE_REFUSE: Final = {
    "chunk size with blank": "not in the grammar (RFC 9112 §7.1.1), and other parsers end the number elsewhere",
    "chunk with LF": "a bare LF ends no line of a chunked body; nginx takes it, some apps do not",
    "trailer without colon": "no field line; nginx drops trailers unread",
    "two blank lines before": "one is forgiven, as RFC 9112 §2.2 allows",
    "LF before": "no blank line without its CR",
    "field ended by LF": "a bare LF ends no line here: the oldest way to hide a field from one of two parsers",
    "field with control character": "not in the grammar (RFC 9110 §5.5)",
    "name with parenthesis": "no token (RFC 9110 §5.6.2); nginx drops the field, and goes on",
    "name not ASCII": "no token; nginx drops the field, and goes on",
    "no colon": "no field line; nginx drops it, and goes on",
    "expectation unknown": "417, as in the original (RFC 9110 §10.1.1 allows it)",
    "method unknown": "llhttp knows methods by name: 501",
    "target with fragment": "no request target (RFC 9112 §3.2)",
    "HTTP/1.2": "there is none",
    "version with zero": "not in the grammar",
    "two blanks": "one blank separates the parts of a request line",
    "blank at the end": "one blank separates the parts of a request line",
    "Host with user": "no host and port (RFC 9110 §7.2)",
}
NGINX_REFUSES: Final = {
    "TRACE": "it answers 405; what to do with it is the app's business",
    "asterisk": "it has no location for it",
    "target above the root": "it resolves paths; to us they are the app's",
    "target with NUL encoded": "it decodes paths; to us they are the app's",
    "target with bad encoding": "it decodes paths; to us they are the app's",
    "target not ASCII": "it sends the bytes as they are, and h11 refuses them; we send them encoded",
    "Host empty": "it wants one; HTTP/1.1 does not (RFC 9110 §7.2)",
}
OTHERWISE: Final = {
    "name with underscore": "it drops all of them, we only those that an app could take for a trusted one",
    "name with dots and more": "it drops what is not letters, digits and hyphens",
    "Connection names a field": "it does not look into Connection (RFC 9110 §7.6.1)",
    "upgrade": "it has to be told to pass them on",
    "no Host": "of HTTP/1.0: it sends none on, and h11 wants one",
    "absolute form": "with another Host: it passes on the Host field; the target's host counts (RFC 9112 §3.2.2)",
    "absolute form without path": "as above",
    "absolute form of HTTPS": "as above",
    "absolute form, another host": "it passes on the Host field; the target's host counts (RFC 9112 §3.2.2)",
}
DIFFERENT: Final = {**WE_REFUSE, **NGINX_REFUSES, **OTHERWISE}


class App(ScriptedUpstream):
    """Notes what each request was, and answers it."""

    def __init__(self) -> None:
        super().__init__(self._serve)
        self.seen: list[tuple[object, ...]] = []

    async def _serve(self, connection: Connection) -> None:
        reader = h11.Connection(h11.SERVER, max_incomplete_event_size=200_000)
        request: h11.Request | None = None
        body = b""
        while True:
            try:
                event = reader.next_event()
            except h11.RemoteProtocolError:
                return
            if event is h11.NEED_DATA:
                if reader.they_are_waiting_for_100_continue:
                    await connection.send(reader.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
                data = await connection.reader.read(65536)
                if not data:
                    return
                reader.receive_data(data)
            elif isinstance(event, h11.Request):
                request, body = event, b""
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                assert request is not None
                self.seen.append(normal(request, body))
                parts = [h11.Response(status_code=200, headers=[("Content-Length", "0")]), h11.EndOfMessage()]
                await connection.send(b"".join(reader.send(part) or b"" for part in parts))
                if reader.our_state is h11.MUST_CLOSE:
                    return
                reader.start_next_cycle()
            else:
                raise AssertionError(f"h11 does not go on: {event}")


HOP: Final = (b"connection", b"content-length", b"transfer-encoding", b"expect")


def normal(request: h11.Request, body: bytes) -> tuple[object, ...]:
    """What of a request must be the same: not the way its body is framed, nor what concerns one connection only."""
    kept = sorted((name, value) for name, value in request.headers if name not in HOP)
    return request.method, request.target, tuple(kept), body


@contextmanager
def nginx(app: int) -> Iterator[int]:
    """nginx as a proxy to the app; its port."""
    with tempfile.TemporaryDirectory(prefix="torpor-nginx-") as folder:
        [listen] = free_ports(1)
        path = Path(folder, "nginx.conf")
        path.write_text(CONFIGURATION.format(folder=folder, listen=listen, app=app))
        assert NGINX is not None
        process = subprocess.Popen([NGINX, "-p", folder, "-c", str(path)], stderr=subprocess.PIPE)
        try:
            yield listen
        finally:
            process.kill()
            process.communicate()


async def through(port: int, app: App, data: bytes) -> list[tuple[object, ...]]:
    """What the app saw of the bytes."""
    before = len(app.seen)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    writer.write(data)
    try:
        async with asyncio.timeout(1):
            while await reader.read(65536):
                pass
    except (TimeoutError, ConnectionError):
        pass
    writer.transport.abort()
    return app.seen[before:]


LAST: Final = b"GET /last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


class Pair:
    """Both proxies, an app behind each."""

    def __init__(self, ours: tuple[int, App], theirs: tuple[int, App]) -> None:
        self._ours = ours
        self._theirs = theirs

    async def see(self, messages: list[Message]) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
        data = b"".join(map(bytes, messages)) + LAST
        ours, theirs = await asyncio.gather(through(*self._ours, data), through(*self._theirs, data))
        return ours, theirs


@asynccontextmanager
async def both() -> AsyncIterator[Pair]:
    async with App() as one, App() as other, proxying(one.port) as proxy:
        with nginx(other.port) as port:
            for _ in range(500):
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except ConnectionRefusedError:
                    await asyncio.sleep(0.01)
                else:
                    writer.transport.abort()
                    break
            yield Pair((proxy.port, one), (port, other))


def made(*names: str) -> Message:
    message = replace(Message(), odd=names)
    for name in names:
        message = ODDITIES[name](message)
    return message


def test_each_oddity_alone() -> None:
    async def compare() -> None:
        async with both() as pair:
            plain = normal(
                h11.Request(method="POST", target="/x?y=z", headers=[("Host", "h"), ("X-Plain", "a b")]), b""
            )
            last = normal(h11.Request(method="GET", target="/last", headers=[("Host", "h")]), b"")
            assert await pair.see([made()]) == ([plain, last], [plain, last])
            differ = set()
            for name in ODDITIES:
                ours, theirs = await pair.see([made(name)])
                if ours != theirs:
                    differ.add(name)
                    assert len(ours) == 0 or name not in WE_REFUSE, name
                    assert len(ours) == 2 or name not in NGINX_REFUSES, name
                    assert len(ours) == len(theirs) or name not in OTHERWISE, name
                assert len(ours) <= 2, f"{name}: one request became two"
            assert differ <= set(DIFFERENT)

    asyncio.run(compare())


def test_pipelines_of_odd_requests() -> None:
    async def compare() -> None:
        random_ = random.Random(SEED)
        names = list(ODDITIES)
        async with both() as pair:
            for number in range(ROUNDS):
                messages = [
                    made(*random_.sample(names, random_.choice((0, 0, 1, 1, 2))))
                    for _ in range(random_.randrange(1, 5))
                ]
                ours, theirs = await pair.see(messages)
                odd = [index for index, message in enumerate(messages) if not set(message.odd).isdisjoint(DIFFERENT)]
                until = odd[0] if odd else len(messages) + 1
                told = f"round {number}: {[message.odd for message in messages]}"
                assert ours[:until] == theirs[:until], told
                assert len(ours) <= len(messages) + 1, f"{told}: more requests than were sent"

    asyncio.run(compare())
