"""Parsers of the ConfigMaps against the original's (vectors 7).

The tables below say how our fields are called there; product code knows nothing of it. Agreed exceptions are listed
with their reason.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from kncore.config import store
from kncore.config.autoscaler import Autoscaler
from kncore.config.certmanager import CertManager
from kncore.config.defaults import Defaults
from kncore.config.deployment import Deployment
from kncore.config.domain import Domain
from kncore.config.features import Features
from kncore.config.gc import Gc
from kncore.config.leaderelection import LeaderElection
from kncore.config.network import Network
from kncore.config.observability import Metrics, Observability
from kncore.config.reader import InvalidConfig
from kncore.quantity import Quantity


def ns(seconds: float | None) -> int:
    return -1 if seconds is None else round(seconds * 1e9)


def quantity(value: Quantity | None) -> str | None:
    return None if value is None else str(value)


def switch(on: bool) -> str:
    return "enabled" if on else "disabled"


def autoscaler(c: Autoscaler) -> dict[str, Any]:
    return {
        "ActivatorCapacity": c.activator_capacity,
        "AllowZeroInitialScale": c.allow_zero_initial_scale,
        "ContainerConcurrencyTargetDefault": c.container_concurrency_target_default,
        "ContainerConcurrencyTargetFraction": c.container_concurrency_target_fraction,
        "EnableScaleToZero": c.enable_scale_to_zero,
        "InitialScale": c.initial_scale,
        "MaxScale": c.max_scale,
        "MaxScaleDownRate": c.max_scale_down_rate,
        "MaxScaleLimit": c.max_scale_limit,
        "MaxScaleUpRate": c.max_scale_up_rate,
        "MinScale": c.min_scale,
        "PanicThresholdPercentage": c.panic_threshold_percentage,
        "PanicWindowPercentage": c.panic_window_percentage,
        "PodAutoscalerClass": c.pod_autoscaler_class,
        "RPSTargetDefault": c.requests_per_second_target_default,
        "ScaleDownDelay": ns(c.scale_down_delay),
        "ScaleToZeroGracePeriod": ns(c.scale_to_zero_grace_period),
        "ScaleToZeroPodRetentionPeriod": ns(c.scale_to_zero_pod_retention_period),
        "StableWindow": ns(c.stable_window),
        "TargetBurstCapacity": c.target_burst_capacity,
        "TargetUtilization": c.target_utilization,
    }


def certmanager(c: CertManager) -> dict[str, Any]:
    named = {
        "IssuerRef": c.issuer,
        "ClusterLocalIssuerRef": c.cluster_local_issuer,
        "SystemInternalIssuerRef": c.system_internal_issuer,
    }
    return {
        key: {k: v for k, v in (("kind", ref.kind), ("name", ref.name), ("group", ref.group)) if v}
        for key, ref in named.items()
    }


def defaults(c: Defaults) -> dict[str, Any]:
    sample = {"name": "NAME", "namespace": "NS", "labels": {"app": "LABEL"}, "annotations": {"a": "ANNO"}}
    return {
        "AllowContainerConcurrencyZero": c.allow_container_concurrency_zero,
        "ContainerConcurrency": c.container_concurrency,
        "ContainerConcurrencyMaxLimit": c.container_concurrency_max_limit,
        "EnableServiceLinks": c.enable_service_links,
        "InitContainerNameTemplate": c.init_container_name(sample),
        "MaxRevisionTimeoutSeconds": c.max_revision_timeout_seconds,
        "RevisionCPULimit": quantity(c.revision_cpu_limit),
        "RevisionCPURequest": quantity(c.revision_cpu_request),
        "RevisionEphemeralStorageLimit": quantity(c.revision_ephemeral_storage_limit),
        "RevisionEphemeralStorageRequest": quantity(c.revision_ephemeral_storage_request),
        "RevisionIdleTimeoutSeconds": c.revision_idle_timeout_seconds,
        "RevisionMemoryLimit": quantity(c.revision_memory_limit),
        "RevisionMemoryRequest": quantity(c.revision_memory_request),
        "RevisionResponseStartTimeoutSeconds": c.revision_response_start_timeout_seconds,
        "RevisionTimeoutSeconds": c.revision_timeout_seconds,
        "UserContainerNameTemplate": c.user_container_name(sample),
    }


def deployment(c: Deployment) -> dict[str, Any]:
    return {
        "DefaultAffinityType": c.default_affinity_type,
        "DigestResolutionTimeout": ns(c.digest_resolution_timeout),
        "PodIsAlwaysSchedulable": c.pod_is_always_schedulable,
        "ProgressDeadline": ns(c.progress_deadline),
        "QueueSidecarCPULimit": quantity(c.queue_sidecar_cpu_limit),
        "QueueSidecarCPURequest": quantity(c.queue_sidecar_cpu_request),
        "QueueSidecarEphemeralStorageLimit": quantity(c.queue_sidecar_ephemeral_storage_limit),
        "QueueSidecarEphemeralStorageRequest": quantity(c.queue_sidecar_ephemeral_storage_request),
        "QueueSidecarImage": c.queue_sidecar_image,
        "QueueSidecarMemoryLimit": quantity(c.queue_sidecar_memory_limit),
        "QueueSidecarMemoryRequest": quantity(c.queue_sidecar_memory_request),
        "QueueSidecarRootCA": c.queue_sidecar_root_ca,
        "QueueSidecarTLSCipherSuites": c.queue_sidecar_tls_cipher_suites,
        "QueueSidecarTLSCurvePreferences": c.queue_sidecar_tls_curve_preferences,
        "QueueSidecarTLSMaxVersion": c.queue_sidecar_tls_max_version,
        "QueueSidecarTLSMinVersion": c.queue_sidecar_tls_min_version,
        # "no audience" is a set of one empty string there
        "QueueSidecarTokenAudiences": sorted(c.queue_sidecar_token_audiences) or [""],
        "RegistriesSkippingTagResolving": sorted(c.registries_skipping_tag_resolving),
        "RuntimeClassNames": {
            name: {"Selector": dict(selector)} if selector else {} for name, selector in c.runtime_class_names.items()
        }
        or None,
    }


def domain(c: Domain) -> dict[str, Any]:
    return {
        "Domains": {
            name: {"Selector": {"selector": dict(rule.selector)} if rule.selector else {}, "Type": rule.type}
            for name, rule in c.domains.items()
        }
    }


def features(c: Features) -> dict[str, Any]:
    special = {
        "autodetect_http2": "AutoDetectHTTP2",
        "containerspec_addcapabilities": "ContainerSpecAddCapabilities",
        "podspec_dnsconfig": "PodSpecDNSConfig",
        "podspec_dnspolicy": "PodSpecDNSPolicy",
        "podspec_fieldref": "PodSpecFieldRef",
        "podspec_hostaliases": "PodSpecHostAliases",
        "podspec_hostipc": "PodSpecHostIPC",
        "podspec_hostnetwork": "PodSpecHostNetwork",
        "podspec_hostpid": "PodSpecHostPID",
        "podspec_nodeselector": "PodSpecNodeSelector",
        "podspec_priorityclassname": "PodSpecPriorityClassName",
        "podspec_runtimeclassname": "PodSpecRuntimeClassName",
        "podspec_schedulername": "PodSpecSchedulerName",
        "podspec_securitycontext": "PodSpecSecurityContext",
        "podspec_shareprocessnamespace": "PodSpecShareProcessNamespace",
        "podspec_topologyspreadconstraints": "PodSpecTopologySpreadConstraints",
        "podspec_volumes_csi": "PodSpecVolumesCSI",
        "podspec_volumes_emptydir": "PodSpecVolumesEmptyDir",
        "podspec_volumes_hostpath": "PodSpecVolumesHostPath",
        "queueproxy_mount_podinfo": "QueueProxyMountPodInfo",
        "queueproxy_resource_defaults": "QueueProxyResourceDefaults",
    }

    def go(name: str) -> str:
        words = "".join(word.capitalize() for word in name.split("_")).replace("Podspec", "PodSpec")
        return special.get(name, words)

    return {go(name): str(value) for name, value in vars(c).items()}


def gc(c: Gc) -> dict[str, Any]:
    return {
        "MaxNonActiveRevisions": -1 if c.max_non_active_revisions is None else c.max_non_active_revisions,
        "MinNonActiveRevisions": c.min_non_active_revisions,
        "RetainSinceCreateTime": ns(c.retain_since_create_time),
        "RetainSinceLastActiveTime": ns(c.retain_since_last_active_time),
    }


def leader_election(c: LeaderElection) -> dict[str, Any]:
    return {
        "Buckets": c.buckets,
        "LeaseDuration": ns(c.lease_duration),
        "LeaseNamesPrefixMapping": dict(c.lease_names_prefix_mapping) or None,
        "RenewDeadline": ns(c.renew_deadline),
        "RetryPeriod": ns(c.retry_period),
    }


def network(c: Network) -> dict[str, Any]:
    return {
        "AutoTLS": c.external_domain_tls,
        "AutocreateClusterDomainClaims": c.autocreate_cluster_domain_claims,
        "ClusterLocalDomainTLS": switch(c.cluster_local_domain_tls),
        "DefaultCertificateClass": c.certificate_class,
        "DefaultExternalScheme": c.default_external_scheme,
        "DefaultIngressClass": c.ingress_class,
        "DomainTemplate": c.domain_template,
        "EnableMeshPodAddressability": c.enable_mesh_pod_addressability,
        "ExternalDomainTLS": c.external_domain_tls,
        "HTTPProtocol": c.http_protocol,
        "InternalEncryption": c.system_internal_tls,
        "MeshCompatibilityMode": c.mesh_compatibility_mode,
        "NamespaceWildcardCertSelector": c.namespace_wildcard_cert_selector,
        "RolloutDurationSecs": int(c.rollout_duration),
        "SystemInternalTLS": switch(c.system_internal_tls),
        "TagTemplate": c.tag_template,
    }


def observability(c: Observability) -> dict[str, Any]:
    def present(**fields: Any) -> dict[str, Any]:
        return {key: value for key, value in fields.items() if value}

    def metrics(m: Metrics) -> dict[str, Any]:
        return present(protocol=m.protocol, endpoint=m.endpoint, exportInterval=ns(m.export_interval))

    tracing = c.tracing
    return {
        **present(
            EnableVarLogCollection=c.enable_var_log_collection,
            LoggingURLTemplate=c.revision_url_template,
            enableRequestLog=c.enable_request_log,
            requestLogTemplate=c.request_log_template,
            enableProbeRequestLog=c.enable_probe_request_log,
        ),
        "metrics": metrics(c.metrics),
        "requestMetrics": metrics(c.request_metrics),
        "runtime": present(profiling=c.runtime.profiling, exportInterval=ns(c.runtime.export_interval)),
        "tracing": present(protocol=tracing.protocol, endpoint=tracing.endpoint, samplingRate=tracing.sampling_rate),
    }


SHOWN: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "config-autoscaler": autoscaler,
    "config-certmanager": certmanager,
    "config-defaults": defaults,
    "config-deployment": deployment,
    "config-domain": domain,
    "config-features": features,
    "config-gc": gc,
    "config-leader-election": leader_election,
    "config-network": network,
    "config-observability": observability,
}


def exception(case: Mapping[str, Any]) -> bool:
    """Agreed deviations (serving §10): we refuse what the original accepts.

    9: NaN and infinity, wherever a float is read. 11: a negative revision-timeout-seconds.
    """
    if case["expect"].get("accepted"):
        return True
    timeout = case["data"].get("revision-timeout-seconds", "0")
    return case["name"] == "config-defaults" and re.fullmatch("-[0-9]+", timeout) is not None


def comparable(text: str) -> str:
    """An error text up to where it quotes a Go library."""
    return re.split(r"strconv\.|time: |yaml: |json: ", text)[0]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return math.isclose(a, b, rel_tol=1e-9)
    return bool(a == b)


@pytest.mark.parametrize("name", sorted(SHOWN))
def test_parse(vectors: Any, name: str) -> None:
    table = vectors("serving/config_parse.json")
    failed = []
    refused = 0
    for case in table["cases"]:
        if case["name"] != name:
            continue
        expect = case["expect"]
        try:
            got = SHOWN[name](store.parse(name, case["data"]))
        except InvalidConfig as exc:
            if exception(case) and "error" not in expect:
                refused += 1
            elif "error" not in expect or comparable(exc.problems[0]) != comparable(expect["error"]):
                failed.append(f"{case['id']}: {exc.problems[0]!r} != {expect}")
            continue
        if "error" in expect or exception(case):
            failed.append(f"{case['id']}: accepted, want {expect}")
            continue
        want = expect.get("value") or {**table["defaults"][name], **expect["changed"]}
        want = {key: value for key, value in want.items() if key not in expect.get("removed", ())}
        if not same(got, want):
            wrong = {
                key: (got.get(key), want.get(key)) for key in {*got, *want} if not same(got.get(key), want.get(key))
            }
            failed.append(f"{case['id']}: {wrong}")
    assert not failed, f"{len(failed)} failed:\n" + "\n".join(failed[:12])
    assert refused == 0 or name in {"config-autoscaler", "config-defaults", "config-observability"}
