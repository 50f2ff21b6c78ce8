"""The platform's certificate authority, and what it gives certificates to."""

import ssl
from pathlib import Path

import pytest
from cryptography import x509

from kncore.net.tls import Pair, Settings, server_context, validity
from torpor.embedded.authority import LOCAL, Authority
from torpor.embedded.issuer import wildcard


def names(pair: Pair) -> list[str]:
    found = x509.load_pem_x509_certificate(pair.chain).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return [str(name.value) for name in found.value]


def handshake(authority: bytes, pair: Pair, name: str) -> None:
    """A handshake of two OpenSSLs on memory; raises what the client thinks of the certificate."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context(cadata=authority.decode()).wrap_bio(back, there, server_hostname=name)
    server = server_context(Settings(), pair=pair).wrap_bio(there, back, server_side=True)
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.load_or_make(tmp_path, "ca", LOCAL)


@pytest.mark.parametrize("name", ["hello.default.localhost", "canary-web.default.localhost", "localhost", "127.0.0.1"])
def test_clients_that_trust_it_accept_its_certificates(authority: Authority, name: str) -> None:
    pair = authority.issue(["*.default.localhost", "localhost"], ["127.0.0.1", "::1"])
    assert names(pair) == ["*.default.localhost", "localhost", "127.0.0.1", "::1"]
    handshake(authority.pem, pair, name)


@pytest.mark.parametrize("name", ["hello.other.localhost", "a.b.default.localhost", "default.localhost", "127.0.0.2"])
def test_other_names_are_not_covered(authority: Authority, name: str) -> None:
    pair = authority.issue(["*.default.localhost"], ["127.0.0.1"])
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(authority.pem, pair, name)


def test_it_vouches_for_no_names_of_others(authority: Authority) -> None:
    for name in ("bank.com", "*.bank.com", "localhost.bank.com", "notlocalhost", "notexample.com"):
        assert not authority.may(name)
        with pytest.raises(ValueError, match="not names of this authority"):
            authority.issue([name])
    with pytest.raises(ValueError, match="needs a name"):
        authority.issue([])


def test_clients_hold_it_to_that(authority: Authority) -> None:
    """Whoever stole the key issues for names it has no right to: OpenSSL refuses them."""
    unlimited = Authority(authority.certificate, authority.key, ())
    for name, addresses in (("www.bank.com", ()), ("localhost", ("192.0.2.1",))):
        with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
            handshake(authority.pem, unlimited.issue([name], addresses), name)


def test_it_stays_the_same_until_it_does_not_do(tmp_path: Path) -> None:
    first = Authority.load_or_make(tmp_path, "ca", LOCAL)
    assert (tmp_path / "ca.crt").read_bytes() == first.pem
    assert (tmp_path / "ca.key").stat().st_mode & 0o777 == 0o600
    assert Authority.load_or_make(tmp_path, "ca", LOCAL).pem == first.pem
    assert Authority.load_or_make(tmp_path, "ca", ["localhost"]).pem == first.pem, "it may do more"
    other = Authority.load_or_make(tmp_path, "ca", {*LOCAL, "mine.example.de"})
    assert other.pem != first.pem
    assert other.may("*.default.mine.example.de")
    assert Authority.load_or_make(tmp_path, "ca", LOCAL).pem == other.pem
    for damage in (b"", b"garbage", first.pem):
        (tmp_path / "ca.crt").write_bytes(damage)
        assert Authority.load_or_make(tmp_path, "ca", LOCAL).pem not in {damage, other.pem}


def test_one_without_limits_is_another_one(tmp_path: Path) -> None:
    inside = Authority.load_or_make(tmp_path, "inside")
    assert Authority.load_or_make(tmp_path, "inside").pem == inside.pem
    handshake(inside.pem, inside.issue(["kn-user-default", "data-plane.knative.dev"]), "kn-user-default")
    assert Authority.load_or_make(tmp_path, "inside", LOCAL).pem != inside.pem


def test_certificates_do_not_outlive_what_browsers_take(authority: Authority) -> None:
    begins, ends = validity(authority.issue(["localhost"]).chain)
    assert (ends - begins).days == 90


@pytest.mark.parametrize(
    ("host", "covered"),
    [
        ("hello.default.localhost", "*.default.localhost"),
        ("hello.example.com", "*.example.com"),
        ("hello.localhost", "hello.localhost"),
        ("localhost", "localhost"),
    ],
)
def test_wildcards(host: str, covered: str) -> None:
    assert wildcard(host) == covered
