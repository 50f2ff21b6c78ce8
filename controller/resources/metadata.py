"""What children inherit from their parents' metadata."""

from collections.abc import Iterable, Mapping

from kncore.api import meta
from kncore.api.meta import Obj

__all__ = ["child", "without"]


def without(source: Mapping[str, str], *dropped: Iterable[str] | str) -> dict[str, str]:
    """A copy of labels or annotations without some keys; a tuple of aliases may stand for one key."""
    unwanted = {key for one in dropped for key in ([one] if isinstance(one, str) else one)}
    return {key: value for key, value in source.items() if key not in unwanted}


def child(parent: Obj, name: str, *, labels: Mapping[str, str], annotations: Mapping[str, str] | None = None) -> Obj:
    """`metadata` of an object in the parent's namespace that the parent controls; empty maps are left out."""
    made: Obj = {"name": name, "namespace": meta.namespace(parent)}
    if labels:
        made["labels"] = dict(labels)
    if annotations:
        made["annotations"] = dict(annotations)
    made["ownerReferences"] = [meta.owner_reference(parent)]
    return made
