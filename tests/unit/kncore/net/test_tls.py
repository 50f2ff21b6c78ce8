"""Settings, certificates and files that change while they are in use."""

import datetime
import logging
import ssl
from pathlib import Path
from ssl import TLSVersion

import pytest

from kncore.errors import ConfigError
from kncore.net import tls
from kncore.net.tls import BadCertificate, CertificateFiles, Pair, Settings, client_context, server_context, validity
from tests import certificates

ANY = Settings()


# settings ------------------------------------------------------------------------------------------------------------


def read(minimum: TLSVersion = TLSVersion.TLSv1_3, **environ: str) -> Settings:
    return Settings.read(
        {f"QUEUE_PROXY_TLS_{name}": value for name, value in environ.items()}, "QUEUE_PROXY", minimum=minimum
    )


def test_settings_default_to_the_component_s_minimum() -> None:
    assert read() == Settings(minimum=TLSVersion.TLSv1_3)
    assert read(MIN_VERSION="", MAX_VERSION="", CIPHER_SUITES="", CURVE_PREFERENCES="") == read()


def test_settings_in_go_s_names() -> None:
    settings = read(
        MIN_VERSION="1.2",
        MAX_VERSION="1.3",
        CIPHER_SUITES="TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_AES_128_GCM_SHA256,"
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        CURVE_PREFERENCES="CurveP384,X25519",
    )
    assert settings == Settings(
        minimum=TLSVersion.TLSv1_2,
        maximum=TLSVersion.TLSv1_3,
        ciphers="ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384",
        curve="secp384r1",
    )
    server_context(settings)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"MIN_VERSION": "1.1"}, "QUEUE_PROXY_TLS_MIN_VERSION=1.1: expected one of 1.2, 1.3"),
        ({"MAX_VERSION": "TLS1.3"}, "QUEUE_PROXY_TLS_MAX_VERSION=TLS1.3: expected one of 1.2, 1.3"),
        ({"MAX_VERSION": "1.2"}, "QUEUE_PROXY_TLS_MAX_VERSION is below QUEUE_PROXY_TLS_MIN_VERSION (1.3)"),
        ({"CIPHER_SUITES": "RC4,TLS_AES_128_GCM_SHA256"}, "QUEUE_PROXY_TLS_CIPHER_SUITES: unknown: RC4"),
        (
            {"CURVE_PREFERENCES": "P-256"},
            "QUEUE_PROXY_TLS_CURVE_PREFERENCES: unknown: P-256; "
            "there are X25519, X25519MLKEM768, CurveP256, CurveP384, CurveP521",
        ),
    ],
)
def test_settings_that_do_not_exist_are_refused(environ: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(**environ)
    assert str(refused.value) == message


@pytest.mark.parametrize("suite", sorted(tls._SUITES))
def test_every_cipher_suite_is_known_to_openssl(suite: str) -> None:
    names = [cipher["name"] for cipher in server_context(read(MIN_VERSION="1.2", CIPHER_SUITES=suite)).get_ciphers()]
    assert tls._SUITES[suite] in names


@pytest.mark.parametrize("curve", sorted(tls._CURVES))
def test_every_curve_is_known_to_openssl(curve: str) -> None:
    assert server_context(read(CURVE_PREFERENCES=curve)).minimum_version == TLSVersion.TLSv1_3


def test_contexts_refuse_what_is_old() -> None:
    context = server_context(ANY)
    assert context.minimum_version == TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.options & ssl.OP_NO_COMPRESSION
    old = [cipher["name"] for cipher in context.get_ciphers() if not cipher["aead"]]
    assert old == []


# certificates --------------------------------------------------------------------------------------------------------


GOOD = certificates.issue("a.example")
OTHER = certificates.issue("b.example")


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (Pair(b"", b""), "there is no PEM certificate in it"),
        (Pair(b"garbage", GOOD.key), "there is no PEM certificate in it"),
        (Pair(GOOD.chain, b""), "there is no PEM private key in it"),
        (Pair(GOOD.key, GOOD.chain), "there is no PEM certificate in it"),
        (Pair(GOOD.chain, OTHER.key), "the key does not belong to the certificate"),
        (Pair(GOOD.chain, certificates.issue("a.example", rsa=True).key), "the key does not belong to the certificate"),
        (certificates.encrypted(GOOD), "the key is encrypted"),
        (Pair(GOOD.chain + b"x" * tls.MAX_BYTES, GOOD.key), "certificate or key is larger than 262144 bytes"),
    ],
)
def test_what_cannot_be_served_with_is_refused_in_words(pair: Pair, message: str) -> None:
    with pytest.raises(BadCertificate) as refused:
        server_context(ANY, pair=pair)
    assert message in str(refused.value)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 0.9])
def test_half_a_certificate_is_refused(share: float) -> None:
    """As a reader finds it that came in the middle of writing."""
    for pair in (
        Pair(GOOD.chain[: int(len(GOOD.chain) * share)], GOOD.key),
        Pair(GOOD.chain, GOOD.key[: int(len(GOOD.key) * share)]),
    ):
        with pytest.raises(BadCertificate):
            server_context(ANY, pair=pair)


def test_keys_do_not_show_up_in_logs() -> None:
    assert b"PRIVATE" in GOOD.key
    assert "PRIVATE" not in repr(GOOD)


def test_authorities_that_cannot_be_read_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    authority = certificates.authority().cert_pem.bytes()
    context = client_context(ANY, authorities=[b"garbage", authority])
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert len(context.get_ca_certs()) == 1
    assert [record.message for record in caplog.records] == ["an authority's certificate cannot be read"]
    with pytest.raises(BadCertificate, match="no certificate authority to trust"):
        client_context(ANY, authorities=[b"", "ä".encode()])


@pytest.mark.parametrize("days", [1.5, 90, 30 * 365])
def test_dates_are_read_as_they_were_written(days: float) -> None:
    """30 years from now a year is written with four digits."""
    now = datetime.datetime.now(datetime.UTC)
    begins, ends = validity(certificates.issue("a.example", days=days).chain)
    assert abs((ends - now).total_seconds() - days * 86400) < 60
    assert abs((now - begins).total_seconds() - 86400) < 60


@pytest.mark.parametrize(
    "chain", [b"", GOOD.key, GOOD.chain[:200], b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----"]
)
def test_dates_of_what_is_no_certificate(chain: bytes) -> None:
    with pytest.raises(BadCertificate):
        validity(chain)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (certificates.issue("a.example", days=-1), "certificate has expired"),
        (certificates.issue("a.example", days=2), "certificate expires soon"),
        (certificates.issue("a.example", begins=1), "certificate is not valid yet"),
        (GOOD, None),
    ],
)
def test_dates_are_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture, pair: Pair, message: str | None) -> None:
    certificates.put(tmp_path, pair)
    CertificateFiles(tmp_path, ANY).load()
    assert [record.message for record in caplog.records] == ([message] if message else [])


# files ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> CertificateFiles:
    """Files with a good certificate, loaded."""
    certificates.put(tmp_path, GOOD)
    made = CertificateFiles(tmp_path, ANY)
    assert made.exists()
    made.load()
    return made


def test_files_that_changed_are_reloaded_and_it_is_said(files, tmp_path, caplog) -> None:
    caplog.set_level(logging.INFO)
    before = files.context
    assert not files.refresh()
    assert files.context is before
    certificates.put(tmp_path, OTHER)
    assert files.refresh()
    assert files.context is not before
    assert not files.refresh()
    assert [record.message for record in caplog.records] == [
        "Certificate and/or key have changed on disk and were reloaded."
    ]


def test_half_a_change_keeps_the_last_good_one(files, tmp_path, caplog) -> None:
    """Key and certificate are two files: for a moment one of them is the old one."""
    before = files.context
    (tmp_path / "tls.crt").write_bytes(OTHER.chain)
    for _ in range(3):
        assert not files.refresh()
    assert files.context is before
    assert [record.message for record in caplog.records] == ["certificate cannot be used, the last good one stays"]
    (tmp_path / "tls.key").write_bytes(OTHER.key)
    assert files.refresh()
    assert files.context is not before


def test_garbage_and_missing_files_keep_the_last_good_one(files, tmp_path, caplog) -> None:
    before = files.context
    (tmp_path / "tls.key").unlink()
    assert not files.refresh()
    assert not files.refresh()
    (tmp_path / "tls.key").write_bytes(b"\0" * 100)
    assert not files.refresh()
    assert files.context is before
    assert [record.message for record in caplog.records] == [
        "certificate files cannot be read",
        "certificate cannot be used, the last good one stays",
    ]


def test_touching_is_noticed(files, tmp_path) -> None:
    assert not files.refresh_if_touched()
    certificates.put(tmp_path, OTHER)
    assert files.refresh_if_touched()
    assert not files.refresh_if_touched()
    (tmp_path / "tls.key").unlink()
    assert not files.refresh_if_touched()
    certificates.put(tmp_path, GOOD)
    assert files.refresh_if_touched()


def test_no_files_at_the_start(tmp_path) -> None:
    made = CertificateFiles(tmp_path, ANY)
    assert not made.exists()
    with pytest.raises(BadCertificate, match=r"tls.crt: No such file"):
        made.load()
