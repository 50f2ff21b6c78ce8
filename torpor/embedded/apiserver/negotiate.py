"""Content negotiation: which form of an answer a client's `Accept` header asks for.

kubectl lists several forms, best first, as parameters of `application/json` (`as=Table;v=v1;g=meta.k8s.io`). Entries
we cannot serve (protobuf, unknown versions) are skipped, as a real API server does.
"""

import functools
from dataclasses import dataclass
from typing import Literal

from torpor.embedded.apiserver.errors import not_acceptable

__all__ = ["Form", "discovery_version", "form"]

_MEDIA = frozenset({"application/json", "*/*", "application/*"})
_YAML = "application/yaml"


@dataclass(frozen=True)
class Form:
    """How an answer looks."""

    shape: Literal["Object", "Table", "PartialObjectMetadata"] = "Object"
    """The object or list itself, a Table, or only metadata."""
    yaml: bool = False
    """YAML instead of JSON."""


_SHAPES: dict[str, Literal["Table", "PartialObjectMetadata"]] = {
    "Table": "Table",
    "PartialObjectMetadata": "PartialObjectMetadata",
    "PartialObjectMetadataList": "PartialObjectMetadata",
}


@functools.lru_cache(maxsize=256)
def form(accept: str) -> Form:
    """The best form both sides know; no header means JSON.

    Raises:
        StatusError: NotAcceptable.
    """
    for media, parameters in _entries(accept):
        if media == _YAML and "as" not in parameters:
            return Form(yaml=True)
        if media not in _MEDIA:
            continue
        wanted = parameters.get("as")
        if wanted is None:
            return Form()
        if parameters.get("g") == "meta.k8s.io" and parameters.get("v") == "v1" and wanted in _SHAPES:
            return Form(_SHAPES[wanted])
    if not accept.strip():
        return Form()
    raise not_acceptable(("application/json", "application/yaml"))


@functools.lru_cache(maxsize=256)
def discovery_version(accept: str) -> str:
    """Version of aggregated discovery to answer with; empty for the plain form."""
    for media, parameters in _entries(accept):
        if media not in _MEDIA:
            continue
        if "as" not in parameters:
            return ""
        version = parameters.get("v", "")
        if parameters.get("g") == "apidiscovery.k8s.io" and version in ("v2", "v2beta1"):
            return version
    return ""


def _entries(accept: str) -> list[tuple[str, dict[str, str]]]:
    """Media type and parameters of each entry, best quality first and in the order given among equals."""
    entries = []
    for part in accept.split(","):
        media, *rest = (piece.strip() for piece in part.split(";"))
        parameters = dict(pair.split("=", 1) for pair in rest if "=" in pair)
        try:
            quality = float(parameters.get("q", "1"))
        except ValueError:
            quality = 0.0
        if media and quality > 0:
            entries.append((quality, media.lower(), parameters))
    entries.sort(key=lambda entry: -entry[0])
    return [(media, parameters) for _, media, parameters in entries]
