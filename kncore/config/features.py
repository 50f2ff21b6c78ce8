"""ConfigMap config-features: which parts of a pod users may set, and optional behaviour (serving §3.4)."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Final, Self

__all__ = ["KEYS", "Features", "Flag"]


class Flag(StrEnum):
    """State of a feature."""

    ENABLED = "Enabled"
    ALLOWED = "Allowed"
    """On where a user asks for it."""
    DISABLED = "Disabled"
    ALLOW_ROOT_BOUNDED = "AllowRootBounded"
    """secure-pod-defaults only: secure defaults, but a pod may still ask for root."""


_BY_TEXT: Final = {flag.lower(): flag for flag in (Flag.ENABLED, Flag.ALLOWED, Flag.DISABLED)}
_SECURE_BY_TEXT: Final = {flag.lower(): flag for flag in (Flag.ENABLED, Flag.DISABLED, Flag.ALLOW_ROOT_BOUNDED)}


@dataclass(frozen=True, kw_only=True)
class Features:
    """Feature flags; the key of each is in `KEYS`. Off unless said otherwise."""

    multi_container: Flag = Flag.ENABLED
    """More than one container per pod."""
    multi_container_probing: Flag = Flag.DISABLED
    """Probes on all containers, not only the one with the port."""
    podspec_affinity: Flag = Flag.DISABLED
    podspec_dnsconfig: Flag = Flag.DISABLED
    podspec_dnspolicy: Flag = Flag.DISABLED
    podspec_fieldref: Flag = Flag.DISABLED
    podspec_hostaliases: Flag = Flag.DISABLED
    podspec_hostipc: Flag = Flag.DISABLED
    podspec_hostnetwork: Flag = Flag.DISABLED
    podspec_hostpid: Flag = Flag.DISABLED
    podspec_init_containers: Flag = Flag.DISABLED
    podspec_nodeselector: Flag = Flag.DISABLED
    podspec_persistent_volume_claim: Flag = Flag.DISABLED
    podspec_persistent_volume_write: Flag = Flag.DISABLED
    podspec_priorityclassname: Flag = Flag.DISABLED
    podspec_runtimeclassname: Flag = Flag.DISABLED
    podspec_schedulername: Flag = Flag.DISABLED
    podspec_securitycontext: Flag = Flag.DISABLED
    podspec_shareprocessnamespace: Flag = Flag.DISABLED
    podspec_tolerations: Flag = Flag.DISABLED
    podspec_topologyspreadconstraints: Flag = Flag.DISABLED
    podspec_volumes_csi: Flag = Flag.DISABLED
    podspec_volumes_emptydir: Flag = Flag.ENABLED
    podspec_volumes_ephemeral: Flag = Flag.DISABLED
    podspec_volumes_hostpath: Flag = Flag.DISABLED
    podspec_volumes_image: Flag = Flag.DISABLED
    podspec_volumes_mount_propagation: Flag = Flag.DISABLED
    containerspec_addcapabilities: Flag = Flag.DISABLED
    tag_header_based_routing: Flag = Flag.DISABLED
    """Requests choose a tag with a header."""
    autodetect_http2: Flag = Flag.DISABLED
    """The readiness probe tries HTTP/2 first."""
    queueproxy_mount_podinfo: Flag = Flag.DISABLED
    queueproxy_resource_defaults: Flag = Flag.DISABLED
    """The queue-proxy gets default limits."""
    secure_pod_defaults: Flag = Flag.DISABLED
    """Security contexts are filled in; alone among the flags it knows AllowRootBounded."""

    @classmethod
    def parse(cls, data: Mapping[str, str]) -> Self:
        """The configuration in a ConfigMap's data; unknown keys and values are ignored, so this never fails."""
        found = {}
        for name, key in KEYS.items():
            known = _SECURE_BY_TEXT if name == "secure_pod_defaults" else _BY_TEXT
            if flag := known.get(data.get(key, "").lower()):
                found[name] = flag
        return cls(**found)


def _key(name: str) -> str:
    """The ConfigMap key of a field: underscores become dashes, except where a key has a dot."""
    area, _, rest = name.partition("_")
    dashed = rest.replace("_", "-")
    if area in ("podspec", "containerspec"):
        return f"kubernetes.{area}-{dashed}"
    return f"queueproxy.{dashed}" if area == "queueproxy" else f"{area}-{dashed}"


KEYS: Final[Mapping[str, str]] = {field.name: _key(field.name) for field in fields(Features)}
"""Field name to ConfigMap key."""
