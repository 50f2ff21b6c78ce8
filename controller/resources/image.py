"""Revision -> Image objects, hints for whoever warms image caches on nodes (serving §1.9)."""

from controller.resources.deployment import annotations, labels
from controller.resources.metadata import child
from kncore.api import meta
from kncore.api.meta import Obj
from kncore.api.names import child_name
from kncore.api.resources import IMAGES

__all__ = ["make"]


def make(revision: Obj) -> list[Obj]:
    """One Image per container whose digest was looked for, init containers first."""
    made = []
    for containers, statuses in (("initContainers", "initContainerStatuses"), ("containers", "containerStatuses")):
        tags = {spec.get("name"): spec.get("image", "") for spec in meta.at(revision, "spec", containers, default=[])}
        for status in meta.at(revision, "status", statuses, default=[]):
            name = status["name"]
            made.append(_make(revision, name, status.get("imageDigest") or tags.get(name, "")))
    return made


def _make(revision: Obj, container: str, image: str) -> Obj:
    spec: Obj = {"image": image}
    if account := meta.at(revision, "spec", "serviceAccountName"):
        spec["serviceAccountName"] = account
    if secrets := meta.at(revision, "spec", "imagePullSecrets"):
        spec["imagePullSecrets"] = list(secrets)
    name = child_name(child_name(meta.name(revision), "-cache"), f"-{container}")
    return {
        "apiVersion": IMAGES.api_version,
        "kind": IMAGES.kind,
        "metadata": child(revision, name, labels=labels(revision), annotations=annotations(revision)),
        "spec": spec,
    }
