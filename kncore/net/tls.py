"""Certificates and what TLS is spoken with: settings from the environment, contexts for servers and clients, files
that change while they are in use.

    settings = Settings.read(os.environ, "ACTIVATOR", minimum=TLSVersion.TLSv1_2)
    context = server_context(settings, alpn=("http/1.1",), pair=Pair(chain=pem, key=pem))

A certificate is replaced by making a new context for the connections to come; those that exist keep theirs, so nothing
is cut. One that cannot be used (garbage, half written, a key that belongs to another one) is refused before anybody
sees it, and the last good one stays in force: `BadCertificate` says why, in words for whoever has to fix it. One that
is only out of date is served, for it is the client who decides about that, and mentioned.

Sessions may be resumed with tickets where strangers connect (it saves a signature), and not between our own parts,
whose connections are kept. A ticket's key lives as long as its context. There is no renegotiation, no compression and
no early data: a request that a third party can repeat is none we pass on.

Trust: certificates come from whoever may write a Secret; they are parsed by OpenSSL alone, but for the two dates.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import os
import ssl
from dataclasses import dataclass, field
from ssl import TLSVersion
from typing import TYPE_CHECKING, Final, Self

from kncore.errors import ConfigError, KnError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = [
    "ALPN",
    "RELOADED",
    "BadCertificate",
    "CertificateFiles",
    "Pair",
    "Settings",
    "client_context",
    "server_context",
    "validity",
]

ALPN: Final = ("h2", "http/1.1")
"""What our listeners speak, the best first."""
RELOADED: Final = "Certificate and/or key have changed on disk and were reloaded."
"""What the original logs (serving §6.10); people grep for it."""
CHECK_EVERY: Final = 60.0
"""Seconds between looks at certificate files."""
EXPIRES_SOON: Final = datetime.timedelta(days=7)
MAX_BYTES: Final = 256 * 1024
"""Of a certificate chain or key: a Secret holds 1 MiB at most, a long chain 20 KiB."""

_VERSIONS: Final = {"1.2": TLSVersion.TLSv1_2, "1.3": TLSVersion.TLSv1_3}
_SUITES: Final = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_RSA_WITH_AES_128_GCM_SHA256": "AES128-GCM-SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384": "AES256-GCM-SHA384",
}
"""Go's names, which people write, and OpenSSL's; those of TLS 1.3 are not for choosing, neither there nor here."""
_SUITES_13: Final = {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"}
_MODERN: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2: forward secrecy and authenticated encryption only, as HTTP/2 demands it."""
_CURVES: Final = {
    "X25519": "",
    "X25519MLKEM768": "",
    "CurveP256": "prime256v1",
    "CurveP384": "secp384r1",
    "CurveP521": "secp521r1",
}
"""Go's names, and OpenSSL's where this interpreter's ssl can ask for one; the others are OpenSSL's own first choice."""

log = logging.getLogger(__name__)


class BadCertificate(KnError):
    """A certificate or key that cannot be served with."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Which TLS is spoken."""

    minimum: TLSVersion = TLSVersion.TLSv1_2
    maximum: TLSVersion = TLSVersion.MAXIMUM_SUPPORTED
    ciphers: str = _MODERN
    """OpenSSL's cipher list, for TLS 1.2."""
    curve: str = ""
    """The one curve for key exchange, in OpenSSL's name; empty is OpenSSL's choice, X25519 first."""

    @classmethod
    def read(cls, environ: Mapping[str, str], prefix: str, *, minimum: TLSVersion) -> Self:
        """From `<prefix>_TLS_MIN_VERSION`, `_MAX_VERSION`, `_CIPHER_SUITES` and `_CURVE_PREFERENCES` (serving §5.1).

        Versions are `1.2` and `1.3`, suites and curves are lists with commas in Go's names.

        Raises:
            ConfigError: a version, suite or curve that does not exist, or a minimum above the maximum.
        """
        lowest = _version(environ, f"{prefix}_TLS_MIN_VERSION", minimum)
        highest = _version(environ, f"{prefix}_TLS_MAX_VERSION", TLSVersion.MAXIMUM_SUPPORTED)
        if highest is not TLSVersion.MAXIMUM_SUPPORTED and highest < lowest:
            raise ConfigError(f"{prefix}_TLS_MAX_VERSION is below {prefix}_TLS_MIN_VERSION ({_shown(lowest)})")
        suites = [suite for suite in _names(environ, f"{prefix}_TLS_CIPHER_SUITES") if suite not in _SUITES_13]
        if unknown := [suite for suite in suites if suite not in _SUITES]:
            raise ConfigError(f"{prefix}_TLS_CIPHER_SUITES: unknown: {', '.join(unknown)}")
        curves = _names(environ, f"{prefix}_TLS_CURVE_PREFERENCES")
        if unknown := [curve for curve in curves if curve not in _CURVES]:
            raise ConfigError(
                f"{prefix}_TLS_CURVE_PREFERENCES: unknown: {', '.join(unknown)}; there are {', '.join(_CURVES)}"
            )
        return cls(
            minimum=lowest,
            maximum=highest,
            ciphers=":".join(_SUITES[suite] for suite in suites) or _MODERN,
            curve=_CURVES[curves[0]] if curves else "",
        )


def _names(environ: Mapping[str, str], variable: str) -> list[str]:
    return [name.strip() for name in environ.get(variable, "").split(",") if name.strip()]


def _version(environ: Mapping[str, str], variable: str, default: TLSVersion) -> TLSVersion:
    text = environ.get(variable, "")
    if not text:
        return default
    if text not in _VERSIONS:
        raise ConfigError(f"{variable}={text}: expected one of {', '.join(_VERSIONS)}")
    return _VERSIONS[text]


def _shown(version: TLSVersion) -> str:
    return next((text for text, value in _VERSIONS.items() if value is version), version.name)


@dataclass(frozen=True)
class Pair:
    """A certificate chain and its key, both PEM; the leaf comes first."""

    chain: bytes
    key: bytes = field(repr=False)


def server_context(
    settings: Settings, *, pair: Pair | None = None, alpn: Sequence[str] = (), tickets: int = 1
) -> ssl.SSLContext:
    """A context that serves.

    Args:
        pair: what it proves itself with; None for one that only chooses others by name.
        alpn: protocols in the order we prefer them.
        tickets: for resuming, sent after each full handshake of TLS 1.3; 0 is no resuming at all.
    Raises:
        BadCertificate: the pair cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _apply(context, settings, alpn)
    context.num_tickets = tickets
    if not tickets:
        context.options |= ssl.OP_NO_TICKET
    if pair is not None:
        _load(context, pair)
    return context


def client_context(settings: Settings, *, authorities: Sequence[bytes], alpn: Sequence[str] = ()) -> ssl.SSLContext:
    """A context that verifies a server by these authorities alone, name included.

    Args:
        authorities: PEM, each any number of certificates; those that cannot be read are left out, and said so.
    Raises:
        BadCertificate: not one of them can be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _apply(context, settings, alpn)
    trusted = 0
    for authority in authorities:
        try:
            context.load_verify_locations(cadata=authority.decode("ascii"))
            trusted += 1
        except (ssl.SSLError, ValueError) as exc:
            log.warning("an authority's certificate cannot be read", extra={"error": _reason(exc)})
    if not trusted:
        raise BadCertificate("there is no certificate authority to trust")
    return context


def _apply(context: ssl.SSLContext, settings: Settings, alpn: Sequence[str]) -> None:
    context.minimum_version = settings.minimum
    context.maximum_version = settings.maximum
    context.set_ciphers(settings.ciphers)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    if settings.curve:
        context.set_ecdh_curve(settings.curve)
    if alpn:
        context.set_alpn_protocols(list(alpn))


def _load(context: ssl.SSLContext, pair: Pair) -> None:
    """Give a context its certificate; the ssl module reads them from files only.

    Raises:
        BadCertificate: it cannot be used.
    """
    if max(len(pair.chain), len(pair.key)) > MAX_BYTES:
        raise BadCertificate(f"certificate or key is larger than {MAX_BYTES} bytes")
    if b"-----BEGIN CERTIFICATE-----" not in pair.chain:
        raise BadCertificate("there is no PEM certificate in it")
    if b"PRIVATE KEY-----" not in pair.key:
        raise BadCertificate("there is no PEM private key in it")
    if b"ENCRYPTED" in pair.key:
        raise BadCertificate("the key is encrypted")
    # A file without a name: nothing to clean up, and readable by nobody else.
    memory = os.memfd_create("certificate", os.MFD_CLOEXEC) if hasattr(os, "memfd_create") else -1
    try:
        if memory >= 0:
            os.write(memory, pair.chain + b"\n" + pair.key)
            context.load_cert_chain(f"/proc/self/fd/{memory}", password="")
        else:
            import tempfile  # not on Linux

            with tempfile.NamedTemporaryFile() as file:  # mode 0600
                file.write(pair.chain + b"\n" + pair.key)
                file.flush()
                context.load_cert_chain(file.name, password="")
    except (ssl.SSLError, ValueError, OSError) as exc:
        raise BadCertificate(_reason(exc)) from exc
    finally:
        if memory >= 0:
            os.close(memory)


_REASONS: Final = {
    "KEY_VALUES_MISMATCH": "the key does not belong to the certificate",
    "KEY_TYPE_MISMATCH": "the key does not belong to the certificate",
    "NO_CERTIFICATE_ASSIGNED": "the key does not belong to the certificate",
    "EE_KEY_TOO_SMALL": "the key is too short to be safe",
    "CA_MD_TOO_WEAK": "the signature is too weak to be safe",
}


def _reason(exc: Exception) -> str:
    if isinstance(exc, ssl.SSLError):
        return _REASONS.get(exc.reason or "", (exc.reason or "it cannot be read").replace("_", " ").lower())
    return str(exc)


# -- dates ---------------------------------------------------------------------------------------------------------


def validity(chain: bytes) -> tuple[datetime.datetime, datetime.datetime]:
    """From when until when the first certificate of a PEM chain is valid.

    Raises:
        BadCertificate: it is no X.509 certificate.
    """
    begin, end = chain.find(b"-----BEGIN CERTIFICATE-----"), chain.find(b"-----END CERTIFICATE-----")
    try:
        if begin < 0 or end < begin:
            raise ValueError("no PEM")
        der = ssl.PEM_cert_to_DER_cert(chain[begin : end + 25].decode("ascii"))
        # Certificate > TBSCertificate > [version] serial algorithm issuer validity (RFC 5280 §4.1)
        _, at, _ = _element(der, 0)
        _, at, _ = _element(der, at)
        for _ in range(3 + (der[at] == 0xA0)):
            _, _, at = _element(der, at)
        _, first, _ = _element(der, at)
        _, _, second = _element(der, first)
        return _time(der, first), _time(der, second)
    except (ValueError, IndexError) as exc:
        raise BadCertificate("it is no X.509 certificate") from exc


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """Tag, first byte of the content, and what comes behind the element at a position."""
    size, begin = der[at + 1], at + 2
    if size & 0x80:
        begin += size & 0x7F
        size = int.from_bytes(der[at + 2 : begin], "big")
    if begin + size > len(der):
        raise ValueError("cut off")
    return der[at], begin, begin + size


def _time(der: bytes, at: int) -> datetime.datetime:
    tag, begin, end = _element(der, at)
    text = der[begin:end].decode("ascii")
    if tag == 0x17:  # UTCTime has two digits of a year, the 20th century's from 50 on
        text = ("19" if text >= "50" else "20") + text
    return datetime.datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=datetime.UTC)


def warn_of_dates(chain: bytes, what: str) -> None:
    """Log if a certificate is out of date, or soon will be."""
    now = datetime.datetime.now(datetime.UTC)
    begins, ends = validity(chain)
    if now < begins:
        log.warning("certificate is not valid yet", extra={"certificate": what, "from": begins.isoformat()})
    elif now > ends:
        log.warning("certificate has expired", extra={"certificate": what, "until": ends.isoformat()})
    elif now > ends - EXPIRES_SOON:
        log.warning("certificate expires soon", extra={"certificate": what, "until": ends.isoformat()})


# -- files ---------------------------------------------------------------------------------------------------------


class CertificateFiles:
    """A certificate in a directory, `tls.crt` and `tls.key`, as a mounted Secret shows it; followed while in use.

    Args:
        directory: looked at every `CHECK_EVERY` seconds by `run`, and whenever `refresh` is called.
        alpn, tickets: see `server_context`.
    """

    name = "certificate files"

    def __init__(self, directory: Path, settings: Settings, *, alpn: Sequence[str] = (), tickets: int = 0) -> None:
        self.context: ssl.SSLContext | None = None
        """For the next connection; None before the first good certificate."""
        self._directory = directory
        self._settings = settings
        self._alpn = alpn
        self._tickets = tickets
        self._seen: Pair | None = None
        self._marks: tuple[object, ...] = ()

    def exists(self) -> bool:
        """Whether there are certificate files."""
        return all((self._directory / name).is_file() for name in ("tls.crt", "tls.key"))

    def load(self) -> ssl.SSLContext:
        """Read them for the first time.

        Raises:
            BadCertificate: they cannot be read or used.
        """
        try:
            pair = self._read()
        except OSError as exc:
            raise BadCertificate(f"{exc.filename}: {exc.strerror}") from exc
        self._seen = pair
        self.context = self._make(pair)
        warn_of_dates(pair.chain, str(self._directory))
        return self.context

    def current(self) -> ssl.SSLContext:
        """The context for the next connection, once `load` has succeeded."""
        assert self.context is not None
        return self.context

    def refresh(self) -> bool:
        """Look again; True if other files are in force now. What cannot be used is logged once and changes nothing."""
        try:
            pair = self._read()
        except OSError as exc:
            if self._seen is not None:
                self._seen = None  # said once, and what comes next is news in any case
                log.warning("certificate files cannot be read", extra={"path": exc.filename, "error": exc.strerror})
            return False
        if pair == self._seen:
            return False
        self._seen = pair
        first = self.context is None
        try:
            self.context = self._make(pair)
        except BadCertificate as exc:
            log.warning(
                "certificate cannot be used, the last good one stays",
                extra={"path": str(self._directory), "error": str(exc)},
            )
            return False
        if not first:
            log.info(RELOADED)
        warn_of_dates(pair.chain, str(self._directory))
        return True

    def refresh_if_touched(self) -> bool:
        """`refresh` if the files' times changed: cheap enough for every handshake."""
        marks: list[object] = []
        for name in ("tls.crt", "tls.key"):
            try:
                status = (self._directory / name).stat()
            except OSError:
                marks.append(None)
            else:
                marks.append((status.st_ino, status.st_mtime_ns, status.st_size))
        if tuple(marks) == self._marks:
            return False
        self._marks = tuple(marks)
        return self.refresh()

    async def run(self) -> None:
        """Follow the files until cancelled."""
        while True:
            await asyncio.sleep(CHECK_EVERY)
            self.refresh()

    def _read(self) -> Pair:
        pieces = []
        for name in ("tls.crt", "tls.key"):
            with (self._directory / name).open("rb") as file:
                pieces.append(file.read(MAX_BYTES + 1))
        return Pair(*pieces)

    def _make(self, pair: Pair) -> ssl.SSLContext:
        return server_context(self._settings, pair=pair, alpn=self._alpn, tickets=self._tickets)
