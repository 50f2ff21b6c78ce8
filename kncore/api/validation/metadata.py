"""Names, owner labels and annotations of whole objects (serving §1.5.2)."""

from typing import Final

from kncore.api import keys
from kncore.api.fielderror import OK, FieldError, generic, invalid_key, invalid_value, joined, missing
from kncore.api.meta import Obj, annotations, labels
from kncore.api.syntax import dns_1035_label, dns_1035_prefix
from kncore.api.validation.scaling import found, has_second_precision, no_scaling_annotations
from kncore.quantity import parse_duration_ns

__all__ = [
    "creator_and_modifier",
    "names",
    "networking_annotations",
    "outside_template",
    "owner_label",
    "rollout_duration",
    "shown",
    "whole_seconds",
]

_NETWORKING: Final = frozenset(
    {*keys.INGRESS_CLASS, *keys.CERTIFICATE_CLASS, *keys.DISABLE_EXTERNAL_DOMAIN_TLS, *keys.HTTP_PROTOCOL}
)


def shown(problems: list[str]) -> str:
    """A list of texts as Go prints it."""
    return f"[{' '.join(problems)}]"


def names(metadata: Obj) -> FieldError:
    """A name or the beginning of one, either fit for a Kubernetes Service: the children bear it too."""
    name, prefix = metadata.get("name", ""), metadata.get("generateName", "")
    if prefix and (wrong := dns_1035_prefix(prefix)):
        return generic(f"not a DNS 1035 label prefix: {shown(wrong)}", "generateName")
    if name and (wrong := dns_1035_label(name)):
        return generic(f"not a DNS 1035 label: {shown(wrong)}", "name")
    return OK if name or prefix else generic("name or generateName is required", "name")


def outside_template(metadata: Obj) -> FieldError:
    """Names, and no autoscaling annotations: metadata of Services, Configurations and Routes."""
    return names(metadata) + no_scaling_annotations(metadata.get("annotations", {})).via("annotations")


def owner_label(obj: Obj, label: str, kind: str) -> FieldError:
    """A label that names the owner must agree with an owner reference, or anyone could pose as its child."""
    if label not in labels(obj):
        return OK
    owners = obj["metadata"].get("ownerReferences", ())
    owned = any(owner["kind"] == kind and owner["name"] == labels(obj)[label] for owner in owners)
    return OK if owned else missing(label).via("labels")


def creator_and_modifier(old: Obj, new: Obj, *, changed: bool) -> FieldError:
    """Who made the object stays; who changed it last may change only with the spec."""
    before, after = annotations(old), annotations(new)
    wrong = OK
    if before.get(keys.CREATOR, "") != after.get(keys.CREATOR, ""):
        wrong += generic("annotation value is immutable", keys.CREATOR)
    modifier = after.get(keys.LAST_MODIFIER, "")
    if not changed and before.get(keys.LAST_MODIFIER, "") != modifier:
        wrong += invalid_value(modifier, keys.LAST_MODIFIER)
    return wrong


def rollout_duration(given: dict[str, str]) -> FieldError:
    """How long a new Revision takes to get all traffic; whole seconds, not negative."""
    return whole_seconds(given, keys.ROLLOUT_DURATION, "rollout-duration")


def whole_seconds(given: dict[str, str], aliases: tuple[str, ...], name: str) -> FieldError:
    """A duration annotation of whole seconds, not negative; empty counts as absent."""
    annotation = found(given, aliases)
    if annotation is None or not annotation[1]:
        return OK
    key, text = annotation
    try:
        duration = parse_duration_ns(text)
    except ValueError:
        return invalid_value(text, key)
    if not has_second_precision(duration):
        return generic(f"{name}={text} is not at second precision", key)
    return OK if duration >= 0 else generic(f"{name}={text} must be positive", key)


def networking_annotations(given: dict[str, str]) -> FieldError:
    """On templates and ServerlessServices only the known networking annotations may stand: a typo would do nothing."""
    return joined(
        invalid_key(key, "") for key in given if key.startswith(keys.GROUP_NETWORKING) and key not in _NETWORKING
    )
