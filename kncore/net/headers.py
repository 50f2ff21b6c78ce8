"""Header fields a proxy treats specially.

Names are compared in lower case, as bytes. A field travels as its line without line end (`b"X-Request-Id: 7"`), in
the sender's own
spelling: most fields of most requests are passed on untouched, so the proxy keeps lines and looks into few of them.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final

__all__ = [
    "FRAMING",
    "HOP_BY_HOP",
    "NO_TRAILER",
    "forwarded",
    "forwarded_for",
    "hop_by_hop",
    "is_lookalike",
    "options",
    "pairs",
    "value_of",
]

FRAMING: Final = frozenset({b"connection", b"content-length", b"expect", b"transfer-encoding", b"upgrade"})
"""Fields that decide where a message ends or what becomes of its connection; a message with none of them is
simple."""

HOP_BY_HOP: Final = frozenset({
    b"connection",
    b"http2-settings",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"transfer-encoding",
    b"upgrade",
})  # fmt: skip
"""Never forwarded (RFC 9110 §7.6.1). `Trailer` is: the trailers themselves are passed on too."""

NO_TRAILER: Final = HOP_BY_HOP | {
    b"authorization",
    b"content-encoding",
    b"content-length",
    b"content-range",
    b"content-type",
    b"cookie",
    b"expect",
    b"host",
    b"set-cookie",
    b"trailer",
    b"www-authenticate",
}
"""Fields that must not arrive in a trailer section (RFC 9110 §6.5.1): framing, routing and authentication come before
the body."""

_PROTECTED: Final = frozenset({b"content-length", b"host"})
"""Naming these in `Connection` removes nothing: the message could not be understood without them."""


_TRUSTED: Final = FRAMING | HOP_BY_HOP | {b"forwarded", b"host", b"trailer", b"x-real-ip"}
_TRUSTED_PREFIXES: Final = (b"x-forwarded-", b"k-", b"knative-")


def is_lookalike(name: bytes) -> bool:
    """Whether an app could take a field, named with underscores, for one that proxies decide about.

    CGI, WSGI and PHP know `X-Forwarded-For` and `X_Forwarded_For` by the same name, `HTTP_X_FORWARDED_FOR`.
    """
    twin = name.replace(b"_", b"-")
    return twin in _TRUSTED or twin.startswith(_TRUSTED_PREFIXES)


def value_of(line: bytes) -> bytes:
    """The value of a header line, without surrounding blanks."""
    return line.partition(b":")[2].strip(b" \t")


def options(value: bytes) -> list[bytes]:
    """The members of a comma-separated field in lower case, such as `Connection`."""
    return [option for item in value.lower().split(b",") if (option := item.strip(b" \t"))]


def hop_by_hop(fields: Mapping[bytes, bytes]) -> Collection[bytes]:
    """Names that must not be forwarded: the fixed ones and those that this message's `Connection` names."""
    line = fields.get(b"connection")
    if line is None:
        return HOP_BY_HOP
    named = frozenset(options(value_of(line))) - _PROTECTED
    return HOP_BY_HOP if named <= HOP_BY_HOP or named <= {b"close", b"keep-alive", b"upgrade"} else HOP_BY_HOP | named


def forwarded_for(before: bytes | None, peer: bytes) -> bytes:
    """The `X-Forwarded-For` line with our client appended to what it sent.

    Args:
        before: the value received, None when the field was absent.
        peer: address of the client, without port.
    """
    return b"X-Forwarded-For: " + (before + b", " + peer if before else peer)


def forwarded(for_: bytes | None, proto: bytes | None, host: bytes | None) -> bytes | None:
    """The RFC 7239 `Forwarded` value that says what `X-Forwarded-For`, `-Proto` and `-Host` said; None if none was
    there.

    Host and scheme belong to the first hop. Source: knative/serving pkg/http/handler/forwarded_shim (serving §6.3 row
    8).
    """
    if for_ is None and proto is None and host is None:
        return None
    nodes = [_node(item.strip(b" \t")) for item in for_.split(b",")] if for_ else []
    first = [b"for=" + node for node in nodes[:1]]
    if host:
        first.append(b"host=" + host)
    if proto:
        first.append(b"proto=" + proto)
    return b", ".join([b";".join(first), *(b"for=" + node for node in nodes[1:])])


def _node(address: bytes) -> bytes:
    return b'"[' + address + b']"' if b":" in address else address


def pairs(lines: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """(lower-case name, value) of each line."""
    for line in lines:
        name, _, value = line.partition(b":")
        yield name.lower(), value.strip(b" \t")
