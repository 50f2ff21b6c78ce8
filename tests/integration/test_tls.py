"""TLS on a listener, seen by clients that we did not write: curl, OpenSSL's, Python's."""

import asyncio
import hashlib
import inspect
import itertools
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import pytest
import uvloop
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from kncore.net.dial import Tls
from kncore.net.exchange import Exchange
from kncore.net.pool import Pool, PoolLimits
from kncore.net.server import Server
from kncore.net.ticker import Ticker
from kncore.net.tls import ALPN, Pair, Settings, client_context, server_context
from kncore.net.tlsstream import DoorStatistics, HandshakeLimits
from kncore.testing.rawclient import RawClient, Response
from kncore.testing.upstream import Connection, ScriptedUpstream, ok
from tests import certificates

NAME = "hello.default.localhost"
GOOD = certificates.issue(NAME)
GET = b"GET /x HTTP/1.1\r\nHost: hello.default.localhost\r\n\r\n"
BIG = bytes(range(256)) * 16_000

pytestmark = [
    pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl"),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl program"),
]


class Listener:
    """A listener with TLS; `pair` is what it proves itself with."""

    def __init__(self, pair: Pair, directory: Path, settings: Settings) -> None:
        self.settings = settings
        self.use(pair)
        self.port = 0
        self.server: Server
        self.authority = directory / "ca.crt"
        certificates.authority().cert_pem.write_to_path(str(self.authority))

    def use(self, pair: Pair, alpn: tuple[str, ...] = ALPN) -> None:
        """Another certificate from the next connection on."""
        self.context = server_context(self.settings, pair=pair, alpn=alpn)

    def handshakes(self) -> DoorStatistics:
        (door,) = self.server._doors
        return door.statistics()

    async def curl(self, *arguments: str, path: str = "/x", verify: bool = True) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        return await run(
            *("curl", "-sS", "--noproxy", "*", "--max-time", "20", "--resolve", f"{NAME}:{self.port}:127.0.0.1"),
            *(("--cacert", str(self.authority)) if verify else ()),
            *arguments,
            f"https://{NAME}:{self.port}{path}",
        )

    async def openssl(self, *arguments: str, stdin: bytes = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")):
        """A request by `openssl s_client`."""
        return await run(
            *("openssl", "s_client", "-connect", f"127.0.0.1:{self.port}", "-servername", NAME, "-ign_eof"),
            *("-CAfile", str(self.authority), "-verify_return_error", *arguments),
            stdin=stdin,
        )

    async def connect(self, context: ssl.SSLContext | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection of Python's ssl."""
        return await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=context or trusting(), server_hostname=NAME, limit=1 << 20
        )


def trusting() -> ssl.SSLContext:
    """A client that trusts the tests' authority."""
    return ssl.create_default_context(cadata=certificates.authority().cert_pem.bytes().decode())


async def run(*command: str, stdin: bytes = b"") -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate(stdin)
    assert process.returncode is not None
    return process.returncode, out.decode("latin-1"), err.decode("latin-1")


def answer(exchange: Exchange) -> None:
    if exchange.target == b"/big":
        exchange.respond(200, BIG)
    else:
        exchange.respond(200, b"hello over " + exchange.target)


@asynccontextmanager
async def listening(
    directory: Path,
    pair: Pair = GOOD,
    *,
    settings: Settings | None = None,
    handler=answer,
    limits: HandshakeLimits | None = None,
) -> AsyncIterator[Listener]:
    """A listener; in the end nothing may be left in it."""
    made = Listener(pair, directory, settings or Settings())
    ticker = Ticker()
    made.server = Server(handler, ticker=ticker, handshakes=limits)
    made.port = await made.server.listen("127.0.0.1", 0, tls=lambda: made.context)
    try:
        yield made
    finally:
        await made.server.drain(asyncio.get_running_loop().time() + 1.0)
        ticker.close()
    async with asyncio.timeout(5):
        while made.handshakes().pending or made.server.statistics().connections:  # noqa: ASYNC110  no event for it
            await asyncio.sleep(0.005)


@pytest.fixture
async def listener(tmp_path: Path) -> AsyncIterator[Listener]:
    async with listening(tmp_path) as made:
        yield made


async def read_answer(reader: asyncio.StreamReader) -> bytes:
    """The body of one answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    length = next(int(line[16:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length: "))
    return await reader.readexactly(length)


# versions and clients ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["--tlsv1.2 --tls-max 1.2", "--tlsv1.3", "--http1.1"])
async def test_curl(listener: Listener, version: str) -> None:
    assert await listener.curl(*version.split()) == (0, "hello over /x", "")


@pytest.mark.parametrize(
    ("arguments", "spoken"),
    [("", "2"), ("--http2", "2"), ("--http1.1", "1.1"), ("--no-alpn", "1.1"), ("--http2 --tls-max 1.2", "2")],
)
async def test_the_protocol_is_agreed_upon_in_the_handshake(listener: Listener, arguments: str, spoken: str) -> None:
    code, out, _ = await listener.curl(*arguments.split(), "-w", "%{http_version}")
    assert (code, out) == (0, f"hello over /x{spoken}")


@pytest.mark.parametrize(
    ("settings", "arguments", "served"),
    [
        (Settings(), ("--tls-max", "1.1", "--ciphers", "DEFAULT@SECLEVEL=0"), False),
        (Settings(minimum=ssl.TLSVersion.TLSv1_3), ("--tls-max", "1.2"), False),
        (Settings(minimum=ssl.TLSVersion.TLSv1_3), (), True),
        (Settings(maximum=ssl.TLSVersion.TLSv1_2), ("--tlsv1.3",), False),
        (Settings(), ("--tls-max", "1.2", "--ciphers", "AES128-SHA"), False),
        (Settings(), ("--tls-max", "1.2", "--ciphers", "ECDHE-ECDSA-AES128-GCM-SHA256"), True),
        (Settings(curve="secp384r1"), ("--curves", "P-384"), True),
        (Settings(curve="secp384r1"), ("--curves", "P-256"), False),
    ],
)
async def test_old_versions_and_ciphers_are_refused(
    tmp_path: Path, settings: Settings, arguments: tuple[str, ...], served: bool
) -> None:
    async with listening(tmp_path, settings=settings) as listener:
        code, out, _ = await listener.curl(*arguments)
        assert (code, out) == ((0, "hello over /x") if served else (35, ""))
        assert listener.server.statistics().handshakes == {
            **dict.fromkeys(("timed_out", "pushed_out", "plain"), 0),
            "completed": served,
            "failed": not served,
        }


@pytest.mark.parametrize("rsa", [False, True])
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
async def test_openssl(tmp_path: Path, rsa: bool, version: str) -> None:
    async with listening(tmp_path, certificates.issue(NAME, rsa=rsa)) as listener:
        code, out, _ = await listener.openssl(version, "-verify_hostname", NAME)
    assert code == 0
    assert "Verify return code: 0 (ok)" in out
    assert "hello over /x" in out
    assert ("Secure Renegotiation IS supported" in out) == (version == "-tls1_2")
    assert "Compression: NONE" in out


async def test_sessions_are_resumed(listener: Listener, tmp_path: Path) -> None:
    session = str(tmp_path / "session")
    _, first, _ = await listener.openssl("-tls1_3", "-sess_out", session)
    _, second, _ = await listener.openssl("-tls1_3", "-sess_in", session)
    assert "New, TLSv1.3" in first
    assert "Reused, TLSv1.3" in second
    assert "hello over /x" in second


async def test_renegotiation_is_refused_and_key_updates_are_not(listener: Listener) -> None:
    """`R` and `K` at the beginning of a line are commands of s_client."""
    for version, command, answered in (("-tls1_2", b"R\n", False), ("-tls1_3", b"K\n" * 40, True)):
        reader, writer = await listener.connect()
        process = await asyncio.create_subprocess_exec(
            *("openssl", "s_client", "-connect", f"127.0.0.1:{listener.port}", "-servername", NAME, version),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        for line in command.splitlines(keepends=True):
            process.stdin.write(line)
            await process.stdin.drain()
            await asyncio.sleep(0.005)  # each is a command only if it is all that was read
        process.stdin.write(GET)
        await process.stdin.drain()
        if answered:
            async with asyncio.timeout(10):
                assert await process.stdout.readuntil(b"hello over /x")
        else:
            process.stdin.close()
            assert b"hello over /x" not in await process.stdout.read()
        if process.returncode is None:
            process.kill()
        await process.wait()
        writer.write(GET)
        assert await read_answer(reader) == b"hello over /x"
        writer.transport.abort()


@pytest.mark.parametrize(
    ("pair", "text"),
    [
        (certificates.issue(NAME, days=-1), "certificate has expired"),
        (certificates.issue("other.example"), "no alternative certificate subject name matches"),
        (certificates.issue(NAME, ca="somebody else"), "unable to get local issuer certificate"),
    ],
)
async def test_certificates_that_clients_must_refuse(tmp_path: Path, pair: Pair, text: str) -> None:
    """They are the client's to judge; one that does not care is served."""
    async with listening(tmp_path, pair) as listener:
        code, out, err = await listener.curl()
        assert (code, out) == (60, "")
        assert text in err
        assert await listener.curl("-k") == (0, "hello over /x", "")


# what is not TLS -----------------------------------------------------------------------------------------------------


async def test_http_without_tls_is_told(listener: Listener) -> None:
    code, out, _ = await run(
        "curl", "-sS", "--noproxy", "*", "-w", "%{http_code}", f"http://127.0.0.1:{listener.port}/"
    )
    assert (code, out) == (0, "this port speaks TLS: use https://\n400")
    assert listener.handshakes().plain == 1


@pytest.mark.parametrize(
    "data",
    [
        b"\0",
        b"SSH-2.0-x\r\n",
        b"\x16\x03\x01\x00\x05hello",
        b"\x16\x03\x01\x00\x04\x01\0\0\0",
        b"\x16\x03\x01\xff\xff" + b"x" * 70_000,
        b"\x80\x2e\x01\x00\x02" + b"x" * 41,  # SSL 2
        bytes(range(22, 256)) * 300,
    ],
)
async def test_garbage_ends_the_connection_and_nothing_else(listener: Listener, data: bytes) -> None:
    reader, writer = await listener.connect()
    raw, raw_writer = await asyncio.open_connection("127.0.0.1", listener.port)
    raw_writer.write(data)
    try:
        async with asyncio.timeout(5):
            left = await raw.read()
    except ConnectionResetError:
        left = b""
    assert b"HTTP" not in left
    raw_writer.close()
    writer.write(GET)
    assert await read_answer(reader) == b"hello over /x"
    writer.transport.abort()


# ends ----------------------------------------------------------------------------------------------------------------


class Bio:
    """A client that says what goes over the wire: OpenSSL on memory, bytes by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = trusting().wrap_bio(self.incoming, self.outgoing, server_hostname=NAME)

    async def step(self, call, *arguments):
        """Call until it needs nothing more from the other side."""
        while True:
            try:
                result = call(*arguments)
            except ssl.SSLWantReadError:
                self.flush()
                data = await self.reader.read(1 << 16)
                if data:
                    self.incoming.write(data)
                else:
                    self.incoming.write_eof()
            else:
                self.flush()
                return result

    def flush(self) -> None:
        if self.outgoing.pending:
            self.writer.write(self.outgoing.read())


@asynccontextmanager
async def by_hand(listener: Listener) -> AsyncIterator[Bio]:
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    made = Bio(reader, writer)
    await made.step(made.tls.do_handshake)
    yield made
    writer.close()


async def test_a_connection_is_ended_in_order(listener: Listener) -> None:
    """Who reads until the end must be able to tell an end from a cut."""
    async with by_hand(listener) as client:
        await client.step(client.tls.write, GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        got = b""
        while piece := await client.step(client.tls.read, 1 << 14):
            got += piece
        assert got.endswith(b"hello over /x")
        # an empty read is close_notify; without it, OpenSSL would have raised SSLEOFError


async def test_a_client_that_ends_its_direction_still_gets_its_answer(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.request()
        await release.wait()
        await connection.send(ok(b"late"))

    async with proxying(tmp_path, ScriptedUpstream(script)) as listener, by_hand(listener) as client:
        await client.step(client.tls.write, GET)
        with pytest.raises(ssl.SSLWantReadError):
            client.tls.unwrap()
        client.flush()
        await asyncio.sleep(0.05)
        release.set()
        got = b""
        while not got.endswith(b"late"):
            got += await client.step(client.tls.read, 1 << 14)
        with pytest.raises(ssl.SSLZeroReturnError):  # both have ended
            await client.step(client.tls.read, 1)


async def test_bytes_may_come_in_any_pieces(listener: Listener) -> None:
    """Records cut anywhere, several in one read, the request behind the handshake's last message in one segment."""
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    client = Bio(reader, writer)
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.do_handshake()
    for byte in client.outgoing.read():
        writer.write(bytes([byte]))
        await asyncio.sleep(0)
    while client.tls.version() is None or client.outgoing.pending == 0:
        client.incoming.write(await reader.read(1 << 16))
        try:
            client.tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            continue
    client.tls.write(GET)
    client.tls.write(GET[:10])
    client.tls.write(GET[10:])
    client.flush()  # the end of the handshake and two requests at once
    got = b""
    while got.count(b"hello over /x") < 2:
        got += await client.step(client.tls.read, 1 << 14)
    client.tls.write(GET)
    for byte in client.outgoing.read():
        writer.write(bytes([byte]))
        await asyncio.sleep(0)
    while got.count(b"hello over /x") < 3:
        got += await client.step(client.tls.read, 1 << 14)
    writer.close()


async def test_damaged_records_end_the_connection(listener: Listener) -> None:
    async with by_hand(listener) as client:
        client.tls.write(GET)
        record = bytearray(client.outgoing.read())
        record[-1] ^= 1
        client.writer.write(record)
        with pytest.raises(ssl.SSLError, match="bad record mac"):
            await client.step(client.tls.read, 100)


# large bodies --------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def proxying(directory: Path, app: ScriptedUpstream) -> AsyncIterator[Listener]:
    """A proxy in front of an app."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(app)
        pool = await stack.enter_async_context(Pool())
        upstream = pool.upstream("127.0.0.1", app.port)
        yield await stack.enter_async_context(listening(directory, handler=lambda exchange: exchange.forward(upstream)))


async def echo(connection: Connection) -> None:
    while True:
        request = await connection.request()
        await connection.send(ok(request.body))


async def test_large_bodies_both_ways(tmp_path: Path) -> None:
    """4 MB up, the same back, chunked or not; compared by what arrived."""
    async with proxying(tmp_path, ScriptedUpstream(echo)) as listener:
        sent = tmp_path / "sent"
        sent.write_bytes(BIG)
        for extra in (("--http1.1",), ("-H", "Transfer-Encoding: chunked", "--http1.1"), ("--tls-max", "1.2"), ()):
            got = tmp_path / "got"
            code, _, err = await listener.curl(*extra, "--data-binary", f"@{sent}", "-o", str(got), path="/echo")
            assert (code, err) == (0, "")
            assert hashlib.sha256(got.read_bytes()).digest() == hashlib.sha256(BIG).digest()


async def test_a_client_that_does_not_read_holds_little(listener: Listener) -> None:
    """4 MB for a client that reads nothing at first: they wait on our side in the transport alone, and all arrive."""
    reader, writer = await listener.connect()
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(GET.replace(b"/x", b"/big"))
    other, other_writer = await listener.connect()
    for _ in range(20):
        other_writer.write(GET)
        assert await read_answer(other) == b"hello over /x"
    writer.transport.resume_reading()  # type: ignore[attr-defined]
    assert await read_answer(reader) == BIG
    for one in (writer, other_writer):
        one.transport.abort()


# other protocols -----------------------------------------------------------------------------------------------------


async def test_websocket(tmp_path: Path) -> None:
    """wss, by a library on both ends: texts, large binary messages, and the close code."""

    async def echo_messages(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)
        await connection.close(4001, "enough")

    async with AsyncExitStack() as stack:
        app = await stack.enter_async_context(serve(echo_messages, "127.0.0.1", 0, max_size=None))
        pool = await stack.enter_async_context(Pool())
        upstream = pool.upstream("127.0.0.1", app.sockets[0].getsockname()[1])
        listener = await stack.enter_async_context(
            listening(tmp_path, handler=lambda exchange: exchange.forward(upstream))
        )
        async with connect(
            f"wss://{NAME}:{listener.port}/", host="127.0.0.1", port=listener.port, ssl=trusting(), max_size=None
        ) as client:
            for message in ("hello", BIG[:1_000_000], "", b"\0"):
                await client.send(message)
                assert await client.recv() == message
            await client.close(1000)
            assert client.close_code == 1000


async def test_grpc(tmp_path: Path) -> None:
    """A secure channel of grpcio: ALPN, HTTP/2 in TLS on our side, cleartext HTTP/2 to the app."""

    async def unary(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        return request[::-1]

    async def stream(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request[::-1]

    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Stream": grpc.stream_stream_rpc_method_handler(stream),
    }
    app = grpc.aio.server()
    app.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Echo", handlers),))
    port = app.add_insecure_port("127.0.0.1:0")
    await app.start()
    async with Pool() as pool:
        upstream = pool.upstream("127.0.0.1", port, http2=True)
        async with listening(tmp_path, handler=lambda exchange: exchange.forward(upstream)) as listener:
            trusted = grpc.ssl_channel_credentials(certificates.authority().cert_pem.bytes())
            options = [("grpc.ssl_target_name_override", NAME)]
            async with grpc.aio.secure_channel(f"127.0.0.1:{listener.port}", trusted, options) as channel:
                assert await channel.unary_unary("/Echo/Unary")(b"abc") == b"cba"
                assert await channel.unary_unary("/Echo/Unary")(BIG[:1_000_000]) == BIG[:1_000_000][::-1]
                answers = channel.stream_stream("/Echo/Stream")(iter([b"ab", b"cd", b"ef"]))
                assert [answer async for answer in answers] == [b"ba", b"dc", b"fe"]
            foreign = grpc.ssl_channel_credentials(certificates.authority("somebody else").cert_pem.bytes())
            async with grpc.aio.secure_channel(f"127.0.0.1:{listener.port}", foreign, options) as channel:
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await channel.unary_unary("/Echo/Unary")(b"abc")
                assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    await app.stop(None)


# changing certificates -----------------------------------------------------------------------------------------------


async def test_certificates_change_under_load_without_a_failed_request(tmp_path: Path) -> None:
    """New connections and kept ones, while the certificate changes a hundred times."""
    pairs = [certificates.issue(NAME), certificates.issue(NAME, rsa=True)]
    seen: set[bytes] = set()
    answered = 0
    over = asyncio.Event()

    async def newcomer() -> None:
        nonlocal answered
        context = trusting()
        while not over.is_set():
            reader, writer = await listener.connect(context)
            seen.add(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
            writer.write(GET)
            assert await read_answer(reader) == b"hello over /x"
            answered += 1
            writer.close()
            await writer.wait_closed()

    async def regular() -> None:
        nonlocal answered
        reader, writer = await listener.connect()
        while not over.is_set():
            writer.write(GET)
            assert await read_answer(reader) == b"hello over /x"
            answered += 1
            await asyncio.sleep(0.001)
        writer.transport.abort()

    async with listening(tmp_path, pairs[0]) as listener:
        async with asyncio.TaskGroup() as group:
            for work in (newcomer, newcomer, newcomer, regular, regular):
                group.create_task(work())
            for pair in itertools.islice(itertools.cycle(pairs), 100):
                listener.use(pair)
                await asyncio.sleep(0.01)
            over.set()
        assert listener.handshakes().failed == 0
    assert answered > 100
    assert len(seen) == 2, "both certificates were served"


# attacks -------------------------------------------------------------------------------------------------------------


async def test_silent_and_slow_handshakes_are_cut_and_hold_up_nobody(tmp_path: Path) -> None:
    hello = Bio.__new__(Bio)
    hello.incoming, hello.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = trusting().wrap_bio(hello.incoming, hello.outgoing, server_hostname=NAME)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    first = hello.outgoing.read()
    async with listening(tmp_path, limits=HandshakeLimits(time=0.3)) as listener:
        attackers = []
        for number in range(150):
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            writer.write((b"", first[:100], first)[number % 3])  # nothing, half a hello, all of it and then nothing
            attackers.append((reader, writer))
        reader, writer = await listener.connect()
        ends = [asyncio.ensure_future(read_all(one)) for one, _ in attackers]
        while not all(end.done() for end in ends):
            writer.write(GET)
            assert await read_answer(reader) == b"hello over /x"
            await asyncio.sleep(0.002)
        assert listener.handshakes().timed_out == 150
        assert (await listener.curl())[0] == 0
        for _, one in (*attackers, (reader, writer)):
            one.transport.abort()


async def read_all(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""


async def test_too_many_handshakes_push_out_the_oldest(tmp_path: Path) -> None:
    async with listening(tmp_path, limits=HandshakeLimits(pending=20)) as listener:
        attackers = [await asyncio.open_connection("127.0.0.1", listener.port) for _ in range(100)]
        for _ in range(3):
            assert (await listener.curl())[0] == 0
        statistics = listener.handshakes()
        assert statistics.pending <= 20
        assert statistics.pushed_out >= 80
        for _, writer in attackers:
            writer.transport.abort()


async def test_requests_are_answered_in_the_middle_of_a_flood_of_handshakes(tmp_path: Path) -> None:
    """Two hundred clients shake hands at once; who is connected is not made to wait for all of them."""
    async with listening(tmp_path, certificates.issue(NAME, rsa=True)) as listener:
        reader, writer = await listener.connect()
        context = trusting()
        flood = [asyncio.ensure_future(listener.connect(context)) for _ in range(200)]
        meanwhile = 0
        while not all(one.done() for one in flood):
            writer.write(GET)
            assert await read_answer(reader) == b"hello over /x"
            meanwhile += 1
        assert meanwhile > 10
        for one in flood:
            (await one)[1].transport.abort()
        writer.transport.abort()


async def test_leaving_cuts_handshakes_and_ends_connections_in_order(tmp_path: Path) -> None:
    async with listening(tmp_path) as listener:
        silent, silent_writer = await asyncio.open_connection("127.0.0.1", listener.port)
        async with by_hand(listener) as client:
            await client.step(client.tls.write, GET)
            assert b"hello" in await client.step(client.tls.read, 1 << 14)
            await listener.server.drain(asyncio.get_running_loop().time() + 1.0)
            assert await client.step(client.tls.read, 100) == b""
        assert await read_all(silent) == b""
        silent_writer.close()


# towards upstreams ---------------------------------------------------------------------------------------------------


PODS = certificates.issue("kn-user-default", "data-plane.knative.dev")


def belongs(connection: ssl.SSLObject) -> str | None:
    names = [value for _, value in connection.getpeercert()["subjectAltName"]]  # type: ignore[index]
    return None if "kn-user-default" in names else f"not kn-user-default but {names[0]}"


def pods(ca: str = "tests") -> Tls:
    authorities = [certificates.authority(ca).cert_pem.bytes()]
    return Tls(
        context=client_context(INSIDE, authorities=authorities), server_name="data-plane.knative.dev", check=belongs
    )


INSIDE = Settings(minimum=ssl.TLSVersion.TLSv1_3)


class Relay:
    """A proxy in clear, to an upstream in TLS whose server is Python's."""

    def __init__(self, pool: Pool, port: int) -> None:
        self.pool = pool
        self.port = port
        self.accepted = 0

    async def ask(self) -> Response:
        async with await RawClient.connect(self.port) as client:
            return await client.ask(GET)


@asynccontextmanager
async def relaying(script, context: ssl.SSLContext | None, tls: Tls, *, connect: float = 5.0) -> AsyncIterator[Relay]:
    """Args: script: what the upstream does with (reader, writer) of each connection."""
    made: Relay

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.accepted += 1
        try:
            await script(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    ticker = Ticker()
    upstream = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with upstream, Pool(PoolLimits(connect_time=connect), ticker=ticker) as pool:
        address = pool.upstream("127.0.0.1", upstream.sockets[0].getsockname()[1], tls=tls)
        server = Server(lambda exchange: exchange.forward(address), ticker=ticker)
        made = Relay(pool, await server.listen("127.0.0.1", 0))
        yield made
        await server.drain(asyncio.get_running_loop().time() + 1.0)
    ticker.close()


async def polite(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ok(b"in TLS"))


async def test_an_upstream_in_tls_is_asked_for_http2_only_where_that_is_wanted() -> None:
    """One certificate and one set of rules, two protocols: our own server is on the other side."""
    authorities = [certificates.authority().cert_pem.bytes()]
    tls = Tls(
        context=client_context(INSIDE, authorities=authorities),
        http2=client_context(INSIDE, authorities=authorities, alpn=("h2", "http/1.1")),
        server_name="data-plane.knative.dev",
        check=belongs,
    )
    ticker, seen = Ticker(), []
    context = server_context(INSIDE, pair=PODS, alpn=ALPN)

    def pod(exchange: Exchange) -> None:
        seen.append((type(exchange).__module__, exchange.scheme))
        exchange.respond(200, b"in TLS")

    async with Pool(ticker=ticker) as pool:
        behind = Server(pod, ticker=ticker)
        port = await behind.listen("127.0.0.1", 0, tls=lambda: context)
        for http2 in (False, True):
            address = pool.upstream("127.0.0.1", port, http2=http2, tls=tls)
            server = Server(lambda exchange, to=address: exchange.forward(to), ticker=ticker)
            relay = Relay(pool, await server.listen("127.0.0.1", 0))
            for _ in range(3):
                assert (await relay.ask()).body == b"in TLS"
            await server.drain(asyncio.get_running_loop().time() + 1.0)
        assert pool.statistics().dialled == 2
        await behind.drain(asyncio.get_running_loop().time() + 1.0)
    ticker.close()
    assert ["http2" in kind for kind, _ in seen] == [False] * 3 + [True] * 3


async def test_an_upstream_in_tls_is_reused(tmp_path: Path) -> None:
    async with relaying(polite, server_context(INSIDE, pair=PODS), pods()) as relay:
        for _ in range(5):
            answer = await relay.ask()
            assert (answer.status, answer.body) == (200, b"in TLS")
        assert relay.accepted == 1


@pytest.mark.parametrize(
    ("context", "ca", "text"),
    [
        (
            server_context(INSIDE, pair=certificates.issue("kn-user-other", "data-plane.knative.dev")),
            "tests",
            "TLS: not kn-user-default but kn-user-other",
        ),
        (
            server_context(INSIDE, pair=certificates.issue("kn-user-default")),
            "tests",
            "TLS: Hostname mismatch, certificate is not valid for 'data-plane.knative.dev'.",
        ),
        (server_context(INSIDE, pair=PODS), "somebody else", "TLS: unable to get local issuer certificate"),
        (
            server_context(INSIDE, pair=certificates.issue("kn-user-default", "data-plane.knative.dev", days=-1)),
            "tests",
            "TLS: certificate has expired",
        ),
        (
            server_context(Settings(maximum=ssl.TLSVersion.TLSv1_2), pair=PODS),
            "tests",
            "connect to",
        ),
        (None, "tests", "TLS: wrong version number"),
    ],
)
async def test_an_upstream_that_is_not_who_it_should_be(context: ssl.SSLContext | None, ca: str, text: str) -> None:
    async def waits(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = await reader.read(4096)
        if context is None:
            writer.write(ok(b"in clear"))
        else:
            assert hello == b"", "nothing may be sent to it"

    async with relaying(waits, context, pods(ca)) as relay:
        answer = await relay.ask()
        assert answer.status == 502
        assert text in answer.body.decode()
        statistics = relay.pool.statistics()
        assert (statistics.in_use, statistics.waiting, statistics.idle) == (0, 0, 0)


async def test_an_upstream_that_hangs_or_hangs_up_in_the_handshake() -> None:
    async def hangs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)

    for script, text in ((hangs, "timed out"), (hangs_up, "onnection reset by peer")):
        async with relaying(script, None, pods(), connect=0.3) as relay:
            answer = await relay.ask()
            assert (answer.status, text in answer.body.decode()) == (502, True), answer.body


async def test_a_body_that_was_cut_is_not_taken_for_whole() -> None:
    """It lasts until the end of the connection: only close_notify tells that this is its end."""

    async def cuts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhalf of it")
        await writer.drain()
        await asyncio.sleep(0.05)
        if b"GET /x" in head:
            writer.transport.abort()  # no close_notify

    async with relaying(cuts, server_context(INSIDE, pair=PODS), pods()) as relay:
        async with await RawClient.connect(relay.port) as client:
            answer = await client.ask(GET)
            assert (answer.body, answer.complete) == (b"half of it", False)
        async with await RawClient.connect(relay.port) as client:
            answer = await client.ask(GET.replace(b"/x", b"/whole"))
            assert (answer.body, answer.complete) == (b"half of it", True)


async def test_authorities_change_while_connections_go_on() -> None:
    tls = pods("somebody else")
    async with relaying(polite, server_context(INSIDE, pair=PODS), tls) as relay:
        assert (await relay.ask()).status == 502
        tls.context = pods().context
        assert (await relay.ask()).status == 200
        tls.context = pods("somebody else").context
        assert (await relay.ask()).status == 200
        assert relay.pool.statistics().dialled == 2


# the loop of the proxies ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "test",
    [
        test_bytes_may_come_in_any_pieces,
        test_a_connection_is_ended_in_order,
        test_damaged_records_end_the_connection,
        test_a_client_that_does_not_read_holds_little,
        test_a_client_that_ends_its_direction_still_gets_its_answer,
        test_certificates_change_under_load_without_a_failed_request,
        test_leaving_cuts_handshakes_and_ends_connections_in_order,
        test_a_body_that_was_cut_is_not_taken_for_whole,
        test_an_upstream_that_hangs_or_hangs_up_in_the_handshake,
    ],
)
def test_on_uvloop(test, tmp_path: Path) -> None:
    """Its transports refuse writes once they close, and tell ends in another order."""

    async def main() -> None:
        wanted = inspect.signature(test).parameters
        async with listening(tmp_path) as listener:
            given = {"listener": listener, "tmp_path": tmp_path}
            await test(**{name: given[name] for name in wanted})

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
