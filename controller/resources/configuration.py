"""Service -> Configuration (serving §1.7)."""

import copy

from controller.resources.metadata import child, without
from controller.routing_state import joined, split
from kncore.api import keys, meta
from kncore.api.meta import Obj
from kncore.api.resources import CONFIGURATIONS

__all__ = ["make"]


def make(service: Obj, present: Obj | None = None) -> Obj:
    """The Configuration that a Service wants.

    Args:
        present: the Configuration as it is now; the Routes it is known to serve are kept, because Routes of other
            Services may point at it as well.
    """
    routes = split(meta.annotations(present or {}).get(keys.ROUTES, "")) | {meta.name(service)}
    annotations = without(meta.annotations(service), keys.LAST_APPLIED, keys.ROLLOUT_DURATION)
    return {
        "apiVersion": CONFIGURATIONS.api_version,
        "kind": CONFIGURATIONS.kind,
        "metadata": child(
            service,
            meta.name(service),
            labels=meta.labels(service) | {keys.SERVICE: meta.name(service), keys.SERVICE_UID: meta.uid(service)},
            annotations=annotations | {keys.ROUTES: joined(routes)},
        ),
        "spec": {"template": copy.deepcopy(meta.at(service, "spec", "template", default={}))},
    }
