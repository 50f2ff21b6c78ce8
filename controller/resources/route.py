"""Service -> Route (serving §1.7)."""

import copy

from controller.resources.metadata import child, without
from kncore.api import keys, meta
from kncore.api.meta import Obj
from kncore.api.resources import ROUTES

__all__ = ["make"]


def make(service: Obj) -> Obj:
    """The Route that a Service wants: its traffic, where targets without a revision mean the Service's own
    Configuration.
    """
    name = meta.name(service)
    traffic = copy.deepcopy(meta.at(service, "spec", "traffic", default=[]))
    for target in traffic:
        if not target.get("revisionName"):
            target["configurationName"] = name
    return {
        "apiVersion": ROUTES.api_version,
        "kind": ROUTES.kind,
        "metadata": child(
            service,
            name,
            labels=meta.labels(service) | {keys.SERVICE: name},
            # Unlike the Configuration's, a Route's annotations keep rollout-duration: the Route is what rolls out.
            annotations=without(meta.annotations(service), keys.LAST_APPLIED),
        ),
        "spec": {"traffic": traffic},
    }
