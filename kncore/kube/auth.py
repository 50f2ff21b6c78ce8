"""How we prove to the API server who we are.

A `Credentials` object has an `Authorization` header that is good until `expires`, and a way to renew it; the client
calls `renew` only when that time has come or the server answered 401, so an ordinary request waits for nothing.

Tokens in a kubeconfig or in a pod's service account are handled here. Exec plugins, OIDC and the old auth providers are
left to kubernetes_asyncio, imported when first needed: it costs 40 MB, which embedded processes never pay.
"""

import asyncio
import base64
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from kncore.errors import ConfigError

__all__ = ["Credentials", "Delegated", "Fixed", "TokenFile", "basic", "bearer"]

# Kubelet rotates a projected token when a fifth of its life is left (12 min of an hour); client-go re-reads every
# minute.
_REREAD = 60.0
_EARLY = 10.0  # seconds before a credential's end at which it is renewed
_NEVER = float("inf")


class Credentials(Protocol):
    """An `Authorization` header that stays valid."""

    authorization: str
    """The header's value; empty for none."""
    expires: float
    """Loop time at which `renew` should be called before the next request."""
    certificate: tuple[str, str] | None
    """Files of a client certificate and its key, in PEM, if that is how we identify ourselves."""

    async def renew(self) -> None:
        """Make `authorization` good again.

        Raises:
            ConfigError: it cannot be done; the message says why.
        """


class Fixed:
    """A header that never changes; empty for none, as with a client certificate."""

    def __init__(self, authorization: str = "", certificate: tuple[str, str] | None = None) -> None:
        self.authorization = authorization
        self.expires = _NEVER
        self.certificate = certificate

    async def renew(self) -> None:
        """Nothing can be renewed."""


def bearer(token: str) -> str:
    """The header's value for a token."""
    return f"Bearer {token.strip()}"


def basic(username: str, password: str) -> str:
    """The header's value for a name and a password."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


class TokenFile:
    """A token in a file that somebody replaces from time to time; read again once a minute and after a 401."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self.authorization = ""
        self.expires = float("-inf")
        self.certificate: tuple[str, str] | None = None

    async def renew(self) -> None:
        """Read the file, in a thread. A file that is missing for a moment leaves the last token in force."""
        try:
            token = await asyncio.to_thread(self._path.read_text, encoding="ascii")
        except (OSError, ValueError) as exc:
            if not self.authorization:
                raise ConfigError(f"cannot read the token in {self._path}: {exc}") from exc
        else:
            self.authorization = bearer(token)
        self.expires = asyncio.get_running_loop().time() + _REREAD


class Delegated:
    """Whatever the kubeconfig's user entry asks for (exec, OIDC, auth provider), done by kubernetes_asyncio.

    Args:
        paths: the kubeconfig file, or several joined as in `$KUBECONFIG`.
        context: which context; None is the current one.
    """

    def __init__(self, paths: str, context: str | None) -> None:
        self._paths = paths
        self._context = context
        self._loader: Any = None
        self.authorization = ""
        self.expires = float("-inf")
        self.certificate: tuple[str, str] | None = None

    async def renew(self) -> None:
        """Run the plugin or refresh the token if what we have has expired."""
        # Imported late on purpose: see the module's text.
        from kubernetes_asyncio.config import ConfigException
        from kubernetes_asyncio.config.kube_config import load_kube_config

        settings = _Settings()
        try:
            if self._loader is None:
                self._loader = await load_kube_config(
                    config_file=self._paths, context=self._context, client_configuration=settings, persist_config=False
                )
            else:
                # After a 401 the plugin must run even if its credential claims to be good for longer.
                self._loader.__dict__.pop("exec_plugin_expiry", None)
                await self._loader.load_and_set(settings)
        except (ConfigException, OSError, ValueError, KeyError) as exc:
            raise ConfigError(f"the kubeconfig's user could not be authenticated: {exc}") from exc
        self.authorization = settings.api_key.get("BearerToken", "")
        if settings.cert_file and settings.key_file:
            self.certificate = (settings.cert_file, settings.key_file)
        self.expires = self._expiry()

    def _expiry(self) -> float:
        """An exec plugin names the end, or is asked again after a 401 only; the others are asked once a minute."""
        loop = asyncio.get_running_loop()
        if self._loader.provider is None:
            end = getattr(self._loader, "exec_plugin_expiry", None)
            if end is None:
                return _NEVER
            left: float = (end - datetime.now(UTC)).total_seconds()
            return loop.time() + left - _EARLY
        return loop.time() + _REREAD


class _Settings:
    """What kubernetes_asyncio fills in."""

    def __init__(self) -> None:
        self.api_key: dict[str, str] = {}
        self.cert_file = ""
        self.key_file = ""
