"""The last word on a write: Knative's defaulting and validation, in process, where a cluster calls its webhooks.

`Admission` is what the server calls for every create and update (and delete); it may change the object, add warnings,
or refuse. `KnativeAdmission` is the default: Knative kinds go through the very functions that the webhook serves in a
cluster, and the ConfigMaps in `knative-serving` through the parsers of the components that read them. What is refused
carries the name of the webhook that would have refused it, because that is what users and tests search for.
"""

import logging
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from kncore.api import admission
from kncore.api.shapes import DecodeError
from kncore.config.store import NAMES, Store, parse
from kncore.errors import ConfigError
from torpor.embedded.apiserver.builtin import Kind
from torpor.embedded.apiserver.errors import StatusError, bad_request
from torpor.embedded.apiserver.store import Change, Collection

__all__ = ["IDLE", "Admission", "Admitted", "AllowAll", "KnativeAdmission", "check_example", "example_checksum"]

log = logging.getLogger(__name__)

SYSTEM_NAMESPACE = "knative-serving"
VALIDATION = "validation.webhook.serving.knative.dev"
CONFIG_VALIDATION = "config.webhook.serving.knative.dev"
EXCLUDE = "webhooks.knative.dev/exclude"
"""Label of a namespace that Knative's webhooks leave alone."""

IDLE = frozenset({
    "cronjobs.batch",
    "daemonsets.apps",
    "horizontalpodautoscalers.autoscaling",
    "ingresses.networking.k8s.io",
    "jobs.batch",
    "limitranges",
    "mutatingwebhookconfigurations.admissionregistration.k8s.io",
    "networkpolicies.networking.k8s.io",
    "persistentvolumeclaims",
    "poddisruptionbudgets.policy",
    "resourcequotas",
    "statefulsets.apps",
    "validatingwebhookconfigurations.admissionregistration.k8s.io",
})  # fmt: skip
"""Built-in kinds that manifests contain and that nothing in embedded mode acts upon."""

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


def denied(webhook: str, why: str) -> StatusError:
    """The refusal a webhook's answer turns into."""
    return bad_request(f'admission webhook "{webhook}" denied the request: {why}')


class KnativeAdmission:
    """What Knative's webhooks do.

    The ConfigMaps in force are learned from the store's changes (`observe`), so an object is judged by exactly the
    configuration that was written before it.
    """

    def __init__(self) -> None:
        self.config = Store()
        """The ConfigMaps in force."""
        self._excluded: set[str] = set()

    def observe(self, collection: Collection, change: Change) -> None:
        """Learn from a change: the store calls this with every one."""
        key = change.record.key
        gone = change.type == "DELETED"
        if collection.name == "configmaps" and key.namespace == SYSTEM_NAMESPACE:
            data = None if gone else change.record.obj.get("data") or {}
            try:
                self.config.apply(key.name, data)
            except ConfigError as error:  # it came past admission: by an older version, or by hand
                log.warning("configuration ignored", extra={"config_map": key.name, "error": str(error)})
        elif collection.name == "namespaces":
            if not gone and EXCLUDE in change.record.labels:
                self._excluded.add(key.name)
            else:
                self._excluded.discard(key.name)

    def admit(
        self, operation: str, kind: Kind, obj: Obj, old: Obj | None, *, subresource: str, user: str, dry_run: bool
    ) -> Admitted:
        if kind.resource == "configmaps":
            if operation != "DELETE":
                self._check_config(obj)
            return Admitted(obj)
        if kind.resource in IDLE and operation == "CREATE":
            return Admitted(obj, (f"{kind.resource} are only stored here: nothing acts upon them",))
        # no rule of Knative concerns a status, and controllers write little else
        if not kind.custom or operation == "DELETE" or subresource == "status":
            return Admitted(obj)
        if obj["metadata"].get("namespace") in self._excluded:
            return Admitted(obj)
        try:
            admitted = admission.admit(
                obj, old=old, operation=operation, subresource=subresource, config=self.config, user=user
            )
        except admission.Denied as refusal:
            if isinstance(refusal.__cause__, DecodeError):
                raise denied("webhook.serving.knative.dev", f"mutation failed: {refusal.message}") from refusal
            raise denied(VALIDATION, f"validation failed: {refusal.message}") from refusal
        return Admitted(admitted.object, tuple(admitted.warnings))

    def _check_config(self, config_map: Obj) -> None:
        metadata = config_map["metadata"]
        if metadata.get("namespace") != SYSTEM_NAMESPACE or metadata["name"] not in NAMES:
            return
        if why := check_example(config_map):
            raise denied(CONFIG_VALIDATION, f"validation failed: {why}")
        try:
            parse(metadata["name"], config_map.get("data") or {})
        except ConfigError as error:
            raise denied(CONFIG_VALIDATION, f"validation failed: {error}") from error
