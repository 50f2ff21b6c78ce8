"""ConfigMap config-defaults: what a revision gets when its author says nothing (serving §3.2)."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from kncore.config.reader import Reader
from kncore.gotemplate import Struct, Template, TemplateError
from kncore.quantity import Quantity
from kncore.strconv import INT32_MAX

__all__ = ["Defaults"]


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """Defaults of revisions. Timeouts are whole seconds; a quantity of None sets nothing."""

    revision_timeout_seconds: int = 300
    """Longest a request may take where a revision does not say."""
    max_revision_timeout_seconds: int = 600
    """Largest timeout a user may set."""
    revision_response_start_timeout_seconds: int = 300
    """Follows the timeout if not set."""
    revision_idle_timeout_seconds: int = 0
    """0 = no limit."""
    container_concurrency: int = 0
    """0 = no limit."""
    container_concurrency_max_limit: int = 1000
    """The most a revision may ask for as `containerConcurrency`."""
    allow_container_concurrency_zero: bool = True
    """Whether a revision may have no limit (0)."""
    enable_service_links: bool | None = False
    """None leaves it to Kubernetes."""
    user_container_name_template: str = "user-container"
    """Go template over the object's metadata."""
    init_container_name_template: str = "init-container"
    """Go template of the name of an init container that has none."""
    revision_cpu_request: Quantity | None = None
    """CPU request of a container that has none; None leaves it out, as for the five below."""
    revision_cpu_limit: Quantity | None = None
    """CPU limit of a container that has none."""
    revision_memory_request: Quantity | None = None
    """Memory request of a container that has none."""
    revision_memory_limit: Quantity | None = None
    """Memory limit of a container that has none."""
    revision_ephemeral_storage_request: Quantity | None = None
    """Ephemeral storage request of a container that has none."""
    revision_ephemeral_storage_limit: Quantity | None = None
    """Ephemeral storage limit of a container that has none."""

    @classmethod
    def parse(cls, data: Mapping[str, str]) -> Self:
        """The configuration in a ConfigMap's data.

        Raises:
            InvalidConfig: naming every bad key.
        """
        read = Reader(data)
        user_name = read.string("container-name-template", cls.user_container_name_template)
        init_name = read.string("init-container-name-template", cls.init_container_name_template)
        allow_zero = read.boolean("allow-container-concurrency-zero", cls.allow_container_concurrency_zero)
        links = cls.enable_service_links
        if "enable-service-links" in read:
            links = {"true": True, "false": False}.get(read.string("enable-service-links", "").lower())
        timeout = read.int64("revision-timeout-seconds", cls.revision_timeout_seconds)
        longest = read.int64("max-revision-timeout-seconds", cls.max_revision_timeout_seconds)
        concurrency = read.int64("container-concurrency", cls.container_concurrency)
        most = read.int64("container-concurrency-max-limit", cls.container_concurrency_max_limit)
        cpu_request = read.quantity("revision-cpu-request", None)
        memory_request = read.quantity("revision-memory-request", None)
        storage_request = read.quantity("revision-ephemeral-storage-request", None)
        cpu_limit = read.quantity("revision-cpu-limit", None)
        memory_limit = read.quantity("revision-memory-limit", None)
        storage_limit = read.quantity("revision-ephemeral-storage-limit", None)
        start = read.int64("revision-response-start-timeout-seconds", timeout)
        idle = read.int64("revision-idle-timeout-seconds", cls.revision_idle_timeout_seconds)

        total_key, start_key, idle_key = (
            "revision-timeout-seconds",
            "revision-response-start-timeout-seconds",
            "revision-idle-timeout-seconds",
        )
        read.check(
            timeout <= longest,
            f"{total_key} ({timeout}) cannot be greater than max-{total_key} ({longest})",
            total_key,
            f"max-{total_key}",
        )
        for key, seconds in ((start_key, start), (idle_key, idle)):
            read.check(
                seconds <= timeout or seconds <= 0,
                f"{key} ({seconds}) cannot be greater than {total_key} ({timeout})",
                key,
                total_key,
            )
        key = "container-concurrency-max-limit"
        read.check(most >= 1, f"expected 1 <= {most} <= {INT32_MAX}: {key}", key)
        read.check(
            0 <= concurrency <= most,
            f"expected 0 <= {concurrency} <= {most}: container-concurrency",
            key,
            "container-concurrency",
        )
        for key, source in (("container-name-template", user_name), ("init-container-name-template", init_name)):
            read.attempt(functools.partial(_try_name, source), None, key)
        # The original accepts a negative timeout and then ends every request at once (serving §10.11).
        read.check(timeout >= 0, f"{total_key} ({timeout}) cannot be negative", total_key)
        read.finish()
        return cls(
            revision_timeout_seconds=timeout,
            max_revision_timeout_seconds=longest,
            revision_response_start_timeout_seconds=start,
            revision_idle_timeout_seconds=idle,
            container_concurrency=concurrency,
            container_concurrency_max_limit=most,
            allow_container_concurrency_zero=allow_zero,
            enable_service_links=links,
            user_container_name_template=user_name,
            init_container_name_template=init_name,
            revision_cpu_request=cpu_request,
            revision_cpu_limit=cpu_limit,
            revision_memory_request=memory_request,
            revision_memory_limit=memory_limit,
            revision_ephemeral_storage_request=storage_request,
            revision_ephemeral_storage_limit=storage_limit,
        )

    def user_container_name(self, metadata: Mapping[str, Any]) -> str:
        """The name of the serving container of an object with this metadata; "" if the template fails on it."""
        return _name(self.user_container_name_template, metadata)

    def init_container_name(self, metadata: Mapping[str, Any]) -> str:
        """The name of an unnamed init container of an object with this metadata; "" if the template fails on it."""
        return _name(self.init_container_name_template, metadata)


@functools.lru_cache(maxsize=16)
def _compile(source: str) -> Template:
    return Template("container-template", source)


def _object_meta(metadata: Mapping[str, Any]) -> Struct:
    """metav1.ObjectMeta as templates see it: the fields that mean something in a name."""
    return Struct(
        "v1.ObjectMeta",
        {
            "Name": metadata.get("name") or "",
            "GenerateName": metadata.get("generateName") or "",
            "Namespace": metadata.get("namespace") or "",
            "SelfLink": "",
            "UID": metadata.get("uid") or "",
            "ResourceVersion": metadata.get("resourceVersion") or "",
            "Generation": metadata.get("generation") or 0,
            "Labels": metadata.get("labels") or {},
            "Annotations": metadata.get("annotations") or {},
            "Finalizers": metadata.get("finalizers") or [],
        },
    )


def _name(source: str, metadata: Mapping[str, Any]) -> str:
    try:
        return _compile(source).execute(_object_meta(metadata))
    except TemplateError:
        return ""


def _try_name(source: str) -> None:
    template = _compile(source)
    try:
        template.execute(_object_meta({}))
    except TemplateError as exc:
        raise TemplateError(f"error executing template: {exc}") from exc
