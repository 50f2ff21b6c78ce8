"""The pod of a Revision and its containers (serving §1.5.5)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from kncore.api.fielderror import (
    MOST,
    OK,
    FieldError,
    each,
    generic,
    invalid_value,
    joined,
    missing,
    missing_one_of,
    multiple_one_of,
    out_of_bounds,
)
from kncore.api.meta import Obj
from kncore.api.syntax import dns_1123_subdomain, is_image_reference
from kncore.api.validation import masks
from kncore.api.validation.probes import no_probe, probe, readiness_probe
from kncore.api.validation.security import container_security, insecure_defaults, pod_security
from kncore.api.validation.volumes import mounted_names, volume_mounts, volumes, volumes_by_name
from kncore.config.features import Features, Flag
from kncore.strconv import quote

__all__ = ["pod"]

_RESERVED_NAMES: Final = frozenset({"queue-proxy"})
_RESERVED_ENV: Final = frozenset({"PORT", "K_SERVICE", "K_CONFIGURATION", "K_REVISION"})
# The queue-proxy's: http and h2c, admin, autoscaling metrics, its own metrics, profiling. Not 8112, its TLS port.
_RESERVED_PORTS: Final = frozenset({8012, 8013, 8022, 9090, 9091, 8008})
_PORT_NAMES: Final = frozenset({"", "h2c", "http1"})
_MESSAGE_POLICIES: Final = frozenset({"", "File", "FallbackToLogsOnError"})
_PROBES: Final = ("livenessProbe", "readinessProbe", "startupProbe")

# In some lists an item's error prefixes all errors found before it once more (`containers[2].containers[1].name`,
# `configMapRef[2].secretRef[1]`; serving §10.4). Clients know the paths, but they also choose how long the list is, and
# the paths grow with every item, so only the first items do it.
_ODD_PREFIXES: Final = 32


def pod(spec: Obj, features: Features) -> FieldError:
    """The PodSpec part of a Revision's spec."""
    containers = spec["containers"] or []
    init_containers = spec.get("initContainers", [])
    security = spec.get("securityContext")
    wrong = masks.pod(spec, features) + pod_security(security, features).via("securityContext")

    def insecure(container: Obj) -> FieldError:
        return insecure_defaults(security, container.get("securityContext"), features).via("securityContext")

    wrong += each(containers, insecure).via("containers") + each(init_containers, insecure).via("initContainers")
    given = spec.get("volumes", [])
    wrong += volumes(given, mounted_names([*init_containers, *containers]), features).via("volumes")
    by_name = volumes_by_name(given)
    wrong += _init_containers(init_containers, containers, by_name, features)
    wrong += _ports_of_all(containers).via("containers[*]")
    if not containers:
        wrong += missing("containers")
    elif len(containers) == 1:
        port_name = _serving_port_name(containers)
        wrong += _serving(containers[0], port_name, by_name, features).via_index(0).via("containers")
    else:
        wrong += _containers(containers, by_name, features)
    account = spec.get("serviceAccountName", "")
    for problem in dns_1123_subdomain(account) if account else ():
        wrong += invalid_value(account, "serviceAccountName", problem)
    return wrong


def _ports_of_all(containers: Sequence[Obj]) -> FieldError:
    """One port in the whole pod, needed when there are several containers: it tells which of them serves."""
    count = sum(len(container.get("ports", ())) for container in containers)
    if count == 0 and len(containers) > 1:
        return missing("ports")
    if count > 1:
        details = "Only a single port is allowed across all containers"
        return generic("more than one container port is set", "ports", details=details)
    return OK


def _serving_port_name(containers: Sequence[Obj]) -> str:
    """What a probe may call the serving port; of several ports that of the last container counts."""
    name = ""
    for container in containers:
        if container.get("ports"):
            name = container["ports"][0].get("name", "")
    return name or "http"


def _containers(containers: Sequence[Obj], by_name: Mapping[str, Obj], features: Features) -> FieldError:
    if features.multi_container is not Flag.ENABLED:
        return generic(f"multi-container is off, but found {len(containers)} containers")
    port_name = _serving_port_name(containers)

    def check(container: Obj) -> FieldError:
        if container.get("ports"):
            return _serving(container, port_name, by_name, features)
        return _sidecar(container, by_name, features)

    return _all_named(containers, set(), check, among_themselves=True)


def _init_containers(
    init_containers: Sequence[Obj], containers: Sequence[Obj], by_name: Mapping[str, Obj], features: Features
) -> FieldError:
    """Errors of init containers appear under `containers` (serving §10.4)."""
    if not init_containers:
        return OK
    if features.podspec_init_containers is not Flag.ENABLED:
        count = len(init_containers)
        return generic(f"pod spec support for init-containers is off, but found {count} init containers")
    taken = {container["name"] for container in containers}

    def check(container: Obj) -> FieldError:
        not_allowed = [field for field in (*_PROBES, "lifecycle") if field in container]
        wrong = generic("field not allowed in an init container", *not_allowed) if not_allowed else OK
        # Its ports lack the list's index in the original's paths.
        ports = joined(map(_port, container.get("ports", ())))
        return wrong + _container(container, by_name, features, ports=ports, reserved_env=_RESERVED_ENV - {"PORT"})

    return _all_named(init_containers, taken, check, among_themselves=False)


def _all_named(
    containers: Sequence[Obj], taken: set[str], check: Callable[[Obj], FieldError], *, among_themselves: bool
) -> FieldError:
    """What `check` finds in the containers, and duplicates of the taken names and, optionally, of each other's."""
    wrong = OK
    for index, container in enumerate(containers):
        name = container["name"]
        if name in taken:
            duplicate = generic(f"duplicate container name {quote(name)}", "name")
            if index < _ODD_PREFIXES:
                wrong = (wrong + duplicate).via_index(index).via("containers")
            else:
                wrong += duplicate.via_index(index).via("containers")
        if among_themselves:
            taken.add(name)
        wrong += check(container).via_index(index).via("containers")
        if len(wrong.problems) >= MOST:
            break
    return wrong


def _serving(container: Obj, port_name: str, by_name: Mapping[str, Obj], features: Features) -> FieldError:
    """The container that gets the requests."""
    wrong = (
        probe(container.get("livenessProbe"), port_name).via("livenessProbe")
        + readiness_probe(container.get("readinessProbe"), port_name).via("readinessProbe")
        + probe(container.get("startupProbe"), port_name).via("startupProbe")
    )
    ports = _first_port(container.get("ports", ()))
    return wrong + _container(container, by_name, features, ports=ports, reserved_env=_RESERVED_ENV)


def _sidecar(container: Obj, by_name: Mapping[str, Obj], features: Features) -> FieldError:
    """A container beside it, without a port."""
    wrong = OK
    for field in _PROBES:
        value = container.get(field)
        if features.multi_container_probing is not Flag.ENABLED:
            wrong += no_probe(value).via(field)
        elif field == "readinessProbe":
            wrong += readiness_probe(value, None).via(field)
        else:
            wrong += probe(value, None).via(field)
    return wrong + _container(container, by_name, features, ports=OK, reserved_env=_RESERVED_ENV - {"PORT"})


def _container(
    container: Obj,
    by_name: Mapping[str, Obj],
    features: Features,
    *,
    ports: FieldError,
    reserved_env: frozenset[str],
) -> FieldError:
    """What holds for all containers."""
    if not any(container.values()):
        return missing("")
    name, image = container["name"], container.get("image", "")
    policy = container.get("terminationMessagePolicy", "")
    wrong = masks.container(container)
    if name in _RESERVED_NAMES:
        wrong += generic(f"{quote(name)} is a reserved container name", "name")
    wrong += _env(container.get("env", ()), reserved_env, features).via("env")
    wrong += _env_from(container.get("envFrom", ())).via("envFrom")
    if not image:
        wrong += missing("image")
    elif not is_image_reference(image):
        details = f"image: {quote(image)}, error: could not parse reference: {image}"
        wrong += generic("Failed to parse image reference", "image", details=details)
    wrong += ports.via("ports")
    wrong += masks.resources(container["resources"]).via("resources")
    wrong += container_security(container.get("securityContext"), features).via("securityContext")
    if policy not in _MESSAGE_POLICIES:
        wrong += invalid_value(policy, "terminationMessagePolicy")
    return wrong + volume_mounts(container.get("volumeMounts", ()), by_name, features).via("volumeMounts")


def _env(variables: Sequence[Obj], reserved: frozenset[str], features: Features) -> FieldError:
    def check(variable: Obj) -> FieldError:
        name, wrong = variable["name"], OK
        if not name:
            wrong += missing("name")
        elif name in reserved:
            wrong += generic(f"{quote(name)} is a reserved environment variable", "name")
        if "valueFrom" in variable:
            wrong += masks.env_source(variable["valueFrom"], features).via("valueFrom")
        return wrong

    return each(variables, check)


def _env_from(sources: Sequence[Obj]) -> FieldError:
    wrong = OK
    for index, source in enumerate(sources):
        given = [field for field in ("secretRef", "configMapRef") if field in source]
        if index < _ODD_PREFIXES:
            for field in given:
                wrong = wrong.via_index(index).via(field)
        if len(given) != 1:
            # Without an index: these errors get the prefixes of the sources that follow.
            wrong += (multiple_one_of if given else missing_one_of)("configMapRef", "secretRef")
            if len(wrong.problems) >= MOST:
                break
    return wrong


def _first_port(ports: Sequence[Obj]) -> FieldError:
    """The serving port; of several only the first is looked at, for there being several is an error of its own."""
    if not ports:
        return OK
    port = ports[0]
    name, protocol = port.get("name", ""), port.get("protocol", "")
    wrong = _port(port)
    if protocol not in {"", "TCP"}:
        wrong += invalid_value(protocol, "protocol")
    if name not in _PORT_NAMES:
        details = "Name must be empty, or one of: 'h2c', 'http1'"
        wrong += generic(f"Port name {name} is not allowed", "", details=details)
    return wrong


def _port(port: Obj) -> FieldError:
    number = port["containerPort"]
    wrong = masks.container_port(port)
    if number in _RESERVED_PORTS:
        text = f"{number} is a reserved port"
        wrong += invalid_value(text, "containerPort", f"{text}, please use a different value")
    if not 0 <= number <= 65535:
        wrong += out_of_bounds(number, 0, 65535, "containerPort")
    return wrong
