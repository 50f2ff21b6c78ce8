"""The kinds that controllers write. A mistake in one of these is a bug, and this is where it is noticed."""

from typing import Final

from kncore.api.fielderror import OK, FieldError, each, generic, invalid_value, missing
from kncore.api.meta import Obj, annotations
from kncore.api.settings import Settings
from kncore.api.syntax import c_identifier, dns_1123_label, qualified_name
from kncore.api.validation import masks
from kncore.api.validation.metadata import names, networking_annotations
from kncore.api.validation.scaling import scaling_annotations
from kncore.api.validation.template import container_concurrency

__all__ = ["certificate", "ingress", "metric", "pod_autoscaler", "serverless_service"]

_PROTOCOLS: Final = frozenset({"http1", "h2c"})
_MODES: Final = frozenset({"Proxy", "Serve"})
_HTTP_OPTIONS: Final = frozenset({"", "Enabled", "Redirected"})


def _metadata(obj: Obj, config: Settings) -> FieldError:
    about_annotations = scaling_annotations(annotations(obj), config.autoscaler)
    return (names(obj["metadata"]) + about_annotations.via("annotations")).via("metadata")


def pod_autoscaler(obj: Obj, config: Settings) -> FieldError:
    """What to scale, its concurrency limit and protocol, and the scaling annotations."""
    spec = obj["spec"]
    if not any(spec.values()):
        return _metadata(obj, config) + missing("spec")
    concurrency = container_concurrency(spec.get("containerConcurrency", 0), config.defaults)
    about = (
        _reference(spec["scaleTargetRef"]).via("scaleTargetRef")
        + concurrency.via("containerConcurrency")
        + _protocol(spec["protocolType"]).via("protocolType")
    )
    return _metadata(obj, config) + about.via("spec")


def metric(obj: Obj, config: Settings) -> FieldError:
    """Some spec, and the annotations copied from the PodAutoscaler."""
    return _metadata(obj, config) + (OK if any(obj["spec"].values()) else missing("spec"))


def serverless_service(obj: Obj) -> FieldError:
    """A mode, the Deployment, the protocol."""
    spec = obj["spec"]
    wrong = networking_annotations(annotations(obj)).via("annotations")
    if not any(spec.values()):
        return wrong + missing("spec")
    mode, about = spec.get("mode", ""), OK
    if not mode:
        about += missing("mode")
    elif mode not in _MODES:
        about += invalid_value(mode, "mode")
    if (activators := spec.get("numActivators", 0)) < 0:
        about += invalid_value(activators, "numActivators")
    about += _reference(spec["objectRef"]).via("objectRef") + _protocol(spec["protocolType"]).via("protocolType")
    return wrong + about.via("spec")


def _reference(reference: Obj) -> FieldError:
    """A reference to an object in the same namespace."""
    wrong = masks.object_reference(reference)
    for field, check in (("apiVersion", qualified_name), ("kind", c_identifier), ("name", dns_1123_label)):
        value = reference.get(field, "")
        if not value:
            wrong += missing(field)
        elif problems := check(value):
            wrong += invalid_value(", ".join(problems), field)
    return wrong


def _protocol(protocol: str) -> FieldError:
    if not protocol:
        return missing("")
    return OK if protocol in _PROTOCOLS else invalid_value(protocol, "")


def ingress(obj: Obj) -> FieldError:
    """At least one rule with paths, each path's shares adding up, and complete TLS entries."""
    spec = obj["spec"]
    if not spec:
        return missing("spec")
    wrong = OK if spec.get("rules") else missing("rules")
    namespace = obj["metadata"].get("namespace", "")
    wrong += each(spec.get("rules", ()), lambda rule: _rule(rule, namespace)).via("rules")
    wrong += each(spec.get("tls", ()), _tls).via("tls")
    if (option := spec.get("httpOption", "")) not in _HTTP_OPTIONS:
        wrong += invalid_value(option, "httpOption")
    return wrong.via("spec")


def _tls(tls: Obj) -> FieldError:
    if not tls:
        return missing("")
    absent = [field for field in ("secretName", "secretNamespace") if not tls.get(field)]
    return missing(*absent) if absent else OK


def _rule(rule: Obj, namespace: str) -> FieldError:
    if not rule:
        return missing("")
    if "http" not in rule:
        return missing("http")
    paths = rule["http"]["paths"] or []
    wrong = OK if paths else missing("paths")
    wrong += each(paths, lambda path: _path(path, namespace)).via("paths")
    return wrong.via("http")


def _path(path: Obj, namespace: str) -> FieldError:
    if not any(path.values()):
        return missing("")
    splits = path["splits"] or []
    if not splits:
        return missing("splits")
    for index, split in enumerate(splits):
        if wrong := _split(split, namespace):
            return wrong.via_index(index).via("splits")
    total = sum(split.get("percent", 0) for split in splits)
    if total == 100 or (len(splits) == 1 and total == 0):
        return OK
    return generic(f"traffic split percentage must total to 100, but was {total}", "splits")


def _split(split: Obj, namespace: str) -> FieldError:
    if not any(split.values()):
        return missing("")
    percent, wrong = split.get("percent", 0), OK
    if not 0 <= percent <= 100:
        wrong += invalid_value(percent, "percent")
    backend = ("serviceNamespace", "serviceName", "servicePort")
    if not any(split[field] for field in backend):
        return wrong + missing("")
    if split["serviceNamespace"] not in {"", namespace}:
        wrong += generic("service namespace must match ingress namespace", "serviceNamespace")
    absent = [field for field in backend if not split[field]]
    return wrong + missing(*absent) if absent else wrong


def certificate(obj: Obj) -> FieldError:
    """Host names, the Secret, and a domain that one of the names is in."""
    spec = obj["spec"]
    hosts, domain, wrong = spec["dnsNames"] or [], spec.get("domain", ""), OK
    if not hosts:
        wrong += missing("dnsNames")
    wrong += each(hosts, lambda host: OK if host else invalid_value(host, "")).via("dnsNames")
    if not spec["secretName"]:
        wrong += missing("secretName")
    if domain and hosts and not any(host == domain or host.endswith(f".{domain}") for host in hosts):
        # Value and field are swapped in the original's message; its text stays.
        wrong += invalid_value("domain", "domain must be a suffix of, or match exactly, at least one entry in dnsNames")
    return wrong.via("spec")
