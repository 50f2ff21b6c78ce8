"""Revision specs and the templates they come from (serving §1.5.3, §1.5.4)."""

import math
from typing import Final

from kncore.api import keys
from kncore.api.changes import changes
from kncore.api.fielderror import OK, FieldError, Level, disallowed, generic, invalid_value, out_of_bounds
from kncore.api.kinds import shape
from kncore.api.meta import Obj
from kncore.api.settings import Settings
from kncore.api.syntax import dns_1035_label, dns_1035_prefix
from kncore.api.validation.containers import pod
from kncore.api.validation.metadata import networking_annotations, shown, whole_seconds
from kncore.api.validation.scaling import found, scaling_annotations
from kncore.config.defaults import Defaults
from kncore.quantity import parse_quantity
from kncore.strconv import format_float, parse_float, quote

__all__ = ["container_concurrency", "name_change", "revision_spec", "template"]

_QUANTITIES: Final = (
    keys.QUEUE_CPU_REQUEST,
    keys.QUEUE_CPU_LIMIT,
    keys.QUEUE_MEMORY_REQUEST,
    keys.QUEUE_MEMORY_LIMIT,
    keys.QUEUE_EPHEMERAL_STORAGE_REQUEST,
    keys.QUEUE_EPHEMERAL_STORAGE_LIMIT,
)


def revision_spec(spec: Obj, config: Settings) -> FieldError:
    """The pod, the timeout and the concurrency limit. The two other timeouts have no rules."""
    wrong = pod(spec, config.features)
    timeout, limit = spec.get("timeoutSeconds", 0), int(config.defaults.max_revision_timeout_seconds)
    if not 0 <= timeout <= limit:
        wrong += out_of_bounds(timeout, 0, limit, "timeoutSeconds")
    if "containerConcurrency" in spec:
        about = container_concurrency(spec["containerConcurrency"], config.defaults)
        wrong += about.via("containerConcurrency")
    return wrong


def container_concurrency(value: int, defaults: Defaults) -> FieldError:
    """At least 1 where the cluster does not allow "no limit", at most what the cluster allows."""
    low = 0 if defaults.allow_container_concurrency_zero else 1
    high = defaults.container_concurrency_max_limit
    return OK if low <= value <= high else out_of_bounds(value, low, high, "")


def template(value: Obj, parent: Obj, config: Settings) -> FieldError:
    """A `spec.template` of the object whose metadata is `parent`."""
    metadata = value["metadata"]
    annotations = metadata.get("annotations", {})
    about_annotations = (
        scaling_annotations(annotations, config.autoscaler)
        + networking_annotations(annotations)
        + _queue_proxy_resources(annotations)
        + whole_seconds(annotations, keys.PROGRESS_DEADLINE, "progress-deadline")
    )
    return (
        revision_spec(value["spec"], config).via("spec")
        + about_annotations.via("metadata.annotations")
        + _name(metadata, parent)
    )


def _name(metadata: Obj, parent: Obj) -> FieldError:
    """A name that the user brings for the Revision: the parent's, a dash, and something that changes."""
    prefix, name = metadata.get("generateName", ""), metadata.get("name", "")
    if prefix and (wrong := dns_1035_prefix(prefix)):
        return invalid_value(f"not a DNS 1035 label prefix: {shown(wrong)}", "metadata.generateName")
    if not name:
        return OK
    if wrong := dns_1035_label(name):
        return invalid_value(f"not a DNS 1035 label: {shown(wrong)}", "metadata.name")
    parent_name = parent.get("name", "")
    if not parent_name and parent.get("generateName"):
        return disallowed("metadata.name")  # nobody can know the parent's name yet
    if not name.startswith(f"{parent_name}-"):
        return invalid_value(f"{quote(name)} must have prefix {quote(f'{parent_name}-')}", "metadata.name")
    return OK


def name_change(old: Obj, new: Obj) -> FieldError:
    """A Revision never changes, so a template whose Revision has a name of its own may change only with that name."""
    name = new["metadata"].get("name", "")
    if not name or name != old["metadata"].get("name", "") or shape("RevisionTemplate").same(old, new):
        return OK
    message = "Saw the following changes without a name change (-old +new)"
    return generic(message, "metadata.name", details=changes(old, new))


def _queue_proxy_resources(annotations: dict[str, str]) -> FieldError:
    wrong = OK
    if (given := found(annotations, keys.QUEUE_RESOURCE_PERCENTAGE)) is not None:
        wrong += generic(
            "Queue proxy resource percentage annotation is deprecated. "
            "Please use the available annotations to explicitly set resource values per service"
        ).at(Level.WARNING)
        wrong += _percentage(given[1]).via_key(given[0])
    for aliases in _QUANTITIES:
        if (given := found(annotations, aliases)) is not None:
            try:
                parse_quantity(given[1])
            except ValueError:
                wrong += invalid_value(given[1], "").via_key(given[0])
    return wrong


def _percentage(text: str) -> FieldError:
    try:
        value = parse_float(text)
    except ValueError:
        return invalid_value(text, "")
    if value < 0.1 or value > 100:
        return out_of_bounds(format_float(value), "0.1", "100", "")
    return invalid_value(text, "") if math.isnan(value) else OK
