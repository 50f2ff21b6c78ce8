"""The kinds that admission knows, and what an object of each looks like (serving §1.2).

`decode` turns what a client sent into a clean object of its kind, the start of both defaulting and validation, and
`encode` into the form in which it is stored.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from kncore.api.meta import Obj
from kncore.api.podspec import META, POD
from kncore.api.shapes import DecodeError, Struct, parse_shapes

__all__ = ["KINDS", "decode", "encode", "is_known", "shape"]

SERVING: Final = """
Service: apiVersion string?, kind string?, metadata ObjectMeta, spec ServiceSpec, status ServiceStatus
ServiceSpec: template RevisionTemplate, traffic []TrafficTarget?
ServiceStatus: observedGeneration int64?, conditions []Condition?, annotations {}string?,
    latestReadyRevisionName string?, latestCreatedRevisionName string?, url *url, address *Addressable,
    traffic []TrafficTarget?

Configuration: apiVersion string?, kind string?, metadata ObjectMeta, spec ConfigurationSpec,
    status ConfigurationStatus
ConfigurationSpec: template RevisionTemplate
ConfigurationStatus: observedGeneration int64?, conditions []Condition?, annotations {}string?,
    latestReadyRevisionName string?, latestCreatedRevisionName string?

RevisionTemplate: metadata ObjectMeta, spec RevisionSpec
Revision: apiVersion string?, kind string?, metadata ObjectMeta, spec RevisionSpec, status RevisionStatus
RevisionStatus: observedGeneration int64?, conditions []Condition?, annotations {}string?, logUrl string?,
    containerStatuses []ContainerDigest?, initContainerStatuses []ContainerDigest?, actualReplicas *int32,
    desiredReplicas *int32
ContainerDigest: name string?, imageDigest string?

Route: apiVersion string?, kind string?, metadata ObjectMeta, spec RouteSpec, status RouteStatus
RouteSpec: traffic []TrafficTarget?
RouteStatus: observedGeneration int64?, conditions []Condition?, annotations {}string?, url *url,
    address *Addressable, traffic []TrafficTarget?
TrafficTarget: tag string?, revisionName string?, configurationName string?, latestRevision *bool, percent *int64,
    url *url

DomainMapping: apiVersion string?, kind string?, metadata ObjectMeta, spec DomainMappingSpec,
    status DomainMappingStatus
DomainMappingSpec: ref KReference, tls *SecretTLS
DomainMappingStatus: observedGeneration int64?, conditions []Condition?, annotations {}string?, url *url,
    address *Addressable
KReference: kind string, namespace string?, name string, apiVersion string?, group string?, address *string
SecretTLS: secretName string

Condition: type string, status string, severity string?, lastTransitionTime time, reason string?, message string?
Addressable: name *string, url *url, CACerts *string, audience *string
"""

# RevisionSpec is a PodSpec with four fields more.
REVISION_SPEC: Final = (
    "containerConcurrency *int64, timeoutSeconds *int64, responseStartTimeoutSeconds *int64, idleTimeoutSeconds *int64"
)

INTERNAL: Final = """
PodAutoscaler: apiVersion string?, kind string?, metadata ObjectMeta, spec PodAutoscalerSpec,
    status PodAutoscalerStatus
PodAutoscalerSpec: containerConcurrency int64?, scaleTargetRef ObjectReference, reachability string?,
    protocolType string
PodAutoscalerStatus: observedGeneration int64?, conditions []Condition?, annotations {}string?, serviceName string,
    metricsServiceName string, desiredScale *int32, actualScale *int32

Metric: apiVersion string?, kind string?, metadata ObjectMeta, spec MetricSpec, status PlainStatus
MetricSpec: stableWindow int64, panicWindow int64, scrapeTarget string
PlainStatus: observedGeneration int64?, conditions []Condition?, annotations {}string?

ServerlessService: apiVersion string?, kind string?, metadata ObjectMeta, spec ServerlessServiceSpec,
    status ServerlessServiceStatus
ServerlessServiceSpec: mode string?, objectRef ObjectReference, protocolType string, numActivators int32?
ServerlessServiceStatus: observedGeneration int64?, conditions []Condition?, annotations {}string?,
    serviceName string?, privateServiceName string?

Ingress: apiVersion string?, kind string?, metadata ObjectMeta, spec IngressSpec, status IngressStatus
IngressSpec: tls []IngressTLS?, rules []IngressRule?, httpOption string?
IngressTLS: hosts []string?, secretName string?, secretNamespace string?
IngressRule: hosts []string?, visibility string?, http *IngressPaths
IngressPaths: paths []IngressPath
IngressPath: path string?, rewriteHost string?, headers {}HeaderMatch?, splits []IngressSplit,
    appendHeaders {}string?
IngressSplit: serviceNamespace string, serviceName string, servicePort int-or-string, percent int64?,
    appendHeaders {}string?
HeaderMatch: exact string
IngressStatus: observedGeneration int64?, conditions []Condition?, annotations {}string?,
    publicLoadBalancer *LoadBalancer, privateLoadBalancer *LoadBalancer
LoadBalancer: ingress []LoadBalancerIngress?
LoadBalancerIngress: ip string?, domain string?, domainInternal string?, meshOnly bool?

Certificate: apiVersion string?, kind string?, metadata ObjectMeta, spec CertificateSpec, status CertificateStatus
CertificateSpec: dnsNames []string, domain string?, secretName string
CertificateStatus: observedGeneration int64?, conditions []Condition?, annotations {}string?, notAfter *time,
    http01Challenges []Challenge?
Challenge: url *url, serviceName string?, serviceNamespace string?, servicePort int-or-string
"""

KINDS: Final[Mapping[str, str]] = {
    "Service": "serving.knative.dev/v1",
    "Configuration": "serving.knative.dev/v1",
    "Revision": "serving.knative.dev/v1",
    "Route": "serving.knative.dev/v1",
    "DomainMapping": "serving.knative.dev/v1beta1",
    "PodAutoscaler": "autoscaling.internal.knative.dev/v1alpha1",
    "Metric": "autoscaling.internal.knative.dev/v1alpha1",
    "ServerlessService": "networking.internal.knative.dev/v1alpha1",
    "Ingress": "networking.internal.knative.dev/v1alpha1",
    "Certificate": "networking.internal.knative.dev/v1alpha1",
}
"""apiVersion by kind. The other Serving kinds (ClusterDomainClaim, Image) pass admission as their schema lets them."""


def is_known(obj: Any) -> bool:
    """Whether admission has rules for this kind; a Service of core/v1 is not one."""
    if not isinstance(obj, dict):
        return False
    kind = obj.get("kind")
    return isinstance(kind, str) and kind in KINDS and obj.get("apiVersion") == KINDS[kind]


def shape(name: str) -> Struct:
    """The shape of a kind, or of a part of one such as `RevisionSpec`."""
    return _shapes(keep_empty=True)[name]


def decode(obj: Any) -> Obj:
    """A clean copy of the object as it was received: fields of its kind only, each of its type, quantities canonical.

    An empty list is not an absent one here: a user who sends it in a forbidden field has set the field.

    Raises:
        DecodeError: not an object of a known kind, or a field has the wrong type.
    """
    if not is_known(obj):
        raise DecodeError("expected an object of a known kind")
    clean: Obj = shape(obj["kind"]).decode(obj)
    return clean


def encode(obj: Obj) -> Obj:
    """A decoded object as it is written: without what is zero or empty and may be left out."""
    written: Obj = _shapes(keep_empty=False)[obj["kind"]].decode(obj)
    return written


@cache
def _shapes(*, keep_empty: bool) -> dict[str, Struct]:
    pod = POD.replace("\nPodSpec:", f"\nRevisionSpec: {REVISION_SPEC},", 1)
    return parse_shapes(META, pod, SERVING, INTERNAL, keep_empty=keep_empty)
