"""What a client must not do over HTTP/2, frame by frame: each fault and each flood, and how it ends."""

import asyncio
import struct
from collections.abc import Callable

import hpack
import pytest

from kncore.net.http1 import Limits
from kncore.net.http2.frames import (
    DATA,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Code,
    header_frames,
    rst_stream,
    settings,
    window_update,
)
from kncore.net.http2.limits import Budget, Http2Limits
from tests.unit.kncore.net.http2.conftest import GREETING, Relay2

MakeRelay = Callable[..., Relay2]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"

# A block without table state, so that it can be sent any number of times.
GET = b"\x82\x86\x84\x01\x01h"
POST = b"\x83\x86\x84\x01\x01h"


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    return struct.pack(">HBBBL", len(payload) >> 8, len(payload) & 255, kind, flags, stream) + payload


def ask(stream: int = 1, block: bytes = GET, *, end: bool = True) -> bytes:
    return header_frames(stream, block, end=end)


def resets(relay: Relay2) -> list[tuple[int, int]]:
    """(stream, code) of every RST_STREAM we sent."""
    sent, found, pos = relay.wire.sent, [], 0
    while pos < len(sent):
        high, low, kind, _, stream = struct.unpack_from(">HBBBL", sent, pos)
        end = pos + 9 + (high << 8 | low)
        if kind == RST_STREAM:
            found.append((stream, int.from_bytes(sent[pos + 9 : end], "big")))
        pos = end
    return found


FATAL: dict[str, tuple[bytes, Code]] = {
    "DATA for the connection": (frame(DATA, b"x"), Code.PROTOCOL_ERROR),
    "DATA for an idle stream": (frame(DATA, b"x", stream=5), Code.PROTOCOL_ERROR),
    "DATA for a stream of ours": (frame(DATA, b"x", stream=2), Code.PROTOCOL_ERROR),
    "padding longer than DATA": (ask(end=False) + frame(DATA, b"\x05abcd", 8, 1), Code.PROTOCOL_ERROR),
    "padded DATA without a length": (ask(end=False) + frame(DATA, b"", 8, 1), Code.FRAME_SIZE_ERROR),
    "HEADERS for the connection": (ask(0), Code.PROTOCOL_ERROR),
    "HEADERS for a stream of ours": (ask(2), Code.PROTOCOL_ERROR),
    "HEADERS that are too short for a priority": (frame(HEADERS, b"\x82", 0x25, 1), Code.FRAME_SIZE_ERROR),
    "numbers going backwards": (ask(5) + ask(3), Code.PROTOCOL_ERROR),
    "garbage for a block": (ask(1, b"\xff\xff\xff\xff\xff\xff"), Code.COMPRESSION_ERROR),
    "an entry that is not there": (ask(1, b"\xbe"), Code.COMPRESSION_ERROR),
    "index zero": (ask(1, b"\x80"), Code.COMPRESSION_ERROR),
    "half a field": (ask(1, b"\x82\x86\x84\x01\x0fh"), Code.COMPRESSION_ERROR),
    "half a number": (ask(1, b"\x82\x86\x84\x01\x7f"), Code.COMPRESSION_ERROR),
    "Huffman padding that is none": (ask(1, b"\x82\x86\x84\x01\x81\x00"), Code.COMPRESSION_ERROR),
    "table larger than announced": (ask(1, b"\x3f\xe2\x1f" + GET), Code.COMPRESSION_ERROR),
    "table size behind a field": (ask(1, b"\x82\x20"), Code.COMPRESSION_ERROR),
    "another frame inside a block": (frame(HEADERS, b"\x82", 1, 1) + frame(PING, bytes(8)), Code.PROTOCOL_ERROR),
    "another stream inside a block": (frame(HEADERS, b"\x82", 1, 1) + frame(9, b"\x86", 4, 3), Code.PROTOCOL_ERROR),
    "CONTINUATION of nothing": (frame(9, b"\x86", 4, 1), Code.PROTOCOL_ERROR),
    "PRIORITY for the connection": (frame(PRIORITY, bytes(5)), Code.PROTOCOL_ERROR),
    "RST_STREAM for the connection": (frame(RST_STREAM, bytes(4)), Code.PROTOCOL_ERROR),
    "RST_STREAM for an idle stream": (frame(RST_STREAM, bytes(4), stream=1), Code.PROTOCOL_ERROR),
    "RST_STREAM of another size": (ask() + frame(RST_STREAM, bytes(3), stream=1), Code.FRAME_SIZE_ERROR),
    "SETTINGS for a stream": (frame(SETTINGS, stream=1), Code.PROTOCOL_ERROR),
    "SETTINGS of another size": (frame(SETTINGS, bytes(5)), Code.FRAME_SIZE_ERROR),
    "SETTINGS acknowledged with values": (frame(SETTINGS, bytes(6), 1), Code.FRAME_SIZE_ERROR),
    "ENABLE_PUSH 2": (frame(SETTINGS, b"\0\2\0\0\0\2"), Code.PROTOCOL_ERROR),
    "ENABLE_CONNECT_PROTOCOL 2": (frame(SETTINGS, b"\0\x08\0\0\0\2"), Code.PROTOCOL_ERROR),
    "window too large": (frame(SETTINGS, b"\0\4\x80\0\0\0"), Code.FLOW_CONTROL_ERROR),
    "frames too small": (frame(SETTINGS, b"\0\5\0\0\x3f\xff"), Code.PROTOCOL_ERROR),
    "frames too large": (frame(SETTINGS, b"\0\5\x01\0\0\0"), Code.PROTOCOL_ERROR),
    "window of an open stream too large": (
        ask() + window_update(1, 2**31 - 1 - 65_535) + frame(SETTINGS, b"\0\4\x00\x01\0\0"),
        Code.FLOW_CONTROL_ERROR,
    ),
    "PUSH_PROMISE": (frame(PUSH_PROMISE, bytes(4), 4, 1), Code.PROTOCOL_ERROR),
    "PING for a stream": (frame(PING, bytes(8), stream=1), Code.PROTOCOL_ERROR),
    "PING of another size": (frame(PING, bytes(7)), Code.FRAME_SIZE_ERROR),
    "GOAWAY for a stream": (frame(GOAWAY, bytes(8), stream=1), Code.PROTOCOL_ERROR),
    "GOAWAY too short": (frame(GOAWAY, bytes(7)), Code.FRAME_SIZE_ERROR),
    "connection window opened by nothing": (window_update(0, 0), Code.PROTOCOL_ERROR),
    "connection window too large": (window_update(0, 2**31 - 1), Code.FLOW_CONTROL_ERROR),
    "WINDOW_UPDATE for an idle stream": (window_update(1, 1), Code.PROTOCOL_ERROR),
    "WINDOW_UPDATE of another size": (frame(WINDOW_UPDATE, bytes(3)), Code.FRAME_SIZE_ERROR),
    "frame larger than allowed": (frame(DATA, bytes(16_385), stream=1), Code.FRAME_SIZE_ERROR),
}


@pytest.mark.parametrize("step", [1 << 20, 1], ids=["at once", "byte by byte"])
@pytest.mark.parametrize("case", FATAL)
async def test_fatal(make_relay2: MakeRelay, case: str, step: int) -> None:
    relay = make_relay2()
    data, code = FATAL[case]
    relay.says_slowly(data, step)
    assert relay.code == code
    assert len(relay.endings) == 1
    assert relay.wire.eof
    assert all(exchange.done for exchange in relay.exchanges)
    assert not relay.served.streams
    sent = relay.wire.sent
    relay.says(ask(7))  # nothing more is looked at
    assert relay.wire.sent == sent
    relay.served.tick(relay.served.now() + 1.0)
    relay.served.tick(relay.served.now() + 4.0)
    assert relay.wire.aborted


@pytest.mark.parametrize(
    "greeting",
    [
        b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
        PREFACE[:-2] + b"\n\n",
        PREFACE + frame(PING, bytes(8)),
        PREFACE + frame(SETTINGS, flags=1),
    ],
)
async def test_another_beginning(make_relay2: MakeRelay, greeting: bytes) -> None:
    assert make_relay2(greeting=greeting).code == Code.PROTOCOL_ERROR


STREAM_FAULTS: dict[str, tuple[bytes, Code]] = {
    "malformed head": (ask(1, b"\x82\x84\x01\x01h"), Code.PROTOCOL_ERROR),
    "more body than announced": (
        ask(1, POST + b"\x0f\x0d\x011", end=False) + frame(DATA, b"ab", 1, 1),
        Code.PROTOCOL_ERROR,
    ),
    "less body than announced": (
        ask(1, POST + b"\x0f\x0d\x013", end=False) + frame(DATA, b"ab", 1, 1),
        Code.PROTOCOL_ERROR,
    ),
    "trailers before the announced end": (
        ask(1, POST + b"\x0f\x0d\x013", end=False) + ask(1, b"\x00\x01x\x01y"),
        Code.PROTOCOL_ERROR,
    ),
    "trailers that do not end": (ask(end=False) + ask(1, b"\x00\x01x\x01y", end=False), Code.PROTOCOL_ERROR),
    "pseudo-header in trailers": (ask(end=False) + ask(1, b"\x84"), Code.PROTOCOL_ERROR),
    "HEADERS for a half-closed stream": (ask() + ask(), Code.STREAM_CLOSED),
    "DATA for a half-closed stream": (ask() + frame(DATA, b"x", stream=1), Code.STREAM_CLOSED),
    "stream window opened by nothing": (ask() + window_update(1, 0), Code.PROTOCOL_ERROR),
    "stream window too large": (ask() + window_update(1, 2**31 - 1), Code.FLOW_CONTROL_ERROR),
    "PRIORITY of another size": (ask() + frame(PRIORITY, bytes(4), stream=1), Code.FRAME_SIZE_ERROR),
    "stream that depends on itself": (ask() + frame(PRIORITY, b"\0\0\0\1\0", stream=1), Code.PROTOCOL_ERROR),
}


@pytest.mark.parametrize("step", [1 << 20, 1], ids=["at once", "byte by byte"])
@pytest.mark.parametrize("case", STREAM_FAULTS)
async def test_fault_of_one_stream(make_relay2: MakeRelay, case: str, step: int) -> None:
    relay = make_relay2()
    data, code = STREAM_FAULTS[case]
    relay.says_slowly(data, step)
    assert resets(relay) == [(1, code)]
    assert relay.code is None
    assert all(exchange.done and exchange.error is not None for exchange in relay.exchanges)
    before = len(relay.exchanges)
    relay.says(frame(DATA, b"x", 1, 1) + ask(3))  # late bytes are ignored, the next request is served
    assert relay.code is None
    assert len(relay.exchanges) == before + 1


async def test_a_stream_window_overrun(make_relay2: MakeRelay) -> None:
    relay = make_relay2(lambda exchange: None)
    relay.says(ask(1, POST, end=False) + frame(DATA, bytes(16_000), stream=1) * 5)
    assert resets(relay) == [(1, Code.FLOW_CONTROL_ERROR)]
    assert relay.code is None


async def test_the_connection_window_overrun(make_relay2: MakeRelay) -> None:
    relay = make_relay2(lambda exchange: None, http2=Http2Limits(connection_window=100_000))
    for stream in range(1, 15, 2):
        relay.says(ask(stream, POST, end=False) + frame(DATA, bytes(16_000), stream=stream))
    assert relay.code == Code.FLOW_CONTROL_ERROR


async def test_nothing_is_said_after_the_last_word(make_relay2: MakeRelay) -> None:
    relay = make_relay2(http2=Http2Limits(connection_window=100_000))
    relay.says(ask(1, POST, end=False) + ask(3, POST, end=False))
    relay.up.connection.pause_writing()
    relay.says(frame(DATA, bytes(16_000), stream=3) * 3)
    relay.says(frame(PING, bytes(7)))
    sent = relay.wire.sent
    relay.exchanges[1].release_body()
    relay.exchanges[0].respond(200, b"late")
    await asyncio.sleep(0)
    assert relay.wire.sent == sent


async def test_a_stream_whose_number_was_misused_before_it_began(make_relay2: MakeRelay) -> None:
    relay = make_relay2()
    relay.says(frame(PRIORITY, bytes(4), stream=1))
    relay.says(ask(1, POST, end=False) + frame(DATA, b"a", stream=1))
    relay.up.answers(OK)
    relay.says(frame(DATA, b"a", 1, 1) + ask(3))
    assert len(relay.exchanges) == 2
    assert relay.code is None


async def test_frames_behind_a_fault_are_counted_once(make_relay2: MakeRelay) -> None:
    relay = make_relay2(lambda exchange: None)
    relay.says(ask(1, POST + b"\x0f\x0d\x03150", end=False) + frame(DATA, bytes(100), stream=1) * 3)
    assert resets(relay) == [(1, Code.PROTOCOL_ERROR)]
    assert relay.served._room == relay.http2.connection_window - 300
    assert relay.served._owed == 300


async def test_closed_streams(make_relay2: MakeRelay) -> None:
    relay = make_relay2()
    relay.says(ask())
    relay.up.answers(OK)
    relay.says(window_update(1, 5) + rst_stream(1, Code.CANCEL) + frame(PRIORITY, bytes(5), stream=1))
    assert relay.code is None
    relay.says(frame(DATA, b"x", stream=1))
    assert resets(relay) == [(1, Code.STREAM_CLOSED)]
    relay.says(ask(3))
    relay.up.answers(OK)
    relay.says(ask(3))
    assert relay.code == Code.STREAM_CLOSED


async def test_a_priority_and_padding_are_skipped(make_relay2: MakeRelay) -> None:
    relay = make_relay2()
    relay.says(frame(HEADERS, b"\x03" + bytes(5) + POST + bytes(3), 0x2C, 1) + frame(DATA, b"\x02ab\0\0", 9, 1))
    assert relay.up.got.endswith(b"\r\n\r\n2\r\nab\r\n0\r\n\r\n")


async def test_unknown_frames_and_settings_are_ignored(make_relay2: MakeRelay) -> None:
    relay = make_relay2()
    relay.says(frame(0xBE, b"abc", 0xFF, 0x80000001) + frame(SETTINGS, b"\xbe\xef\0\0\0\0") + ask())
    assert len(relay.exchanges) == 1


async def test_more_streams_than_allowed_are_refused(make_relay2: MakeRelay) -> None:
    relay = make_relay2(lambda exchange: None, http2=Http2Limits(streams=3))
    relay.says(b"".join(ask(stream) for stream in (1, 3, 5, 7, 9)))
    assert len(relay.exchanges) == 3
    assert resets(relay) == [(7, Code.REFUSED_STREAM), (9, Code.REFUSED_STREAM)]
    relay.exchanges[0].respond(200, b"")
    relay.says(ask(11))
    assert len(relay.exchanges) == 4


# floods -----------------------------------------------------------------------------------------------------------


def rapid_reset(stream: int) -> bytes:
    return ask(stream) + rst_stream(stream, Code.CANCEL)


def made_you_reset(stream: int) -> bytes:
    return ask(stream, POST + b"\x0f\x0d\x011", end=False) + frame(DATA, b"ab", 0, stream)


FLOODS: dict[str, tuple[Callable[[int], bytes], str]] = {
    "rapid reset": (rapid_reset, "rapid reset"),
    "made you reset": (made_you_reset, "streams reset for faults"),
    "malformed requests": (lambda stream: ask(stream, b"\x82"), "streams reset for faults"),
    "refused requests": (lambda stream: ask(stream, b"\x02\x04BREW\x86\x84\x01\x01h"), "refused requests"),
    "SETTINGS": (lambda _: settings(()), "SETTINGS flood"),
    "PING": (lambda _: frame(PING, bytes(8)), "PING flood"),
    "PING acknowledged": (lambda _: frame(PING, bytes(8), 1), "PING flood"),
    "PRIORITY": (lambda stream: frame(PRIORITY, bytes(5), stream=stream), "PRIORITY flood"),
    "WINDOW_UPDATE": (lambda _: window_update(0, 1), "WINDOW_UPDATE flood"),
    "unknown frames": (lambda _: frame(0xBE), "unknown frames"),
    "GOAWAY": (lambda _: frame(GOAWAY, bytes(8)), "GOAWAY flood"),
}


@pytest.mark.parametrize("case", FLOODS)
async def test_flood(make_relay2: MakeRelay, case: str) -> None:
    relay = make_relay2(lambda exchange: None)
    relay.says(ask())  # one that is legitimate, and keeps the connection from being idle
    make, reason = FLOODS[case]
    for stream in range(3, 2 * 1300, 2):
        relay.says(make(stream))
        if relay.code is not None:
            break
    assert relay.code == Code.ENHANCE_YOUR_CALM
    assert relay.endings == [reason]
    assert all(exchange.done for exchange in relay.exchanges)


async def test_flood_of_empty_frames(make_relay2: MakeRelay) -> None:
    relay = make_relay2()
    relay.says(ask(end=False))
    for _ in range(12):
        relay.says(frame(DATA, stream=1) * 100)
    assert (relay.code, relay.endings) == (Code.ENHANCE_YOUR_CALM, ["empty frames"])


async def test_flood_for_streams_that_were_reset(make_relay2: MakeRelay) -> None:
    relay = make_relay2(lambda exchange: exchange.respond(200, b""))
    relay.says(ask(end=False))
    for _ in range(12):
        relay.says(frame(DATA, b"x", stream=1) * 100)
    assert (relay.code, relay.endings) == (Code.ENHANCE_YOUR_CALM, ["frames for closed streams"])


async def test_flood_of_continuations(make_relay2: MakeRelay) -> None:
    relay = make_relay2()
    relay.says(frame(HEADERS, b"\x82", 1, 1) + frame(9, b"", 0, 1) * 17)
    assert (relay.code, relay.endings) == (Code.ENHANCE_YOUR_CALM, ["too many CONTINUATION frames"])
    relay = make_relay2()
    relay.says(frame(HEADERS, bytes(16_000), 1, 1) + frame(9, bytes(16_000), 0, 1) * 9)
    assert (relay.code, relay.endings) == (Code.ENHANCE_YOUR_CALM, ["header block too large"])


async def test_bombs_of_header_compression(make_relay2: MakeRelay) -> None:
    relay = make_relay2()
    entry = b"\x40\x01x\x7f\x81\x1d" + b"y" * 3840
    relay.says(ask(1, GET + entry + b"\xbe" * 10))
    assert len(relay.exchanges) == 1
    relay.says(ask(3, GET + b"\xbe" * 30))  # 120 KB of fields in 36 bytes: refused, and not kept
    assert relay.refusals == [431]
    relay.says(ask(5, GET + b"\xbe" * 100))
    assert (relay.code, relay.endings) == (Code.ENHANCE_YOUR_CALM, ["header list far too large"])
    relay = make_relay2()
    relay.says(ask(1, GET + b"\x82" * 1100))
    assert (relay.code, relay.endings) == (Code.ENHANCE_YOUR_CALM, ["too many header fields"])


def huffman(text: bytes) -> bytes:
    """A string literal, compressed."""
    return hpack.Encoder()._encode_literal(b"", text, b"", huffman=True)[1:]


async def test_codes_that_take_long_to_decode(make_relay2: MakeRelay) -> None:
    relay = make_relay2(lambda exchange: exchange.respond(200, b""))
    for stream in range(1, 2001, 2):
        relay.says(ask(stream, GET + b"\x00\x01x" + huffman(b"%0800d" % stream)))  # a token, another one each time
    assert relay.code is None
    same = huffman(b"x" * 4500)
    for stream in range(2001, 4001, 2):
        relay.says(ask(stream, GET + b"\x00\x01x" + same + b"\x00\x01y\x04%04d" % stream))
    assert relay.code is None
    for stream in range(4001, 5001, 2):
        relay.says(ask(stream, GET + b"\x00\x01x" + huffman(b"%015000d" % stream)))
    assert (relay.code, relay.endings) == (Code.ENHANCE_YOUR_CALM, ["header compression that costs much"])


async def test_only_small_heads_are_kept_and_few(make_relay2: MakeRelay) -> None:
    relay = make_relay2(lambda exchange: exchange.respond(200, b""))
    entry = b"\x40\x01x\x7f\xe1\x06" + b"y" * 992
    relay.says(ask(1, GET + entry) + ask(3, GET + b"\xbe") + ask(5, GET + b"\xbe" * 5))
    assert [len(block) for block in relay.served._ended_heads] == [len(GET) + 1]
    for stream in range(7, 700, 2):
        relay.says(ask(stream, GET + b"\x00\x01y\x03%03d" % stream))
        assert len(relay.served._ended_heads) <= 64
    assert relay.exchanges[-1].value(b"y") == b"699"


async def test_answers_to_control_frames_that_nobody_reads(make_relay2: MakeRelay) -> None:
    relay = make_relay2(http2=Http2Limits(control_frames=50))
    relay.served.pause_writing()
    relay.says(frame(PING, bytes(8)) * 51)
    assert (relay.code, relay.endings) == (Code.ENHANCE_YOUR_CALM, ["control frames not taken"])


async def test_ordinary_clients_do_not_overdraw(make_relay2: MakeRelay) -> None:
    """Each request with a PRIORITY, a PING and two window updates; each third one cancelled."""
    relay = make_relay2(lambda exchange: exchange.respond(200, b"x"))
    for stream in range(1, 8001, 2):
        relay.says(
            frame(PRIORITY, bytes(5), stream=stream)
            + ask(stream)
            + (rst_stream(stream, Code.CANCEL) if stream % 3 == 0 else b"")
            + frame(PING, bytes(8))
            + window_update(0, 1)
            + window_update(stream, 1)
        )
    assert relay.code is None
    assert relay.endings == []


async def test_a_client_that_cancels_much_but_gets_answers_is_none(make_relay2: MakeRelay) -> None:
    relay = make_relay2(lambda exchange: exchange.respond(200, b"x") if exchange.head.length == 0 else None)
    for stream in range(1, 4001, 4):
        relay.says(ask(stream) + ask(stream + 2, end=False))
        relay.says(rst_stream(stream + 2, Code.CANCEL))
    assert relay.code is None


def test_a_budget_decays_and_is_earned_back() -> None:
    budget = Budget(10, 100.0)
    assert all(budget.spend(1.0, 0.0, 100.0) for _ in range(10))
    assert not budget.spend(1.0, 0.0, 100.0)
    assert budget.spend(1.0, 0.0, 102.0)
    assert not budget.spend(1.0, 0.0, 102.0)
    assert budget.spend(1.0, 5.0, 102.0)
    assert budget.level == 7.0
    budget.spend(1.0, 100.0, 102.0)
    assert budget.level == 1.0


# time -------------------------------------------------------------------------------------------------------------


async def test_a_frame_that_does_not_come_to_its_end(make_relay2: MakeRelay) -> None:
    relay = make_relay2(limits=Limits(head_time=10.0))
    relay.says(ask()[:5])
    now = relay.served.now()
    relay.served.tick(now)
    relay.says(ask()[5:7])
    relay.served.tick(now + 11.0)
    assert relay.endings == ["frame not complete in time"]


async def test_a_header_block_that_does_not_come_to_its_end(make_relay2: MakeRelay) -> None:
    relay = make_relay2(limits=Limits(head_time=10.0))
    relay.says(ask() + frame(HEADERS, b"\x82", 0, 3))
    now = relay.served.now()
    relay.served.tick(now)
    relay.served.tick(now + 11.0)
    assert relay.endings == ["frame not complete in time"]
    assert relay.exchanges[0].done


async def test_a_greeting_that_does_not_come(make_relay2: MakeRelay) -> None:
    relay = make_relay2(limits=Limits(head_time=10.0), greeting=PREFACE)
    now = relay.served.now()
    relay.served.tick(now)
    relay.served.tick(now + 11.0)
    assert relay.endings == ["frame not complete in time"]


async def test_a_request_body_that_does_not_come(make_relay2: MakeRelay) -> None:
    relay = make_relay2(limits=Limits(body_time=10.0))
    relay.says(ask(1, POST, end=False) + ask(3, POST + b"\x0f\x10\x10application/grpc", end=False))
    now = relay.served.now()
    relay.served.tick(now)
    relay.says(frame(DATA, b"x", stream=1))
    relay.served.tick(now + 8.0)
    relay.served.tick(now + 15.0)
    assert not relay.exchanges[0].done
    relay.served.tick(now + 19.0)
    assert relay.exchanges[0].status == 408
    assert not relay.exchanges[1].done  # a call may be silent for long


async def test_a_window_that_stays_shut(make_relay2: MakeRelay) -> None:
    relay = make_relay2(http2=Http2Limits(stall_time=10.0), greeting=PREFACE + frame(SETTINGS, b"\0\4\0\0\0\0"))
    relay.says(ask())
    relay.up.answers(OK)
    now = relay.served.now()
    relay.served.tick(now + 9.0)
    assert not relay.exchanges[0].done
    relay.served.tick(now + 11.0)
    assert relay.exchanges[0].done
    assert relay.endings == ["stalled stream"]
    assert resets(relay) == [(1, Code.INTERNAL_ERROR)]
    assert relay.code is None


async def test_a_client_that_does_not_read(make_relay2: MakeRelay) -> None:
    relay = make_relay2(http2=Http2Limits(stall_time=10.0))
    relay.says(ask())
    relay.served.pause_writing()
    now = relay.served.now()
    relay.wire.unsent = 5000  # type: ignore[attr-defined]
    relay.served.tick(now)
    relay.wire.unsent = 4000  # type: ignore[attr-defined]
    relay.served.tick(now + 9.0)
    relay.served.tick(now + 18.0)
    assert not relay.wire.aborted
    relay.served.tick(now + 20.0)
    assert relay.wire.aborted
    assert relay.endings == ["client does not read"]


async def test_a_long_run_of_frames_is_read_in_turns(make_relay2: MakeRelay) -> None:
    relay = make_relay2(lambda exchange: exchange.respond(200, b""), http2=Http2Limits(streams=5000))
    relay.says(b"".join(ask(stream) for stream in range(1, 5001, 2)))
    assert len(relay.exchanges) < 1001
    assert not relay.wire.reading
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(relay.exchanges) == 2500
    assert relay.wire.reading


async def test_runs_of_data_are_passed_on_together(make_relay2: MakeRelay) -> None:
    relay = make_relay2()
    relay.says(ask(1, POST, end=False) + ask(3, POST, end=False))
    relay.ups[0].wire.writes = 0
    relay.says(frame(DATA, b"a", stream=1) * 50 + frame(DATA, b"b", stream=3) + frame(DATA, b"a", stream=1) * 50)
    assert relay.ups[0].wire.writes == 2
    assert relay.exchanges[0].bytes_in == 100
    relay.says(frame(DATA, b"a", stream=1) * 3 + frame(DATA, b"", 1, 1) + frame(DATA, b"x", 0, 1))
    assert relay.ups[0].got.endswith(b"3\r\naaa\r\n0\r\n\r\n")
    assert resets(relay) == [(1, Code.STREAM_CLOSED)]


def test_the_blocks_here_mean_what_they_should() -> None:
    fields = hpack.Decoder().decode(POST + b"\x0f\x0d\x013", raw=True)
    assert [tuple(field) for field in fields] == [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/"),
        (b":authority", b"h"),
        (b"content-length", b"3"),
    ]
    assert GREETING.startswith(PREFACE)
