"""What a request becomes on its way to an upstream, and what an answer becomes on its way back."""

import asyncio
from collections.abc import Callable

import pytest

from kncore.net.errors import ClientGone, ConnectFailed, Overrun, UpstreamClosed, UpstreamError
from kncore.net.exchange import HOLD_LIMIT, Clocks, Exchange
from kncore.net.http1 import TAIL_LIMIT

from .conftest import Relay

GET = b"GET /a?b=c HTTP/1.1\r\nHost: example.com\r\nX-One: 1\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nServer: app\r\n\r\nhello"
POST = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"
CHUNKED_POST = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"


async def test_a_small_request_and_its_answer_are_one_write_each(relay: Relay) -> None:
    relay.says(GET)
    relay.up.answers(OK)
    assert relay.up.got == b"GET /a?b=c HTTP/1.1\r\nHost: example.com\r\nX-One: 1\r\n\r\n"
    assert relay.answer == b"HTTP/1.1 200 OK\r\nServer: app\r\nContent-Length: 5\r\n\r\nhello"
    assert (relay.up.wire.writes, relay.wire.writes) == (1, 1)
    assert relay.up.free
    assert not relay.over


@pytest.mark.parametrize("repeat", [1, 2, 3])
async def test_heads_that_repeat_are_understood_the_same_way(relay: Relay, repeat: int) -> None:
    for _ in range(repeat):
        relay.says(POST)
        relay.up.answers(OK)
    assert relay.up.got.endswith(b"Host: h\r\nContent-Length: 3\r\n\r\nabc" * 1)
    assert relay.up.got == b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc" * repeat
    assert relay.answer.count(b"hello") == repeat


async def test_answers_that_look_like_the_one_before_are_still_looked_at(relay: Relay) -> None:
    """A head and a size that come again are taken for the same, but what they mean may have changed meanwhile."""
    head = OK[:-5]
    relay.says(GET)
    relay.up.answers(OK)
    relay.says(GET)
    relay.up.answers(head + b"howdy")
    assert relay.answer.endswith(b"\r\n\r\nhowdy")
    relay.says(GET)
    relay.up.answers(b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n")
    relay.up.answers(OK)
    first = relay.answer[: relay.answer.index(b"hello") + 5]
    assert relay.answer.endswith(b"howdyHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + first)
    relay.says(GET)
    for piece in (head, b"he", b"llo"):
        relay.up.answers(piece)
    assert [exchange.status for exchange in relay.exchanges] == [200] * 4
    assert len(relay.ups) == 1
    relay.says(GET.replace(b"GET", b"HEAD"))
    relay.up.answers(OK)  # an app that does not know what HEAD is
    assert relay.answer.endswith(b"Content-Length: 5\r\n\r\n")
    assert relay.up.gone


async def test_requests_that_look_like_the_one_before_are_still_looked_at(relay: Relay) -> None:
    relay.says(GET)
    relay.up.answers(OK)
    relay.says(GET[:10])
    relay.says(GET)  # the same bytes, but not where a head begins
    assert relay.over
    assert relay.status == 200
    assert len(relay.exchanges) == 1
    assert relay.answer.count(b"HTTP/1.1 400 Bad Request") == 1


async def test_the_same_head_may_go_another_way(make_relay: Callable[..., Relay]) -> None:
    ways = iter([((), None), ((), None), ((b"X-Two: 2",), None), ((b"X-Two: 2",), b"other"), ((), None)])

    def handler(exchange: Exchange) -> None:
        add, authority = next(ways)
        exchange.forward(relay, add=add, authority=authority)

    relay = make_relay(handler)
    for _ in range(5):
        relay.says(GET)
        relay.up.answers(OK)
    sent = [b"", b"", b"X-Two: 2\r\n", b"X-Two: 2\r\n", b""]
    hosts = [b"example.com"] * 3 + [b"other", b"example.com"]
    assert relay.up.got == b"".join(
        b"GET /a?b=c HTTP/1.1\r\nHost: %b\r\nX-One: 1\r\n%b\r\n" % way for way in zip(hosts, sent, strict=True)
    )


@pytest.mark.parametrize("step", [1, 2, 7])
async def test_pieces_of_any_size_come_to_the_same(relay: Relay, step: int) -> None:
    chunked = CHUNKED_POST + b"3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n"
    relay.says_slowly(GET, step)
    for at in range(0, len(OK), step):
        relay.up.answers(OK[at : at + step])
    relay.says_slowly(POST, step)
    relay.up.answers(OK)
    relay.says_slowly(chunked, step)
    relay.up.answers(OK)
    assert [exchange.method for exchange in relay.exchanges] == [b"GET", b"POST", b"POST"]
    assert [exchange.bytes_in for exchange in relay.exchanges] == [0, 3, 3]
    assert relay.answer.count(b"\r\n\r\nhello") == 3


# -- bodies -----------------------------------------------------------------------------------------------------------


async def test_chunks_are_merged_and_their_extensions_dropped(relay: Relay) -> None:
    relay.says(CHUNKED_POST + b"2;x=y\r\nab\r\n1\r\nc\r\n0\r\n\r\n")
    assert relay.up.got.endswith(b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")


async def turns(count: int = 200) -> None:
    """Let what was put off until others had their turn happen."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_flood_of_tiny_chunks_is_read_in_turns_and_not_in_more(relay: Relay) -> None:
    flood = b"1\r\na\r\n" * 30_000 + b"0\r\n\r\n"
    relay.says(CHUNKED_POST + flood + GET)
    exchange = relay.exchanges[0]
    assert 0 < exchange.bytes_in < 5_000
    assert not relay.wire.reading
    await turns()
    assert exchange.body_done
    assert exchange.bytes_in == 30_000
    assert relay.wire.reading
    relay.up.answers(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    relay.up.answers(flood)
    assert exchange.bytes_out < 5_000
    assert not relay.up.wire.reading
    await turns()
    assert exchange.bytes_out == 30_000
    assert exchange.done
    assert relay.up.wire.reading
    relay.up.answers(OK)  # to the request behind
    assert relay.answer.endswith(b"hello")


@pytest.mark.parametrize("paused", [False, True])
async def test_a_flood_of_tiny_chunks_then_the_upstream_s_end(relay: Relay, paused: bool) -> None:
    relay.says(GET)
    relay.up.answers(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 9_000 + b"0\r\n\r\n")
    if paused:
        relay.connection.pause_writing()
        await turns()
        relay.connection.resume_writing()
        assert not relay.exchanges[0].done
    relay.up.closes()
    assert relay.exchanges[0].done
    assert relay.exchanges[0].bytes_out == 9_000
    assert relay.answer.endswith(b"0\r\n\r\n")


async def test_a_flood_of_tiny_chunks_then_the_client_s_half_close(relay: Relay) -> None:
    relay.says(CHUNKED_POST + b"1\r\na\r\n" * 9_000 + b"0\r\n\r\n")
    assert relay.connection.eof_received()
    await turns()
    assert relay.exchanges[0].body_done
    relay.up.answers(OK)
    assert relay.answer.endswith(b"hello")
    assert relay.wire.closed


async def test_a_flood_of_tiny_chunks_that_ends_too_early(relay: Relay) -> None:
    relay.says(CHUNKED_POST + b"1\r\na\r\n" * 9_000)
    assert relay.connection.eof_received()
    await turns()
    assert relay.exchanges[0].done
    assert relay.wire.closed
    assert relay.up.wire.aborted


async def test_a_flood_of_tiny_chunks_waits_within_bounds(make_relay: Callable[..., Relay]) -> None:
    relay = make_relay(lambda exchange: None)
    relay.says(CHUNKED_POST)
    for _ in range(4):
        if relay.wire.reading:
            relay.says(b"f\r\n" + b"z" * 15 + b"\r\n" + b"f\r\n" + b"z" * 15 + b"\r\n" * 1)
            relay.says((b"f\r\n" + b"z" * 15 + b"\r\n") * 10_000)
        await turns()
    assert not relay.wire.reading
    relay.exchanges[0].forward(relay)
    await turns()
    assert relay.wire.reading
    assert relay.exchanges[0].bytes_in == relay.up.got.count(b"z")


async def test_trailers_pass_both_ways_unless_they_frame_or_route(relay: Relay) -> None:
    trailers = b"0\r\nX-Sum: 1\r\nHost: evil\r\nContent-Length: 9\r\n\r\n"
    relay.says(CHUNKED_POST + b"1\r\na\r\n" + trailers)
    relay.up.answers(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nb\r\n" + trailers)
    assert relay.up.got.endswith(b"1\r\na\r\n0\r\nX-Sum: 1\r\n\r\n")
    assert relay.answer.endswith(b"1\r\nb\r\n0\r\nX-Sum: 1\r\n\r\n")
    assert not relay.over


async def test_body_that_arrives_later_follows(relay: Relay) -> None:
    relay.says(POST[:-3])
    relay.says(b"ab")
    relay.says(b"c")
    assert relay.up.got.endswith(b"\r\n\r\nabc")
    assert relay.exchanges[0].body_done


async def test_answer_until_close_becomes_chunked(relay: Relay) -> None:
    relay.says(GET)
    relay.up.answers(b"HTTP/1.1 200 OK\r\n\r\nab")
    relay.up.answers(b"c")
    relay.up.closes()
    assert relay.answer == b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
    assert not relay.over


async def test_answer_until_close_that_breaks_off_is_not_passed_as_whole(relay: Relay) -> None:
    relay.says(GET)
    relay.up.answers(b"HTTP/1.1 200 OK\r\n\r\nab")
    relay.up.closes(ConnectionResetError())
    assert not relay.answer.endswith(b"0\r\n\r\n")
    assert relay.over
    assert isinstance(relay.exchanges[0].error, UpstreamClosed)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nab",
    ],
)
async def test_truncated_answer_closes_the_client_connection(relay: Relay, answer: bytes) -> None:
    relay.says(GET)
    relay.up.answers(answer)
    relay.up.closes()
    assert relay.over
    assert not relay.answer.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize(
    ("request_line", "answer", "expected"),
    [
        (b"HEAD", b"200 OK\r\nContent-Length: 77", b"200 OK\r\nContent-Length: 77"),
        (b"HEAD", b"200 OK\r\nTransfer-Encoding: chunked", b"200 OK"),
        (b"GET", b"204 No Content\r\nX: 1", b"204 No Content\r\nX: 1"),
        (b"GET", b"304 Not Modified\r\nContent-Length: 77", b"304 Not Modified\r\nContent-Length: 77"),
    ],
)
async def test_answers_without_body(relay: Relay, request_line: bytes, answer: bytes, expected: bytes) -> None:
    for _ in range(2):
        relay.says(request_line + b" / HTTP/1.1\r\nHost: h\r\n\r\n")
        relay.up.answers(b"HTTP/1.1 " + answer + b"\r\n\r\n")
    assert relay.answer == (b"HTTP/1.1 " + expected + b"\r\n\r\n") * 2
    # the body that the answer to a HEAD must not have comes late from some apps: nobody shall take it for his answer
    assert len(relay.ups) == (2 if request_line == b"HEAD" else 1)


async def test_bytes_behind_a_bodiless_answer_are_nobodys(relay: Relay) -> None:
    relay.says(b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n")
    relay.up.answers(OK)
    assert b"hello" not in relay.answer
    assert relay.up.gone


async def test_bytes_nobody_asked_for_close_the_upstream(relay: Relay) -> None:
    relay.says(GET)
    relay.up.answers(OK)
    relay.up.answers(OK)
    assert relay.up.gone
    assert relay.answer.count(b"HTTP/1.1") == 1


# -- heads ------------------------------------------------------------------------------------------------------------


async def test_hop_by_hop_and_named_fields_stay_here(relay: Relay) -> None:
    relay.says(
        b"GET / HTTP/1.1\r\nHost: h\r\nConnection: X-Private, keep-alive, Host\r\nX-Private: 1\r\nKeep-Alive: 5\r\n"
        b"TE: trailers\r\nProxy-Authorization: x\r\nProxy-Connection: y\r\nX-Public: 2\r\n\r\n"
    )
    relay.up.answers(
        b"HTTP/1.1 200 OK\r\nConnection: X-Inner\r\nX-Inner: 1\r\nProxy-Authenticate: x\r\nSet-Cookie: a=1\r\n"
        b"Set-Cookie: b=2\r\nContent-Length: 0\r\n\r\n"
    )
    assert relay.up.got == b"GET / HTTP/1.1\r\nHost: h\r\nX-Public: 2\r\n\r\n"
    assert relay.answer == b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n"


async def test_absolute_form_names_the_host(relay: Relay) -> None:
    relay.says(b"GET http://other.example:81/x?y HTTP/1.1\r\nHost: h\r\n\r\n")
    assert relay.exchanges[0].host == b"other.example:81"
    assert relay.up.got == b"GET /x?y HTTP/1.1\r\nHost: other.example:81\r\n\r\n"


async def test_absolute_form_without_path(relay: Relay) -> None:
    relay.says(b"GET http://other.example?y HTTP/1.1\r\nHost: h\r\n\r\n")
    assert relay.up.got.startswith(b"GET /?y HTTP/1.1\r\n")


async def test_a_target_as_somebody_typed_it_is_sent_on_encoded(relay: Relay) -> None:
    relay.says("GET /ü%20a?ö=1 HTTP/1.1\r\nHost: h\r\nX: ä\r\n\r\n".encode())
    assert relay.up.got == "GET /%C3%BC%20a?%C3%B6=1 HTTP/1.1\r\nHost: h\r\nX: ä\r\n\r\n".encode()


async def test_edits(make_relay: Callable[..., Relay]) -> None:
    def handler(exchange: Exchange) -> None:
        exchange.forward(relay, drop={b"host", b"x-one"}, add=(b"X-Two: 2",), authority=b"inner:1")

    relay = make_relay(handler)
    relay.says(GET)
    assert relay.up.got == b"GET /a?b=c HTTP/1.1\r\nHost: inner:1\r\nX-Two: 2\r\n\r\n"


async def test_repeated_fields_pass_in_order_and_read_as_one(relay: Relay) -> None:
    relay.says(b"GET / HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nX-B: 2\r\nx-a: 3\r\n\r\n")
    assert relay.exchanges[0].value(b"x-a") == b"1, 3"
    assert relay.exchanges[0].headers == [(b"host", b"h"), (b"x-a", b"1"), (b"x-b", b"2"), (b"x-a", b"3")]
    assert relay.up.got == b"GET / HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nX-B: 2\r\nx-a: 3\r\n\r\n"


async def test_http10_client_gets_no_chunks_and_its_connection_closed(relay: Relay) -> None:
    relay.says(b"GET / HTTP/1.0\r\n\r\n")
    relay.up.answers(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n")
    assert relay.up.got == b"GET / HTTP/1.1\r\nHost: \r\n\r\n"
    assert relay.answer == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nab"
    assert relay.wire.closed


async def test_http10_keep_alive_is_granted_when_the_length_is_known(relay: Relay) -> None:
    relay.says(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    relay.up.answers(OK)
    assert relay.answer.endswith(b"Connection: keep-alive\r\n\r\nhello")
    assert not relay.over


async def test_client_that_wants_to_close_is_closed(relay: Relay) -> None:
    relay.says(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    relay.up.answers(OK)
    assert b"\r\nConnection: close\r\n" in relay.answer
    assert relay.wire.closed
    assert relay.up.free


async def test_upstream_that_wants_to_close_is_not_reused(relay: Relay) -> None:
    relay.says(GET)
    relay.up.answers(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    assert relay.up.gone
    assert not relay.over


# -- interim answers and upgrades -------------------------------------------------------------------------------------


async def test_expectation_and_continue_pass_end_to_end(relay: Relay) -> None:
    relay.says(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
    assert b"Expect: 100-continue\r\n" in relay.up.got
    relay.up.answers(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert relay.answer == b"HTTP/1.1 100 Continue\r\n\r\n"
    relay.says(b"abc")
    relay.up.answers(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK)
    assert relay.answer.count(b"HTTP/1.1") == 3
    assert not relay.over


async def test_refused_expectation_ends_the_connection(relay: Relay) -> None:
    """The client may or may not send its body now: what follows could be read either way (an old desync)."""
    relay.says(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 30\r\nExpect: 100-continue\r\n\r\n")
    relay.up.answers(b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n")
    relay.says(b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n")
    assert b"Connection: close" in relay.answer
    assert relay.over
    assert len(relay.exchanges) == 1
    assert relay.up.gone


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n",
        b"POST / HTTP/1.0\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    ],
)
async def test_expectation_that_means_nothing_stays_here(relay: Relay, request_: bytes) -> None:
    relay.says(request_)
    assert b"Expect" not in relay.up.got


async def test_waiting_for_100_while_there_is_no_upstream_yet(make_relay: Callable[..., Relay]) -> None:
    """A sleeping service: nothing of the body is needed to wake it, and its own 100 asks for the body."""
    relay = make_relay(lambda exchange: None)
    relay.says(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
    assert relay.answer == b""
    relay.exchanges[0].forward(relay)
    relay.up.answers(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert relay.answer == b"HTTP/1.1 100 Continue\r\n\r\n"
    relay.says(b"abc")
    relay.up.answers(OK)
    assert relay.answer.endswith(b"hello")
    assert not relay.over


UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: x\r\n\r\n"
)
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"


async def test_upgrade_becomes_a_tunnel(relay: Relay) -> None:
    relay.says(UPGRADE + b"early")
    relay.up.answers(SWITCH + b"first")
    relay.says(b"\x00GET / HTTP/1.1\r\n\r\n")
    relay.up.answers(b"\xffdata")
    exchange = relay.exchanges[0]
    assert b"Connection: Upgrade\r\nUpgrade: websocket\r\n" in relay.up.got
    assert relay.up.got.endswith(b"\r\n\r\nearly\x00GET / HTTP/1.1\r\n\r\n")
    assert relay.answer.startswith(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket")
    assert relay.answer.endswith(b"\r\n\r\nfirst\xffdata")
    assert exchange.upgraded
    assert not exchange.done
    relay.leaves()
    assert exchange.done
    assert exchange.error is None
    assert relay.up.wire.closed


async def test_tunnel_passes_each_direction_s_end_and_ends_with_the_upstream(relay: Relay) -> None:
    relay.says(UPGRADE)
    relay.up.answers(SWITCH)
    assert relay.connection.eof_received()
    assert relay.up.wire.eof
    relay.up.answers(b"still")
    assert relay.answer.endswith(b"still")
    relay.up.closes()
    assert relay.wire.closed
    assert relay.exchanges[0].done


@pytest.mark.parametrize("early", [b"", b"ping"])
async def test_tunnel_whose_client_ended_its_direction_before_it_was_one(relay: Relay, early: bytes) -> None:
    relay.says(UPGRADE + early)
    relay.connection.eof_received()
    relay.up.answers(SWITCH)
    assert relay.up.got.endswith(b"\r\n\r\n" + early)
    assert relay.up.wire.eof
    relay.up.answers(b"pong")
    assert relay.answer.endswith(b"pong")
    assert not relay.exchanges[0].done


async def test_tunnel_whose_upstream_ends_first_ends_with_the_client(relay: Relay) -> None:
    relay.says(UPGRADE)
    relay.up.answers(SWITCH)
    assert relay.up.connection.eof_received()
    assert relay.wire.eof
    relay.says(b"last words")
    assert relay.up.got.endswith(b"last words")
    assert not relay.connection.eof_received()  # the transport closes, there is nothing more to come
    assert relay.up.wire.eof
    relay.leaves()
    assert relay.exchanges[0].done
    assert relay.up.wire.closed
    assert not relay.up.wire.aborted  # the last words are still on their way


async def test_refused_upgrade_is_an_ordinary_answer(relay: Relay) -> None:
    relay.says(UPGRADE)
    relay.up.answers(OK)
    relay.says(GET)
    assert len(relay.exchanges) == 2


async def test_switch_without_an_offer_is_refused(relay: Relay) -> None:
    relay.says(GET)
    relay.up.answers(SWITCH)
    assert relay.status == 502
    assert relay.up.gone


@pytest.mark.parametrize("offer", [b"h2c", b"H2C", b"foo, h2c"])
async def test_h2c_is_not_offered_to_the_upstream(relay: Relay, offer: bytes) -> None:
    relay.says(
        b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: x\r\nUpgrade: "
        + offer
        + b"\r\n\r\n"
    )
    assert relay.up.got == b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


async def test_body_of_a_request_that_offers_an_upgrade_is_a_body(relay: Relay) -> None:
    relay.says(POST.replace(b"Host: h", b"Host: h\r\nConnection: upgrade\r\nUpgrade: foo"))
    assert relay.up.got.endswith(b"\r\n\r\nabc")
    assert b"Upgrade" not in relay.up.got


# -- order, reuse, back-pressure --------------------------------------------------------------------------------------


async def test_pipelined_requests_are_answered_in_order_one_at_a_time(relay: Relay) -> None:
    relay.says(GET + POST + GET)
    assert len(relay.exchanges) == 1
    for number in range(3):
        relay.up.answers(OK.replace(b"hello", b"n-%03d" % number))
    assert [exchange.method for exchange in relay.exchanges] == [b"GET", b"POST", b"GET"]
    assert [relay.answer.find(b"n-%03d" % number) > 0 for number in range(3)] == [True] * 3
    assert relay.answer.find(b"n-000") < relay.answer.find(b"n-001") < relay.answer.find(b"n-002")


async def test_pipelined_requests_answered_at_once_do_not_nest(make_relay: Callable[..., Relay]) -> None:
    relay = make_relay(lambda exchange: exchange.respond(200, b"x"))
    relay.says(GET * 2000)
    assert relay.answer.count(b"HTTP/1.1 200") < 50  # other connections have their turn in between
    for _ in range(2000):
        await asyncio.sleep(0)
    assert relay.answer.count(b"HTTP/1.1 200") == 2000


async def test_too_much_pipelining_stops_the_reading(relay: Relay) -> None:
    relay.says(GET)
    relay.says(GET * (TAIL_LIMIT // len(GET) + 1))
    assert not relay.wire.reading
    while not relay.wire.reading:
        relay.up.answers(OK)
    assert len(relay.exchanges) < 10


async def test_slow_client_stops_the_upstream_and_slow_upstream_the_client(relay: Relay) -> None:
    relay.says(POST[:-1])
    relay.up.connection.pause_writing()
    assert not relay.wire.reading
    relay.up.connection.resume_writing()
    assert relay.wire.reading
    relay.says(b"c")
    relay.up.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab")
    relay.connection.pause_writing()
    assert not relay.up.wire.reading
    relay.connection.resume_writing()
    assert relay.up.wire.reading


async def test_paused_upstream_is_resumed_before_it_is_reused(relay: Relay) -> None:
    relay.says(GET)
    relay.up.answers(OK[:-5])
    relay.connection.pause_writing()
    relay.up.answers(b"hello")
    assert relay.up.free
    assert relay.up.wire.reading


async def test_body_of_a_waiting_request_is_bounded(make_relay: Callable[..., Relay]) -> None:
    relay = make_relay(lambda exchange: None)
    relay.says(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n")
    relay.says(b"x" * (HOLD_LIMIT + 1))
    assert not relay.wire.reading
    relay.exchanges[0].forward(relay)
    assert relay.wire.reading
    assert relay.up.got.count(b"x") == HOLD_LIMIT + 1


async def test_a_client_whose_large_body_nobody_took_is_read_on(make_relay: Callable[..., Relay]) -> None:
    relay = make_relay(lambda exchange: exchange.respond(404))
    for answered in (1, 2):
        relay.says(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000)
        assert relay.answer.count(b"HTTP/1.1 404") == answered
        assert relay.wire.reading


async def test_a_client_whose_body_was_held_back_is_read_on_after_the_answer(make_relay: Callable[..., Relay]) -> None:
    relay = make_relay(lambda exchange: None)
    relay.says(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
    relay.says(b"12c\r\n%b\r\n" % (b"x" * 300) * 256 + b"1\r\nx\r\n0\r\n\r\n")
    await turns(3)
    assert relay.exchanges[0].body_done
    assert not relay.wire.reading
    relay.exchanges[0].respond(503)
    assert relay.wire.reading


async def test_answer_before_the_request_is_complete_closes_both_sides_in_order(relay: Relay) -> None:
    relay.says(POST[:-1])
    relay.up.answers(OK)
    assert b"Connection: close" in relay.answer
    assert relay.answer.endswith(b"hello")
    assert relay.wire.eof  # half closed: a full close could reset the connection before the client has read
    assert not relay.wire.closed
    assert relay.up.gone
    relay.says(b"c" + GET)
    assert len(relay.exchanges) == 1


async def test_a_client_that_takes_no_answers_gets_no_more_requests_served(relay: Relay) -> None:
    relay.says(GET)
    relay.connection.pause_writing()
    relay.up.answers(OK)
    assert not relay.wire.reading
    relay.says(GET)  # it was on its way already
    assert len(relay.exchanges) == 1
    relay.connection.resume_writing()
    assert relay.wire.reading
    assert len(relay.exchanges) == 2
    relay.up.answers(OK)
    assert relay.answer.count(b"hello") == 2


async def test_a_client_that_falls_behind_between_requests_is_read_again_when_it_has_caught_up(relay: Relay) -> None:
    relay.says(GET)
    relay.up.answers(OK)
    relay.says(GET[:5])
    relay.connection.pause_writing()
    assert not relay.wire.reading
    relay.connection.resume_writing()
    assert relay.wire.reading
    relay.says(GET[5:])
    assert len(relay.exchanges) == 2


async def test_an_upstream_that_did_not_take_the_last_body_gets_no_other(relay: Relay) -> None:
    relay.says(POST)
    relay.up.connection.pause_writing()
    relay.up.answers(OK)
    assert relay.up.gone
    relay.says(POST)
    assert len(relay.ups) == 2


async def test_client_that_half_closes_behind_pipelined_requests_gets_all_answers(relay: Relay) -> None:
    relay.says(GET + GET + GET)
    assert relay.connection.eof_received()
    for _ in range(3):
        assert not relay.over
        relay.up.answers(OK)
    assert relay.answer.count(b"hello") == 3
    assert relay.wire.closed


async def test_client_that_half_closes_in_a_pipelined_head_gets_the_answers_there_are(relay: Relay) -> None:
    relay.says(GET + GET[:9])
    assert relay.connection.eof_received()
    relay.up.answers(OK)
    assert relay.answer.count(b"hello") == 1
    assert relay.wire.closed


# -- failures ---------------------------------------------------------------------------------------------------------


async def test_stale_connection_costs_nothing_if_the_request_can_be_repeated(relay: Relay) -> None:
    relay.says(GET)
    relay.up.answers(OK)
    relay.says(GET)
    relay.ups[0].closes()
    assert len(relay.ups) == 2
    relay.up.answers(OK)
    assert relay.answer.count(b"hello") == 2


async def test_stale_connection_repeats_a_small_put_with_its_body(relay: Relay) -> None:
    relay.says(GET)
    relay.up.answers(OK)
    relay.says(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nab")
    relay.says(b"c")
    relay.ups[0].closes()
    assert relay.up.got.endswith(b"\r\n\r\nabc")


async def test_stale_connection_does_not_repeat_a_post(relay: Relay) -> None:
    relay.says(GET)
    relay.up.answers(OK)
    relay.says(POST)
    relay.ups[0].closes()
    assert relay.answer.count(b"HTTP/1.1 502 Bad Gateway") == 1
    assert len(relay.ups) == 1


async def test_a_large_body_is_neither_kept_nor_repeated(relay: Relay) -> None:
    relay.says(GET)
    relay.up.answers(OK)
    relay.says(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1000)
    relay.says(b"x" * HOLD_LIMIT)
    relay.ups[0].closes()
    assert b"502 Bad Gateway" in relay.answer


async def test_fresh_connection_that_closes_is_reported(make_relay: Callable[..., Relay]) -> None:
    failures: list[UpstreamError] = []

    def on_failure(exchange: Exchange, failure: UpstreamError) -> bool:
        failures.append(failure)
        if len(failures) == 1:
            exchange.forward(relay, on_failure=on_failure)
        return len(failures) == 1

    relay = make_relay(lambda exchange: exchange.forward(relay, on_failure=on_failure))
    relay.says(GET)
    relay.up.closes()
    relay.up.closes()
    assert [(failure.written, failure.replayable) for failure in failures] == [(True, True)] * 2
    assert relay.status == 502
    assert relay.answer.endswith(b"\r\n\r\nupstream closed the connection: EOF\n")


async def test_a_refused_post_is_replayable_for_it_was_never_written(make_relay: Callable[..., Relay]) -> None:
    seen: list[UpstreamError] = []

    class Refusing:
        def submit(self, exchange: Exchange, *, fresh: bool = False) -> None:
            exchange.upstream_failed(ConnectFailed("refused"))

        def withdraw(self, exchange: Exchange) -> None:
            raise AssertionError("nothing waits")

    def elsewhere(exchange: Exchange, failure: UpstreamError) -> bool:
        seen.append(failure)
        exchange.forward(relay)
        return True

    relay = make_relay(lambda exchange: exchange.forward(Refusing(), on_failure=elsewhere))
    relay.says(POST)
    assert seen[0].replayable
    assert relay.up.got.endswith(b"abc")


@pytest.mark.parametrize(
    "garbage",
    [
        b"SMTP ready\r\n\r\n",
        b"HTTP/1.1 200 OK\nX: 1\n\n\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 O\x00K\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
        b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\na",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 300 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000,
        b"HTTP/1.0 100 Continue\r\nContent-Length: 1, 1\r\n\r\n",
        b"220 SMTP ready\r\n",  # and no more
        b"\r\n",
        b"HTTP/1.1 200 " + b"O" * 2000 + b"\r\n\r\n",
    ],
)
async def test_garbage_from_the_upstream_is_a_502(relay: Relay, garbage: bytes) -> None:
    relay.says(GET)
    relay.up.answers(garbage)
    assert relay.status == 502
    assert relay.answer.count(b"HTTP/1.1 ") == 1
    assert relay.up.gone
    assert not relay.over


async def test_endless_interim_answers_are_garbage_too(relay: Relay) -> None:
    relay.says(GET)
    relay.up.answers(b"HTTP/1.1 102 Processing\r\n\r\n" * 5000)
    assert b"HTTP/1.1 502 Bad Gateway" in relay.answer
    assert relay.answer.count(b"HTTP/1.1 102") == 32


async def test_answer_for_a_client_that_is_just_leaving_is_dropped(relay: Relay) -> None:
    relay.says(GET)
    relay.wire.closed = True  # closed, but connection_lost comes with the next iteration of the loop
    relay.up.answers(OK)
    assert relay.answer == b""
    relay.connection.connection_lost(None)
    assert relay.exchanges[0].done


async def test_garbage_in_a_body_cuts_it(relay: Relay) -> None:
    relay.says(GET)
    relay.up.answers(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    relay.up.answers(b"zz\r\n")
    assert relay.over
    assert relay.answer.count(b"HTTP/1.1") == 1


async def test_response_cannot_be_split_by_its_app(relay: Relay) -> None:
    relay.says(GET)
    relay.up.answers(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
    relay.says(GET)
    assert b"evil" not in relay.answer
    assert len(relay.ups) == 2


async def test_client_that_leaves_cancels_its_request(relay: Relay) -> None:
    relay.says(GET)
    relay.leaves()
    assert relay.up.wire.aborted
    assert isinstance(relay.exchanges[0].error, ClientGone)
    assert not relay.open


async def test_client_that_hangs_up_while_waiting_gives_its_place_up(make_relay: Callable[..., Relay]) -> None:
    gone: list[Exchange] = []

    def wait(exchange: Exchange) -> None:
        exchange.on_done(gone.append)

    relay = make_relay(wait)
    relay.says(GET)
    assert not relay.connection.eof_received()
    assert gone == relay.exchanges


async def test_half_closed_client_gets_its_answer(relay: Relay) -> None:
    relay.says(GET)
    assert relay.connection.eof_received()
    relay.up.answers(OK)
    assert relay.answer.endswith(b"hello")
    assert relay.wire.closed


async def test_end_of_input_in_a_body_is_a_broken_request(relay: Relay) -> None:
    relay.says(POST[:-1])
    assert not relay.connection.eof_received()
    assert isinstance(relay.exchanges[0].error, ClientGone)


async def test_bad_chunk_in_a_body_on_its_way_aborts_everything(relay: Relay) -> None:
    relay.says(CHUNKED_POST + b"1\r\na\r\n")
    relay.says(b"-1\r\n")
    assert relay.status == 400
    assert relay.up.wire.aborted
    assert relay.exchanges[0].done


# -- clocks -----------------------------------------------------------------------------------------------------------


def overdue(relay: Relay, seconds: float) -> None:
    relay.connection.tick(relay.exchanges[-1].started + seconds)


@pytest.fixture
async def clocked(make_relay: Callable[..., Relay]) -> Callable[..., Relay]:
    def make(**clocks: float) -> Relay:
        def handler(exchange: Exchange) -> None:
            exchange.clocks = Clocks(text=b"request timeout", **clocks)
            exchange.forward(relay)

        relay = make_relay(handler)
        return relay

    return make


async def test_total_ends_an_unanswered_request_with_504(clocked: Callable[..., Relay]) -> None:
    relay = clocked(total=5.0)
    relay.says(GET)
    overdue(relay, 4.9)
    assert relay.answer == b""
    overdue(relay, 5.0)
    assert relay.status == 504
    assert relay.answer.endswith(b"\r\n\r\nrequest timeout")
    assert relay.up.wire.aborted
    assert isinstance(relay.exchanges[0].error, Overrun)
    assert not relay.over


async def test_total_ends_an_answer_that_goes_on_with_the_text(clocked: Callable[..., Relay]) -> None:
    relay = clocked(total=5.0)
    relay.says(GET)
    relay.up.answers(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
    overdue(relay, 5.0)
    assert relay.answer.endswith(b"2\r\nab\r\nf\r\nrequest timeout\r\n0\r\n\r\n")
    assert relay.wire.closed


async def test_total_cuts_a_body_of_known_length_short(clocked: Callable[..., Relay]) -> None:
    relay = clocked(total=5.0)
    relay.says(GET)
    relay.up.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nab")
    overdue(relay, 5.0)
    body = relay.answer.partition(b"\r\n\r\n")[2]
    assert len(body) < 10
    assert relay.wire.closed


async def test_first_byte_is_satisfied_by_a_head(clocked: Callable[..., Relay]) -> None:
    relay = clocked(first_byte=2.0)
    relay.says(GET)
    relay.up.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
    overdue(relay, 60.0)
    assert not relay.over
    relay.up.answers(b"0123456789")
    relay.says(GET)
    overdue(relay, 2.0)
    assert relay.answer.count(b"HTTP/1.1 504 Gateway Timeout") == 1


async def test_idle_is_restarted_by_every_byte(clocked: Callable[..., Relay]) -> None:
    relay = clocked(idle=3.0)
    relay.says(GET)
    exchange = relay.exchanges[0]
    now = exchange.started
    relay.connection.now = lambda: now
    relay.up.answers(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
    for _ in range(3):
        now += 2.0
        relay.up.answers(b"1\r\na\r\n")
        relay.connection.tick(now)
    assert not relay.over
    relay.connection.tick(now + 3.0)
    assert relay.over


async def test_total_ends_a_tunnel(clocked: Callable[..., Relay]) -> None:
    relay = clocked(total=5.0)
    relay.says(UPGRADE)
    relay.up.answers(SWITCH)
    overdue(relay, 5.0)
    assert relay.wire.closed
    assert relay.up.wire.closed


async def test_slow_head_gets_408_and_idle_connections_are_closed(relay: Relay) -> None:
    relay.connection.tick(100.0)
    relay.says(b"GET / HT")
    relay.connection.tick(101.0)
    relay.says(b"TP/1.1\r\n")
    relay.connection.tick(160.0)
    assert not relay.over
    relay.connection.tick(161.1)
    assert relay.status == 408
    relay.connection.tick(162.0)
    relay.connection.tick(164.1)
    assert relay.wire.aborted


async def test_idle_connection_is_closed(relay: Relay) -> None:
    relay.connection.tick(100.0)
    relay.connection.tick(175.0)
    assert not relay.over
    relay.connection.tick(175.1)
    assert relay.wire.closed


async def test_body_that_does_not_come_gets_408(relay: Relay) -> None:
    relay.says(POST[:-2])
    started = relay.exchanges[0].started
    relay.connection.tick(started + 1)
    relay.connection.tick(started + 59)
    relay.says(b"b")
    relay.connection.tick(started + 60)
    relay.connection.tick(started + 119)
    assert not relay.over
    relay.connection.tick(started + 120.1)
    assert relay.status == 408
    assert relay.over
    assert relay.up.wire.aborted
    assert relay.exchanges[0].done


@pytest.mark.parametrize("why", ["held back by us", "waits for 100", "answered already"])
async def test_body_that_need_not_come_is_waited_for(relay: Relay, why: str) -> None:
    if why == "waits for 100":
        relay.says(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
    else:
        relay.says(POST[:-1])
    if why == "held back by us":
        relay.up.connection.pause_writing()
    elif why == "answered already":
        relay.up.answers(OK[:-5])
    for seconds in (1, 61, 200, 400):
        overdue(relay, seconds)
    assert not relay.over
    assert not relay.exchanges[0].done


async def test_connection_to_be_closed_is_cut_only_when_the_client_takes_nothing_for_long(relay: Relay) -> None:
    relay.says(GET.replace(b"X-One: 1", b"Connection: close"))
    relay.up.answers(OK)
    assert relay.wire.closed
    relay.wire.unsent = 3000
    for now in range(100, 400, 20):  # it is slow, but it takes some
        relay.wire.unsent -= 100
        relay.connection.tick(now)
        relay.connection.tick(now + 19)
    assert not relay.wire.aborted
    relay.connection.tick(420)
    assert relay.wire.aborted


async def test_client_that_goes_on_sending_after_its_answer_is_read_until_it_rests(relay: Relay) -> None:
    relay.says(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n")
    relay.up.answers(OK)
    now = relay.connection.now()
    for _ in range(5):
        relay.connection.tick(now + 1)
        relay.says(b"x")
        now += 3
    relay.connection.tick(now)
    assert not relay.wire.closed
    relay.connection.tick(now + 2.1)
    assert relay.wire.aborted


async def test_client_that_never_stops_sending_after_its_answer_is_cut(relay: Relay) -> None:
    relay.says(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n")
    relay.up.answers(OK)
    now = relay.connection.now()
    for seconds in range(33):
        relay.says(b"x")
        relay.connection.tick(now + seconds)
        relay.connection.tick(now + seconds + 0.1)
    assert relay.wire.aborted


# -- the end of an exchange -------------------------------------------------------------------------------------------


async def test_hooks_run_once_in_reverse_order_with_the_final_state(make_relay: Callable[..., Relay]) -> None:
    ran: list[tuple[str, int, int]] = []

    def handler(exchange: Exchange) -> None:
        exchange.on_done(lambda ended: ran.append(("first", ended.status, ended.bytes_out)))
        exchange.on_done(lambda ended: ran.append(("second", ended.status, ended.bytes_out)))
        exchange.forward(relay)

    relay = make_relay(handler)
    relay.says(GET)
    relay.up.answers(OK)
    relay.leaves()
    assert ran == [("second", 200, 5), ("first", 200, 5)]


async def test_a_hook_that_raises_keeps_no_other_from_running(make_relay: Callable[..., Relay]) -> None:
    """The other one gives back a place; the bug is still seen."""
    ran: list[int] = []

    def bug(_: Exchange) -> None:
        raise RuntimeError("bug")

    def handler(exchange: Exchange) -> None:
        exchange.on_done(lambda ended: ran.append(ended.status))
        exchange.on_done(bug)
        exchange.forward(relay)

    relay = make_relay(handler)
    relay.says(GET)
    with pytest.raises(RuntimeError, match="bug"):
        relay.up.answers(OK)
    assert ran == [200]


async def test_connection_is_free_before_the_hooks_run(make_relay: Callable[..., Relay]) -> None:
    """Whoever waits for a place takes the connection that was just given back, not a new one."""
    free: list[bool] = []

    def handler(exchange: Exchange) -> None:
        exchange.on_done(lambda _: free.append(relay.up.free))
        exchange.forward(relay)

    relay = make_relay(handler)
    relay.says(GET)
    relay.up.answers(OK)
    assert free == [True]


async def test_answer_hook_may_add_lines(make_relay: Callable[..., Relay]) -> None:
    def stamp(exchange: Exchange, status: int, lines: list[bytes]) -> None:
        lines.append(b"X-Seen: %d" % status)

    def handler(exchange: Exchange) -> None:
        exchange.on_answer(stamp)
        exchange.forward(relay)

    relay = make_relay(handler)
    for _ in range(2):
        relay.says(GET)
        relay.up.answers(OK)
    assert relay.answer.count(b"X-Seen: 200\r\n") == 2


async def test_respond_after_the_client_left_does_nothing(make_relay: Callable[..., Relay]) -> None:
    relay = make_relay(lambda exchange: None)
    relay.says(GET)
    relay.leaves()
    relay.exchanges[0].respond(200, b"late")
    relay.exchanges[0].forward(relay)
    assert relay.answer == b""
    assert relay.ups == []


async def test_draining_says_close(relay: Relay) -> None:
    relay.draining = True
    relay.says(GET)
    relay.up.answers(OK)
    assert b"Connection: close\r\n" in relay.answer
    assert relay.wire.closed


async def test_waiting_exchange_is_withdrawn_from_its_upstream(make_relay: Callable[..., Relay]) -> None:
    class Slow:
        def __init__(self) -> None:
            self.withdrawn: list[Exchange] = []

        def submit(self, exchange: Exchange, *, fresh: bool = False) -> None:
            pass

        def withdraw(self, exchange: Exchange) -> None:
            self.withdrawn.append(exchange)

    slow = Slow()
    relay = make_relay(lambda exchange: exchange.forward(slow))
    relay.says(GET)
    relay.leaves()
    assert slow.withdrawn == relay.exchanges
