"""Handshakes take turns, and streams are transports: on memory, without sockets."""

import asyncio
import ssl
from typing import Any

import pytest

from kncore.net import tlsstream
from kncore.net.tls import ALPN, Settings, server_context
from kncore.net.tlsstream import Door, HandshakeLimits, ServerStream
from tests import certificates

CONTEXT = server_context(Settings(), pair=certificates.issue("a.example"), alpn=ALPN)


class Raw(asyncio.Transport):
    """A socket's transport whose other end is the test."""

    def __init__(self) -> None:
        super().__init__()
        self.out = bytearray()
        self.ended = self.closed = self.aborted = False
        self.reading = True
        self.unsent = 0

    def write(self, data: Any) -> None:
        assert not self.is_closing(), "uvloop refuses that"
        self.out += data

    def is_closing(self) -> bool:
        return self.closed or self.aborted

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True

    def write_eof(self) -> None:
        self.ended = True

    def can_write_eof(self) -> bool:
        return True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_write_buffer_size(self) -> int:
        return self.unsent


class Codec(asyncio.Protocol):
    """Remembers what it was told."""

    def __init__(self, agreed: str | None) -> None:
        self.agreed = agreed
        self.received = b""
        self.ended = False
        self.lost: list[Exception | None] = []
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data

    def eof_received(self) -> bool:
        self.ended = True
        return self.received.startswith(b"keep")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


class Ticker:
    """Time is the test's."""

    def add(self, visit: Any) -> None: ...
    def discard(self, visit: Any) -> None: ...


class Client:
    """OpenSSL's other side of a stream."""

    def __init__(self, door: Door) -> None:
        self.raw = Raw()
        self.stream: ServerStream = door.protocol()
        self.stream.connection_made(self.raw)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context(cadata=certificates.authority().cert_pem.bytes().decode())
        context.set_alpn_protocols(["http/1.1"])
        self.tls = context.wrap_bio(self._in, self._out, server_hostname="a.example")

    def flight(self) -> bytes:
        """What it wants to send."""
        return self._out.read()

    def take(self) -> None:
        """Receive what was sent."""
        self._in.write(bytes(self.raw.out))
        self.raw.out.clear()

    def hello(self) -> bytes:
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self.flight()

    async def shake(self) -> None:
        self.stream.data_received(self.hello())
        await asyncio.sleep(0)
        self.take()
        self.tls.do_handshake()
        self.stream.data_received(self.flight())
        await asyncio.sleep(0)

    def send(self, data: bytes) -> bytes:
        self.tls.write(data)
        return self.flight()

    @property
    def codec(self) -> Codec:
        found = self.stream.get_protocol()
        assert isinstance(found, Codec)
        return found


async def a_door(**limits: Any) -> Door:
    door = Door(lambda: CONTEXT, Codec, ticker=Ticker(), limits=HandshakeLimits(**limits))  # type: ignore[arg-type]
    door.open()
    return door


async def test_a_handshake_that_raises_keeps_nobody_at_the_door() -> None:
    raised: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context["exception"]))
    contexts: list[ssl.SSLContext] = []

    def context() -> ssl.SSLContext:
        if not contexts:
            raise LookupError
        return contexts[0]

    door = Door(context, Codec, ticker=Ticker())  # type: ignore[arg-type]
    door.open()
    first, second = Client(door), Client(door)
    first.stream.data_received(first.hello())
    await asyncio.sleep(0)
    contexts.append(CONTEXT)
    await second.shake()
    assert second.codec.agreed == "http/1.1"
    assert [type(exc) for exc in raised] == [LookupError]


async def test_a_codec_is_made_when_the_protocol_is_agreed_upon() -> None:
    client = Client(await a_door())
    with pytest.raises(AssertionError):
        client.stream.get_protocol()
    await client.shake()
    assert client.codec.agreed == "http/1.1"
    assert client.codec.transport is client.stream
    client.stream.data_received(client.send(b"hello"))
    assert client.codec.received == b"hello"
    client.stream.write(b"world")
    client.take()
    assert client.tls.read(10) == b"world"


async def test_handshakes_give_way_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty ready at once: between two turns of the loop only as many as fit into a slice, in order."""
    door = await a_door()
    clients = [Client(door) for _ in range(50)]
    now = 0.0
    monkeypatch.setattr(tlsstream, "perf_counter", lambda: now)
    done: list[int] = []
    step = ServerStream.step

    def costly(stream: ServerStream) -> None:
        nonlocal now
        now += tlsstream.SLICE / 4
        done.append(next(number for number, client in enumerate(clients) if client.stream is stream))
        step(stream)

    monkeypatch.setattr(ServerStream, "step", costly)
    for client in clients:
        client.stream.data_received(client.hello())
    assert done == []
    turns = []
    while len(done) < 50:
        await asyncio.sleep(0)
        turns.append(len(done))
    assert done == list(range(50))
    assert turns == [4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 50]


async def test_nothing_is_done_for_a_hello_that_is_not_whole() -> None:
    door = await a_door()
    client = Client(door)
    hello = client.hello()
    for at in range(len(hello) - 1):
        client.stream.data_received(hello[at : at + 1])
    await asyncio.sleep(0)
    assert not hasattr(client.stream, "_ssl")
    client.stream.data_received(hello[-1:])
    await asyncio.sleep(0)
    assert client.raw.out


async def test_the_slow_are_cut_when_their_time_is_over() -> None:
    door = await a_door(time=10.0)
    now = asyncio.get_running_loop().time()
    silent, begun, done = Client(door), Client(door), Client(door)
    await done.shake()  # first: a slow machine has one handshake's time in a turn
    begun.stream.data_received(begun.hello())
    assert not door.visit(now + 9)
    assert not silent.raw.aborted
    assert not door.visit(now + 11)
    assert (silent.raw.aborted, begun.raw.aborted, done.raw.aborted) == (True, True, False)
    assert (door.statistics().pending, door.statistics().timed_out) == (0, 2)
    await asyncio.sleep(0)


async def test_room_is_made_by_the_oldest() -> None:
    door = await a_door(pending=3)
    clients = [Client(door) for _ in range(5)]
    assert [client.raw.aborted for client in clients] == [True, True, False, False, False]
    await clients[4].shake()
    later = Client(door)
    assert not clients[2].raw.aborted
    assert not later.raw.aborted
    assert (door.statistics().pending, door.statistics().pushed_out) == (3, 2)


async def test_who_leaves_in_the_handshake_is_forgotten() -> None:
    door = await a_door()
    for when in range(3):
        client = Client(door)
        if when:
            client.stream.data_received(client.hello())
        if when == 2:
            await asyncio.sleep(0)
        assert not client.stream.eof_received()
        client.raw.closed = True
        client.stream.connection_lost(None)
        await asyncio.sleep(0)
    assert door.statistics().pending == 0
    door.close()


async def test_closing_says_so_once() -> None:
    client = Client(await a_door())
    await client.shake()
    client.take()
    client.stream.write(b"last")
    client.stream.close()
    client.stream.close()
    client.stream.write(b"ignored")
    assert client.stream.is_closing()
    client.take()
    assert (client.tls.read(10), client.tls.read(10)) == (b"last", b"")


async def test_one_direction_may_end_alone() -> None:
    client = Client(await a_door())
    await client.shake()
    client.stream.data_received(client.send(b"keep going"))
    client.stream.write_eof()
    assert client.raw.ended
    client.stream.data_received(client.send(b" and on"))
    assert client.codec.received == b"keep going and on"
    client.stream.write(b"ignored")
    client.take()
    assert client.tls.read(10) == b""
    client.tls.unwrap()
    client.stream.data_received(client.flight())
    assert client.codec.ended


@pytest.mark.parametrize("notified", [True, False])
@pytest.mark.parametrize("keep", [True, False])
async def test_the_end_of_a_peer_is_told_once_and_a_cut_is_one(notified: bool, keep: bool) -> None:
    client = Client(await a_door())
    await client.shake()
    client.stream.data_received(client.send(b"keep" if keep else b"end"))
    if notified:
        with pytest.raises(ssl.SSLWantReadError):
            client.tls.unwrap()
        client.stream.data_received(client.flight())
        assert client.codec.ended
    assert client.stream.eof_received() == keep
    assert client.raw.closed != keep
    codec = client.codec
    client.stream.connection_lost(None)
    assert [type(lost) for lost in codec.lost] == [type(None) if notified else tlsstream.Truncated]


async def test_large_pieces_pass_in_small_ones() -> None:
    """OpenSSL's buffers on memory never shrink, so nothing large is put into them."""
    client = Client(await a_door())
    await client.shake()
    data = bytes(range(256)) * 1000
    client.stream.data_received(client.send(data))
    assert client.codec.received == data
    client.take()
    client.stream.writelines((data, memoryview(data)))
    client.take()
    got = b""
    while len(got) < 2 * len(data):
        got += client.tls.read(1 << 16)
    assert got == data * 2


async def test_a_peer_that_reads_nothing_cannot_make_us_write_for_ever() -> None:
    client = Client(await a_door())
    await client.shake()
    client.raw.unsent = tlsstream.UNREAD + 1
    client.stream.data_received(client.send(b"fine"))
    assert not client.raw.aborted, "what the codec writes is the codec's to bound"
    client.stream._out.write(b"a protocol message")
    client.stream.data_received(client.send(b"too much"))
    assert client.raw.aborted


async def test_records_that_bring_nothing_are_bounded() -> None:
    """Changing keys costs us more than the peer: here records of other kinds stand for it."""
    client = Client(await a_door())
    await client.shake()
    record = client.send(b"x" * 16_000)
    for at in range(len(record) - 1):
        client.stream.data_received(record[at : at + 1])
    assert not client.raw.aborted, "one record, in pieces"
    client.stream.data_received(record[-1:])
    client.stream._barren = tlsstream.BARREN - 5
    client.stream.data_received(client.send(b"fine"))
    client.stream.data_received(client.send(b"fine")[:10])
    assert not client.raw.aborted, "counted from the last byte that meant something"
    client.stream._barren = tlsstream.BARREN
    client.stream.data_received(b"x")
    assert client.raw.aborted


async def test_garbage_after_the_handshake_ends_it_with_an_alert() -> None:
    client = Client(await a_door())
    await client.shake()
    client.take()
    codec = client.codec
    client.stream.data_received(b"\x17\x03\x03\x00\x20" + b"x" * 32)
    assert client.raw.closed
    assert client.raw.out, "an alert"
    client.stream.connection_lost(None)
    assert isinstance(codec.lost[0], ssl.SSLError)
