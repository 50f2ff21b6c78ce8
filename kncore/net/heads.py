"""Message heads: what a codec understood of one. The reading of HTTP/1 heads is here too, pure: bytes in, a head out.

A head is read in two ways that must agree. llhttp (httptools) judges the bytes in strict mode; it is asked for its
verdict only and calls nothing back. Each head gets a parser of its own, which takes a quarter of a microsecond: one
that is kept remembers the head before, and is half of what an idle connection holds. Then the same bytes are split into
lines, and what llhttp lets through is checked here: double spaces and other versions in the first line, codings other
than `chunked`, `Transfer-Encoding` in HTTP/1.0, a repeated or odd `Host`, lengths, and the limits.

Heads are never changed once made, so a codec may keep the last one and use it again when the same bytes come: clients
and apps repeat themselves, and comparing is cheaper than reading.

Trust: hardened against both peers. Whatever passes contains no CR, LF or NUL inside a line, and says where its body
    ends in one way only.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import httptools

from kncore.net.errors import BadMessage
from kncore.net.headers import FRAMING, HOP_BY_HOP, is_lookalike, options, value_of

__all__ = [
    "DEFAULT_LIMITS",
    "REASONS",
    "RESPONSE_BYTES",
    "SILENT",
    "RequestHead",
    "RequestLimits",
    "ResponseHead",
    "read_request",
    "read_response",
]

REASONS: Final[Mapping[int, bytes]] = {status.value: status.phrase.encode() for status in HTTPStatus}


class RequestLimits(NamedTuple):
    """Bounds of a request head (DESIGN.md §5)."""

    head_bytes: int = 64 * 1024
    """Request line and fields together; more is answered 431."""
    head_lines: int = 128
    """More fields are answered 431."""
    line_bytes: int = 16 * 1024
    """A longer request line is answered 414."""


DEFAULT_LIMITS: Final = RequestLimits()
RESPONSE_BYTES: Final = 64 * 1024
RESPONSE_LINES: Final = 256
HOST_BYTES: Final = 512
"""Twice the longest name of DNS, with a port: names become keys of caches, which bound their number, not their size."""
STATUS_LINE_BYTES: Final = 1024
"""Of a cached line, too."""

_HOST: Final = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+;=%-]*)(?::[0-9]*)?")
_ABSOLUTE: Final = re.compile(rb"(?i:https?)://([^/?#]*)(.*)", re.DOTALL)
_NOT_ASCII: Final = re.compile(rb"[\x80-\xff]")
_RAW_TARGET: Final = re.compile(rb"([!-~]+ /)([!-~\x80-\xff]*) HTTP/1\.[01]")
_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32} ")
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t -~\x80-\xff]*))?")
_SETTINGS: Final = re.compile(rb"(?i:http2-settings):[ \t]*(?:[A-Za-z0-9_-]{8})*=*[ \t]*")
"""Six bytes a setting, in base64url (RFC 7540 §3.2.1)."""
_NOT_PASSED: Final = HOP_BY_HOP | {b"content-length"}
_NO_NAMES: Final = frozenset(
    {b"close", b"keep-alive", b"te", b"upgrade", b"host", b"content-length", b"http2-settings"}
)
_SLASH, _HASH, _UNDERSCORE = b"/#_"
"""Numbers, for looking for bytes in bytes raises and catches an exception inside: 205 ns instead of 20."""
_KEEP_ALIVE: Final = b"Connection: keep-alive"
_BODILESS: Final = frozenset({*range(100, 200), 204, 304})
"""Statuses whose `Content-Length`, if there is one, announces nothing."""


class Silent:
    """Makes llhttp judge without making objects: a parser for it finds no callbacks."""


SILENT: Final = Silent()


class RequestHead:
    """A request head, understood."""

    __slots__ = (
        "fields",
        "host",
        "http2",
        "keep_alive",
        "length",
        "lines",
        "method",
        "named",
        "old",
        "plan",
        "repeated",
        "sent",
        "start",
        "target",
        "upgrade",
        "written",
    )

    method: bytes
    target: bytes
    """Origin form (`/path?query`) or `*`; the authority of an absolute-form target is in `host`."""
    host: bytes
    """Authority: `Host`, or what an absolute-form target says; may be empty and may carry a port."""
    start: bytes
    """The request line to send on, HTTP/1.1."""
    fields: Mapping[bytes, bytes]
    """Lower-case name -> line; of a repeated field the values, joined by commas."""
    lines: Sequence[bytes]
    """Every header line as received, without line ends."""
    repeated: bool
    """Some field occurs more than once, so `fields` and `lines` differ."""
    named: Collection[bytes]
    """Fields that `Connection` names, and the like: not for the next hop."""
    length: int
    """Bytes of body to come; 0 none, -1 unknown (chunked)."""
    upgrade: bytes
    """Protocol the client offers to switch to, empty for none."""
    http2: bool
    """The client offers to go on in HTTP/2 (`h2c`, with its settings)."""
    keep_alive: bool
    """The client may send another request on the connection."""
    old: bool
    """HTTP/1.0: no chunked coding, no interim answers."""

    sent: Any
    """What an HTTP/2 upstream's codec made of it (but for `grpc-timeout`), and of what."""
    written: tuple[bytes, Collection[bytes], Sequence[bytes], bytes] | None
    """What `onward` made of it last, and of what."""
    plan: Any
    """What a proxy's layers derived from the head alone (and the client's address), None until they did: heads
    repeat."""

    def __init__(self) -> None:
        self.host = b""
        self.repeated = False
        self.named = ()
        self.length = 0
        self.upgrade = b""
        self.http2 = False
        self.keep_alive = True
        self.old = False
        self.sent = None
        self.written = None
        self.plan = None

    def but(self, name: bytes, line: bytes) -> "RequestHead":
        """The same head with another value of a field that nothing was derived from; for plain heads of HTTP/2, with no
        field twice and none for one hop only.

        Args:
            name: in lower case.
            line: the field as a line.
        """
        made = RequestHead()
        made.method = self.method
        made.target = self.target
        made.host = self.host
        made.start = self.start
        made.fields = {**self.fields, name: line}
        lines = made.lines = [*self.lines]
        lines[lines.index(self.fields[name])] = line
        made.length = self.length
        made.sent = self.sent
        made.plan = self.plan
        return made

    def onward(self, authority: bytes, drop: Collection[bytes], add: Sequence[bytes]) -> bytes:
        """The head for an upstream that speaks HTTP/1, whole.

        The last one is kept: a head that comes again mostly goes the same way, with the very same objects here
        (putting it together takes 0.8 us, recognising it 0.1).

        Args:
            drop: lower-case names not to pass on, besides those that `Connection` names.
            add: lines to add.
        """
        kept = self.written
        if kept is not None and kept[0] is authority and kept[1] is drop and kept[2] is add:
            return kept[3]
        lines = [self.start, b"Host: " + authority, *self.passing(drop), *add]
        if self.length < 0:
            lines.append(b"Transfer-Encoding: chunked")
        elif self.upgrade:
            lines += b"Connection: Upgrade", b"Upgrade: " + self.upgrade
        lines += b"", b""
        made = b"\r\n".join(lines)
        self.written = authority, drop, add, made
        return made

    def passing(self, drop: Collection[bytes]) -> list[bytes]:
        """The lines to pass on: all but the fields in `drop` and those that `Connection` names."""
        if self.named:
            drop = frozenset((*drop, *self.named))
        if self.repeated:
            return [line for line in self.lines if line.partition(b":")[0].lower() not in drop]
        return [line for name, line in self.fields.items() if name not in drop]


def read_request(head: bytes, limits: RequestLimits = DEFAULT_LIMITS) -> RequestHead:
    """The request head in `head`, which ends with its only blank line.

    Raises:
        BadMessage: refused; `verdict` is the status to answer.
    """
    lines = head[:-4].split(b"\r\n")
    start = lines.pop(0)
    head_bytes, head_lines, line_bytes = limits
    if len(start) > line_bytes:
        raise BadMessage("request line too long", 414)
    if len(head) > head_bytes or len(lines) > head_lines:
        raise BadMessage("request header fields too large", 431)
    if not start.isascii() and (raw := _RAW_TARGET.fullmatch(start)) is not None:
        head = raw[1] + _NOT_ASCII.sub(_percent, raw[2]) + head[raw.end(2) :]
        start = head[: head.index(b"\r")]
    try:
        httptools.HttpRequestParser(SILENT).feed_data(head)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserInvalidMethodError:
        raise BadMessage("unknown method", 501 if _TOKEN.match(start) else 400) from None
    except httptools.HttpParserError as exc:
        raise BadMessage(str(exc)) from None
    words = start.split(b" ")
    if len(words) != 3 or start[0] < 33:
        raise BadMessage("malformed request line")

    made = RequestHead()
    made.start = start
    method, target, version = words
    made.method = method
    made.target = target
    made.lines = lines
    made.fields = fields = {line.partition(b":")[0].lower(): line for line in lines}
    if len(fields) != len(lines):
        made.repeated = True
        made.fields = fields = _joined(lines)
    if version != b"HTTP/1.1":
        if version != b"HTTP/1.0":
            raise BadMessage("HTTP version not supported", 505)
        made.old = True
        made.keep_alive = False
        made.start = start[:-1] + b"1"
    if b"host" in fields:
        made.host = _read_host(fields[b"host"])  # a repeated Host has a comma by now
    elif not made.old:
        raise BadMessage("missing Host")
    if target[0] != _SLASH or _HASH in target or method == b"CONNECT":
        _read_target(made)
    if not FRAMING.isdisjoint(fields):
        _read_framing(made)
    # Many a value has an underscore, hardly a name has one: looked for in all names at once (1.6 us less).
    underscored = _UNDERSCORE in head and _UNDERSCORE in b"".join(fields)
    if underscored and (twins := [name for name in fields if _UNDERSCORE in name and is_lookalike(name)]):
        made.named = frozenset((*made.named, *twins))
    return made


def _percent(found: re.Match[bytes]) -> bytes:
    """A byte of a target in the form it should have had: curl sends raw what was typed, and other servers take it. Sent
    on like this it leaves no second parser in doubt.
    """
    return b"%%%02X" % found[0][0]


def _joined(lines: list[bytes]) -> dict[bytes, bytes]:
    """Lower-case name -> line, with the values of repeated fields joined by commas."""
    fields: dict[bytes, bytes] = {}
    for line in lines:
        name = line.partition(b":")[0].lower()
        fields[name] = fields[name] + b", " + value_of(line) if name in fields else line
    return fields


def _read_target(head: RequestHead) -> None:
    """Absolute and asterisk form."""
    target = head.target
    if head.method == b"CONNECT":
        raise BadMessage("CONNECT is not served here", 405)
    if target == b"*" and head.method == b"OPTIONS":
        return
    found = _ABSOLUTE.fullmatch(target)
    if b"#" in target or found is None or not 0 < len(found[1]) <= HOST_BYTES or not _HOST.fullmatch(found[1]):
        raise BadMessage("malformed request target")
    head.host = found[1]
    head.target = found[2] if found[2].startswith(b"/") else b"/" + found[2]
    head.start = b"%b %b HTTP/1.1" % (head.method, head.target)


def _read_framing(head: RequestHead) -> None:
    """Where the body ends, and what becomes of the connection."""
    fields = head.fields
    chosen: Collection[bytes] = ()
    line = fields.get(b"connection")
    if line is not None and (line != _KEEP_ALIVE or head.old):
        chosen = options(value_of(line))
        if b"close" in chosen:
            head.keep_alive = False
        elif b"keep-alive" in chosen:
            head.keep_alive = True
        head.named = frozenset(chosen) - _NO_NAMES
    coding = fields.get(b"transfer-encoding")
    line = fields.get(b"content-length")
    if coding is not None:
        if line is not None:
            raise BadMessage("Transfer-Encoding with Content-Length")
        if head.old:
            raise BadMessage("Transfer-Encoding in HTTP/1.0")
        if value_of(coding).lower() != b"chunked":
            raise BadMessage("unknown transfer coding")
        head.length = -1
    elif line is not None:
        head.length = content_length(line)
    line = fields.get(b"expect")
    if line is not None:
        if value_of(line).lower() != b"100-continue":
            raise BadMessage("unknown expectation", 417)
        if head.old or not head.length:
            # nothing to hold back (RFC 9110 §10.1.1); an app that answers it nevertheless would be out of step
            head.named = frozenset((*head.named, b"expect"))
    if b"upgrade" in chosen and not head.old and head.length == 0:
        # an offer of h2c is for us, not for the upstream: passed on, it would open a connection past all our rules
        offered = value_of(fields.get(b"upgrade", b""))
        if b"h2c" in options(offered):
            head.http2 = (
                b"http2-settings" in chosen and _SETTINGS.fullmatch(fields.get(b"http2-settings", b"")) is not None
            )
        else:
            head.upgrade = offered


def content_length(line: bytes) -> int:
    """The number in a `Content-Length` line.

    Raises:
        BadMessage: anything but 1 to 18 ASCII digits.
    """
    value = line[15:].strip(b" \t")
    if not value.isdigit() or len(value) > 18:
        raise BadMessage("bad Content-Length")
    return int(value)


class ResponseHead:
    """A response head, understood."""

    __slots__ = ("chunked", "keep_alive", "length", "lines", "reason", "status", "upgrade", "written")

    status: int
    reason: bytes
    lines: Sequence[bytes]
    """What may be passed on: no framing, nothing hop-by-hop."""
    length: int
    """What `Content-Length` says, -1 without one."""
    chunked: bool
    keep_alive: bool
    """The connection can carry another exchange once the body has ended, if it ends by itself."""
    upgrade: bytes
    """Protocol of a 101, as a line."""
    written: bytes | None
    """What `onward` made of it."""

    def __init__(self) -> None:
        self.written = None

    def onward(self) -> bytes:
        """The head for a client that speaks HTTP/1.1, whole, if nothing but the answer itself decides what it says: a
        body of known length, and a connection that goes on. Else empty. Kept, for heads repeat.
        """
        if self.length < 0 or self.status in _BODILESS:
            self.written = b""
        else:
            start = b"HTTP/1.1 %d %b" % (self.status, self.reason)
            self.written = b"\r\n".join((start, *self.lines, b"Content-Length: %d" % self.length, b"", b""))
        return self.written


def read_response(head: bytes) -> ResponseHead:
    """The response head in `head`, which ends with its only blank line and which llhttp has judged or will judge.

    Raises:
        BadMessage: not to be passed on.
    """
    lines = head[:-4].split(b"\r\n")
    if len(lines) > RESPONSE_LINES or len(head) > RESPONSE_BYTES:
        raise BadMessage("response header fields too large")
    start = lines[0]
    made = ResponseHead()
    if len(start) > STATUS_LINE_BYTES:
        raise BadMessage("status line too long")
    made.status, made.reason, http11 = _read_start(start)
    made.lines = passed = []
    made.length = -1
    made.chunked = False
    made.keep_alive = http11
    made.upgrade = b""
    special: dict[bytes, bytes] | None = None
    del lines[0]
    for line in lines:
        name = line.partition(b":")[0].lower()
        if name not in _NOT_PASSED:
            passed.append(line)
        elif special is None:
            special = {name: line}
        elif name in special:
            special[name] += b", " + value_of(line)
        else:
            special[name] = line
    if special is not None:
        line = special.get(b"content-length", b"")
        if line:
            made.length = content_length(line)
        coding = special.get(b"transfer-encoding")
        if coding is not None:
            if not http11 or line or value_of(coding).lower() != b"chunked":
                raise BadMessage("unacceptable Transfer-Encoding")
            made.chunked = True
        line = special.get(b"connection", _KEEP_ALIVE)
        if line != _KEEP_ALIVE or not http11:
            chosen = options(value_of(line)) if b"connection" in special else ()
            made.keep_alive = b"close" not in chosen and (http11 or b"keep-alive" in chosen)
            named = frozenset(chosen) - _NO_NAMES
            if named:
                made.lines = [line for line in passed if line.partition(b":")[0].lower() not in named]
        made.upgrade = special.get(b"upgrade", b"")
    return made


@lru_cache(maxsize=256)
def _read_start(line: bytes) -> tuple[int, bytes, bool]:
    """(status, reason, is HTTP/1.1) of a status line; apps use few, and looking one up costs less than matching
    it."""
    found = _STATUS_LINE.fullmatch(line)
    if found is None:
        raise BadMessage("malformed status line")
    status = int(found[2])
    return status, found[3] or REASONS.get(status, b""), found[1] == b"1"


def _read_host(line: bytes) -> bytes:
    """The authority in a `Host` line."""
    if len(line) > HOST_BYTES:
        raise BadMessage("malformed Host")
    return _known_host(line)


@lru_cache(maxsize=1024)
def _known_host(line: bytes) -> bytes:
    """The same, remembered: a tenth of the time, and a listener's clients name few hosts."""
    host = value_of(line)
    if _HOST.fullmatch(host) is None:
        raise BadMessage("malformed Host")
    return host
