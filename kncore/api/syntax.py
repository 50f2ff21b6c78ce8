"""What names may look like: DNS labels and domains, qualified names, image references.

Each check returns what is wrong, in Kubernetes' words; an empty list means nothing is. Lengths are bytes, as DNS counts
them, although some of the texts say characters.

Source: k8s.io/apimachinery pkg/util/validation and pkg/api/validate/content; go-containerregistry pkg/name.
"""

import re
from collections.abc import Sequence
from typing import Final

from kncore.strconv import quote

__all__ = [
    "c_identifier",
    "dns_1035_label",
    "dns_1035_prefix",
    "dns_1123_label",
    "dns_1123_subdomain",
    "fully_qualified_domain_name",
    "is_image_reference",
    "qualified_name",
]

_LABEL_LENGTH: Final = 63
_DOMAIN_LENGTH: Final = 253

_LABEL_1123: Final = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN_1123: Final = rf"{_LABEL_1123}(\.{_LABEL_1123})*"
_LABEL_1035: Final = "[a-z]([-a-z0-9]*[a-z0-9])?"
_QUALIFIED: Final = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_C_IDENTIFIER: Final = "[A-Za-z_][A-Za-z0-9_]*"


def dns_1035_label(text: str) -> list[str]:
    """Must be a label that starts with a letter: the name of a Kubernetes Service."""
    return _too_long(text, _LABEL_LENGTH, "characters") + _unlike(
        text,
        _LABEL_1035,
        "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic"
        " character, and end with an alphanumeric character",
        ("my-name", "abc-123"),
    )


def dns_1035_prefix(text: str) -> list[str]:
    """Must be the beginning of such a label: it may end in a dash."""
    if len(text) > 1 and text.endswith("-"):
        # Two characters make place for one, so a prefix of 64 passes; kept, for names are checked again when complete.
        text = text[:-2] + "a"
    return dns_1035_label(text)


def dns_1123_label(text: str) -> list[str]:
    """Must be a label: letters, digits and inner dashes."""
    long = _too_long(text, _LABEL_LENGTH, "characters")
    if not re.fullmatch(_LABEL_1123, text) and re.fullmatch(_SUBDOMAIN_1123, text):
        return [*long, "must not contain dots"]
    return long + _unlike(
        text,
        _LABEL_1123,
        "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end"
        " with an alphanumeric character",
        ("my-name", "123-abc"),
    )


def dns_1123_subdomain(text: str, *, unit: str = "characters") -> list[str]:
    """Must be one or more labels, joined by dots."""
    return _too_long(text, _DOMAIN_LENGTH, unit) + _unlike(
        text,
        _SUBDOMAIN_1123,
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start"
        " and end with an alphanumeric character",
        ("example.com",),
    )


def qualified_name(text: str) -> list[str]:
    """Must be `name` or `domain/name`, as label keys are."""
    rule = (
        "must consist of alphanumeric characters, '-', '_' or '.',"
        " and must start and end with an alphanumeric character"
    )
    examples = ("MyName", "my.name", "123-abc")
    prefix, slash, name = text.rpartition("/")
    if "/" in prefix:
        return [
            f"a valid label key {_explained(rule, _QUALIFIED, examples)}"
            " with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
        ]
    wrong = []
    if slash and not prefix:
        wrong.append("prefix part must be non-empty")
    elif slash:
        wrong += [f"prefix part {problem}" for problem in dns_1123_subdomain(prefix, unit="bytes")]
    about_name = ["must be non-empty"] if not name else _too_long(name, _LABEL_LENGTH, "bytes")
    about_name += _unlike(name, _QUALIFIED, rule, examples)
    return wrong + [f"name part {problem}" for problem in about_name]


def c_identifier(text: str) -> list[str]:
    """Must be an identifier as in C: the name of a kind."""
    return _unlike(
        text,
        _C_IDENTIFIER,
        "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric"
        " characters or '_'",
        ("my_name", "MY_NAME", "MyName"),
    )


def fully_qualified_domain_name(text: str, field: str) -> str:
    """What is wrong with a domain name of at least two labels, which may end in a dot; "" if nothing is."""
    if not text:
        return f"{field}: Required value"
    text = text.removesuffix(".")
    if wrong := dns_1123_subdomain(text):
        return f"{field}: Invalid value: {quote(text)}: {','.join(wrong)}"
    labels = text.split(".")
    if len(labels) < 2:
        why = "should be a domain with at least two segments separated by dots"
        return f"{field}: Invalid value: {quote(text)}: {why}"
    for label in labels:
        if wrong := dns_1123_label(label):
            return f"{field}: Invalid value: {quote(label)}: {','.join(wrong)}"
    return ""


def _too_long(text: str, length: int, unit: str) -> list[str]:
    return [f"must be no more than {length} {unit}"] if len(text.encode(errors="replace")) > length else []


def _unlike(text: str, pattern: str, rule: str, examples: Sequence[str]) -> list[str]:
    return [] if re.fullmatch(pattern, text) else [_explained(rule, pattern, examples)]


def _explained(rule: str, pattern: str, examples: Sequence[str]) -> str:
    shown = " or ".join(f"'{example}', " for example in examples)
    return f"{rule} (e.g. {shown}regex used for validation is '{pattern}')"


_TAG: Final = re.compile(r"[\w.-]{1,128}", re.ASCII)
_REPOSITORY: Final = re.compile(r"[a-z0-9_./-]{2,255}")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
# What may stand before the first slash if it holds a dot or a colon: a host or an address in brackets, then a port.
_REGISTRY: Final = re.compile(r"(\[[0-9A-Fa-f:.]*\]|[^\s\[\]:/?#@%\\^`{|}\x00-\x20\x7f]*)(:[0-9]*)?")


def is_image_reference(text: str) -> bool:
    """Whether the text names an image: `[registry/]repository[:tag][@sha256:...]`."""
    return _is_tagged(text) or _is_digested(text)


def _is_tagged(text: str) -> bool:
    base, colon, tag = text.rpartition(":")
    if not colon or "/" in tag:  # no tag; the colon may be that of the registry's port
        base, tag = text, ""
    return (not tag or _TAG.fullmatch(tag) is not None) and _is_repository(base)


def _is_digested(text: str) -> bool:
    base, at, digest = text.partition("@")
    return bool(at) and _DIGEST.fullmatch(digest) is not None and (_is_tagged(base) or _is_repository(base))


def _is_repository(text: str) -> bool:
    registry, slash, repository = text.partition("/")
    if not slash or not ("." in registry or ":" in registry):
        registry, repository = "", text
    return _REPOSITORY.fullmatch(repository) is not None and _REGISTRY.fullmatch(registry) is not None
