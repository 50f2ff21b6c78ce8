"""Names that users and components write on objects and requests: annotations, labels, headers.

Several keys have a legacy spelling; such a constant is a tuple, newest first, for `lookup`. The table is serving §2.
"""

from collections.abc import Mapping, Sequence
from typing import Final

__all__ = [
    "ACTIVATION_SCALE",
    "AGGREGATION_ALGORITHM",
    "AUTOSCALER_CLASS",
    "CERTIFICATE_CLASS",
    "CERTIFICATE_TYPE",
    "CERTIFICATE_UID",
    "CLASS_ANNOTATIONS",
    "CONFIGURATION",
    "CONFIGURATION_GENERATION",
    "CONFIGURATION_UID",
    "CREATOR",
    "DEPLOYMENT_HASH",
    "DISABLE_EXTERNAL_DOMAIN_TLS",
    "DOMAIN_MAPPING_NAMESPACE",
    "DOMAIN_MAPPING_UID",
    "EXAMPLE_CHECKSUM",
    "GRACE_PERIOD",
    "GROUP_AUTOSCALING",
    "GROUP_CACHING",
    "GROUP_NETWORKING",
    "GROUP_SERVING",
    "HEADER_DIRECT_LB",
    "HEADER_HASH",
    "HEADER_NAMESPACE",
    "HEADER_ORIGINAL_HOST",
    "HEADER_PASSTHROUGH_LB",
    "HEADER_PROBE",
    "HEADER_PROXY",
    "HEADER_REVISION",
    "HEADER_ROUTE",
    "HEADER_TAG",
    "HPA_CLASS",
    "HTTP_FULL_DUPLEX",
    "HTTP_PROTOCOL",
    "INGRESS_CLASS",
    "INGRESS_CLASS_TORPOR",
    "INITIAL_SCALE",
    "KPA_CLASS",
    "LAST_APPLIED",
    "LAST_MODIFIER",
    "LAST_PINNED",
    "MAX_SCALE",
    "METRIC",
    "MIN_SCALE",
    "NO_GC",
    "PANIC_THRESHOLD_PERCENTAGE",
    "PANIC_WINDOW_PERCENTAGE",
    "PROGRESS_DEADLINE",
    "QUEUE_CPU_LIMIT",
    "QUEUE_CPU_REQUEST",
    "QUEUE_EPHEMERAL_STORAGE_LIMIT",
    "QUEUE_EPHEMERAL_STORAGE_REQUEST",
    "QUEUE_MEMORY_LIMIT",
    "QUEUE_MEMORY_REQUEST",
    "QUEUE_PODINFO",
    "QUEUE_RESOURCE_PERCENTAGE",
    "RETENTION_PERIOD",
    "REVISION",
    "REVISION_UID",
    "ROLLOUT",
    "ROLLOUT_DURATION",
    "ROUTE",
    "ROUTES",
    "ROUTE_NAMESPACE",
    "ROUTING_STATE",
    "ROUTING_STATE_MODIFIED",
    "SCALE_DOWN_DELAY",
    "SERVERLESS_SERVICE",
    "SERVICE",
    "SERVICE_TYPE",
    "SERVICE_UID",
    "TAG_TO_HOST",
    "TARGET",
    "TARGET_BURST_CAPACITY",
    "TARGET_UTILIZATION",
    "TRUST_BUNDLE",
    "VISIBILITY",
    "VISIBILITY_CLUSTER_LOCAL",
    "WEBHOOKS_EXCLUDE",
    "WILDCARD_DOMAIN",
    "WINDOW",
    "lookup",
]

GROUP_SERVING: Final = "serving.knative.dev"
GROUP_AUTOSCALING: Final = "autoscaling.knative.dev"
GROUP_NETWORKING: Final = "networking.knative.dev"
GROUP_CACHING: Final = "caching.internal.knative.dev"

Alias = tuple[str, ...]


def _autoscaling(*stems: str) -> Alias:
    return tuple(f"{GROUP_AUTOSCALING}/{stem}" for stem in stems)


# autoscaling.knative.dev (serving §2.1): annotations of revision templates, revisions and pod autoscalers
AUTOSCALER_CLASS: Final = _autoscaling("class")
METRIC: Final = _autoscaling("metric")
TARGET: Final = _autoscaling("target")
TARGET_UTILIZATION: Final = _autoscaling("target-utilization-percentage", "targetUtilizationPercentage")
MIN_SCALE: Final = _autoscaling("min-scale", "minScale")
MAX_SCALE: Final = _autoscaling("max-scale", "maxScale")
INITIAL_SCALE: Final = _autoscaling("initial-scale", "initialScale")
ACTIVATION_SCALE: Final = _autoscaling("activation-scale")
SCALE_DOWN_DELAY: Final = _autoscaling("scale-down-delay", "scaleDownDelay")
RETENTION_PERIOD: Final = _autoscaling("scale-to-zero-pod-retention-period", "scaleToZeroPodRetentionPeriod")
GRACE_PERIOD: Final = _autoscaling("scale-to-zero-grace-period", "scaleToZeroGracePeriod")
WINDOW: Final = _autoscaling("window")
PANIC_WINDOW_PERCENTAGE: Final = _autoscaling("panic-window-percentage", "panicWindowPercentage")
PANIC_THRESHOLD_PERCENTAGE: Final = _autoscaling("panic-threshold-percentage", "panicThresholdPercentage")
TARGET_BURST_CAPACITY: Final = _autoscaling("target-burst-capacity", "targetBurstCapacity")
AGGREGATION_ALGORITHM: Final = _autoscaling("metric-aggregation-algorithm", "metricAggregationAlgorithm")

KPA_CLASS: Final = "kpa.autoscaling.knative.dev"
HPA_CLASS: Final = "hpa.autoscaling.knative.dev"

# serving.knative.dev (serving §2.2)
ROLLOUT_DURATION: Final = ("serving.knative.dev/rollout-duration", "serving.knative.dev/rolloutDuration")
PROGRESS_DEADLINE: Final = ("serving.knative.dev/progress-deadline",)
NO_GC: Final = "serving.knative.dev/no-gc"
CREATOR: Final = "serving.knative.dev/creator"
LAST_MODIFIER: Final = "serving.knative.dev/lastModifier"
ROUTES: Final = "serving.knative.dev/routes"
ROUTING_STATE: Final = "serving.knative.dev/routingState"
ROUTING_STATE_MODIFIED: Final = "serving.knative.dev/routingStateModified"
LAST_PINNED: Final = "serving.knative.dev/lastPinned"
SERVICE: Final = "serving.knative.dev/service"
SERVICE_UID: Final = "serving.knative.dev/serviceUID"
CONFIGURATION: Final = "serving.knative.dev/configuration"
CONFIGURATION_UID: Final = "serving.knative.dev/configurationUID"
CONFIGURATION_GENERATION: Final = "serving.knative.dev/configurationGeneration"
REVISION: Final = "serving.knative.dev/revision"
REVISION_UID: Final = "serving.knative.dev/revisionUID"
ROUTE: Final = "serving.knative.dev/route"
ROUTE_NAMESPACE: Final = "serving.knative.dev/routeNamespace"
DOMAIN_MAPPING_UID: Final = "serving.knative.dev/domainMappingUID"
DOMAIN_MAPPING_NAMESPACE: Final = "serving.knative.dev/domainMappingNamespace"
DEPLOYMENT_HASH: Final = "serving.knative.dev/deployment-hash"

# networking.knative.dev and networking.internal.knative.dev (serving §2.3)
INGRESS_CLASS: Final = ("networking.knative.dev/ingress.class", "networking.knative.dev/ingress-class")
CERTIFICATE_CLASS: Final = ("networking.knative.dev/certificate.class", "networking.knative.dev/certificate-class")
DISABLE_EXTERNAL_DOMAIN_TLS: Final = (
    "networking.knative.dev/disableAutoTLS",
    "networking.knative.dev/disable-auto-tls",
    "networking.knative.dev/disable-external-domain-tls",
)
HTTP_PROTOCOL: Final = ("networking.knative.dev/httpOption", "networking.knative.dev/http-protocol")
CLASS_ANNOTATIONS: Final = (*INGRESS_CLASS, *CERTIFICATE_CLASS)
VISIBILITY: Final = "networking.knative.dev/visibility"
VISIBILITY_CLUSTER_LOCAL: Final = "cluster-local"
WILDCARD_DOMAIN: Final = "networking.knative.dev/wildcardDomain"
CERTIFICATE_TYPE: Final = "networking.knative.dev/certificate-type"
TRUST_BUNDLE: Final = "networking.knative.dev/trust-bundle"
ROLLOUT: Final = "networking.internal.knative.dev/rollout"
TAG_TO_HOST: Final = "networking.internal.knative.dev/tag-to-host"
SERVERLESS_SERVICE: Final = "networking.internal.knative.dev/serverlessservice"
SERVICE_TYPE: Final = "networking.internal.knative.dev/serviceType"
CERTIFICATE_UID: Final = "networking.internal.knative.dev/certificate-uid"
INGRESS_CLASS_TORPOR: Final = "torpor.ingress.networking.knative.dev"

# queue.sidecar.serving.knative.dev (serving §2.4), features.knative.dev (§2.5), others (§2.6)
QUEUE_RESOURCE_PERCENTAGE: Final = (
    "queue.sidecar.serving.knative.dev/resource-percentage",
    "queue.sidecar.serving.knative.dev/resourcePercentage",
)
QUEUE_CPU_REQUEST: Final = ("queue.sidecar.serving.knative.dev/cpu-resource-request",)
QUEUE_CPU_LIMIT: Final = ("queue.sidecar.serving.knative.dev/cpu-resource-limit",)
QUEUE_MEMORY_REQUEST: Final = ("queue.sidecar.serving.knative.dev/memory-resource-request",)
QUEUE_MEMORY_LIMIT: Final = ("queue.sidecar.serving.knative.dev/memory-resource-limit",)
QUEUE_EPHEMERAL_STORAGE_REQUEST: Final = ("queue.sidecar.serving.knative.dev/ephemeral-storage-resource-request",)
QUEUE_EPHEMERAL_STORAGE_LIMIT: Final = ("queue.sidecar.serving.knative.dev/ephemeral-storage-resource-limit",)
QUEUE_PODINFO: Final = "features.knative.dev/queueproxy-podinfo"
HTTP_FULL_DUPLEX: Final = "features.knative.dev/http-full-duplex"
LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
EXAMPLE_CHECKSUM: Final = "knative.dev/example-checksum"
WEBHOOKS_EXCLUDE: Final = "webhooks.knative.dev/exclude"

# Headers between the hops (serving §7.7), spelled as they are written on the wire
HEADER_REVISION: Final = "Knative-Serving-Revision"
HEADER_NAMESPACE: Final = "Knative-Serving-Namespace"
HEADER_TAG: Final = "Knative-Serving-Tag"
HEADER_ROUTE: Final = "Knative-Serving-Default-Route"
HEADER_ORIGINAL_HOST: Final = "K-Original-Host"
HEADER_PROXY: Final = "K-Proxy-Request"
HEADER_PROBE: Final = "K-Network-Probe"
HEADER_HASH: Final = "K-Network-Hash"
HEADER_PASSTHROUGH_LB: Final = "K-Passthrough-Lb"
HEADER_DIRECT_LB: Final = "Knative-Direct-Lb"


def lookup(mapping: Mapping[str, str], aliases: Sequence[str]) -> str | None:
    """The value of the first alias that is present, even if it is empty; None if none is.

    Source: knative.dev/pkg kmap/lookup.go.
    """
    for alias in aliases:
        if alias in mapping:
            return mapping[alias]
    return None
