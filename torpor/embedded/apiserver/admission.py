"""The last word on a write: Knative's defaulting and validation, in process, where a cluster calls its webhooks.

`Admission` is what the server calls for every create and update (and delete); it may change the object, add warnings,
or refuse. `KnativeAdmission` is the default: Knative kinds go through the very functions that the webhook serves in a
cluster, and the ConfigMaps in `knative-serving` through the parsers of the components that read them. What is refused
carries the name of the webhook that would have refused it, because that is what users and tests search for.
"""

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torpor.embedded.apiserver.builtin import Kind
from torpor.embedded.apiserver.errors import bad_request

__all__ = ["Admission", "Admitted", "AllowAll", "example_checksum"]

Obj = dict[str, Any]


@dataclass(frozen=True)
class Admitted:
    """An object as admission leaves it."""

    obj: Obj
    warnings: tuple[str, ...] = ()
    """Shown to the user by kubectl; the write goes on."""


class Admission(Protocol):
    """Whoever may change or refuse writes."""

    def admit(
        self,
        operation: str,
        kind: Kind,
        obj: Obj,
        old: Obj | None,
        *,
        subresource: str,
        user: str,
        dry_run: bool,
    ) -> Admitted:
        """The object to store.

        Args:
            operation: CREATE, UPDATE or DELETE.
            obj: the caller's own copy, may be changed or replaced; at a DELETE the object that goes.
            old: what is stored now, shared: not to be changed. None at a CREATE.
        Raises:
            StatusError: refused.
        """


class AllowAll:
    """Admission without an opinion."""

    def admit(
        self, operation: str, kind: Kind, obj: Obj, old: Obj | None, *, subresource: str, user: str, dry_run: bool
    ) -> Admitted:
        return Admitted(obj)


def example_checksum(example: str) -> str:
    """The value of annotation `knative.dev/example-checksum` for a ConfigMap's `_example` block.

    Source: knative/pkg configmap/hash-gen: CRC-32 of the trimmed text with each run of newlines written as `\\n`.
    """
    text = re.sub(r"\n+", r"\\n", example.strip())
    return f"{zlib.crc32(text.encode()):08x}"


def check_example(config_map: Mapping[str, Any]) -> str:
    """Why the `_example` block of a ConfigMap is refused, or empty: people edit in there and wonder."""
    example = (config_map.get("data") or {}).get("_example")
    wanted = (config_map["metadata"].get("annotations") or {}).get("knative.dev/example-checksum")
    if example is None or wanted is None or example_checksum(example) == wanted:
        return ""
    return (
        'the update modifies a key in "_example" which is probably not what you want. '
        'Instead, copy the respective setting to the top-level of the ConfigMap, directly below "data"'
    )


def denied(webhook: str, why: str) -> Exception:
    """The refusal a webhook's answer turns into."""
    return bad_request(f'admission webhook "{webhook}" denied the request: {why}')


class KnativeAdmission(AllowAll):
    """Placeholder."""

    def __init__(self, *, clock: Any) -> None:
        self._clock = clock
