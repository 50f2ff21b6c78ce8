"""Exchanges, carriers and upstreams that are lists: for tests of what passes between them."""

from collections.abc import Sequence
from typing import Any

from kncore.net.exchange import Exchange
from kncore.net.heads import RequestHead

__all__ = ["Call", "Carrying", "Silently"]


class Call(Exchange):
    """An exchange whose client is a list."""

    def __init__(
        self,
        kind: bytes = b"application/grpc",
        *,
        method: bytes = b"POST",
        length: int = -1,
        trailing: bool = True,
        lines: Sequence[bytes] = (),
    ) -> None:
        head = RequestHead()
        head.method, head.target, head.start = method, b"/s/M", method + b" /s/M HTTP/1.1"
        head.lines = [b"content-type: " + kind, *lines]
        head.fields = {line.partition(b":")[0].lower(): line for line in head.lines}
        head.host = b"h.example"
        head.length = length
        super().__init__(head, 0.0)
        self.sent: list[Any] = []
        self.informed: list[int] = []
        self.can_trail = trailing
        self.paused = False

    @property
    def trailing(self) -> bool:
        return self.can_trail

    def _send_head(
        self, status: int, reason: bytes, lines: Sequence[bytes], length: int, body: bytes, *, end: bool
    ) -> None:
        self.status = status
        self.sent.append((status, list(lines), length, body, end))
        if end:
            self.finish()

    def _send_body(self, data: bytes) -> None:
        self.sent.append(data)

    def _send_end(self, trailers: Sequence[bytes]) -> None:
        self.sent.append(list(trailers))
        self.finish()

    def _send_informational(self, status: int, reason: bytes, lines: Sequence[bytes]) -> None:
        self.informed.append(status)

    def _cut(self, text: bytes) -> None:
        self.sent.append(f"cut {text.decode()}")
        self.finish()

    def _pause_body(self) -> None:
        self.paused = True

    def _resume_body(self) -> None:
        self.paused = False


class Carrying:
    """A carrier that takes everything."""

    def __init__(self) -> None:
        self.cancelled = False
        self.body = b""

    def send_body(self, data: bytes, *, end: bool, trailers: Sequence[bytes] = ()) -> None:
        self.body += data

    def send_raw(self, data: bytes) -> None: ...

    def end_raw(self) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def cancel(self) -> None:
        self.cancelled = True


class Silently:
    """An upstream that counts what it is given."""

    def __init__(self) -> None:
        self.given: list[bool] = []

    def submit(self, exchange: Exchange, *, fresh: bool = False) -> None:
        self.given.append(fresh)

    def withdraw(self, exchange: Exchange) -> None: ...
