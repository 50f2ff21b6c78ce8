"""Header lists and heads: what is understood, what is refused, and that writing is the inverse of reading."""

import hpack
import pytest

from kncore.net.errors import BadMessage
from kncore.net.heads import RequestHead
from kncore.net.http2 import headers
from kncore.net.http2.compression import Decoder
from kncore.net.http2.frames import StreamFault

Pairs = list[tuple[str, str]]

BASE: Pairs = [(":method", "GET"), (":scheme", "http"), (":authority", "h:81"), (":path", "/a?b=c")]


def read(pairs: Pairs, *, ended: bool = True) -> RequestHead:
    return headers.read_request(Decoder().decode(hpack.Encoder().encode(pairs)), ended=ended)


def test_a_request_becomes_what_http1_would_have_said() -> None:
    head = read([*BASE, ("user-agent", "x"), ("accept", "*/*")])
    assert head.start == b"GET /a?b=c HTTP/1.1"
    assert (head.method, head.target, head.host) == (b"GET", b"/a?b=c", b"h:81")
    assert list(head.lines) == [b"user-agent: x", b"accept: */*"]
    assert head.fields == {b"user-agent": b"user-agent: x", b"accept": b"accept: */*"}
    assert (head.length, head.repeated, head.old, head.upgrade) == (0, False, False, b"")


def test_crumbs_of_cookies_are_joined() -> None:
    head = read([*BASE, ("cookie", "a=b"), ("x", "y"), ("cookie", "c=d")])
    assert list(head.lines) == [b"x: y", b"cookie: a=b; c=d"]
    assert not head.repeated


def test_repeated_fields_keep_their_lines() -> None:
    head = read([*BASE, ("x", "1"), ("x", "2")])
    assert head.repeated
    assert head.fields[b"x"] == b"x: 1, 2"
    assert head.passing(frozenset()) == [b"x: 1", b"x: 2"]


@pytest.mark.parametrize(
    ("pairs", "ended", "length"),
    [
        ([], True, 0),
        ([], False, -1),
        ([("content-length", "12")], False, 12),
        ([("content-length", "0")], True, 0),
        ([("content-length", "0")], False, 0),
    ],
)
def test_length_of_the_body(pairs: Pairs, ended: bool, length: int) -> None:
    assert read([*BASE, *pairs], ended=ended).length == length


def test_a_post_without_body_says_so_as_http1_has_to() -> None:
    pairs = [(":method", "POST"), *BASE[1:]]
    assert list(read(pairs).lines) == [b"content-length: 0"]
    assert list(read(pairs, ended=False).lines) == []


def test_extended_connect_becomes_an_upgrade() -> None:
    head = read([(":method", "CONNECT"), (":protocol", "websocket"), *BASE[1:], ("x", "y")], ended=False)
    assert (head.start, head.upgrade, head.length) == (b"GET /a?b=c HTTP/1.1", b"websocket", 0)


def test_fields_that_an_app_would_take_for_ours_are_not_passed_on() -> None:
    pairs = [("x_forwarded_for", "1.2.3.4"), ("x-forwarded_proto", "https"), ("k_proxy_request", "activator")]
    head = read([*BASE, *pairs, ("x_mine", "1"), ("expect", "100-continue")])
    assert head.passing(frozenset()) == [b"x_mine: 1"]


def test_raw_bytes_of_a_target_are_percent_encoded() -> None:
    block = hpack.Encoder().encode([*BASE[:3], (b":path", b"/\xc3\xa9")])
    assert headers.read_request(Decoder().decode(block), ended=True).target == b"/%C3%A9"


MALFORMED: dict[str, Pairs] = {
    "upper case": [*BASE, ("X-Foo", "y")],
    "empty name": [*BASE, ("", "y")],
    "blank in a name": [*BASE, ("x y", "z")],
    "colon in a name": [*BASE, ("x:y", "z")],
    "name that splits": [*BASE, ("x\r\nhost", "evil")],
    "CR LF in a value": [*BASE, ("x", "y\r\nhost: evil")],
    "LF in a value": [*BASE, ("x", "y\nz")],
    "NUL in a value": [*BASE, ("x", "y\0z")],
    "control in a value": [*BASE, ("x", "y\x07z")],
    "blank before a value": [*BASE, ("x", " y")],
    "tab behind a value": [*BASE, ("x", "y\t")],
    "pseudo behind a field": [*BASE[:3], ("x", "y"), BASE[3]],
    "pseudo behind a cookie": [*BASE[:3], ("cookie", "y"), BASE[3]],
    "unknown pseudo": [*BASE, (":x", "y")],
    "response pseudo": [*BASE, (":status", "200")],
    "method twice": [*BASE, (":method", "GET")],
    "path twice": [*BASE, (":path", "/")],
    "authority twice": [*BASE, (":authority", "h:81")],
    "no method": BASE[1:],
    "no scheme": [BASE[0], *BASE[2:]],
    "no path": BASE[:3],
    "no authority": [*BASE[:2], BASE[3]],
    "empty authority": [*BASE[:2], (":authority", ""), BASE[3]],
    "empty path": [*BASE[:3], (":path", "")],
    "empty method": [(":method", ""), *BASE[1:]],
    "foreign scheme": [BASE[0], (":scheme", "ftp"), *BASE[2:]],
    "method that splits": [(":method", "GET / HTTP/1.1\r\nhost: evil\r\n\r\nGET"), *BASE[1:]],
    "method with a blank": [(":method", "GET /"), *BASE[1:]],
    "preface as method": [(":method", "PRI"), *BASE[1:]],
    "path that splits": [*BASE[:3], (":path", "/ HTTP/1.1\r\nhost: evil")],
    "path with a blank": [*BASE[:3], (":path", "/a b")],
    "path with a fragment": [*BASE[:3], (":path", "/a#b")],
    "absolute path": [*BASE[:3], (":path", "http://evil/")],
    "path without slash": [*BASE[:3], (":path", "a")],
    "asterisk": [*BASE[:3], (":path", "*")],
    "authority with user": [*BASE[:2], (":authority", "u@h"), BASE[3]],
    "authority with path": [*BASE[:2], (":authority", "h/x"), BASE[3]],
    "authority that splits": [*BASE[:2], (":authority", "h\r\nx: y"), BASE[3]],
    "two hosts": [*BASE[:2], BASE[3], ("host", "a"), ("host", "b")],
    "host unlike authority": [*BASE, ("host", "evil")],
    "connection": [*BASE, ("connection", "close")],
    "keep-alive": [*BASE, ("keep-alive", "5")],
    "proxy-connection": [*BASE, ("proxy-connection", "close")],
    "transfer-encoding": [*BASE, ("transfer-encoding", "chunked")],
    "upgrade": [*BASE, ("upgrade", "websocket")],
    "te": [*BASE, ("te", "gzip")],
    "te with more": [*BASE, ("te", "trailers, gzip")],
    "content-length twice": [*BASE, ("content-length", "0"), ("content-length", "0")],
    "content-length list": [*BASE, ("content-length", "0, 0")],
    "content-length sign": [*BASE, ("content-length", "+0")],
    "content-length hex": [*BASE, ("content-length", "0x0")],
    "content-length underscore": [*BASE, ("content-length", "1_0")],
    "content-length empty": [*BASE, ("content-length", "")],
    "content-length other digits": [*BASE, ("content-length", "\u0661")],
    "content-length and no body": [*BASE, ("content-length", "1")],
    "protocol without connect": [*BASE, (":protocol", "websocket")],
    "connect with path": [(":method", "CONNECT"), *BASE[1:]],
    "malformed protocol": [(":method", "CONNECT"), (":protocol", "a b"), *BASE[1:]],
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed(case: str) -> None:
    with pytest.raises(StreamFault):
        read(MALFORMED[case])


@pytest.mark.parametrize(
    ("pairs", "status"),
    [
        ([(":method", "CONNECT"), (":authority", "h:1")], 405),
        ([(":method", "BREW"), *BASE[1:]], 501),
        ([*BASE[:3], (":path", "/" + "x" * 17_000)], 414),
        ([*BASE, *((f"x{number}", "y") for number in range(129))], 431),
        ([*BASE, ("expect", "tea")], 417),
    ],
)
def test_well_formed_but_not_served(pairs: Pairs, status: int) -> None:
    with pytest.raises(BadMessage) as refused:
        read(pairs)
    assert refused.value.verdict == status


def test_a_host_that_agrees_is_no_conflict() -> None:
    assert read([*BASE, ("host", "H:81")]).host == b"h:81"
    assert read([*BASE[:2], BASE[3], ("host", "h:82")]).host == b"h:82"


def decoded(block: bytes) -> list[tuple[bytes, bytes]]:
    return [(bytes(name), bytes(value)) for name, value in hpack.Decoder().decode(block, raw=True)]


def test_an_answer_is_written_in_lower_case_and_without_fields_of_http1() -> None:
    lines = [b"Content-Type: text/plain", b"X-Empty:", b"Connection: close", b"Transfer-Encoding: chunked"]
    assert decoded(headers.response_block(200, 5, lines)) == [
        (b":status", b"200"),
        (b"content-type", b"text/plain"),
        (b"x-empty", b""),
        (b"content-length", b"5"),
    ]
    assert decoded(headers.response_block(599, -1, [])) == [(b":status", b"599")]


@pytest.mark.parametrize("method", [b"GET", b"POST", b"DELETE"])
@pytest.mark.parametrize("scheme", [b"http", b"https"])
def test_a_request_written_reads_the_same(method: bytes, scheme: bytes) -> None:
    block = headers.request_block(method, scheme, b"h:81", b"/" + b"x" * 300, [b"X-Foo:  bar ", b"te: trailers"])
    assert decoded(block)[1] == (b":scheme", scheme)
    head = headers.read_request(Decoder().decode(block), ended=False)
    assert (head.method, head.host, len(head.target)) == (method, b"h:81", 301)
    assert list(head.lines) == [b"x-foo: bar", b"te: trailers"]


def test_secrets_are_marked_as_never_to_be_indexed() -> None:
    block = headers.request_block(b"GET", b"http", b"h", b"/", [b"Authorization: s", b"x: y"])
    fields = hpack.Decoder().decode(block, raw=True)
    assert [field.indexable for field in fields if field[0] in (b"authorization", b"x")] == [False, True]


def test_an_upstreams_answer() -> None:
    block = headers.response_block(404, 7, [b"x: y", b"te: z"])
    head = headers.read_response(Decoder().decode(block))
    assert (head.status, head.reason, head.length, list(head.lines)) == (404, b"Not Found", 7, [b"x: y"])


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        [("x", "y")],
        [(":status", "20")],
        [(":status", "101")],
        [(":status", "099")],
        [(":status", "200"), (":status", "200")],
        [("x", "y"), (":status", "200")],
        [(":status", "200"), (":path", "/")],
        [(":status", "200"), ("transfer-encoding", "chunked")],
        [(":status", "200"), ("content-length", "1"), ("content-length", "1")],
        [(":status", "200"), ("content-length", "x")],
        [(":status", "200"), ("x", "y\r\nset-cookie: z")],
    ],
)
def test_malformed_answers(pairs: Pairs) -> None:
    with pytest.raises(StreamFault):
        headers.read_response(Decoder().decode(hpack.Encoder().encode(pairs)))


def test_trailers() -> None:
    block = hpack.Encoder().encode([("grpc-status", "0"), ("content-length", "5"), ("x", "y")])
    assert headers.read_trailers(Decoder().decode(block)) == [b"grpc-status: 0", b"x: y"]
    assert decoded(headers.trailer_block([b"Grpc-Status: 0"])) == [(b"grpc-status", b"0")]


@pytest.mark.parametrize("pairs", [[(":path", "/")], [("X", "y")], [("connection", "x")], [("x", "a\nb")]])
def test_malformed_trailers(pairs: Pairs) -> None:
    with pytest.raises(StreamFault):
        headers.read_trailers(Decoder().decode(hpack.Encoder().encode(pairs)))
