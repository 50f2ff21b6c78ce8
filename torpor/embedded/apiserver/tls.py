"""Who the server is and how to reach it: a certificate authority, a serving certificate and tokens, made per run.

They lie in one directory (mode 0700, files 0600). A server that finds the directory filled keeps using it, so that the
control process can be restarted without cutting off the other processes and the user's shell; whoever starts a new run
removes the directory first. Certificates outlive any run and are trusted by nobody but the kubeconfig beside them.
"""

import base64
import contextlib
import datetime
import ipaddress
import os
import secrets
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["Identity", "kubeconfig", "load_or_make", "server_context", "write_private"]

_LIFETIME = datetime.timedelta(days=365)
_RENEW_BEFORE = datetime.timedelta(days=30)
_FILES = ("ca.crt", "tls.crt", "tls.key", "token")


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What one run of the server proves itself and its callers with; all in PEM but the token."""

    ca_pem: str
    certificate_pem: str
    key_pem: str
    token: str


def load_or_make(directory: Path, hosts: Iterable[str]) -> Identity:
    """The identity kept in a directory, made if it is missing, about to expire or for other hosts."""
    wanted = sorted(set(hosts))
    try:
        ca_pem, certificate_pem, key_pem, token = ((directory / name).read_text() for name in _FILES)
        certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
        if token and _names(certificate) == wanted and _fresh(certificate):
            return Identity(ca_pem=ca_pem, certificate_pem=certificate_pem, key_pem=key_pem, token=token)
    except (OSError, ValueError):
        pass
    identity = _make(wanted)
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name, text in zip(
        _FILES, (identity.ca_pem, identity.certificate_pem, identity.key_pem, identity.token), strict=True
    ):
        write_private(directory / name, text)
    return identity


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, replacing it in one step: no reader sees half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    temporary.replace(path)


def server_context(directory: Path) -> ssl.SSLContext:
    """The TLS settings of the listener, with the certificate of the directory."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(directory / "tls.crt", directory / "tls.key")
    context.set_alpn_protocols(["http/1.1"])
    return context


def kubeconfig(url: str, token: str, *, ca_pem: str = "", name: str = "torpor", namespace: str = "default") -> str:
    """A kubeconfig of one context, as YAML."""
    cluster: dict[str, str] = {"server": url}
    if ca_pem:
        cluster["certificate-authority-data"] = base64.b64encode(ca_pem.encode()).decode()
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": cluster}],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": namespace}}],
            "current-context": name,
        },
        sort_keys=False,
    )


def _make(hosts: list[str]) -> Identity:
    now = datetime.datetime.now(datetime.UTC)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "torpor-ca")])
    usage = dict.fromkeys(
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
    authority = (
        x509.CertificateBuilder()
        .subject_name(ca_name)
        .issuer_name(ca_name)
        .public_key(ca_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(**{**usage, "key_cert_sign": True, "crl_sign": True}), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "torpor-apiserver")]))
        .issuer_name(ca_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**{**usage, "digital_signature": True}), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    return Identity(
        ca_pem=authority.public_bytes(serialization.Encoding.PEM).decode(),
        certificate_pem=certificate.public_bytes(serialization.Encoding.PEM).decode(),
        key_pem=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode(),
        token=secrets.token_urlsafe(32),
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return sorted(str(name.value) for name in names)


def _fresh(certificate: x509.Certificate) -> bool:
    return certificate.not_valid_after_utc - _RENEW_BEFORE > datetime.datetime.now(datetime.UTC)
