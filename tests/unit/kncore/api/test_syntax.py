"""Names, domains, image references and URLs."""

import pytest

from kncore.api.syntax import (
    dns_1035_label,
    dns_1035_prefix,
    dns_1123_label,
    dns_1123_subdomain,
    fully_qualified_domain_name,
    is_image_reference,
    qualified_name,
)
from kncore.api.urls import normalized_url


@pytest.mark.parametrize("name", ["a", "a-b", "a1", "x" * 63])
def test_labels_of_services(name: str) -> None:
    assert dns_1035_label(name) == []


@pytest.mark.parametrize("name", ["", "A", "1a", "-a", "a-", "a.b", "a_b", "a\n", "é"])
def test_not_labels_of_services(name: str) -> None:
    (problem,) = dns_1035_label(name)
    assert problem.startswith("a DNS-1035 label must consist of lower case alphanumeric characters or '-'")
    assert problem.endswith(
        "(e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
    )


def test_long_labels_are_counted_in_bytes() -> None:
    assert dns_1035_label("x" * 64) == ["must be no more than 63 characters"]
    assert len(dns_1035_label("é" * 32)) == 2


def test_a_prefix_may_end_in_a_dash() -> None:
    assert dns_1035_prefix("app-") == []
    assert dns_1035_prefix("-") != []


def test_a_label_that_is_a_domain_is_told_so() -> None:
    assert dns_1123_label("a.b") == ["must not contain dots"]
    assert dns_1123_label("1-a") == []


def test_subdomains() -> None:
    assert dns_1123_subdomain("my.sa-1") == []
    assert len(dns_1123_subdomain("Bad_SA")) == 1
    assert dns_1123_subdomain("a" * 254) == ["must be no more than 253 characters"]


@pytest.mark.parametrize("name", ["MyName", "my.name", "example.com/MyName", "a" * 63])
def test_qualified_names(name: str) -> None:
    assert qualified_name(name) == []


@pytest.mark.parametrize(
    ("name", "beginnings"),
    [
        ("", ["name part must be non-empty", "name part must consist"]),
        ("/a", ["prefix part must be non-empty"]),
        ("Bad_/a", ["prefix part a lowercase RFC 1123 subdomain"]),
        ("a/b/c", ["a valid label key must consist of alphanumeric characters"]),
        ("-bad-", ["name part must consist"]),
        ("r" * 64, ["name part must be no more than 63 bytes"]),
    ],
)
def test_not_qualified_names(name: str, beginnings: list[str]) -> None:
    found = qualified_name(name)
    assert [problem[: len(beginning)] for problem, beginning in zip(found, beginnings, strict=True)] == beginnings


@pytest.mark.parametrize("name", ["example.com", "a.b.c", "example.com.", "1.2.3.4"])
def test_domains(name: str) -> None:
    assert fully_qualified_domain_name(name, "name") == ""


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "name: Required value"),
        ("a", 'name: Invalid value: "a": should be a domain with at least two segments separated by dots'),
        (f"{'x' * 64}.com", f'name: Invalid value: "{"x" * 64}": must be no more than 63 characters'),
    ],
)
def test_not_domains(name: str, problem: str) -> None:
    assert fully_qualified_domain_name(name, "name") == problem


@pytest.mark.parametrize(
    "image",
    [
        "busybox",
        "busybox:latest",
        "gcr.io/knative-samples/helloworld-go",
        "localhost:5000/app:v1",
        "reg.example.com:99999/ns/app",
        f"gcr.io/a/b@sha256:{'a' * 64}",
        f"gcr.io/a/b:tag@sha256:{'a' * 64}",
        "[::1]:5000/app",
        "dev.local/hello:0f3c",
    ],
)
def test_image_references(image: str) -> None:
    assert is_image_reference(image)


@pytest.mark.parametrize(
    "image",
    ["", "UPPER", "in valid", "a", f"app:{'t' * 129}", "app@sha256:beef", "app@md5:1", "user@reg.io/app", "app:t@g"],
)
def test_not_image_references(image: str) -> None:
    assert not is_image_reference(image)


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("", ""),
        ("http://hello.default.example.com", "http://hello.default.example.com"),
        ("HTTPS://a:8080/x?y=z#f", "https://a:8080/x?y=z#f"),
        ("not a url", "not%20a%20url"),
        ("/a%20b", "/a%20b"),
        ("mailto:x@y", "mailto:x@y"),
    ],
)
def test_urls(text: str, stored: str) -> None:
    assert normalized_url(text) == stored


@pytest.mark.parametrize("text", ["http://a b", ":x", "1a:b", "%zz", "http://h:port/", "a\x7f"])
def test_not_urls(text: str) -> None:
    with pytest.raises(ValueError, match=r"URL|host|scheme|escape"):
        normalized_url(text)
