"""A connection to an upstream in HTTP/2, against the h2 library as the upstream."""

import asyncio
from collections.abc import Sequence

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest

from kncore.net.errors import ConnectFailed, UpstreamClosed, UpstreamError, UpstreamGarbage
from kncore.net.exchange import Exchange
from kncore.net.http2 import frames
from kncore.net.http2.upstream import CONTROL_LIMIT, INTERIM_LIMIT, STREAM_WINDOW, ClientConnection

from .calls import Call
from .conftest import Wire

Codes = frames.Code
OK = [(":status", "200"), ("content-type", "text/plain")]


class Far:
    """An upstream that is the h2 library, and the pool entry of the connection to it."""

    def __init__(self, settings: dict[int, int] | None = None, *, silent: bool = False) -> None:
        self.wire = Wire()
        self.near = ClientConnection(self)
        self.near.connection_made(self.wire)  # type: ignore[arg-type]
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        if settings:
            self.h2.update_settings(settings)
            self.h2.local_settings.acknowledge()
        self.h2.initiate_connection()
        self.seen = 0
        self.events: list[h2.events.Event] = []
        self.is_closing = self.is_lost = False
        self.released_times = 0
        self.roomy_times = 0
        self.failures: list[UpstreamError] = []
        self.submitted: list[tuple[Exchange, bool]] = []
        if not silent:
            self.talk()

    # the home of the connection
    def released(self, connection: ClientConnection) -> None:
        self.released_times += 1

    def roomy(self, connection: ClientConnection) -> None:
        self.roomy_times += 1

    def closing(self, connection: ClientConnection) -> None:
        assert not self.is_closing
        self.is_closing = True

    def lost(self, connection: ClientConnection) -> None:
        assert self.is_closing
        assert not self.is_lost
        self.is_lost = True

    # the upstream of the exchanges
    def submit(self, exchange: Exchange, *, fresh: bool = False) -> None:
        self.submitted.append((exchange, fresh))

    def withdraw(self, exchange: Exchange) -> None: ...

    def carries(self, call: Call, *, fresh: bool = False) -> Call:
        call.forward(self, on_failure=self._note)
        self.submitted.clear()
        self.near.start(call, fresh=fresh)
        return call

    def _note(self, exchange: Exchange, failure: UpstreamError) -> bool:
        self.failures.append(failure)
        return True

    # the wire
    def talk(self) -> None:
        """Deliver what the upstream has to say."""
        if data := self.h2.data_to_send():
            self.near.data_received(data)

    async def listen(self) -> list[h2.events.Event]:
        """What the connection sent since last time, as the library understands it."""
        await asyncio.sleep(0)
        data, self.seen = self.wire.sent[self.seen :], len(self.wire.sent)
        events = self.h2.receive_data(data)
        self.events += events
        self.talk()
        await asyncio.sleep(0)
        return events

    async def answer(self, stream: int, *bodies: bytes, trailers: Sequence[tuple[str, str]] = ()) -> None:
        self.h2.send_headers(stream, OK, end_stream=not bodies and not trailers)
        for at, body in enumerate(bodies):
            self.h2.send_data(stream, body, end_stream=at == len(bodies) - 1 and not trailers)
        if trailers:
            self.h2.send_headers(stream, trailers, end_stream=True)
        self.talk()


def of(kind: type[h2.events.Event], events: Sequence[h2.events.Event]) -> list[object]:
    return [event for event in events if isinstance(event, kind)]


def get(**changes: object) -> Call:
    call = Call(b"text/plain", method=b"GET", length=0, **changes)  # type: ignore[arg-type]
    call.body_done = True
    return call


def sent_bytes(events: Sequence[h2.events.Event]) -> bytes:
    return b"".join(event.data or b"" for event in events if isinstance(event, h2.events.DataReceived))


@pytest.fixture
async def far() -> Far:
    return Far()


# -- requests ----------------------------------------------------------------------------------------------------------


async def test_a_request_without_a_body_is_one_frame(far: Far) -> None:
    await far.listen()
    far.carries(get(lines=(b"X-One: 1", b"Connection: close", b"Host: other", b"TE: trailers, gzip")))
    events = await far.listen()
    [request] = of(h2.events.RequestReceived, events)
    assert request.headers == [  # type: ignore[attr-defined]
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "h.example"),
        (":path", "/s/M"),
        ("content-type", "text/plain"),
        ("x-one", "1"),
        ("te", "trailers"),
    ]
    assert of(h2.events.StreamEnded, events)


async def test_a_request_that_names_no_host(far: Far) -> None:
    call = get()
    call.host = b""
    far.carries(call)
    [request] = of(h2.events.RequestReceived, await far.listen())
    assert (":authority", "localhost") in request.headers  # type: ignore[attr-defined]


async def test_what_one_turn_of_the_loop_brings_leaves_in_one_write(far: Far) -> None:
    await far.listen()
    before = far.wire.writes
    for _ in range(16):
        call = far.carries(Call())
        call.body(b"x", end=True)
    events = await far.listen()
    assert far.wire.writes == before + 1
    assert len(of(h2.events.StreamEnded, events)) == 16


async def test_a_head_that_is_sent_again_is_the_same_bytes(far: Far) -> None:
    call = get()
    far.carries(call)
    first = call.head.sent[0]
    again = get()
    again.head = call.head
    far.carries(again)
    assert call.head.sent[0] is first
    again = get()
    again.head = call.head
    again.forward(far, add=[b"X-Added: 1"])
    far.near.start(again)
    assert b"x-added" in call.head.sent[0]


async def test_a_timeout_is_every_calls_own(far: Far) -> None:
    call = Call(lines=[b"grpc-timeout: 1S"])
    far.carries(call)
    again = Call()
    again.head = call.head.but(b"grpc-timeout", b"grpc-timeout: 900m")
    far.carries(again)
    assert again.head.sent is call.head.sent
    seen = [dict(event.headers) for event in of(h2.events.RequestReceived, await far.listen())]  # type: ignore[attr-defined]
    assert [one["grpc-timeout"] for one in seen] == ["1S", "900m"]
    assert seen[0] | {"grpc-timeout": ""} == seen[1] | {"grpc-timeout": ""}


async def test_what_was_received_before_is_sent_with_the_head(far: Far) -> None:
    call = Call()
    call.body(b"abc", end=True, trailers=[b"X-Sum: 1"])
    far.carries(call)
    events = await far.listen()
    assert sent_bytes(events) == b"abc"
    [trailers] = of(h2.events.TrailersReceived, events)
    assert trailers.headers == [("x-sum", "1")]  # type: ignore[attr-defined]


@pytest.mark.parametrize("end", [b"", b"end"])
async def test_a_body_in_pieces(far: Far, end: bytes) -> None:
    call = far.carries(Call())
    call.body(b"one", end=False)
    call.body(b"two", end=False)
    call.body(end, end=True)
    events = await far.listen()
    assert sent_bytes(events) == b"onetwo" + end
    assert of(h2.events.StreamEnded, events)


async def test_large_bodies_wait_for_windows_and_hold_the_client(far: Far) -> None:
    call = far.carries(Call())
    body = bytes(200_000)
    call.body(body, end=False)
    assert call.paused
    got = b""
    for _ in range(20):
        events = await far.listen()
        piece = sent_bytes(events)
        got += piece
        assert len(piece) <= 65_535
        for event in of(h2.events.DataReceived, events):
            far.h2.acknowledge_received_data(event.flow_controlled_length, 1)  # type: ignore[attr-defined]
        far.talk()
        if len(got) == len(body):
            break
    assert got == body
    assert not call.paused
    call.body(b"", end=True)
    assert of(h2.events.StreamEnded, await far.listen())


async def test_wide_windows_are_used_to_the_end() -> None:
    far = Far({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1_000_000})
    far.h2.increment_flow_control_window(1_000_000)
    await far.listen()
    calls = [far.carries(Call()), far.carries(Call())]
    for call in calls:
        call.body(bytes(500_000), end=False)
        assert not call.paused
    assert len(sent_bytes(await far.listen())) == 1_000_000


async def test_streams_that_wait_for_the_connection_take_turns(far: Far) -> None:
    calls = [far.carries(Call()) for _ in range(2)]
    for call in calls:
        call.body(bytes(150_000), end=True)
    seen: list[int] = []
    for _ in range(40):
        for event in of(h2.events.DataReceived, await far.listen()):
            assert isinstance(event, h2.events.DataReceived)
            seen.append(event.stream_id)
            far.h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
        far.talk()
    assert len(far.near._waiting) == 0
    first_of_second = seen.index(3)
    last_of_first = len(seen) - 1 - seen[::-1].index(1)
    assert first_of_second < last_of_first


async def test_a_full_socket_holds_clients_until_it_drains(far: Far) -> None:
    call = far.carries(Call())
    far.near.pause_writing()
    call.body(b"abc", end=False)
    assert call.paused
    assert sent_bytes(await far.listen()) == b""
    far.near.resume_writing()
    assert not call.paused
    assert sent_bytes(await far.listen()) == b"abc"


async def test_a_window_made_smaller_and_larger_by_settings() -> None:
    far = Far({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 10})
    await far.listen()
    call = far.carries(Call())
    call.body(b"0123456789abcdef", end=True)
    assert sent_bytes(await far.listen()) == b"0123456789"
    far.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 13})
    far.talk()
    assert sent_bytes(await far.listen()) == b"abc"
    far.h2.increment_flow_control_window(100, 1)
    far.talk()
    events = await far.listen()
    assert sent_bytes(events) == b"def"
    assert of(h2.events.StreamEnded, events)


async def test_a_peer_that_wants_no_header_table_is_told_that_it_is_empty() -> None:
    far = Far({h2.settings.SettingCodes.HEADER_TABLE_SIZE: 0})
    await far.listen()
    for _ in range(2):
        far.carries(get())
        assert of(h2.events.RequestReceived, await far.listen())


async def test_streams_are_limited_by_what_the_upstream_says() -> None:
    far = Far({h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 2})
    await far.listen()
    assert far.roomy_times
    assert far.near.room == 2
    far.carries(get())
    assert far.near.room == 1


# -- answers -----------------------------------------------------------------------------------------------------------


async def test_a_small_answer_is_passed_on_in_one_piece(far: Far) -> None:
    call = far.carries(get())
    await far.listen()
    await far.answer(1, b"hello")
    assert call.sent == [(200, [b"content-type: text/plain"], -1, b"hello", True)]
    assert (call.done, call.error, far.released_times, far.near.streams) == (True, None, 1, {})


async def test_a_call_and_its_trailers(far: Far) -> None:
    for number in (1, 3, 5):
        call = far.carries(Call())
        call.body(b"q", end=True)
        await far.listen()
        await far.answer(number, b"a", trailers=[("grpc-status", "0")])
        assert call.sent[0][3:] == (b"a", False)
        assert call.sent[1] == [b"grpc-status: 0"]
        assert call.done
    assert len(far.near._heads) <= 1


@pytest.mark.parametrize("step", [1, 3, 10])
async def test_answers_in_pieces_of_any_size(far: Far, step: int) -> None:
    call = far.carries(Call())
    await far.listen()
    far.h2.send_headers(1, OK)
    far.h2.send_data(1, b"hello")
    far.h2.send_headers(1, [("x-t", "1")], end_stream=True)
    data = far.h2.data_to_send()
    for at in range(0, len(data), step):
        far.near.data_received(data[at : at + step])
    assert b"".join(item for item in call.sent if isinstance(item, bytes)) == b"hello"
    assert call.sent[-1] == [b"x-t: 1"]


async def test_interim_answers_pass(far: Far) -> None:
    call = far.carries(get())
    await far.listen()
    far.h2.send_headers(1, [(":status", "103"), ("link", "</a>")])
    await far.answer(1, b"x")
    assert call.informed == [103]
    assert call.status == 200


async def test_interim_answers_have_an_end(far: Far) -> None:
    call = far.carries(get())
    await far.listen()
    for _ in range(INTERIM_LIMIT + 1):
        far.h2.send_headers(1, [(":status", "103")])
    far.talk()
    assert isinstance(far.failures[0], UpstreamGarbage)
    assert not call.status


async def test_head_has_a_length_and_no_body(far: Far) -> None:
    call = Call(b"text/plain", method=b"HEAD", length=0)
    call.body_done = True
    far.carries(call)
    await far.listen()
    far.h2.send_headers(1, [(":status", "200"), ("content-length", "77")], end_stream=True)
    far.talk()
    assert call.sent == [(200, [], 77, b"", True)]


@pytest.mark.parametrize(
    ("headers", "body", "begun"),
    [
        ([(":status", "200"), ("content-length", "5")], b"hell", False),
        ([(":status", "200"), ("content-length", "5")], b"hello!", False),
        ([(":status", "204")], b"x", False),
        ([(":status", "304")], b"x", False),
    ],
)
async def test_a_body_of_another_length_is_not_passed_as_whole(
    far: Far, headers: list[tuple[str, str]], body: bytes, begun: bool
) -> None:
    call = far.carries(get())
    await far.listen()
    encoded = far.h2.encoder.encode(headers)
    far.near.data_received(
        frames.header_frames(1, encoded, end=False) + b"".join(frames.data_frames(1, body, end=True))
    )
    assert isinstance(far.failures[0], UpstreamGarbage)
    assert not call.status
    assert far.near.streams == {}


async def test_a_body_that_turns_out_too_short_is_cut(far: Far) -> None:
    call = far.carries(get())
    await far.listen()
    far.h2.send_headers(1, [(":status", "200"), ("content-length", "5")])
    far.talk()
    far.near.data_received(b"".join(frames.data_frames(1, b"hell", end=True)))
    assert call.sent[-1] == "cut "
    assert isinstance(call.error, UpstreamGarbage)


async def test_an_answer_before_the_request_is_complete_ends_the_upload(far: Far) -> None:
    call = far.carries(Call())
    call.body(b"part", end=False)
    await far.listen()
    await far.answer(1, b"enough")
    [reset] = of(h2.events.StreamReset, await far.listen())
    assert reset.error_code == Codes.NO_ERROR  # type: ignore[attr-defined]
    assert call.done
    call.body(b"more", end=True)
    assert sent_bytes(await far.listen()) == b""


async def test_a_slow_client_stops_the_upstream_at_its_window(far: Far) -> None:
    call = far.carries(get())
    await far.listen()
    far.h2.send_headers(1, OK)
    far.talk()
    call.clogged()
    for _ in range(STREAM_WINDOW // 16_384):
        far.h2.send_data(1, bytes(16_384))
        far.talk()
        await far.listen()
    assert far.h2.local_flow_control_window(1) == 0
    call.drained()
    await far.listen()
    assert far.h2.local_flow_control_window(1) == STREAM_WINDOW


async def test_more_than_the_window_ends_the_stream(far: Far) -> None:
    call = far.carries(get())
    await far.listen()
    far.h2.send_headers(1, OK)
    far.talk()
    call.clogged()
    for _ in range(STREAM_WINDOW // 16_384 + 1):
        far.near.data_received(b"".join(frames.data_frames(1, bytes(16_384), end=False)))
    assert call.sent[-1] == "cut "
    assert far.near.streams == {}


async def test_the_connection_window_is_given_back_whoever_reads(far: Far) -> None:
    call = far.carries(get())
    await far.listen()
    call.cancel_now = True  # type: ignore[attr-defined]
    call.gone()
    await far.listen()
    for _ in range(600):  # what was on its way for a stream that is over
        far.near.data_received(b"".join(frames.data_frames(1, bytes(16_384), end=False)))
    await asyncio.sleep(0)
    assert far.near._taken < 600 * 16_384


# -- ends --------------------------------------------------------------------------------------------------------------


async def test_a_client_that_leaves_resets_its_stream(far: Far) -> None:
    call = far.carries(Call())
    other = far.carries(get())
    await far.listen()
    call.gone()
    [reset] = of(h2.events.StreamReset, await far.listen())
    assert (reset.stream_id, reset.error_code) == (1, Codes.CANCEL)  # type: ignore[attr-defined]
    await far.answer(3, b"x")
    assert other.done
    assert far.near.streams == {}
    assert far.released_times == 2


async def test_frames_for_a_cancelled_stream_are_read_past(far: Far) -> None:
    call = far.carries(get())
    other = far.carries(get())
    await far.listen()
    far.h2.send_headers(1, [*OK, ("x-new", "goes into the table")])
    far.h2.send_data(1, b"late", end_stream=True)
    far.h2.send_headers(3, [*OK, ("x-new", "goes into the table")])
    far.h2.send_data(3, b"x", end_stream=True)
    call.gone()
    far.talk()
    assert other.sent[0][1][-1] == b"x-new: goes into the table"
    assert not far.is_closing


async def test_a_refused_stream_is_sent_again(far: Far) -> None:
    call = far.carries(Call())
    call.body(b"q", end=True)
    await far.listen()
    far.h2.reset_stream(1, Codes.REFUSED_STREAM)
    far.talk()
    assert far.submitted == [(call, True)]
    far.near.start(call, fresh=True)
    assert sent_bytes(await far.listen()) == b"q"
    far.h2.reset_stream(3, Codes.REFUSED_STREAM)
    far.talk()
    assert len(far.submitted) == 1
    assert far.failures[0].replayable
    assert not far.failures[0].answered


@pytest.mark.parametrize("code", [Codes.INTERNAL_ERROR, Codes.CANCEL, Codes.ENHANCE_YOUR_CALM, 0x77])
async def test_a_reset_stream_is_not_sent_again(far: Far, code: int) -> None:
    far.carries(get())
    await far.listen()
    far.near.data_received(frames.rst_stream(1, code))  # type: ignore[arg-type]
    assert not far.submitted
    [failure] = far.failures
    assert not failure.replayable
    assert failure.answered


async def test_a_stream_reset_in_the_middle_is_cut(far: Far) -> None:
    call = far.carries(get())
    await far.listen()
    far.h2.send_headers(1, OK)
    far.h2.reset_stream(1, Codes.INTERNAL_ERROR)
    far.talk()
    assert call.sent[-1] == "cut "
    assert "INTERNAL_ERROR" in str(call.error)


async def test_goaway_ends_what_was_seen_and_repeats_the_rest(far: Far) -> None:
    first, second = far.carries(Call()), far.carries(Call())
    second.body(b"q", end=True)
    await far.listen()
    far.near.data_received(frames.goaway(1, Codes.NO_ERROR))
    assert far.is_closing
    assert not far.is_lost
    assert far.near.room < 0
    assert far.submitted == [(second, True)]
    await far.answer(1, b"last")
    assert first.done
    assert far.is_lost
    assert far.wire.closed


async def test_a_lost_connection_tells_every_exchange_what_may_have_happened(far: Far) -> None:
    begun, asked = far.carries(get()), far.carries(Call())
    await far.listen()
    far.h2.send_headers(1, OK)
    far.talk()
    unsent = far.carries(Call())
    far.near.connection_lost(ConnectionResetError("reset"))
    assert begun.sent[-1] == "cut "
    assert [(failure.written, failure.replayable) for failure in far.failures] == [(True, False)]
    assert far.submitted == [(unsent, True)]
    assert isinstance(far.failures[0], UpstreamClosed)
    assert not isinstance(far.failures[0], ConnectFailed)
    assert far.is_lost
    assert asked.error is None


GARBAGE = {
    "http1": b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
    "not settings first": frames.ping(b"12345678", ack=False),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
async def test_what_is_not_http2_is_told(garbage: bytes) -> None:
    far = Far(silent=True)
    far.carries(get())
    far.near.data_received(garbage)
    [failure] = far.failures
    assert isinstance(failure, UpstreamGarbage)
    assert ("named h2c" in str(failure)) is (garbage[:4] == b"HTTP")
    assert far.wire.closed
    assert far.is_lost


FAULTS = {
    "frame too large": b"\x01\x00\x00\x00\x00\x00\x00\x00\x01",
    "push": frames.write_header(0, 4, frames.PUSH_PROMISE, frames.END_HEADERS, 1) + bytes(4),
    "data on a stream that never was": b"".join(frames.data_frames(99, b"x", end=False)),
    "headers on an even stream": frames.header_frames(2, b"\x88", end=False),
    "bad compression": frames.header_frames(1, b"\xff\xff\xff\xff\xff\xff", end=False),
    "padding": frames.write_header(0, 1, frames.DATA, frames.PADDED, 1) + b"\x09",
    "settings of no length": frames.write_header(0, 5, frames.SETTINGS, 0, 0) + bytes(5),
    "settings on a stream": frames.write_header(0, 0, frames.SETTINGS, 0, 1),
    "settings acknowledged with more": frames.write_header(0, 6, frames.SETTINGS, frames.ACK, 0) + bytes(6),
    "ping of no length": frames.write_header(0, 4, frames.PING, 0, 0) + bytes(4),
    "window of nothing": frames.window_update(0, 0),
    "window too large": frames.window_update(0, 2**31 - 1),
    "continuation of nothing": frames.write_header(0, 1, frames.CONTINUATION, frames.END_HEADERS, 1) + b"\x88",
    "frame inside a header block": frames.write_header(0, 1, frames.HEADERS, 0, 1) + b"\x88" + frames.SETTINGS_ACK,
    "short reset": frames.write_header(0, 3, frames.RST_STREAM, 0, 1) + bytes(3),
    "short goaway": frames.write_header(0, 4, frames.GOAWAY, 0, 0) + bytes(4),
    "endless continuation": frames.write_header(0, 1, frames.HEADERS, 0, 1)
    + b"\x88"
    + (frames.write_header(16_000 >> 8, 16_000 & 255, frames.CONTINUATION, 0, 1) + bytes(16_000)) * 5,
    "control flood": frames.ping(b"12345678", ack=False) * (CONTROL_LIMIT + 1),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_a_fault_ends_the_connection_and_every_exchange(far: Far, fault: bytes) -> None:
    begun, asked = far.carries(get()), far.carries(get())
    await far.listen()
    far.h2.send_headers(1, OK)
    far.talk()
    far.near.pause_writing()
    far.near.data_received(fault)
    assert begun.sent[-1] == "cut "
    assert isinstance(begun.error, UpstreamGarbage)
    assert isinstance(far.failures[0], UpstreamGarbage)
    assert asked.error is None
    assert far.wire.closed
    assert far.is_lost
    assert (far.near.streams, far.released_times) == ({}, 2)
    far.near.connection_lost(None)


MALFORMED = {
    "no status": [("content-type", "x")],
    "bad status": [(":status", "20x")],
    "switching": [(":status", "101")],
    "connection": [(":status", "200"), ("connection", "close")],
    "upper case": [(":status", "200"), ("X-Up", "1")],
    "line break": [(":status", "200"), ("x", "a\r\nSet-Cookie: b")],
}


@pytest.mark.parametrize("headers", MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_malformed_answer_ends_its_stream_only(far: Far, headers: list[tuple[str, str]]) -> None:
    call, other = far.carries(get()), far.carries(get())
    await far.listen()
    far.near.data_received(frames.header_frames(1, far.h2.encoder.encode(headers), end=True))
    await far.answer(3, b"x")
    assert isinstance(far.failures[0], UpstreamGarbage)
    assert not call.status
    assert other.status == 200
    assert not far.is_closing


async def test_data_before_a_head_is_malformed(far: Far) -> None:
    far.carries(get())
    await far.listen()
    far.near.data_received(b"".join(frames.data_frames(1, b"x", end=False)))
    assert isinstance(far.failures[0], UpstreamGarbage)


async def test_pings_are_answered(far: Far) -> None:
    await far.listen()
    far.h2.ping(b"87654321")
    far.talk()
    [ack] = of(h2.events.PingAckReceived, await far.listen())
    assert ack.ping_data == b"87654321"  # type: ignore[attr-defined]


async def test_a_silent_upstream_is_asked_and_then_given_up(far: Far) -> None:
    await far.listen()
    far.near.visit(0.0, 10.0)
    call = far.carries(get())
    far.near.visit(5.0, 10.0)
    far.near.visit(11.0, 10.0)
    assert of(h2.events.PingReceived, await far.listen())  # and answered
    far.near.visit(12.0, 10.0)
    far.near.visit(23.0, 10.0)
    await asyncio.sleep(0)
    far.near.visit(34.0, 10.0)
    [failure] = far.failures
    assert (type(failure), failure.replayable) == (UpstreamClosed, True)
    assert "no answer to a ping" in str(failure)
    assert far.is_lost
    assert far.wire.aborted
    far.near.connection_lost(None)
    assert not call.status


async def test_a_retired_connection_ends_with_its_last_stream(far: Far) -> None:
    call = far.carries(get())
    await far.listen()
    far.near.retire()
    assert far.is_closing
    assert not far.wire.closed
    await far.answer(1, b"x")
    assert call.done
    assert far.is_lost
    assert of(h2.events.ConnectionTerminated, await far.listen())
