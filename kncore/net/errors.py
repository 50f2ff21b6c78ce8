"""Why a request could not be served, as seen by a proxy.

`ProxyError.status` is what the client gets if nothing else was sent yet. `UpstreamError` also says whether the
upstream may have seen the
request: that decides if it is safe to send it again (DESIGN.md §4).
"""

from typing import ClassVar

from kncore.errors import ProxyError

__all__ = ["BadMessage", "ClientGone", "ConnectFailed", "Overrun", "UpstreamClosed", "UpstreamError", "UpstreamGarbage"]


class BadMessage(ProxyError):
    """Bytes that are not the HTTP message they claim to be; the connection they came on cannot be used further."""

    status: ClassVar[int] = 400

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.verdict = status
        """400, 405, 408, 414, 417, 431, 501 or 505."""


class ClientGone(ProxyError):
    """The client left before it had its answer. 499 is nginx's number for it; nobody receives it, logs and metrics
    show it."""

    status: ClassVar[int] = 499


class Overrun(ProxyError):
    """A request that outlived one of its clocks; its text is the response body."""

    status: ClassVar[int] = 504


class UpstreamError(ProxyError):
    """An attempt at an upstream that brought no complete response head."""

    status: ClassVar[int] = 502

    def __init__(self, reason: str, *, written: bool, reused: bool = False, answered: bool = False) -> None:
        super().__init__(reason)
        self.written = written
        """Bytes of the request were handed to a connection, so the upstream may have acted on it."""
        self.reused = reused
        """The connection had served earlier requests: most likely the upstream closed it for being idle."""
        self.answered = answered
        """Some bytes of an answer came."""
        self.replayable = not written
        """Sending the request again elsewhere cannot do it twice; set by the exchange, which knows method and
        body."""


class ConnectFailed(UpstreamError):
    """No connection: refused, unreachable or too slow to come up."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, written=False)


class UpstreamClosed(UpstreamError):
    """The connection ended before the response head was complete."""


class UpstreamGarbage(UpstreamError):
    """The upstream answered with something that is not HTTP."""
