"""Making a connection to an upstream, and every way in which that fails as one error.

`Tls` says how an upstream is spoken to in TLS. It is not frozen: whoever rotates authorities or client certificates
gives it a new context, and the next dial uses that one; connections that exist go on with what they have.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from kncore.net.errors import ConnectFailed

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Tls", "dial"]

P = TypeVar("P", bound=asyncio.BaseProtocol)


@dataclass(eq=False, kw_only=True)
class Tls:
    """How to speak TLS to an upstream; each has its own connections (compared by identity)."""

    context: ssl.SSLContext
    """Verifies the certificate; offers no HTTP/2."""
    http2: ssl.SSLContext | None = None
    """The same with ALPN that offers `h2`, for addresses that are asked for HTTP/2; None leaves them with HTTP/1."""
    server_name: str
    """SNI, and what the certificate is checked for if the context checks names."""
    check: Callable[[ssl.SSLObject], str | None] | None = None
    """Looks at the peer of a finished handshake, for rules that OpenSSL does not know; the reason to refuse it, or
    None."""


async def dial(
    make: Callable[[], P], host: str, port: int, *, seconds: float, tls: Tls | None = None, http2: bool = False
) -> P:
    """Connect, handshake and check the peer; the protocol is connected when this returns.

    Args:
        make: the protocol; it is connected when the peer has been found good.
        http2: offer it in TLS; what came of that is in the connection's `ssl_object`.

    Raises:
        ConnectFailed: whatever went wrong.
    """
    loop = asyncio.get_running_loop()
    where = f"connect to {host}:{port}"
    try:
        async with asyncio.timeout(seconds):
            if tls is None:
                _, protocol = await loop.create_connection(make, host, port)
                return protocol
            from kncore.net.tlsstream import ClientStream  # only who speaks it pays for it

            context = (tls.http2 if http2 else None) or tls.context
            transport, stream = await loop.create_connection(
                lambda: ClientStream(make, context, tls.server_name, tls.check), host, port
            )
            try:
                return await stream.ready
            except BaseException:
                transport.abort()
                raise
    except TimeoutError:
        raise ConnectFailed(f"{where}: timed out") from None
    except ConnectionRefusedError:
        raise ConnectFailed(f"{where}: connection refused") from None
    except ssl.SSLError as exc:
        why = getattr(exc, "verify_message", "") or exc.reason or str(exc)
        raise ConnectFailed(f"{where}: TLS: {why.replace('_', ' ').lower() if why.isupper() else why}") from None
    except OSError as exc:
        raise ConnectFailed(f"{where}: {os.strerror(exc.errno) if exc.errno else exc}") from None
    except (ValueError, OverflowError) as exc:  # a host or port that no address can have
        raise ConnectFailed(f"{where}: {exc}") from None
