"""The certificate authority of one platform: who trusts it gets https without warnings.

It lives in the state directory, so that it has to be trusted once and not at every start; its certificate is
`<state dir>/ca.crt`, for `curl --cacert` or a browser. Because people put it into browsers it can do little harm: it is
limited (X.509 name constraints) to names that lead nowhere but to this machine, to the platform's own domain, to
cluster names and to the domains reserved for examples, so whoever stole its key still could not be anybody's bank. A
name outside of these gets no certificate.

Keys are of elliptic curves: making one and signing takes a third of a millisecond.
"""

import datetime
import ipaddress
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kncore.net.tls import Pair
from torpor.embedded.apiserver.tls import write_private

__all__ = ["LEAF_LIFETIME", "LOCAL", "Authority"]

LIFETIME: Final = datetime.timedelta(days=3650)
LEAF_LIFETIME: Final = datetime.timedelta(days=90)
RENEW_BEFORE: Final = datetime.timedelta(days=365)
SKEW: Final = datetime.timedelta(hours=1)
"""Clocks in virtual machines may be behind."""
LOCAL: Final = ("localhost", "cluster.local", "test", "example", "example.com", "example.org", "example.net")
"""Names that are this machine's, a cluster's, or nobody's (RFC 2606, RFC 6761)."""
_ADDRESSES: Final = ("127.0.0.0/8", "::1/128")
_NO_USAGE: Final = dict.fromkeys(
    (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ),
    False,
)


@dataclass(frozen=True)
class Authority:
    """A certificate authority; `load_or_make` keeps it in a directory."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    domains: Sequence[str]
    """What names must end in; empty is anything."""

    @classmethod
    def load_or_make(cls, directory: Path, name: str, domains: Iterable[str] = ()) -> Self:
        """The authority kept in `<directory>/<name>.crt` and `.key`, made if there is none that does.

        Args:
            domains: what its names must end in; empty is anything.
        """
        wanted = tuple(sorted({*domains}))
        certificate_path, key_path = directory / f"{name}.crt", directory / f"{name}.key"
        try:
            certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
            key = serialization.load_pem_private_key(key_path.read_bytes(), None)
            fresh = certificate.not_valid_after_utc - RENEW_BEFORE > _now()
            if (
                isinstance(key, ec.EllipticCurvePrivateKey)
                and key.public_key() == certificate.public_key()
                and fresh
                and set(wanted) <= set(permitted := _permitted(certificate))
                and bool(wanted) == bool(permitted)
            ):
                return cls(certificate, key, permitted)
        except (OSError, ValueError):
            pass
        made = cls._make(name, wanted)
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(key_path, _pem(made.key))
        write_private(certificate_path, made.pem.decode())
        return made

    @classmethod
    def _make(cls, name: str, domains: Sequence[str]) -> Self:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"torpor {name}")])
        now = _now()
        permitted: list[x509.GeneralName] = [x509.DNSName(domain) for domain in domains]
        permitted += [x509.IPAddress(ipaddress.ip_network(network)) for network in _ADDRESSES]
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - SKEW)
            .not_valid_after(now + LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.KeyUsage(**{**_NO_USAGE, "key_cert_sign": True, "crl_sign": True}), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        if domains:
            builder = builder.add_extension(x509.NameConstraints(permitted, None), critical=True)
        return cls(builder.sign(key, hashes.SHA256()), key, domains)

    @property
    def pem(self) -> bytes:
        """Its certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def may(self, name: str) -> bool:
        """Whether it can vouch for a DNS name, which may begin with `*.`."""
        name = name.removeprefix("*.")
        return not self.domains or any(name == domain or name.endswith(f".{domain}") for domain in self.domains)

    def issue(self, names: Collection[str], addresses: Collection[str] = ()) -> Pair:
        """A certificate for these names and IP addresses.

        Raises:
            ValueError: it has no right to one of the names, or there is none.
        """
        if wrong := [name for name in names if not self.may(name)]:
            raise ValueError(f"not names of this authority: {', '.join(sorted(wrong))}")
        if not names:
            raise ValueError("a certificate needs a name")
        key = ec.generate_private_key(ec.SECP256R1())
        now = _now()
        alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in sorted(names)]
        alternatives += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "torpor")]))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - SKEW)
            .not_valid_after(min(now + LEAF_LIFETIME, self.certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(**{**_NO_USAGE, "digital_signature": True}), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return Pair(certificate.public_bytes(serialization.Encoding.PEM), _pem(key).encode())


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _permitted(certificate: x509.Certificate) -> list[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees or []
    except x509.ExtensionNotFound:
        return []
    return [name.value for name in found if isinstance(name, x509.DNSName)]
