"""The listener in TLS (serving §6.10): there if the pod was given a certificate, beside the one in clear.

Its certificate is the namespace's, so that an activator knows whose pod it talks to. It is replaced while the pod
lives; the files are looked at once a minute.
"""

from collections.abc import Mapping
from pathlib import Path
from ssl import TLSVersion

from kncore.errors import ConfigError
from kncore.net.exchange import Exchange, Handler
from kncore.net.tls import ALPN, BadCertificate, CertificateFiles, Settings

__all__ = ["certificate", "marked"]


def certificate(directory: str, environ: Mapping[str, str]) -> CertificateFiles | None:
    """The certificate in a directory, None if there is none.

    Raises:
        ConfigError: there is one that cannot be used, or QUEUE_PROXY_TLS_* say what cannot be.
    """
    settings = Settings.read(environ, "QUEUE_PROXY", minimum=TLSVersion.TLSv1_3)
    files = CertificateFiles(Path(directory), settings, alpn=ALPN)
    if not files.exists():
        return None
    try:
        files.load()
    except BadCertificate as exc:
        raise ConfigError(f"cannot serve TLS with the certificate in {directory}: {exc}") from exc
    return files


def marked(handler: Handler) -> Handler:
    """The handler, for requests that came in TLS."""

    def handle(exchange: Exchange) -> None:
        exchange.scheme = b"https"
        handler(exchange)

    return handle
