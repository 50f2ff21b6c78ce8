"""gRPC as a proxy must know it: how to tell a call, and how to refuse one so that its client understands.

A gRPC client reads an error only from `grpc-status` and `grpc-message`; a bare 503 becomes whatever its library makes
of it. So what we answer ourselves to a call is "trailers-only" (HTTP 200, the status in the head, no body), and a call
that we end in the middle ends with those two as trailers. The code is chosen by what happened, where we know more
than the number tells:

    400 -> INTERNAL            bytes that no gRPC library sends
    404 -> UNIMPLEMENTED       no such host or revision; what clients made of the original's bare 404
    408, 504 -> DEADLINE_EXCEEDED   not retried by default, which is right: the app may still be busy with it
    413, 429, 431 -> RESOURCE_EXHAUSTED
    502, 503 -> UNAVAILABLE    the one code that clients retry: a full queue, a pod that is gone

`Retry-After` is repeated as `grpc-retry-pushback-ms`, which clients with a retry policy obey.

Source: gRPC's PROTOCOL-HTTP2.md, http-grpc-status-mapping.md and A6 (client retries).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from kncore.net.headers import value_of

__all__ = ["code_of", "is_call", "refusal", "trailers"]

CANCELLED: Final = 1
UNKNOWN: Final = 2
DEADLINE_EXCEEDED: Final = 4
PERMISSION_DENIED: Final = 7
RESOURCE_EXHAUSTED: Final = 8
UNIMPLEMENTED: Final = 12
INTERNAL: Final = 13
UNAVAILABLE: Final = 14
UNAUTHENTICATED: Final = 16

_CODES: Final[Mapping[int, int]] = {
    400: INTERNAL,
    401: UNAUTHENTICATED,
    403: PERMISSION_DENIED,
    404: UNIMPLEMENTED,
    405: UNIMPLEMENTED,
    408: DEADLINE_EXCEEDED,
    413: RESOURCE_EXHAUSTED,
    429: RESOURCE_EXHAUSTED,
    431: RESOURCE_EXHAUSTED,
    499: CANCELLED,
    500: INTERNAL,
    501: UNIMPLEMENTED,
    502: UNAVAILABLE,
    503: UNAVAILABLE,
    504: DEADLINE_EXCEEDED,
}
_CALL: Final = re.compile(rb"application/grpc(?:[+; \t].*)?", re.IGNORECASE | re.DOTALL)
"""Not `application/grpc-web`, which has its trailers in the body and reads HTTP statuses."""
_UNPRINTABLE: Final = re.compile(rb"[^ -$&-~]")
_MESSAGE_LIMIT: Final = 1024
"""Bytes; some clients take no more than 8 KiB of trailers in all."""


def is_call(fields: Mapping[bytes, bytes]) -> bool:
    """Whether a request with these fields (lower-case name -> line) is a gRPC call."""
    line = fields.get(b"content-type")
    return line is not None and _CALL.fullmatch(value_of(line)) is not None


def code_of(status: int) -> int:
    """The gRPC code for an HTTP status that we would have answered."""
    return _CODES.get(status, UNKNOWN)


def trailers(status: int, text: bytes) -> list[bytes]:
    """The lines that end a call; `text` is for people, in any bytes."""
    message = _UNPRINTABLE.sub(lambda found: b"%%%02X" % found[0][0], text.strip()[:_MESSAGE_LIMIT])
    lines = [b"grpc-status: %d" % code_of(status)]
    if message:
        lines.append(b"grpc-message: " + message)
    return lines


def refusal(status: int, text: bytes, lines: Iterable[bytes]) -> Sequence[bytes]:
    """The head of a trailers-only answer in place of `status`; of its `lines` those that are not about the body."""
    made = [b"content-type: application/grpc", *trailers(status, text)]
    for line in lines:
        name = line.partition(b":")[0].lower()
        if name == b"retry-after":
            made.append(line)
            if (seconds := value_of(line)).isdigit() and len(seconds) < 7:
                made.append(b"grpc-retry-pushback-ms: %d" % (int(seconds) * 1000))
        elif not name.startswith((b"content-", b"x-content-")):
            made.append(line)
    return made
