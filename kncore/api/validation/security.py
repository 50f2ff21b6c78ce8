"""Security contexts of pods and containers, and warnings about what Kubernetes leaves insecure."""

from collections.abc import Sequence
from typing import Final

from kncore.api.fielderror import OK, FieldError, Level, each, generic, invalid_value, out_of_bounds
from kncore.api.meta import Obj
from kncore.api.validation import masks
from kncore.config.features import Features
from kncore.strconv import INT32_MAX

__all__ = ["container_security", "insecure_defaults", "pod_security"]

_INSECURE: Final = "Kubernetes default value is insecure, Knative may default this to secure in a future release"


def pod_security(context: Obj | None, features: Features) -> FieldError:
    """A pod's securityContext: allowed fields, user and group ids."""
    if context is None:
        return OK
    wrong = masks.pod_security(context, features) + _ids(context, ("runAsUser", "runAsGroup", "fsGroup"))
    return wrong + each(context.get("supplementalGroups", ()), _id).via("supplementalGroups")


def container_security(context: Obj | None, features: Features) -> FieldError:
    """A container's securityContext: allowed fields, capabilities, user and group ids."""
    if context is None:
        return OK
    wrong = masks.security(context)
    if "capabilities" in context:
        wrong += masks.capabilities(context["capabilities"], features).via("capabilities")
    return wrong + _ids(context, ("runAsUser", "runAsGroup"))


def _ids(context: Obj, fields: Sequence[str]) -> FieldError:
    wrong = OK
    for field in fields:
        if field in context:
            wrong += _id(context[field]).via(field)
    return wrong


def _id(value: int) -> FieldError:
    return OK if 0 <= value <= INT32_MAX else out_of_bounds(value, 0, INT32_MAX, "")


def insecure_defaults(pod: Obj | None, container: Obj | None, features: Features) -> FieldError:
    """Warnings for what is unset in both contexts and which Kubernetes' `restricted` profile would not accept.

    Only accidents are warned about: a dangerous setting made on purpose is the user's choice. With secure defaults
    nothing is left to chance, so nothing is said.
    """
    if masks.secure_defaults(features):
        return OK
    pod, container = pod or {}, container or {}
    unset = []
    if "runAsNonRoot" not in pod and "runAsNonRoot" not in container:
        unset.append("runAsNonRoot")
    if "allowPrivilegeEscalation" not in container:
        unset.append("allowPrivilegeEscalation")
    profiles = [context["seccompProfile"] for context in (pod, container) if "seccompProfile" in context]
    if not profiles:
        unset.append("seccompProfile")
    elif not any(profile["type"] for profile in profiles):
        unset.append("seccompProfile.type")
    misspelt = OK
    capabilities = container.get("capabilities")
    if capabilities is None:
        unset.append("capabilities")
    elif "drop" not in capabilities:
        unset.append("capabilities.drop")
    elif capabilities["drop"][:1] == ["all"]:
        misspelt = invalid_value("all", "capabilities.drop", "Must be spelled as 'ALL'")
    insecure = generic(_INSECURE, *unset) if unset else OK
    return (insecure + misspelt).at(Level.WARNING)
