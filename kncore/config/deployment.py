"""ConfigMap config-deployment: how revisions become pods (serving §3.3)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from kncore.config.reader import Reader
from kncore.config.yamltext import YamlError, load_mapping, mapping, string_map
from kncore.quantity import Quantity, format_duration
from kncore.strconv import quote

__all__ = ["Deployment"]

_SUBDOMAIN: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_NAME_PART: Final = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_NOT_SUBDOMAIN: Final = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    f"end with an alphanumeric character (e.g. 'example.com', regex used for validation is '{_SUBDOMAIN}')"
)
_NOT_NAME_PART: Final = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    f"character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '{_NAME_PART}')"
)
_AFFINITIES: Final = frozenset({"none", "prefer-spread-revision-over-nodes"})

Selectors = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """Deployments of revisions and the queue-proxy in them. Seconds; a quantity of None sets nothing."""

    queue_sidecar_image: str = ""
    """Required in a ConfigMap; "" only where no ConfigMap was read yet."""
    registries_skipping_tag_resolving: frozenset[str] = frozenset({"kind.local", "ko.local", "dev.local"})
    """Images there are deployed by tag."""
    digest_resolution_timeout: float = 10.0
    """Longest the resolution of one image tag may take."""
    progress_deadline: float = 600.0
    """How long a Deployment may make no progress, whole seconds."""
    queue_sidecar_cpu_request: Quantity | None = field(default_factory=lambda: Quantity.of_milli(25))
    """CPU request of the queue-proxy; an annotation on the revision wins, as for the five below."""
    queue_sidecar_cpu_limit: Quantity | None = None
    """CPU limit of the queue-proxy."""
    queue_sidecar_memory_request: Quantity | None = None
    """Memory request of the queue-proxy."""
    queue_sidecar_memory_limit: Quantity | None = None
    """Memory limit of the queue-proxy."""
    queue_sidecar_ephemeral_storage_request: Quantity | None = None
    """Ephemeral storage request of the queue-proxy."""
    queue_sidecar_ephemeral_storage_limit: Quantity | None = None
    """Ephemeral storage limit of the queue-proxy."""
    queue_sidecar_token_audiences: frozenset[str] = frozenset()
    """Audiences of tokens mounted into the queue-proxy."""
    queue_sidecar_root_ca: str = ""
    """PEM certificates that the queue-proxy trusts besides the system's."""
    queue_sidecar_tls_min_version: str = ""
    """Oldest TLS version the queue-proxy serves; empty is 1.3."""
    queue_sidecar_tls_max_version: str = ""
    """Newest TLS version the queue-proxy serves; empty is the newest there is."""
    queue_sidecar_tls_cipher_suites: str = ""
    """Cipher suites the queue-proxy offers, comma-separated; empty leaves the choice to the library."""
    queue_sidecar_tls_curve_preferences: str = ""
    """Curves the queue-proxy offers, comma-separated; empty leaves the choice to the library."""
    default_affinity_type: str = "prefer-spread-revision-over-nodes"
    """Or `none`."""
    runtime_class_names: Selectors = field(default_factory=dict)
    """Runtime class to the revision labels it is for; the most specific match is used."""
    pod_is_always_schedulable: bool = False
    """A cluster autoscaler will make room, so an unschedulable pod is no reason to give up."""

    @classmethod
    def parse(cls, data: Mapping[str, str]) -> Self:
        """The configuration in a ConfigMap's data.

        Raises:
            InvalidConfig: naming every bad key.
        """
        read = Reader(data)
        resources: dict[str, Quantity | None] = {"cpu-request": Quantity.of_milli(25)}
        kinds = [
            ("cpu-request", "CPURequest"),
            ("memory-request", "MemoryRequest"),
            ("ephemeral-storage-request", "EphemeralStorageRequest"),
            ("cpu-limit", "CPULimit"),
            ("memory-limit", "MemoryLimit"),
            ("ephemeral-storage-limit", "EphemeralStorageLimit"),
        ]
        # Legacy spellings first, then the current ones over them; both must parse.
        image = read.string("queueSidecarImage", "")
        progress = read.duration("progressDeadline", cls.progress_deadline)
        digest = read.duration("digestResolutionTimeout", cls.digest_resolution_timeout)
        skipping = read.strings("registriesSkippingTagResolving", cls.registries_skipping_tag_resolving)
        for name, legacy in kinds:
            resources[name] = read.quantity(f"queueSidecar{legacy}", resources.get(name))
        image = read.string("queue-sidecar-image", image)
        progress = read.duration("progress-deadline", progress)
        digest = read.duration("digest-resolution-timeout", digest)
        skipping = read.strings("registries-skipping-tag-resolving", skipping)
        for name, _ in kinds:
            resources[name] = read.quantity(f"queue-sidecar-{name}", resources[name])
        audiences = read.strings("queue-sidecar-token-audiences", frozenset()) - {""}
        tls = {
            name: read.string(f"queue-sidecar-tls-{name}", "")
            for name in ("min-version", "max-version", "cipher-suites", "curve-preferences")
        }
        schedulable = read.boolean("pod-is-always-schedulable", cls.pod_is_always_schedulable)

        read.check(bool(image), "queue-sidecar-image cannot be empty or unset", "queue-sidecar-image")
        key, shown = "progress-deadline", format_duration(progress)
        read.check(progress > 0, f"{key} cannot be a non-positive duration, was {shown}", key)
        read.check(progress == int(progress), f"{key} must be rounded to a whole second, was: {shown}", key)
        key, shown = "digest-resolution-timeout", format_duration(digest)
        read.check(digest > 0, f"{key} cannot be a non-positive duration, was {shown}", key)
        classes = read.attempt(lambda: _runtime_classes(data.get("runtime-class-name", "")), {}, "runtime-class-name")
        affinity = data.get("default-affinity-type", cls.default_affinity_type)
        key = "default-affinity-type"
        read.check(affinity in _AFFINITIES, f"unsupported {key} value: {quote(affinity)}", key)
        read.finish()
        return cls(
            queue_sidecar_image=image,
            registries_skipping_tag_resolving=skipping,
            digest_resolution_timeout=digest,
            progress_deadline=progress,
            queue_sidecar_cpu_request=resources["cpu-request"],
            queue_sidecar_cpu_limit=resources["cpu-limit"],
            queue_sidecar_memory_request=resources["memory-request"],
            queue_sidecar_memory_limit=resources["memory-limit"],
            queue_sidecar_ephemeral_storage_request=resources["ephemeral-storage-request"],
            queue_sidecar_ephemeral_storage_limit=resources["ephemeral-storage-limit"],
            queue_sidecar_token_audiences=audiences,
            queue_sidecar_root_ca=read.string("queue-sidecar-rootca", ""),
            queue_sidecar_tls_min_version=tls["min-version"],
            queue_sidecar_tls_max_version=tls["max-version"],
            queue_sidecar_tls_cipher_suites=tls["cipher-suites"],
            queue_sidecar_tls_curve_preferences=tls["curve-preferences"],
            default_affinity_type=affinity,
            runtime_class_names=classes,
            pod_is_always_schedulable=schedulable,
        )

    def runtime_class(self, labels: Mapping[str, str]) -> str:
        """The runtime class for a revision with these labels: most selector labels wins, then the first by name; ""
        for none.
        """
        fitting = [
            (-len(selector), name)
            for name, selector in self.runtime_class_names.items()
            if all(labels.get(key) == value for key, value in selector.items())
        ]
        return min(fitting)[1] if fitting else ""


def _runtime_classes(source: str) -> dict[str, dict[str, str]]:
    go_type = "map[string]deployment.RuntimeClassNameLabelSelector"
    try:
        loaded = load_mapping(source, go_type)
        classes = {name: string_map(mapping(entry).get("selector")) for name, entry in loaded.items()}
    except YamlError as exc:
        raise ValueError(f"runtime-class-name cannot be parsed, please check the format: {exc}") from exc
    for name, selector in classes.items():
        if len(name) > 253 or not re.fullmatch(_SUBDOMAIN, name):
            raise ValueError(f"runtime-class-name {name} selector not valid DNSSubdomain: [{_NOT_SUBDOMAIN}]")
        for key in selector:
            if not re.fullmatch(_NAME_PART, key.rpartition("/")[2]):
                why = f"key: Invalid value: {quote(key)}: {_NOT_NAME_PART}"
                raise ValueError(f"runtime-class-name {name} selector invalid: {why}")
    return classes
