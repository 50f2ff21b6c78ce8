"""URLs as they are stored: parsed once and written back, as Go's net/url does.

A well-formed URL stays as it is. Characters that may not stand in a path get escaped (`not a url` becomes
`not%20a%20url`), and what cannot be a URL at all is an error.
"""

import re
from typing import Final
from urllib.parse import quote, unquote_to_bytes

__all__ = ["normalized_url"]

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(.*)", re.DOTALL)
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.%]*\]|[^\s\[\]\\^`{|}%/?#:]*)(:[0-9]*)?")
_WRITTEN_AS_IS: Final = re.compile(r"[\w.~!$&'()*+,;=:@/\[\]%-]*", re.ASCII)
_SAFE: Final = "-_.~$&+,/:;=@"


def normalized_url(text: str) -> str:
    """The URL in the form in which it is stored.

    Raises:
        ValueError: not a URL.
    """
    if not text:
        return ""
    if _CONTROL.search(text):
        raise ValueError("invalid control character in URL")
    rest, hash_, fragment = text.partition("#")
    scheme = ""
    if match := _SCHEME.fullmatch(rest):
        scheme, rest = match[1].lower() + ":", match[2]
    elif rest.startswith(":"):
        raise ValueError("missing protocol scheme")
    rest, question, query = rest.partition("?")
    if scheme and rest and not rest.startswith("/"):
        return f"{scheme}{rest}{question}{query}" + (f"#{_escaped(fragment)}" if hash_ and fragment else "")
    authority = ""
    if rest.startswith("//"):
        authority, slash, path = rest[2:].partition("/")
        _check_authority(authority)
        authority, rest = f"//{authority}", slash + path
    elif not scheme and ":" in rest.partition("/")[0]:
        raise ValueError("first path segment in URL cannot contain colon")
    shown = f"{scheme}{authority}{_escaped(rest)}{question}{query}"
    return f"{shown}#{_escaped(fragment)}" if fragment else shown


def _check_authority(authority: str) -> None:
    host = authority.rpartition("@")[2]
    if not _HOST.fullmatch(host):
        raise ValueError("invalid character or port in host name")


def _escaped(part: str) -> str:
    if _BAD_ESCAPE.search(part):
        raise ValueError("invalid URL escape")
    return part if _WRITTEN_AS_IS.fullmatch(part) else quote(unquote_to_bytes(part), safe=_SAFE)
