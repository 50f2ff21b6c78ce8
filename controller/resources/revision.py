"""Configuration -> Revision (serving §1.8)."""

import copy

from controller.resources.metadata import without
from controller.routing_state import ACTIVE, PENDING
from kncore.api import keys, meta
from kncore.api.meta import Obj
from kncore.api.names import child_name
from kncore.api.resources import REVISIONS

__all__ = ["byo_name", "make", "name"]


def byo_name(configuration: Obj) -> str:
    """The name the user chose for the next Revision; empty when the controller is to choose."""
    return str(meta.at(configuration, "spec", "template", "metadata", "name", default=""))


def name(configuration: Obj) -> str:
    """Name of the Revision for the Configuration's current generation, e.g. `hello-00001`."""
    return byo_name(configuration) or child_name(meta.name(configuration), f"-{meta.generation(configuration):05d}")


def make(configuration: Obj, now: str) -> Obj:
    """The Revision that stamps the Configuration's template.

    Args:
        now: RFC 3339 time its routing state counts from.
    """
    template = meta.at(configuration, "spec", "template", default={})
    routes = meta.annotations(configuration).get(keys.ROUTES, "")
    labels = dict(meta.labels(template)) | {
        keys.CONFIGURATION: meta.name(configuration),
        keys.SERVICE: meta.labels(configuration).get(keys.SERVICE, ""),
        keys.CONFIGURATION_GENERATION: str(meta.generation(configuration)),
        keys.CONFIGURATION_UID: meta.uid(configuration),
        keys.SERVICE_UID: meta.labels(configuration).get(keys.SERVICE_UID, ""),
        # A Configuration that is routed to says so at once: the Revision must not lose its min-scale, or be reaped,
        # in the moment before the labeler sees it.
        keys.ROUTING_STATE: ACTIVE if routes else PENDING,
    }
    annotations = without(meta.annotations(template)) | {keys.ROUTING_STATE_MODIFIED: now}
    if modifier := meta.annotations(configuration).get(keys.LAST_MODIFIER):
        annotations[keys.CREATOR] = modifier
    if routes:
        annotations[keys.ROUTES] = routes
    return {
        "apiVersion": REVISIONS.api_version,
        "kind": REVISIONS.kind,
        "metadata": {
            "name": name(configuration),
            "namespace": meta.namespace(configuration),
            "labels": {key: value for key, value in labels.items() if value},
            "annotations": annotations,
            "ownerReferences": [meta.owner_reference(configuration)],
        },
        "spec": copy.deepcopy(meta.at(template, "spec", default={})),
    }
