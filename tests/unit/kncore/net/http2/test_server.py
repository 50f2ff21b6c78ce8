"""The server's side of HTTP/2, with the h2 library as client and HTTP/1 as upstream."""

import base64
from collections.abc import Callable

import h2.errors
import h2.events
import pytest

from kncore.net.errors import ClientGone
from kncore.net.exchange import Clocks, Exchange
from kncore.net.http1 import ServerConnection as Http1
from kncore.net.http2.frames import Code, Setting, settings
from kncore.net.http2.limits import Http2Limits
from tests.unit.kncore.net.conftest import Wire
from tests.unit.kncore.net.http2.conftest import Client, Relay2

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
MakeRelay = Callable[..., Relay2]


async def test_a_request_and_its_answer(relay2: Relay2, client: Client) -> None:
    number = client.ask(("x-a", "b"), ("cookie", "a=b"), ("cookie", "c=d"), path="/p?q")
    assert relay2.up.got == b"GET /p?q HTTP/1.1\r\nHost: h\r\nx-a: b\r\ncookie: a=b; c=d\r\n\r\n"
    relay2.up.answers(
        b"HTTP/1.1 201 Made\r\nContent-Length: 5\r\nX-B: C\r\nConnection: x-b, close\r\nX-D: e\r\n\r\nhello"
    )
    client.turn()
    assert client.answer(number) == (201, {b"content-length": b"5", b"x-d": b"e"}, b"hello", {})
    exchange = relay2.exchanges[0]
    assert (exchange.done, exchange.error, exchange.bytes_out, exchange.status) == (True, None, 5, 201)
    assert exchange.peer == "192.0.2.7"
    assert not relay2.served.streams


async def test_streams_are_answered_as_their_answers_come(relay2: Relay2, client: Client) -> None:
    numbers = [client.ask(path=f"/{place}") for place in range(5)]
    for up in reversed(relay2.ups):
        up.answers(OK)
    client.turn()
    ended = [event.stream_id for event in client.events if isinstance(event, h2.events.StreamEnded)]
    assert ended == numbers[::-1]


async def test_a_body_that_came_along_is_forwarded_in_one_write(relay2: Relay2, client: Client) -> None:
    number = client.h2.get_next_available_stream_id()
    head = [(":method", "POST"), (":scheme", "http"), (":authority", "h"), (":path", "/"), ("content-length", "3")]
    client.h2.send_headers(number, head)
    client.h2.send_data(number, b"abc", end_stream=True)
    before = relay2.wire.writes
    client.turn()
    assert relay2.up.got == b"POST / HTTP/1.1\r\nHost: h\r\ncontent-length: 3\r\n\r\nabc"
    assert relay2.up.wire.writes == 1
    relay2.up.answers(OK)
    assert relay2.wire.writes == before + 1
    client.turn()
    assert client.answer(number)[2] == b"hello"


async def test_a_body_of_unknown_length_becomes_chunks_and_trailers_pass(relay2: Relay2, client: Client) -> None:
    number = client.ask(method="POST", end=False)
    client.send(number, b"abc")
    client.send(number, b"de")
    client.h2.send_headers(number, [("x-t", "1"), ("content-length", "7")], end_stream=True)
    client.turn()
    assert relay2.up.got.endswith(b"\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nx-t: 1\r\n\r\n")
    relay2.up.answers(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-u\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\nX-U: 2\r\n\r\n"
    )
    client.turn()
    assert client.answer(number) == (200, {b"trailer": b"x-u"}, b"abc", {b"x-u": b"2"})


@pytest.mark.parametrize(
    ("method", "answer", "status", "fields"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 200, {b"content-length": b"5"}),
        ("GET", b"HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n", 204, {}),
        ("GET", b"HTTP/1.1 304 No\r\nContent-Length: 5\r\n\r\n", 304, {b"content-length": b"5"}),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, {b"content-length": b"0"}),
    ],
)
async def test_answers_without_a_body(
    relay2: Relay2, client: Client, method: str, answer: bytes, status: int, fields: dict[bytes, bytes]
) -> None:
    number = client.ask(method=method)
    relay2.up.answers(answer)
    client.turn()
    assert client.answer(number) == (status, fields, b"", {})


async def test_interim_answers(relay2: Relay2, client: Client) -> None:
    number = client.ask(("expect", "100-continue"), method="POST", end=False)
    assert b"expect: 100-continue" in relay2.up.got
    relay2.up.answers(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n")
    interim = [event for event in client.turn() if isinstance(event, h2.events.InformationalResponseReceived)]
    assert [dict(event.headers)[b":status"] for event in interim] == [b"100", b"103"]
    client.send(number, b"a", end=True)
    relay2.up.answers(OK)
    client.turn()
    assert client.answer(number)[0] == 200


async def test_an_early_answer_stops_the_client(relay2: Relay2, client: Client) -> None:
    number = client.ask(method="POST", end=False)
    relay2.up.answers(b"HTTP/1.1 413 Large\r\nContent-Length: 2\r\n\r\nno")
    client.turn()
    assert client.answer(number) == (413, {b"content-length": b"2"}, b"no", {})
    assert client.reset(number) == h2.errors.ErrorCodes.NO_ERROR
    relay2.says(bytes.fromhex("000003 00 00") + number.to_bytes(4, "big") + b"abc")  # it was on its way
    assert relay2.code is None
    assert relay2.endings == []


async def test_a_client_that_resets_its_stream_is_gone(relay2: Relay2, client: Client) -> None:
    number = client.ask()
    client.h2.reset_stream(number)
    client.turn()
    assert isinstance(relay2.exchanges[0].error, ClientGone)
    assert relay2.up.wire.aborted
    assert not relay2.served.streams


async def test_a_request_reset_in_the_same_read_never_reaches_the_handler(relay2: Relay2, client: Client) -> None:
    number = client.h2.get_next_available_stream_id()
    head = [(":method", "GET"), (":scheme", "http"), (":authority", "h"), (":path", "/")]
    client.h2.send_headers(number, head, end_stream=True)
    client.h2.reset_stream(number)
    client.turn()
    assert relay2.exchanges == []


async def test_a_client_that_leaves(relay2: Relay2, client: Client) -> None:
    client.ask()
    client.ask(method="POST", end=False)
    relay2.leaves()
    assert [type(exchange.error) for exchange in relay2.exchanges] == [ClientGone, ClientGone]
    assert all(up.wire.aborted for up in relay2.ups)
    assert not relay2.open


async def test_an_upstream_that_cuts_its_answer(relay2: Relay2, client: Client) -> None:
    number = client.ask()
    relay2.up.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello")
    relay2.up.closes()
    client.turn()
    assert client.answer(number)[2] == b"hello"
    assert client.reset(number) == h2.errors.ErrorCodes.INTERNAL_ERROR


async def test_an_upstream_that_is_not_there(relay2: Relay2, client: Client) -> None:
    number = client.ask(method="POST")
    relay2.up.closes()
    client.turn()
    assert client.answer(number)[0] == 502


@pytest.mark.parametrize("refused", [True, False])
async def test_aborted_by_a_layer(make_relay2: MakeRelay, refused: bool) -> None:
    relay = make_relay2(lambda exchange: exchange.refuse() if refused else exchange.abort(), greeting=b"")
    client = Client(relay)
    number = client.ask()
    expected = h2.errors.ErrorCodes.REFUSED_STREAM if refused else h2.errors.ErrorCodes.INTERNAL_ERROR
    assert client.reset(number) == expected
    assert relay.exchanges[0].done


async def test_time_runs_out_before_and_after_the_head(make_relay2: MakeRelay) -> None:
    relay: Relay2

    def handler(exchange: Exchange) -> None:
        exchange.clocks = Clocks(text=b"late", total=1.0)
        exchange.forward(relay)

    relay = make_relay2(handler, greeting=b"")
    client = Client(relay)
    early, late = client.ask(), client.ask()
    relay.up.answers(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
    assert relay.served.tick(relay.served.now() + 2.0)
    client.turn()
    assert client.answer(early)[::2] == (504, b"late")
    assert client.answer(late) == (200, {}, b"ablate", {})


async def test_refused_heads_are_answered_in_their_stream(relay2: Relay2, client: Client) -> None:
    assert client.answer(client.ask(method="BREW"))[0] == 501
    assert client.answer(client.ask(*((f"x-{number}", "y") for number in range(130))))[0] == 431
    # the table stayed in step, a body that still comes is ignored
    number = client.ask(method="BREW", end=False)
    assert client.reset(number) == h2.errors.ErrorCodes.NO_ERROR
    client.ask(("x-129", "y"))
    assert relay2.exchanges[0].value(b"x-129") == b"y"
    assert relay2.refusals == [501, 431, 501]


async def test_a_header_list_beyond_the_limit_is_431_and_far_beyond_it_the_end(relay2: Relay2, client: Client) -> None:
    client.h2.max_outbound_frame_size = 16_384
    number = client.ask(*((f"x-{number}", "y" * 8000) for number in range(9)))
    assert client.answer(number)[0] == 431
    client.ask()
    assert len(relay2.exchanges) == 1


# flow control -----------------------------------------------------------------------------------------------------


async def test_no_window_is_given_before_an_upstream_takes_the_body(make_relay2: MakeRelay) -> None:
    waiting: list[Exchange] = []
    relay = make_relay2(waiting.append, greeting=b"")
    client = Client(relay)
    number = client.ask(method="POST", end=False)
    for _ in range(3):
        client.send(number, b"x" * 16_384)
    assert client.h2.local_flow_control_window(number) == 65_535 - 3 * 16_384
    waiting[0].forward(relay)
    client.turn()
    assert relay.up.got.endswith(b"x" * 16_384 + b"\r\n")
    assert client.h2.local_flow_control_window(number) > 200_000


async def test_no_window_is_given_while_the_upstream_takes_nothing(relay2: Relay2, client: Client) -> None:
    number = client.ask(method="POST", end=False)
    relay2.up.connection.pause_writing()
    sent = 0
    while (room := min(client.h2.local_flow_control_window(number), 16_384)) > 0:
        client.send(number, b"x" * room)
        sent += room
    assert sent <= relay2.http2.stream_window
    relay2.up.connection.resume_writing()
    client.turn()
    assert client.h2.local_flow_control_window(number) == relay2.http2.stream_window


async def test_a_long_upload_gets_window_all_the_way(relay2: Relay2, client: Client) -> None:
    number = client.ask(method="POST", end=False)
    for _ in range(400):
        client.send(number, b"x" * 16_384)
    client.send(number, b"", end=True)
    assert relay2.exchanges[0].bytes_in == 400 * 16_384
    relay2.up.answers(OK)
    client.turn()
    assert client.answer(number)[2] == b"hello"
    assert relay2.endings == []


async def test_an_answer_waits_for_windows_and_stops_its_upstream(relay2: Relay2, client: Client) -> None:
    number = client.ask()
    size = 200_000
    up = relay2.up
    up.answers(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
    up.answers(b"x" * 150_000)
    client.turn()
    assert not up.wire.reading
    assert len(client.answer(number)[2]) == 65_535
    client.h2.increment_flow_control_window(100_000)
    client.turn()
    assert len(client.answer(number)[2]) == 65_535  # the stream's window is still shut
    client.h2.increment_flow_control_window(100_000, number)
    client.turn()
    assert up.wire.reading
    assert len(client.answer(number)[2]) == 150_000
    up.answers(b"x" * 50_000)
    client.turn()
    client.h2.increment_flow_control_window(100_000)
    client.h2.increment_flow_control_window(100_000, number)
    client.turn()
    assert client.answer(number)[2:] == (b"x" * size, {})


async def test_streams_take_turns_in_a_window_that_is_too_small(relay2: Relay2, client: Client) -> None:
    first, second = client.ask(), client.ask()
    for up in relay2.ups:
        up.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n" + b"x" * 60_000)
    client.turn()
    assert [len(client.answer(number)[2]) for number in (first, second)] == [60_000, 5_535]
    third = client.ask()
    relay2.ups[0].answers(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n" + b"x" * 60_000)
    client.h2.increment_flow_control_window(40_000)
    client.turn()
    assert len(client.answer(second)[2]) < 60_000
    assert len(client.answer(third)[2]) > 15_000
    client.h2.increment_flow_control_window(200_000)
    client.turn()
    assert [len(client.answer(number)[2]) for number in (first, second, third)] == [60_000] * 3
    assert not relay2.served.streams


async def test_the_initial_window_may_change_under_a_waiting_answer(make_relay2: MakeRelay) -> None:
    relay = make_relay2(greeting=b"")
    client = Client(relay, INITIAL_WINDOW_SIZE=10)
    number = client.ask()
    relay.up.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n" + b"x" * 30)
    client.turn()
    assert len(client.answer(number)[2]) == 10
    client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 20})
    client.turn()
    assert len(client.answer(number)[2]) == 20
    client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 5})
    client.turn()
    client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1000})
    client.turn()
    assert client.answer(number)[2:] == (b"x" * 30, {})


async def test_trailers_wait_for_the_body(make_relay2: MakeRelay) -> None:
    relay = make_relay2(greeting=b"")
    client = Client(relay, INITIAL_WINDOW_SIZE=2)
    number = client.ask()
    relay.up.answers(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\nX-T: 1\r\n\r\n")
    client.turn()
    assert client.answer(number)[2:] == (b"ab", None)
    client.h2.increment_flow_control_window(2, number)
    client.turn()
    assert client.answer(number)[2:] == (b"abcd", {b"x-t": b"1"})
    assert not relay.served.streams


async def test_nothing_is_begun_while_the_clients_socket_takes_nothing(relay2: Relay2, client: Client) -> None:
    client.ask()
    relay2.served.pause_writing()
    assert not relay2.up.wire.reading
    client.ask()
    assert len(relay2.exchanges) == 1
    relay2.served.resume_writing()
    assert relay2.ups[0].wire.reading
    assert len(relay2.exchanges) == 2


async def test_what_waits_for_windows_is_bounded_over_all_streams(make_relay2: MakeRelay) -> None:
    relay = make_relay2(http2=Http2Limits(waiting_bytes=250_000), greeting=b"")
    client = Client(relay, INITIAL_WINDOW_SIZE=0)
    numbers = [client.ask() for _ in range(5)]
    for up in relay.ups:
        if up.wire.reading:
            up.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b"x" * 100_000)
    assert [up.wire.reading for up in relay.ups] == [False] * 5
    assert sum(exchange.pending_bytes for exchange in relay.served.streams.values()) == 300_000
    late = client.ask()
    assert len(relay.exchanges) == 5
    client.h2.increment_flow_control_window(10_000_000)
    client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1_000_000})
    client.turn()
    client.turn()
    assert len(relay.exchanges) == 6
    assert [up.wire.reading for up in relay.ups] == [True] * 6
    for number, up in zip(numbers, relay.ups[:5], strict=True):
        up.answers(b"x" * (100_000 if client.answer(number)[0] else 0))
    client.h2.reset_stream(late)
    client.turn()
    assert relay.served._waiting == 0


async def test_streams_that_are_reset_wait_no_more(make_relay2: MakeRelay) -> None:
    relay = make_relay2(http2=Http2Limits(waiting_bytes=250_000), greeting=b"")
    client = Client(relay, INITIAL_WINDOW_SIZE=0)
    numbers = [client.ask() for _ in range(3)]
    for up in relay.ups:
        up.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b"x" * 100_000)
    assert relay.served.held_back
    for number in numbers:
        client.h2.reset_stream(number)
        client.turn()
    assert not relay.served.held_back
    assert relay.served._waiting == 0


async def test_a_refusal_keeps_to_the_window_of_its_stream(make_relay2: MakeRelay) -> None:
    relay = make_relay2(greeting=b"")
    client = Client(relay, INITIAL_WINDOW_SIZE=0)
    number = client.ask(method="FOO")
    assert client.answer(number)[::2] == (501, b"")


async def test_a_client_that_is_as_far_behind_as_once_before_is_not_cut(relay2: Relay2, client: Client) -> None:
    client.ask()
    now = relay2.served.now()
    for moment in (now, now + 10 * relay2.http2.stall_time):
        relay2.wire.unsent = 70_000
        relay2.served.pause_writing()
        relay2.served.tick(moment)
        relay2.served.resume_writing()
    assert not relay2.wire.aborted


# tunnels ----------------------------------------------------------------------------------------------------------

CONNECT = [
    (":method", "CONNECT"),
    (":protocol", "websocket"),
    (":scheme", "http"),
    (":authority", "h"),
    (":path", "/chat"),
    ("sec-websocket-version", "13"),
]


async def open_tunnel(client: Client) -> int:
    number = client.h2.get_next_available_stream_id()
    client.h2.send_headers(number, CONNECT)
    client.turn()
    return number


async def test_a_websocket_in_a_stream(relay2: Relay2, client: Client) -> None:
    assert client.h2.remote_settings.enable_connect_protocol == 1
    number = await open_tunnel(client)
    got = relay2.up.got
    assert got.startswith(b"GET /chat HTTP/1.1\r\nHost: h\r\n")
    assert b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" in got
    key = got.partition(b"sec-websocket-key: ")[2].partition(b"\r\n")[0]
    assert len(base64.b64decode(key)) == 16
    client.send(number, b"early")
    relay2.up.answers(
        b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n"
        b"Sec-WebSocket-Protocol: p\r\n\r\nhi"
    )
    client.turn()
    assert client.answer(number)[:3] == (200, {b"sec-websocket-protocol": b"p"}, b"hi")
    assert relay2.up.got.endswith(b"\r\n\r\nearly")
    client.send(number, b"more")
    assert relay2.up.got.endswith(b"earlymore")
    client.send(number, b"", end=True)
    assert relay2.up.wire.eof
    relay2.up.answers(b"bye")
    relay2.up.connection.eof_received()
    client.turn()
    assert client.answer(number)[2:] == (b"hibye", {})
    assert relay2.up.wire.closed
    assert relay2.exchanges[0].done
    assert relay2.exchanges[0].error is None
    assert not relay2.served.streams


async def test_an_upstream_that_answers_a_websocket_as_if_it_were_none(relay2: Relay2, client: Client) -> None:
    number = await open_tunnel(client)
    relay2.up.answers(OK)
    client.turn()
    assert client.answer(number)[0] == 502
    number = await open_tunnel(client)
    relay2.up.answers(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")
    client.turn()
    assert client.answer(number)[::2] == (403, b"no")
    assert [exchange.error for exchange in relay2.exchanges] == [None, None]
    assert not relay2.served.streams


async def test_a_tunnel_that_the_upstream_closes(relay2: Relay2, client: Client) -> None:
    number = await open_tunnel(client)
    relay2.up.answers(b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    client.turn()
    relay2.up.closes()
    client.turn()
    assert client.answer(number)[2:] == (b"", {})
    assert not relay2.served.streams


async def test_what_comes_before_the_upstream_agrees_to_a_tunnel_is_bounded(relay2: Relay2, client: Client) -> None:
    number = await open_tunnel(client)
    for _ in range(10):
        client.send(number, b"x" * min(client.h2.local_flow_control_window(number), 16_384))
    exchange = relay2.served.streams[number]
    assert exchange.kept == 65_535
    relay2.up.answers(b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    client.turn()
    assert relay2.up.got.count(b"x" * 65_535) == 1
    assert exchange.kept == 0
    assert client.h2.local_flow_control_window(number) == relay2.http2.stream_window


@pytest.mark.parametrize("ended", [False, True])
async def test_a_tunnel_whose_client_opens_no_window_ends(make_relay2: MakeRelay, ended: bool) -> None:
    relay = make_relay2(greeting=b"")
    client = Client(relay, INITIAL_WINDOW_SIZE=10)
    number = await open_tunnel(client)
    relay.up.answers(b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + b"x" * 100)
    if ended:
        relay.up.closes()
    client.turn()
    exchange = relay.served.streams[number]
    assert exchange.pending_bytes == 90
    relay.served.tick(relay.served.now() + relay.http2.stall_time + 1.0)
    assert exchange.done
    assert not relay.served.streams
    assert client.turn()
    assert client.reset(number) == h2.errors.ErrorCodes.INTERNAL_ERROR


async def test_other_protocols_are_not_tunnelled(relay2: Relay2, client: Client) -> None:
    number = client.h2.get_next_available_stream_id()
    client.h2.send_headers(number, [CONNECT[0], (":protocol", "connect-udp"), *CONNECT[2:]])
    client.turn()
    assert client.answer(number)[0] == 501
    assert relay2.exchanges == []


# the connection ---------------------------------------------------------------------------------------------------


async def test_a_client_without_a_table_is_told_that_it_is_not_used(make_relay2: MakeRelay) -> None:
    relay = make_relay2(greeting=b"")
    client = Client(relay, HEADER_TABLE_SIZE=0)  # whose decoder is strict about it
    for _ in range(2):
        number = client.ask()
        relay.up.answers(OK)
        client.turn()
        assert client.answer(number)[0] == 200


async def test_the_greeting(relay2: Relay2, client: Client) -> None:
    remote = client.h2.remote_settings
    assert remote.max_concurrent_streams == 250
    assert remote.max_header_list_size == 65_536
    assert client.h2.outbound_flow_control_window == relay2.http2.connection_window


async def test_byte_by_byte(make_relay2: MakeRelay) -> None:
    relay = make_relay2(greeting=b"")
    client = Client.__new__(Client)
    whole = make_relay2(greeting=b"")
    Client.__init__(client, whole)
    relay.says_slowly(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings(()))
    number = client.h2.get_next_available_stream_id()
    head = [(":method", "POST"), (":scheme", "http"), (":authority", "h"), (":path", "/")]
    client.h2.send_headers(number, head)
    client.h2.send_data(number, b"hello", end_stream=True)
    relay.says_slowly(client.h2.data_to_send())
    assert relay.exchanges[0].bytes_in == 5
    assert relay.exchanges[0].body_done


async def test_a_ping_is_answered(relay2: Relay2, client: Client) -> None:
    client.h2.ping(b"12345678")
    assert [event.ping_data for event in client.turn() if isinstance(event, h2.events.PingAckReceived)] == [b"12345678"]


async def test_draining_takes_what_is_under_way_and_then_closes(relay2: Relay2, client: Client) -> None:
    first = client.ask()
    relay2.served.close_if_idle()
    # a request that crosses the first GOAWAY on the wire
    late = client.h2.get_next_available_stream_id()
    head = [(":method", "GET"), (":scheme", "http"), (":authority", "h"), (":path", "/late")]
    client.h2.send_headers(late, head, end_stream=True)
    relay2.says(client.h2.data_to_send())
    assert len(relay2.exchanges) == 2
    relay2.says(bytes.fromhex("000008 06 01 00000000") + b"draining")
    assert not relay2.wire.closed
    for up in relay2.ups:
        up.answers(OK)
    assert relay2.wire.closed
    client._read = len(relay2.wire.sent)
    assert (first, late, relay2.code) == (1, 3, Code.NO_ERROR)


async def test_draining_an_idle_connection_whose_client_answers_no_ping(relay2: Relay2, client: Client) -> None:
    relay2.served.close_if_idle()
    relay2.served.close_if_idle()
    assert not relay2.wire.closed
    relay2.served.tick(relay2.served.now() + 2.0)
    assert relay2.wire.closed
    assert relay2.wire.sent.count(b"\x07\x00\x00\x00\x00\x00") == 3  # two steps, and the last word


async def test_requests_after_the_second_goaway_are_not_looked_at(relay2: Relay2, client: Client) -> None:
    client.ask()
    relay2.served.close_if_idle()
    relay2.served.tick(relay2.served.now() + 2.0)
    head = [(":method", "GET"), (":scheme", "http"), (":authority", "h"), (":path", "/late")]
    client.h2.send_headers(client.h2.get_next_available_stream_id(), head, end_stream=True)
    relay2.says(client.h2.data_to_send())
    assert len(relay2.exchanges) == 1


async def test_tunnels_are_ended_when_draining_takes_too_long(relay2: Relay2, client: Client) -> None:
    number = await open_tunnel(client)
    relay2.up.answers(b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    client.turn()
    relay2.served.close_if_tunnel()
    client.turn()
    assert client.answer(number)[3] == {}
    assert relay2.up.wire.aborted


async def test_idle_connections_are_told_and_closed(relay2: Relay2, client: Client) -> None:
    now = relay2.served.now()
    assert relay2.served.idle_since == 0.0
    assert not relay2.served.tick(now)
    assert relay2.served.idle_since == now
    assert not relay2.served.tick(now + 60.0)
    client.ask()
    relay2.up.answers(OK)
    assert not relay2.served.tick(now + 100.0)
    assert not relay2.wire.closed
    relay2.served.tick(now + 180.0)
    assert relay2.wire.closed
    assert (relay2.code, relay2.endings) == (Code.NO_ERROR, [])


async def test_a_client_that_says_goaway_is_served_to_the_end(relay2: Relay2, client: Client) -> None:
    client.ask()
    relay2.says(bytes.fromhex("000008 07 00 00000000 00000000 00000000"))
    assert not relay2.wire.closed
    relay2.up.answers(OK)
    assert relay2.wire.closed


async def test_a_request_that_offered_h2c_is_stream_1(make_relay2: MakeRelay) -> None:
    seen = make_relay2(greeting=b"")
    wire = Wire()
    first = Http1(seen)
    first.connection_made(wire)  # type: ignore[arg-type]
    handed: list[tuple[bytes, object]] = []
    seen.speak_http2 = lambda connection, data, upgrade=None: handed.append((data, upgrade))  # type: ignore[method-assign]
    payload = base64.urlsafe_b64encode(settings(((Setting.INITIAL_WINDOW_SIZE, 7),))[9:]).rstrip(b"=")
    first.data_received(
        b"GET /up HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: "
        + payload
        + b"\r\n\r\n"
    )
    assert wire.sent == b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    assert len(handed) == 1
    seen.served.adopt(handed[0][1])  # type: ignore[arg-type]
    assert seen.up.got == b"GET /up HTTP/1.1\r\nHost: h\r\n\r\n"
    assert seen.served.streams[1].window == 7


@pytest.mark.parametrize(
    "lines",
    [
        b"Connection: Upgrade\r\nUpgrade: h2c\r\n",
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: A\r\n",
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\nHTTP2-Settings: \r\n",
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\nContent-Length: 1\r\n",
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2\r\nHTTP2-Settings: \r\n",
    ],
)
async def test_offers_of_h2c_that_are_none(make_relay: Callable[..., Relay2], lines: bytes) -> None:
    relay = make_relay()
    relay.says(b"GET / HTTP/1.1\r\nHost: h\r\n" + lines + b"\r\n")
    assert len(relay.exchanges) == 1
    assert b"h2c" not in relay.up.got
