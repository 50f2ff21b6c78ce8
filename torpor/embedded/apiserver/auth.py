"""Who may talk to the server: holders of a token, on a connection no browser page can have opened.

The server listens on loopback, where any page in any browser of this machine can send requests. Three checks keep it
out: the `Host` header must name this server (so a page cannot reach it through a name of its own that resolves to
127.0.0.1), an `Origin`, which only browsers send, must be this server, and everything that tells or changes anything
needs a bearer token.
"""

import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from torpor.embedded.apiserver.errors import StatusError, unauthorized

__all__ = ["OPEN_PATHS", "Gate", "User"]

OPEN_PATHS = frozenset({"/healthz", "/livez", "/readyz", "/version"})
"""Answered without a token, as by Kubernetes' `system:public-info-viewer`; their subpaths too."""


@dataclass(frozen=True)
class User:
    """Who a token belongs to."""

    name: str
    groups: tuple[str, ...] = ("system:masters", "system:authenticated")


class Gate:
    """Checks requests before anything else does.

    Args:
        tokens: bearer token -> user.
        hosts: names and addresses this server is reached by, without ports; matched in lower case.
    """

    def __init__(self, tokens: Mapping[str, User], hosts: Iterable[str]) -> None:
        self._tokens = {token.encode(): user for token, user in tokens.items()}
        self._hosts = frozenset(host.lower() for host in hosts)

    def check(self, path: str, headers: Mapping[str, str]) -> User | None:
        """The user a request comes from; None on paths that are open to all.

        Raises:
            StatusError: Forbidden for a foreign host or origin, Unauthorized without a good token.
        """
        host = headers.get("Host", "")
        if _hostname(f"//{host}") not in self._hosts:
            raise StatusError(403, "Forbidden", f'this server does not go by the name "{host}"')
        origin = headers.get("Origin")
        if origin is not None and _hostname(origin) not in self._hosts:
            raise StatusError(403, "Forbidden", f'requests from the web page "{origin}" are refused')
        if path in OPEN_PATHS or path.startswith(("/healthz/", "/livez/", "/readyz/")):
            return None
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            given = token.strip().encode(errors="replace")
            for known, user in self._tokens.items():
                if hmac.compare_digest(known, given):
                    return user
        raise unauthorized()


def _hostname(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""
