"""Between HTTP/2 header lists and the heads that the proxies work with (`kncore.net.heads`), both ways.

Reading judges a message as RFC 9113 §8 does, and as strictly as HTTP/1 is judged here: whatever passes can be written
as HTTP/1.1 and is understood there as it was here. What has a shape that HTTP/1 lacks is brought into its shape:
`:authority` and `Host` must agree and become `host`, crumbs of `cookie` are joined, `te` may say `trailers` only, a
length is digits, stands there once, and is what the DATA frames bring (the codec counts). An extended CONNECT (RFC
8441) becomes what HTTP/1 has for it: a GET that offers an upgrade.

Writing makes header blocks without table state (`kncore.net.http2.compression`), from lines in any spelling; fields
that HTTP/2 does not know are left out.

For the side of upstreams: `request_block` writes, `read_response` reads heads of final and interim answers (a 1xx
other than 101 is followed by another), `read_trailers` the trailer section; `response_block` and `read_request` are
their counterparts towards clients. All are pure and may be cached by their arguments.

Trust: hardened against both peers. A malformed message is a `StreamFault`; one that is well-formed but not served is a
    `BadMessage` with the status to answer.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

from kncore.net.errors import BadMessage
from kncore.net.headers import NO_TRAILER, is_lookalike, value_of
from kncore.net.heads import DEFAULT_LIMITS, REASONS, RequestHead, RequestLimits, ResponseHead
from kncore.net.http2.compression import STATUS_FIELDS, Field, encode, literal
from kncore.net.http2.frames import Code, StreamFault

__all__ = [
    "read_call",
    "read_request",
    "read_response",
    "read_trailers",
    "request_block",
    "response_block",
    "trailer_block",
]

TRAILERS: Final = 64
"""Fields in a trailer section."""
_FORBIDDEN: Final = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})
"""Of one hop of HTTP/1 (RFC 9113 §8.2.2)."""
_REQUEST_PSEUDO: Final = frozenset({b":authority", b":method", b":path", b":protocol", b":scheme"})
_METHODS: Final = frozenset(
    b"ACL BIND CHECKOUT COPY DELETE GET HEAD LINK LOCK M-SEARCH MERGE MKACTIVITY MKCALENDAR MKCOL MOVE NOTIFY OPTIONS "
    b"PATCH POST PROPFIND PROPPATCH PURGE PUT QUERY REBIND REPORT SEARCH SOURCE SUBSCRIBE TRACE UNBIND UNLINK UNLOCK "
    b"UNSUBSCRIBE".split()
)
"""What llhttp knows, and with it the next hop of HTTP/1."""
_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}")
_HOST: Final = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+;=%-]+)(?::[0-9]{0,5})?")
_HOST_BYTES: Final = 512
_PATH: Final = re.compile(rb"/[!-\"$-~\x80-\xff]*")
"""Origin form, no fragment; bytes that should have been percent-encoded are, as in HTTP/1."""
_NOT_ASCII: Final = re.compile(rb"[\x80-\xff]")
_SCHEMES: Final = frozenset({b"http", b"https"})
_WITH_BODY: Final = frozenset({b"PATCH", b"POST", b"PUT"})
"""Methods that say so in HTTP/1 if they have no body (RFC 9110 §8.6)."""
_NO_BODY: Final = b"content-length: 0"
_NO_NAMES: Final = frozenset({b"expect"})
TIMEOUT: Final = b"grpc-timeout"
_KNOWN: Final = 64
"""Heads of one connection that are kept to be recognised but for their timeouts."""
_KNOWN_BYTES: Final = 2048
"""Header lists up to this size are."""


def _malformed(why: str) -> StreamFault:
    return StreamFault(Code.PROTOCOL_ERROR, why)


def read_call(
    fields: Sequence[Field], known: dict[tuple[bytes, ...], RequestHead], *, limits: RequestLimits = DEFAULT_LIMITS
) -> RequestHead:
    """`read_request` for a head with a body, where heads may differ in `grpc-timeout` alone.

    gRPC's clients say in every call how long they still wait. No two heads are the same then; but for that, they are.

    Args:
        known: heads of this connection, kept and bounded here.
    """
    key = tuple([field.line for field in fields if field.name != TIMEOUT])
    if len(key) != len(fields) - 1:
        return read_request(fields, ended=False, limits=limits)
    head = known.get(key)
    if head is not None:
        [timeout] = [field for field in fields if field.name == TIMEOUT]
        if timeout.sound:
            return head.but(TIMEOUT, timeout.line)
    head = read_request(fields, ended=False, limits=limits)
    if sum([field.size for field in fields]) <= _KNOWN_BYTES and not (head.repeated or head.named or head.upgrade):
        if len(known) >= _KNOWN:
            known.clear()
        known[key] = head
    return head


def read_request(fields: Sequence[Field], *, ended: bool, limits: RequestLimits = DEFAULT_LIMITS) -> RequestHead:
    """The request head in a header list.

    Args:
        ended: the stream ended with it, there is no body.

    Returns:
        the head; `length` is -1 for a body of unknown length. For an extended CONNECT the method is GET and `upgrade`
        says the protocol.

    Raises:
        StreamFault: malformed.
        BadMessage: not served; `verdict` is the status to answer.
    """
    pseudo: dict[bytes, bytes] = {}
    found: dict[bytes, bytes] = {}
    lines: list[bytes] = []
    cookies: list[bytes] = []
    repeated = False
    for name, value, line, _, sound in fields:
        if not sound:
            raise _malformed("malformed header field")
        if name[0] == 58:
            if found or cookies or name not in _REQUEST_PSEUDO or name in pseudo:
                raise _malformed("pseudo-header out of place, unknown or repeated")
            pseudo[name] = value
        elif name == b"cookie":
            cookies.append(value)
        elif name in found:
            repeated = True
            found[name] += b", " + value
            lines.append(line)
        else:
            found[name] = line
            lines.append(line)
    if not _FORBIDDEN.isdisjoint(found):
        raise _malformed("connection-specific header field")
    if cookies:
        line = b"cookie: " + b"; ".join(cookies)
        found[b"cookie"] = line
        lines.append(line)

    head = RequestHead()
    _read_pseudo(head, pseudo, found, limits)
    head.repeated = repeated
    head.fields = found
    head.lines = lines
    if len(lines) > limits.head_lines:
        raise BadMessage("request header fields too large", 431)
    if b"te" in found and value_of(found[b"te"]).lower() != b"trailers":
        raise _malformed("TE other than trailers")
    _read_length(head, found, lines, ended)
    line = found.get(b"expect", b"")
    if line:
        if value_of(line).lower() != b"100-continue":
            raise BadMessage("unknown expectation", 417)
        if not head.length:
            head.named = _NO_NAMES  # nothing to hold back (RFC 9110 §10.1.1)
    if twins := [name for name in found if b"_" in name and is_lookalike(name)]:
        head.named = frozenset((*head.named, *twins))
    return head


def _read_pseudo(
    head: RequestHead, pseudo: dict[bytes, bytes], found: dict[bytes, bytes], limits: RequestLimits
) -> None:
    """Method, target and host."""
    method = pseudo.get(b":method", b"")
    protocol = pseudo.get(b":protocol")
    if protocol is not None and (method != b"CONNECT" or _TOKEN.fullmatch(protocol) is None):
        raise _malformed("malformed :protocol")
    if method == b"CONNECT" and protocol is None:
        if b":authority" not in pseudo or b":path" in pseudo or b":scheme" in pseudo:
            raise _malformed("malformed CONNECT")
        raise BadMessage("CONNECT is not served here", 405)
    if not method or b":path" not in pseudo or pseudo.get(b":scheme", b"").lower() not in _SCHEMES:
        raise _malformed("missing or malformed pseudo-header")
    if method not in _METHODS and protocol is None:
        if _TOKEN.fullmatch(method) is None or method == b"PRI":
            raise _malformed("malformed method")
        raise BadMessage("unknown method", 501)

    path = pseudo[b":path"]
    if len(path) > limits.line_bytes - len(method) - 10:  # as HTTP/1 counts it
        raise BadMessage("request target too long", 414)
    if _PATH.fullmatch(path) is None and (path != b"*" or method != b"OPTIONS"):
        raise _malformed("malformed :path")
    if not path.isascii():
        path = _NOT_ASCII.sub(lambda byte: b"%%%02X" % byte[0][0], path)

    host = pseudo.get(b":authority")
    line = found.get(b"host")
    if line is not None:
        said = value_of(line)
        if host is not None and host.lower() != said.lower():
            raise _malformed(":authority and Host differ")
        host = said if host is None else host
    if host is None or len(host) > _HOST_BYTES or _HOST.fullmatch(host) is None:  # a repeated Host has a comma by now
        raise _malformed("missing or malformed authority")
    if protocol is not None:
        method = b"GET"
        head.upgrade = protocol
    head.method = method
    head.target = path
    head.host = host
    head.start = b"%b %b HTTP/1.1" % (method, path)


def _read_length(head: RequestHead, found: dict[bytes, bytes], lines: list[bytes], ended: bool) -> None:
    """Whether there is a body, and how long it will be."""
    line = found.get(b"content-length")
    if head.upgrade:
        if line is not None:
            raise _malformed("content-length in an extended CONNECT")
        return  # what follows is the tunnel's
    if line is not None:
        head.length = _content_length(line)
        if ended and head.length:
            raise _malformed("a body shorter than its content-length")
    elif not ended:
        head.length = -1
    elif head.method in _WITH_BODY:
        found[b"content-length"] = _NO_BODY
        lines.append(_NO_BODY)


def _content_length(line: bytes) -> int:
    value = value_of(line)
    if not value.isdigit() or len(value) > 18:
        raise _malformed("malformed content-length")
    return int(value)


def read_response(fields: Sequence[Field]) -> ResponseHead:
    """The response head in a header list.

    Raises:
        StreamFault: malformed.
    """
    head = ResponseHead()
    status = b""
    lines: list[bytes] = []
    head.length = -1
    for name, value, line, _, sound in fields:
        if not sound:
            raise _malformed("malformed header field")
        if name[0] == 58:
            if name != b":status" or status or lines:
                raise _malformed("pseudo-header out of place, unknown or repeated")
            status = value
        elif name in _FORBIDDEN:
            raise _malformed("connection-specific header field")
        elif name == b"content-length":
            if head.length >= 0:
                raise _malformed("repeated content-length")
            head.length = _content_length(line)
        elif name not in _NOT_PASSED:
            lines.append(line)
    if len(status) != 3 or not status.isdigit() or status[0] == 48 or status == b"101":
        raise _malformed("missing or malformed :status")
    head.status = int(status)
    head.reason = REASONS.get(head.status, b"")
    head.lines = lines
    head.chunked = False
    head.keep_alive = True
    head.upgrade = b""
    return head


_NOT_PASSED: Final = frozenset({b"http2-settings", b"proxy-authenticate", b"proxy-authorization", b"te"})


def read_trailers(fields: Sequence[Field]) -> list[bytes]:
    """The trailer lines in a header list, those that may be passed on.

    Raises:
        StreamFault: malformed.
    """
    lines: list[bytes] = []
    for name, _, line, _, sound in fields:
        if not sound or name[0] == 58 or name in _FORBIDDEN:
            raise _malformed("malformed trailer")
        if name not in NO_TRAILER:
            lines.append(line)
    if len(lines) > TRAILERS:
        raise _malformed("too many trailers")
    return lines


def response_block(status: int, length: int, lines: Iterable[bytes]) -> bytes:
    """The header block of an answer; `length` below 0 says none."""
    block = STATUS_FIELDS.get(status) or _status(status)
    if length >= 0:
        return b"%b%b%b" % (block, encode(lines), _length(length))
    return block + encode(lines)


def request_block(method: bytes, scheme: bytes, authority: bytes, target: bytes, lines: Iterable[bytes]) -> bytes:
    """The header block of a request; `lines` without `Host`, and with `te: trailers` if trailers are wanted."""
    return b"%b%b%b" % (_method(method, scheme), _place(authority, target), encode(lines))


def trailer_block(lines: Iterable[bytes]) -> bytes:
    """The header block of a trailer section."""
    return encode(lines)


@lru_cache(maxsize=1024)
def _status(status: int) -> bytes:
    return literal(b":status", b"%d" % status)


@lru_cache(maxsize=512)
def _length(length: int) -> bytes:
    return literal(b"content-length", b"%d" % length)


@lru_cache(maxsize=64)
def _method(method: bytes, scheme: bytes) -> bytes:
    made = {b"GET": b"\x82", b"POST": b"\x83"}.get(method) or literal(b":method", method)
    return made + (b"\x86" if scheme == b"http" else b"\x87")


def _place(authority: bytes, target: bytes) -> bytes:
    if len(authority) + len(target) <= 256:
        return _short_place(authority, target)
    return literal(b":authority", authority) + literal(b":path", target)


@lru_cache(maxsize=512)
def _short_place(authority: bytes, target: bytes) -> bytes:
    return literal(b":authority", authority) + literal(b":path", target)
