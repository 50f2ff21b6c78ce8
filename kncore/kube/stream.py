"""The bytes of a watch, as events: pure, one parser per stream.

A watch is an endless answer of JSON objects, one per line, cut anywhere by the network. `Lines` puts lines together
again and refuses to collect more than `limit_bytes` for one; `parse_event` turns a line into an event or the typed
error that the server meant. Whatever is neither is an `InternalError`: after it only a new list tells what was missed.
"""

from typing import cast

import orjson

from kncore.kube.client import EventType, WatchEvent
from kncore.kube.errors import ApiError, InternalError, TooLarge, from_status

__all__ = ["Lines", "parse_event"]

_TYPES = frozenset({"ADDED", "MODIFIED", "DELETED", "BOOKMARK"})
_SHOWN = 200  # bytes of a bad line that a message may quote


class Lines:
    """Splits a stream of chunks into lines without their line feed."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that this chunk completes; blank ones are dropped.

        Raises:
            TooLarge: a line is longer than the limit.
        """
        if b"\n" not in chunk:
            self._keep(chunk)
            return []
        first, *rest = chunk.split(b"\n")
        self._keep(first)
        lines = [b"".join(self._parts), *rest[:-1]]
        self._parts.clear()
        self._size = 0
        if rest[-1]:
            self._keep(rest[-1])
        return [line for line in lines if line and not line.isspace()]

    @property
    def unfinished(self) -> int:
        """Bytes of a line whose end has not come."""
        return self._size

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._limit:
            raise TooLarge(f"the API server sent an event of more than {self._limit} bytes")
        self._parts.append(part)


def parse_event(line: bytes) -> WatchEvent:
    """The event on a line.

    Raises:
        ApiError: the line is an `ERROR` event: the error it carries, `Gone` above all.
        InternalError: the line is not an event.
    """
    try:
        parsed = orjson.loads(line)
        type_, obj = parsed["type"], parsed["object"]
        if type_ == "ERROR":
            raise _error(obj)
        metadata = obj["metadata"]
        if type_ not in _TYPES or not isinstance(metadata, dict) or not (type_ == "BOOKMARK" or metadata["name"]):
            raise ValueError(f"type {type_!r} without an object to match")
    except (ValueError, KeyError, TypeError) as exc:
        raise InternalError(f"the API server sent what is not a watch event: {line[:_SHOWN]!r}") from exc
    return WatchEvent(cast("EventType", type_), obj)


def _error(status: object) -> ApiError:
    return from_status(status if isinstance(status, dict) else {})
