"""Requests that two parsers might read differently: each is refused, or reaches the upstream in one reading only.

The cases follow DESIGN.md §5 and the corpora named in ANCHORS.md §2.1 (http-garden's findings, Http11Probe, "HTTP/1.1
must die"). A case is the bytes and either the status of the refusal or the number of requests it holds. Every case is
fed at once and byte by byte; whatever is passed on is read by h11, a second implementation, and must be the same
requests to it.
"""

from collections.abc import Callable

import h11
import pytest

from .conftest import Relay

START = b"POST / HTTP/1.1\r\n"
H = b"Host: h\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n"


def head(*lines: bytes, start: bytes = START) -> bytes:
    return start + H + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def chunked(body: bytes) -> bytes:
    return START + H + CHUNKED + b"\r\n" + body


REFUSED: dict[str, tuple[bytes, int]] = {
    # -- lengths
    "length twice, equal": (head(b"Content-Length: 1", b"Content-Length: 1") + b"a" + NEXT, 400),
    "length twice, different": (head(b"Content-Length: 1", b"Content-Length: 2") + b"ab" + NEXT, 400),
    "length list": (head(b"Content-Length: 1, 1") + b"a" + NEXT, 400),
    "length list, different": (head(b"Content-Length: 1, 2") + b"a" + NEXT, 400),
    "length with plus": (head(b"Content-Length: +1") + b"a" + NEXT, 400),
    "length with minus": (head(b"Content-Length: -1") + b"a" + NEXT, 400),
    "length hexadecimal": (head(b"Content-Length: 0x1") + b"a" + NEXT, 400),
    "length with underscore": (head(b"Content-Length: 1_0") + b"a" * 10 + NEXT, 400),
    "length empty": (head(b"Content-Length:") + NEXT, 400),
    "length blank": (head(b"Content-Length:  ") + NEXT, 400),
    "length with a decimal point": (head(b"Content-Length: 1.0") + b"a" + NEXT, 400),
    "length with an exponent": (head(b"Content-Length: 1e0") + b"a" + NEXT, 400),
    "length with a suffix": (head(b"Content-Length: 1x") + b"a" + NEXT, 400),
    "length with inner blank": (head(b"Content-Length: 1 0") + b"a" * 10 + NEXT, 400),
    "length quoted": (head(b'Content-Length: "1"') + b"a" + NEXT, 400),
    "length with vertical tab": (head(b"Content-Length: 1\x0b") + b"a" + NEXT, 400),
    "length with form feed": (head(b"Content-Length: \x0c1") + b"a" + NEXT, 400),
    "length with no-break space": (head(b"Content-Length: \xa01") + b"a" + NEXT, 400),
    "length with next-line": (head(b"Content-Length: 1\x85") + b"a" + NEXT, 400),
    "length in Arabic digits": (head("Content-Length: ١".encode()) + b"a" + NEXT, 400),
    "length over 64 bits": (head(b"Content-Length: 18446744073709551617") + b"a" + NEXT, 400),
    "length over 63 bits": (head(b"Content-Length: 9223372036854775808") + b"a" + NEXT, 400),
    "length name with blank": (head(b"Content-Length : 1") + b"a" + NEXT, 400),
    "length name with tab": (head(b"Content-Length\t: 1") + b"a" + NEXT, 400),
    "length name behind blank": (head(b" Content-Length: 1") + b"a" + NEXT, 400),
    "length name behind NUL": (head(b"\x00Content-Length: 1") + b"a" + NEXT, 400),
    # -- length and coding
    "length then coding": (head(b"Content-Length: 5", CHUNKED[:-2]) + b"0\r\n\r\n" + NEXT, 400),
    "coding then length": (head(CHUNKED[:-2], b"Content-Length: 5") + b"0\r\n\r\n" + NEXT, 400),
    "coding with zero length": (head(CHUNKED[:-2], b"Content-Length: 0") + b"0\r\n\r\n" + NEXT, 400),
    # -- codings
    "coding identity": (head(b"Transfer-Encoding: identity") + NEXT, 400),
    "coding gzip": (head(b"Transfer-Encoding: gzip") + NEXT, 400),
    "coding gzip, chunked": (head(b"Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n" + NEXT, 400),
    "coding chunked, identity": (head(b"Transfer-Encoding: chunked, identity") + b"0\r\n\r\n" + NEXT, 400),
    "coding chunked, chunked": (head(b"Transfer-Encoding: chunked, chunked") + b"0\r\n\r\n" + NEXT, 400),
    "coding , chunked": (head(b"Transfer-Encoding: , chunked") + b"0\r\n\r\n" + NEXT, 400),
    "coding chunked,": (head(b"Transfer-Encoding: chunked,") + b"0\r\n\r\n" + NEXT, 400),
    "coding twice": (head(CHUNKED[:-2], CHUNKED[:-2]) + b"0\r\n\r\n" + NEXT, 400),
    "coding twice, second unknown": (head(CHUNKED[:-2], b"Transfer-Encoding: x") + b"0\r\n\r\n" + NEXT, 400),
    "coding twice, first unknown": (head(b"Transfer-Encoding: x", CHUNKED[:-2]) + b"0\r\n\r\n" + NEXT, 400),
    "coding xchunked": (head(b"Transfer-Encoding: xchunked") + b"0\r\n\r\n" + NEXT, 400),
    "coding chunkedx": (head(b"Transfer-Encoding: chunkedx") + b"0\r\n\r\n" + NEXT, 400),
    "coding chunked with parameter": (head(b"Transfer-Encoding: chunked;q=1") + b"0\r\n\r\n" + NEXT, 400),
    "coding quoted": (head(b'Transfer-Encoding: "chunked"') + b"0\r\n\r\n" + NEXT, 400),
    "coding empty": (head(b"Transfer-Encoding:") + b"0\r\n\r\n" + NEXT, 400),
    "coding behind vertical tab": (head(b"Transfer-Encoding: \x0bchunked") + b"0\r\n\r\n" + NEXT, 400),
    "coding behind no-break space": (head(b"Transfer-Encoding: \xa0chunked") + b"0\r\n\r\n" + NEXT, 400),
    "coding folded": (head(b"Transfer-Encoding:\r\n chunked") + b"0\r\n\r\n" + NEXT, 400),
    "coding name with blank": (head(b"Transfer-Encoding : chunked") + b"0\r\n\r\n" + NEXT, 400),
    "coding in HTTP/1.0": (b"POST / HTTP/1.0\r\n" + CHUNKED + b"\r\n0\r\n\r\n" + NEXT, 400),
    # -- chunks
    "chunk size hexadecimal prefix": (chunked(b"0x1\r\na\r\n0\r\n\r\n") + NEXT, 400),
    "chunk size with plus": (chunked(b"+1\r\na\r\n0\r\n\r\n") + NEXT, 400),
    "chunk size with minus": (chunked(b"-1\r\na\r\n0\r\n\r\n") + NEXT, 400),
    "chunk size with underscore": (chunked(b"1_0\r\n" + b"a" * 16 + b"\r\n0\r\n\r\n") + NEXT, 400),
    "chunk size empty": (chunked(b"\r\n\r\n") + NEXT, 400),
    "chunk size behind blank": (chunked(b" 1\r\na\r\n0\r\n\r\n") + NEXT, 400),
    "chunk size before blank": (chunked(b"1 \r\na\r\n0\r\n\r\n") + NEXT, 400),
    "chunk size not hexadecimal": (chunked(b"g\r\na\r\n0\r\n\r\n") + NEXT, 400),
    "chunk size prefix valid": (chunked(b"1z\r\na\r\n0\r\n\r\n") + NEXT, 400),
    "chunk size over 64 bits": (chunked(b"10000000000000001\r\na\r\n0\r\n\r\n") + NEXT, 400),
    "chunk size over 60 bits": (chunked(b"1000000000000000\r\na\r\n0\r\n\r\n") + NEXT, 400),
    "chunk size with many zeros": (chunked(b"0" * 40 + b"1\r\na\r\n0\r\n\r\n") + NEXT, 400),
    "chunk size ended by LF": (chunked(b"1\na\r\n0\r\n\r\n") + NEXT, 400),
    "chunk size ended by CR": (chunked(b"1\ra\r\n0\r\n\r\n") + NEXT, 400),
    "chunk data longer": (chunked(b"1\r\nab\r\n0\r\n\r\n") + NEXT, 400),
    "chunk data shorter": (chunked(b"3\r\na\r\n0\r\n\r\n") + NEXT, 400),
    "chunk data ended by LF": (chunked(b"1\r\na\n0\r\n\r\n") + NEXT, 400),
    "chunk data not ended": (chunked(b"1\r\na0\r\n\r\n") + NEXT, 400),
    "chunk extension with LF": (chunked(b"1;a\nb\r\na\r\n0\r\n\r\n") + NEXT, 400),
    "chunk extension with CR": (chunked(b"1;a\rb\r\na\r\n0\r\n\r\n") + NEXT, 400),
    "chunk extension with NUL": (chunked(b"1;a\x00b\r\na\r\n0\r\n\r\n") + NEXT, 400),
    "chunk extension endless": (chunked(b"1;" + b"a" * 5000 + b"\r\na\r\n0\r\n\r\n") + NEXT, 400),
    "chunk extensions many": (chunked((b"1;" + b"a" * 1000 + b"\r\na\r\n") * 100 + b"0\r\n\r\n") + NEXT, 400),
    "last chunk ended by LF": (chunked(b"0\n\r\n") + NEXT, 400),
    "trailers ended by LF": (chunked(b"0\r\n\n") + NEXT, 400),
    "trailer folded": (chunked(b"0\r\nA: b\r\n c\r\n\r\n") + NEXT, 400),
    "trailer without colon": (chunked(b"0\r\nA\r\n\r\n") + NEXT, 400),
    "trailer with blank before colon": (chunked(b"0\r\nA : b\r\n\r\n") + NEXT, 400),
    "trailer with NUL": (chunked(b"0\r\nA: \x00\r\n\r\n") + NEXT, 400),
    "trailers many": (chunked(b"0\r\n" + b"A: b\r\n" * 100 + b"\r\n") + NEXT, 431),
    "trailer endless": (chunked(b"0\r\nA: " + b"b" * 20000 + b"\r\n\r\n") + NEXT, 431),
    # -- line ends and blanks
    "LF everywhere": (b"GET / HTTP/1.1\nHost: h\n\n" + NEXT, 400),
    "LF after the request line": (b"GET / HTTP/1.1\nHost: h\r\n\r\n" + NEXT, 400),
    "LF after a field": (b"GET / HTTP/1.1\r\nHost: h\nX: y\r\n\r\n" + NEXT, 400),
    "LF before the blank line": (b"GET / HTTP/1.1\r\nHost: h\n\r\n" + NEXT, 400),
    "LF as the blank line": (b"GET / HTTP/1.1\r\nHost: h\r\n\n" + NEXT, 400),
    "LF before the request": (b"\nGET / HTTP/1.1\r\nHost: h\r\n\r\n" + NEXT, 400),
    "CR in a value": (b"GET / HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n" + NEXT, 400),
    "CR before CRLF": (b"GET / HTTP/1.1\r\nHost: h\r\r\n\r\n" + NEXT, 400),
    "CR as line end": (b"GET / HTTP/1.1\rHost: h\r\r" + NEXT, 400),
    "NUL in a value": (b"GET / HTTP/1.1\r\nHost: h\r\nX: a\x00b\r\n\r\n" + NEXT, 400),
    "NUL in a name": (b"GET / HTTP/1.1\r\nHost: h\r\nX\x00Y: a\r\n\r\n" + NEXT, 400),
    "NUL in the target": (b"GET /\x00 HTTP/1.1\r\nHost: h\r\n\r\n" + NEXT, 400),
    "control character in a value": (b"GET / HTTP/1.1\r\nHost: h\r\nX: a\x01b\r\n\r\n" + NEXT, 400),
    "DEL in a value": (b"GET / HTTP/1.1\r\nHost: h\r\nX: a\x7fb\r\n\r\n" + NEXT, 400),
    "obs-fold with blank": (b"GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n" + NEXT, 400),
    "obs-fold with tab": (b"GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n\tb\r\n\r\n" + NEXT, 400),
    "fold of the first field": (b"GET / HTTP/1.1\r\n X: a\r\nHost: h\r\n\r\n" + NEXT, 400),
    "blank before colon": (b"GET / HTTP/1.1\r\nHost : h\r\n\r\n" + NEXT, 400),
    "tab before colon": (b"GET / HTTP/1.1\r\nHost: h\r\nX\t: h\r\n\r\n" + NEXT, 400),
    "empty name": (b"GET / HTTP/1.1\r\nHost: h\r\n: x\r\n\r\n" + NEXT, 400),
    "no colon": (b"GET / HTTP/1.1\r\nHost: h\r\nX\r\n\r\n" + NEXT, 400),
    "name with non-ASCII": (b"GET / HTTP/1.1\r\nHost: h\r\nX\xff: x\r\n\r\n" + NEXT, 400),
    "name with parenthesis": (b"GET / HTTP/1.1\r\nHost: h\r\nX(: x\r\n\r\n" + NEXT, 400),
    "CR and anything before the request": (b"\rx" + NEXT, 400),
    "Host endless": (b"GET / HTTP/1.1\r\nHost: " + b"h" * 600 + b"\r\n\r\n" + NEXT, 400),
    "authority endless": (b"GET http://" + b"h" * 600 + b"/ HTTP/1.1\r\nHost: h\r\n\r\n" + NEXT, 400),
    "expectation unknown": (head(b"Expect: 100-continue, x", b"Content-Length: 1") + b"a" + NEXT, 417),
    "expectation twice": (head(b"Expect: 100-continue", b"Expect: x", b"Content-Length: 1") + b"a" + NEXT, 417),
    "blank lines many": (b"\r\n" * 3 + NEXT, 400),
    # -- request line
    "two blanks before the target": (b"GET  / HTTP/1.1\r\nHost: h\r\n\r\n" + NEXT, 400),
    "two blanks after the target": (b"GET /  HTTP/1.1\r\nHost: h\r\n\r\n" + NEXT, 400),
    "tab in the request line": (b"GET\t/ HTTP/1.1\r\nHost: h\r\n\r\n" + NEXT, 400),
    "blank after the version": (b"GET / HTTP/1.1 \r\nHost: h\r\n\r\n" + NEXT, 400),
    "blank before the method": (b" GET / HTTP/1.1\r\nHost: h\r\n\r\n" + NEXT, 400),
    "no version": (b"GET /\r\n\r\n" + NEXT, 400),
    "version 0.9": (b"GET / HTTP/0.9\r\nHost: h\r\n\r\n" + NEXT, 505),
    "version 1.2": (b"GET / HTTP/1.2\r\nHost: h\r\n\r\n" + NEXT, 400),
    "version 2.0": (b"GET / HTTP/2.0\r\nHost: h\r\n\r\n" + NEXT, 505),
    "version 1.10": (b"GET / HTTP/1.10\r\nHost: h\r\n\r\n" + NEXT, 400),
    "version in lower case": (b"GET / http/1.1\r\nHost: h\r\n\r\n" + NEXT, 400),
    "another protocol": (b"DESCRIBE / RTSP/1.0\r\nHost: h\r\n\r\n" + NEXT, 505),
    "unknown method": (b"FOO / HTTP/1.1\r\nHost: h\r\n\r\n" + NEXT, 501),
    "method in lower case": (b"get / HTTP/1.1\r\nHost: h\r\n\r\n" + NEXT, 501),
    "tunnel": (b"CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n" + NEXT, 405),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + NEXT, 505),
    "fragment": (b"GET /#a HTTP/1.1\r\nHost: h\r\n\r\n" + NEXT, 400),
    "target without slash": (b"GET x HTTP/1.1\r\nHost: h\r\n\r\n" + NEXT, 400),
    "asterisk for GET": (b"GET * HTTP/1.1\r\nHost: h\r\n\r\n" + NEXT, 400),
    "non-ASCII version": (b"GET / HTTP/1.\xb9\r\nHost: h\r\n\r\n" + NEXT, 400),
    "non-ASCII authority": (b"GET http://h\xff/ HTTP/1.1\r\nHost: h\r\n\r\n" + NEXT, 400),
    "absolute form with user": (b"GET http://u@h/ HTTP/1.1\r\nHost: h\r\n\r\n" + NEXT, 400),
    "absolute form of another scheme": (b"GET ftp://h/ HTTP/1.1\r\nHost: h\r\n\r\n" + NEXT, 400),
    "absolute form without host": (b"GET http:///x HTTP/1.1\r\nHost: h\r\n\r\n" + NEXT, 400),
    # -- Host
    "Host missing": (b"GET / HTTP/1.1\r\nX: y\r\n\r\n" + NEXT, 400),
    "Host twice": (b"GET / HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n" + NEXT, 400),
    "Host twice, equal": (b"GET / HTTP/1.1\r\nHost: h\r\nhost: h\r\n\r\n" + NEXT, 400),
    "Host list": (b"GET / HTTP/1.1\r\nHost: h, i\r\n\r\n" + NEXT, 400),
    "Host with blank": (b"GET / HTTP/1.1\r\nHost: h i\r\n\r\n" + NEXT, 400),
    "Host with path": (b"GET / HTTP/1.1\r\nHost: h/x\r\n\r\n" + NEXT, 400),
    "Host with user": (b"GET / HTTP/1.1\r\nHost: u@h\r\n\r\n" + NEXT, 400),
    "Host with non-ASCII": (b"GET / HTTP/1.1\r\nHost: h\xff\r\n\r\n" + NEXT, 400),
    "Host with port of letters": (b"GET / HTTP/1.1\r\nHost: h:x\r\n\r\n" + NEXT, 400),
    # -- limits
    "request line too long": (b"GET /" + b"x" * 16384 + b" HTTP/1.1\r\nHost: h\r\n\r\n" + NEXT, 414),
    "fields too many": (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"X: y\r\n" * 128 + b"\r\n" + NEXT, 431),
    "head too large": (b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"y" * 65536 + b"\r\n\r\n" + NEXT, 431),
    "head that never ends": (b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"y" * 70000, 431),
    "request line that never ends": (b"GET /" + b"y" * 17000, 414),
    "no HTTP at all": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello", 400),
}

PASSED: dict[str, tuple[bytes, int]] = {
    "plain": (NEXT, 1),
    "two": (NEXT + NEXT, 2),
    "one blank line before": (b"\r\n" + NEXT, 1),
    "a blank line too many behind a body": (head(b"Content-Length: 1") + b"a\r\n" + NEXT, 2),
    "length with leading zeros": (head(b"Content-Length: 001") + b"a" + NEXT, 2),
    "length with blanks around": (head(b"Content-Length:   1  ") + b"a" + NEXT, 2),
    "length with tab": (head(b"Content-Length:\t1\t") + b"a" + NEXT, 2),
    "length zero": (head(b"Content-Length: 0") + NEXT, 2),
    "GET with a body": (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nGET /" + NEXT, 2),
    "body that looks like a request": (head(b"Content-Length: %d" % len(NEXT)) + NEXT + NEXT, 2),
    "length near miss of a name": (head(b"Content-Lengt: 5", b"Content_Length: 6", b"XContent-Length: 7") + NEXT, 2),
    "coding near miss of a name": (head(b"Transfer_Encoding: chunked", b"XTransfer-Encoding: chunked") + NEXT, 2),
    "coding in capitals": (head(b"TRANSFER-ENCODING: Chunked") + b"1\r\na\r\n0\r\n\r\n" + NEXT, 2),
    "chunks in capitals and with zeros": (chunked(b"00A\r\n0123456789\r\n0000\r\n\r\n") + NEXT, 2),
    "chunk extensions": (chunked(b'1;a=b;c="d e"\r\na\r\n0;z\r\n\r\n') + NEXT, 2),
    "chunk body that looks like a request": (chunked(b"%x\r\n" % len(NEXT) + NEXT + b"\r\n0\r\n\r\n") + NEXT, 2),
    "trailers": (chunked(b"1\r\na\r\n0\r\nX: y\r\n\r\n") + NEXT, 2),
    "trailers that would frame": (chunked(b"0\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n") + NEXT, 2),
    "Connection names the framing": (
        head(b"Connection: content-length, host, transfer-encoding", b"Content-Length: 1") + b"a" + NEXT,
        2,
    ),
    "Connection names a coding": (
        START + H + b"Connection: transfer-encoding\r\n" + CHUNKED + b"\r\n1\r\na\r\n0\r\n\r\n" + NEXT,
        2,
    ),
    "empty Host": (b"GET / HTTP/1.1\r\nHost:\r\n\r\n" + NEXT, 2),
    "Host with port": (b"GET / HTTP/1.1\r\nHost: h:80\r\n\r\n" + NEXT, 2),
    "IPv6 Host": (b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n" + NEXT, 2),
    "absolute form against Host": (b"GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n" + NEXT, 2),
    "non-ASCII target": (b"GET /\xff?\xa0=\x85 HTTP/1.1\r\nHost: h\r\n\r\n" + NEXT, 2),
    "values with obs-text": (b"GET / HTTP/1.1\r\nHost: h\r\nX: \xff\xa0\r\n\r\n" + NEXT, 2),
    "empty values": (b"GET / HTTP/1.1\r\nHost: h\r\nX:\r\nY: \r\n\r\n" + NEXT, 2),
    "as many fields as allowed": (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"X: y\r\n" * 127 + b"\r\n" + NEXT, 2),
    "as long a target as allowed": (b"GET /" + b"x" * (16384 - 14) + b" HTTP/1.1\r\nHost: h\r\n\r\n" + NEXT, 2),
    "nothing behind Connection: close": (head(b"Connection: close", b"Content-Length: 0") + NEXT, 1),
    "nothing behind HTTP/1.0": (b"GET / HTTP/1.0\r\n\r\n" + NEXT, 1),
    "upgrade with a body": (
        head(b"Connection: upgrade", b"Upgrade: x", b"Content-Length: %d" % len(NEXT)) + NEXT + NEXT,
        2,
    ),
    "asterisk for OPTIONS": (b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n" + NEXT, 2),
}

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def converse(relay: Relay, data: bytes, step: int) -> None:
    """Feed everything, answering each request as soon as it has arrived."""
    answered = 0

    def answer() -> None:
        nonlocal answered
        while len(relay.exchanges) > answered and relay.exchanges[-1].body_done and not relay.exchanges[-1].done:
            answered += 1
            relay.up.answers(ANSWER)

    for at in range(0, len(data), step):
        if relay.over:
            break
        relay.says(data[at : at + step])
        answer()


def requests_according_to_h11(data: bytes) -> list[tuple[bytes, bytes, bytes]]:
    """(method, target, body) of every request in the bytes."""
    found: list[tuple[bytes, bytes, bytes]] = []
    if not data:
        return found
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=200_000)
    connection.receive_data(data)
    body = b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            assert connection.trailing_data[0] == b"", "h11 sees the beginning of something more"
            return found
        if isinstance(event, h11.Request):
            request, body = event, b""
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            found.append((request.method, request.target, body))
            connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
            connection.send(h11.EndOfMessage())
            connection.start_next_cycle()
        else:
            raise AssertionError(f"h11 does not go on: {event}")


@pytest.mark.parametrize("step", [1 << 20, 1], ids=["at once", "byte by byte"])
@pytest.mark.parametrize(("data", "status"), REFUSED.values(), ids=REFUSED)
async def test_refused(make_relay: Callable[..., Relay], data: bytes, status: int, step: int) -> None:
    relay = make_relay()
    converse(relay, data, step)
    assert relay.status == status
    assert relay.over
    assert all(exchange.done for exchange in relay.exchanges)
    assert relay.answer.count(b"HTTP/1.1 ") == 1
    for up in relay.ups:  # a body may be found bad after its head was passed on: then the upstream never gets its end
        assert up.wire.aborted
        assert b"/next" not in up.got.split(b"\r\n\r\n")[0]


@pytest.mark.parametrize("step", [1 << 20, 1], ids=["at once", "byte by byte"])
@pytest.mark.parametrize(("data", "count"), PASSED.values(), ids=PASSED)
async def test_passed_in_one_reading(make_relay: Callable[..., Relay], data: bytes, count: int, step: int) -> None:
    relay = make_relay()
    converse(relay, data, step)
    seen = [request for up in relay.ups for request in requests_according_to_h11(up.got)]
    assert len(relay.exchanges) == count
    assert [(method, target) for method, target, _ in seen] == [
        (exchange.method, exchange.target) for exchange in relay.exchanges
    ]
    assert [len(body) for _, _, body in seen] == [exchange.bytes_in for exchange in relay.exchanges]
    assert relay.answer.count(b"HTTP/1.1 200 OK\r\n") == count
