"""Certificates for tests, by a certificate authority that we did not write (trustme)."""

import datetime
import functools
from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization

from kncore.net.tls import Pair

__all__ = ["authority", "encrypted", "issue", "put"]


def authority(name: str = "tests") -> trustme.CA:
    """A certificate authority; each name is another one, and always the same."""
    return _authority(name)


@functools.cache
def _authority(name: str) -> trustme.CA:
    return trustme.CA(organization_name=name)


def issue(*hosts: str, ca: str = "tests", days: float = 30, begins: float = -1, rsa: bool = False) -> Pair:
    """A certificate for some names, valid for so many days from now."""
    now = datetime.datetime.now(datetime.UTC)
    leaf = authority(ca).issue_cert(
        *hosts,
        not_before=now + datetime.timedelta(days=min(begins, days - 1)),
        not_after=now + datetime.timedelta(days=days),
        key_type=trustme.KeyType.RSA if rsa else trustme.KeyType.ECDSA,
    )
    return Pair(b"".join(blob.bytes() for blob in leaf.cert_chain_pems), leaf.private_key_pem.bytes())


def encrypted(pair: Pair) -> Pair:
    """The same with a key that needs a password."""
    key = serialization.load_pem_private_key(pair.key, None)
    return Pair(
        pair.chain,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        ),
    )


def put(directory: Path, pair: Pair) -> None:
    """Write a certificate as a mounted Secret shows it."""
    for name, content in (("tls.crt", pair.chain), ("tls.key", pair.key)):
        fresh = directory / f".{name}"
        fresh.write_bytes(content)
        fresh.replace(directory / name)
