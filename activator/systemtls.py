"""system-internal-tls: requests to pods go in TLS, to certificates of their namespace (serving §5.3, §7.5).

    Secret routing-serving-certs (ours, and the authority's ca.crt) --+--> `context` of the internal https listener
    ConfigMaps labelled trust-bundle ---------------------------------+--> `Tls` of each namespace, for the pool

A pod proves with its certificate that it belongs to its namespace (`kn-user-<namespace>`) and is a data plane
(`data-plane.knative.dev`), so a pod that got the address of another tenant's gets none of its requests. Whether all
this is on is read once, at the start, as in the original: changing it means a restart.

Authorities and our own certificate are followed: connections to come use the new ones. Probes stay in clear.
"""

from __future__ import annotations

import base64
import logging
from typing import TYPE_CHECKING, Any, Final

from activator.certificates import pair_of
from kncore.api import keys
from kncore.api.resources import CONFIG_MAPS, SECRETS
from kncore.errors import ConfigError
from kncore.kube.client import Key
from kncore.kube.errors import NotFound
from kncore.net.dial import Tls
from kncore.net.tls import BadCertificate, client_context, server_context, warn_of_dates

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from kncore.kube.client import Client, Obj
    from kncore.kube.informer import Change
    from kncore.kube.informers import Informers
    from kncore.net.pool import Address, Pool
    from kncore.net.tls import Pair, Settings

__all__ = ["SystemTls", "user_name"]

SECRET: Final = "routing-serving-certs"
SERVER_NAME: Final = "data-plane.knative.dev"
POD_PORT: Final = 8112
SERVICE_PORT: Final = 443
_CLUSTER_IP_PORT: Final = 80
"""Of a private Service; pods have others."""

log = logging.getLogger(__name__)


def user_name(namespace: str) -> str:
    """The name in the certificate of every pod of a namespace."""
    return f"kn-user-{namespace.lower()}"


class SystemTls:
    """Certificates and authorities of the data plane; use `start` before anything else.

    Args:
        namespace: the system namespace.
    """

    def __init__(self, namespace: str, settings: Settings, *, alpn: Sequence[str]) -> None:
        self.context: ssl.SSLContext | None = None
        """Our own certificate, for the listener that others reach us at."""
        self._namespace = namespace
        self._settings = settings
        self._alpn = alpn
        self._pair: Pair | None = None
        self._authority = b""
        self._bundles: dict[Key, tuple[bytes, ...]] = {}
        self._client: tuple[ssl.SSLContext, ssl.SSLContext] | None = None
        """To verify pods with, without and with HTTP/2."""
        self._pods: dict[str, Tls] = {}

    async def start(self, client: Client, informers: Informers) -> None:
        """Read the Secret, and follow it and the trust bundles from now on.

        Raises:
            ConfigError: the Secret does not exist, or cannot be used.
        """
        try:
            secret = await client.get(SECRETS, SECRET, self._namespace)
        except NotFound:
            raise ConfigError(
                f"system-internal-tls is enabled, but Secret {self._namespace}/{SECRET} does not exist: "
                "let cert-manager or whoever issues certificates make it"
            ) from None
        for bundle in (await client.list(CONFIG_MAPS, self._namespace, labels=keys.TRUST_BUNDLE)).items:
            self._bundles[Key.of(bundle)] = _bundle(bundle)
        try:
            self._take(secret)
        except BadCertificate as exc:
            raise ConfigError(f"Secret {self._namespace}/{SECRET}: {exc}") from exc
        informers.of(SECRETS, self._namespace, fields=f"metadata.name={SECRET}").add_handler(self._secret_changed)
        informers.of(CONFIG_MAPS, self._namespace, labels=keys.TRUST_BUNDLE).add_handler(self._bundle_changed)

    def pods(self, namespace: str, pool: Pool) -> Pods:
        """The pool as revisions of a namespace see it."""
        tls = self._pods.get(namespace)
        if tls is None:
            assert self._client is not None
            plain, http2 = self._client
            tls = self._pods[namespace] = Tls(
                context=plain, http2=http2, server_name=SERVER_NAME, check=_belongs_to(namespace)
            )
        return Pods(pool, tls)

    def _secret_changed(self, change: Change) -> None:
        if change.type == "deleted" or change.resync:
            return  # a rotation deletes and creates
        try:
            self._take(change.object)
        except BadCertificate as exc:
            log.warning(
                "certificates of the data plane cannot be used, the last good ones stay", extra={"error": str(exc)}
            )

    def _bundle_changed(self, change: Change) -> None:
        if change.resync:
            return
        told = () if change.type == "deleted" else _bundle(change.object)
        if self._bundles.get(change.key, ()) == told:
            return
        self._bundles[change.key] = told
        try:
            self._trust()
        except BadCertificate as exc:
            log.warning("authorities of the data plane cannot be used", extra={"error": str(exc)})

    def _take(self, secret: Obj) -> None:
        """Raises: BadCertificate."""
        pair = pair_of(secret)
        authority = base64.b64decode((secret.get("data") or {}).get("ca.crt") or "")
        if pair != self._pair:
            self.context = server_context(self._settings, pair=pair, alpn=self._alpn, tickets=0)
            self._pair = pair
            warn_of_dates(pair.chain, f"{self._namespace}/{SECRET}")
        if authority != self._authority or self._client is None:
            before, self._authority = self._authority, authority
            try:
                self._trust()
            except BadCertificate:
                self._authority = before
                raise

    def _trust(self) -> None:
        """Raises: BadCertificate."""
        authorities = [
            one for one in (self._authority, *(one for many in self._bundles.values() for one in many)) if one
        ]
        self._client = (
            client_context(self._settings, authorities=authorities, alpn=("http/1.1",)),
            client_context(self._settings, authorities=authorities, alpn=("h2", "http/1.1")),
        )
        for tls in self._pods.values():
            tls.context, tls.http2 = self._client


class Pods:
    """A pool in which every address is spoken to in TLS, at the port that queue-proxies and Services have for it."""

    def __init__(self, pool: Pool, tls: Tls) -> None:
        self._pool = pool
        self._tls = tls

    def upstream(self, host: str, port: int, *, http2: bool = False) -> Address:
        """See `Pool.upstream`; `port` is the one in clear."""
        secure = SERVICE_PORT if port == _CLUSTER_IP_PORT else POD_PORT
        return self._pool.upstream(host, secure, http2=http2, tls=self._tls)

    def forget(self, upstream: Address) -> None:
        """See `Pool.forget`."""
        self._pool.forget(upstream)


def _bundle(config_map: Obj) -> tuple[bytes, ...]:
    return tuple(text.encode() for _, text in sorted((config_map.get("data") or {}).items()) if text)


def _belongs_to(namespace: str) -> Callable[[ssl.SSLObject], str | None]:
    wanted = user_name(namespace)

    def check(connection: ssl.SSLObject) -> str | None:
        certificate: dict[str, Any] = connection.getpeercert() or {}
        names = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"]
        if wanted in names:
            return None
        return f"the certificate is for {', '.join(names) or 'nobody'}, not for {wanted}"

    return check
