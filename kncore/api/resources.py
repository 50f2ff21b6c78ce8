"""Which API resources Torpor reads and writes, and where the API server keeps them.

A `Resource` is what discovery would have told us: group, version, plural, kind and scope. Torpor uses a fixed set, so
the table is written down here once instead of being discovered at start; URLs, owner references and events all come
from it.
"""

from dataclasses import dataclass
from urllib.parse import quote

__all__ = [
    "ALL",
    "CERTIFICATES",
    "CLUSTER_DOMAIN_CLAIMS",
    "CONFIGURATIONS",
    "CONFIG_MAPS",
    "CUSTOM_RESOURCE_DEFINITIONS",
    "DEPLOYMENTS",
    "DOMAIN_MAPPINGS",
    "ENDPOINTS",
    "ENDPOINT_SLICES",
    "EVENTS",
    "IMAGES",
    "INGRESSES",
    "KSERVICES",
    "LEASES",
    "METRICS",
    "NAMESPACES",
    "NODES",
    "PODS",
    "POD_AUTOSCALERS",
    "REPLICA_SETS",
    "REVISIONS",
    "ROUTES",
    "SECRETS",
    "SERVERLESS_SERVICES",
    "SERVICES",
    "SERVICE_ACCOUNTS",
    "Resource",
    "of_kind",
]


@dataclass(frozen=True)
class Resource:
    """One kind of object as the API server's URLs name it."""

    group: str
    """API group; empty for the core group."""
    version: str
    """The one version Torpor speaks."""
    plural: str
    kind: str
    namespaced: bool = True
    singular: str = ""
    """What discovery calls one object; empty means the kind in lower case."""
    short_names: tuple[str, ...] = ()

    @property
    def api_version(self) -> str:
        """`group/version`, or the bare version in the core group: what objects carry as `apiVersion`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def group_resource(self) -> str:
        """`plural.group`, or the bare plural in the core group: how the API server's messages name the resource."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str = "") -> str:
        """URL path of an object, of its subresource, or (without a name) of the collection in one or all namespaces."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        if namespace and self.namespaced:
            root = f"{root}/namespaces/{quote(namespace, safe='')}"
        path = f"{root}/{self.plural}"
        if name:
            path = f"{path}/{quote(name, safe='')}"
            if subresource:
                path = f"{path}/{subresource}"
        return path

    def __str__(self) -> str:
        return self.group_resource


_APPS = "apps"
_SERVING = "serving.knative.dev"
_AUTOSCALING = "autoscaling.internal.knative.dev"
_NETWORKING = "networking.internal.knative.dev"

PODS = Resource("", "v1", "pods", "Pod", short_names=("po",))
SERVICES = Resource("", "v1", "services", "Service", short_names=("svc",))
ENDPOINTS = Resource("", "v1", "endpoints", "Endpoints", singular="endpoints", short_names=("ep",))
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap", short_names=("cm",))
SECRETS = Resource("", "v1", "secrets", "Secret")
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False, short_names=("ns",))
EVENTS = Resource("", "v1", "events", "Event", short_names=("ev",))
NODES = Resource("", "v1", "nodes", "Node", namespaced=False, short_names=("no",))
SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount", short_names=("sa",))
ENDPOINT_SLICES = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
DEPLOYMENTS = Resource(_APPS, "v1", "deployments", "Deployment", short_names=("deploy",))
REPLICA_SETS = Resource(_APPS, "v1", "replicasets", "ReplicaSet", short_names=("rs",))
CUSTOM_RESOURCE_DEFINITIONS = Resource(
    "apiextensions.k8s.io",
    "v1",
    "customresourcedefinitions",
    "CustomResourceDefinition",
    namespaced=False,
    short_names=("crd", "crds"),
)

KSERVICES = Resource(_SERVING, "v1", "services", "Service", short_names=("kservice", "ksvc"))
CONFIGURATIONS = Resource(_SERVING, "v1", "configurations", "Configuration", short_names=("config", "cfg"))
REVISIONS = Resource(_SERVING, "v1", "revisions", "Revision", short_names=("rev",))
ROUTES = Resource(_SERVING, "v1", "routes", "Route", short_names=("rt",))
DOMAIN_MAPPINGS = Resource(_SERVING, "v1beta1", "domainmappings", "DomainMapping", short_names=("dm",))
POD_AUTOSCALERS = Resource(_AUTOSCALING, "v1alpha1", "podautoscalers", "PodAutoscaler", short_names=("kpa", "pa"))
METRICS = Resource(_AUTOSCALING, "v1alpha1", "metrics", "Metric")
INGRESSES = Resource(_NETWORKING, "v1alpha1", "ingresses", "Ingress", short_names=("kingress", "king"))
SERVERLESS_SERVICES = Resource(_NETWORKING, "v1alpha1", "serverlessservices", "ServerlessService", short_names=("sks",))
CERTIFICATES = Resource(_NETWORKING, "v1alpha1", "certificates", "Certificate", short_names=("kcert",))
CLUSTER_DOMAIN_CLAIMS = Resource(
    _NETWORKING, "v1alpha1", "clusterdomainclaims", "ClusterDomainClaim", namespaced=False, short_names=("cdc",)
)
IMAGES = Resource("caching.internal.knative.dev", "v1alpha1", "images", "Image")

ALL: tuple[Resource, ...] = (
    PODS,
    SERVICES,
    ENDPOINTS,
    CONFIG_MAPS,
    SECRETS,
    NAMESPACES,
    EVENTS,
    NODES,
    SERVICE_ACCOUNTS,
    ENDPOINT_SLICES,
    LEASES,
    DEPLOYMENTS,
    REPLICA_SETS,
    CUSTOM_RESOURCE_DEFINITIONS,
    KSERVICES,
    CONFIGURATIONS,
    REVISIONS,
    ROUTES,
    DOMAIN_MAPPINGS,
    POD_AUTOSCALERS,
    METRICS,
    INGRESSES,
    SERVERLESS_SERVICES,
    CERTIFICATES,
    CLUSTER_DOMAIN_CLAIMS,
    IMAGES,
)

_BY_KIND = {(one.api_version, one.kind): one for one in ALL}


def of_kind(api_version: str, kind: str) -> Resource | None:
    """The resource of objects with this `apiVersion` and `kind`, or None if Torpor has no use for it."""
    return _BY_KIND.get((api_version, kind))
