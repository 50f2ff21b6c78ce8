"""The kinds the API server knows: a table of the built-in ones, and the reading of CustomResourceDefinitions.

A `Kind` is one (group, version, kind); everything that depends on the kind (discovery, printer columns, schema, which
subresources exist) reads it, so built-in and custom kinds take the same path through the server. Importing this module
parses no schema: `Kind.schema` loads its definitions on first use.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torpor.embedded.apiserver import columns, definitions
from torpor.embedded.apiserver.columns import Column

__all__ = ["KINDS", "PACKAGES", "REVIEWS", "VERBS", "Kind", "Scale", "from_crd"]

VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
OBJECT_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
BY_NAME = ("metadata.name", "metadata.namespace")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Where the `/scale` subresource finds its numbers, as JSONPaths such as `.spec.replicas`."""

    spec_path: str = ".spec.replicas"
    status_path: str = ".status.replicas"
    selector_path: str = ""
    """Path of the selector: a `LabelSelector` object for built-in kinds, its text for custom ones; empty for none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Kind:
    """One served kind of one version. Compared and hashed by identity."""

    group: str
    """Empty for the core group."""
    version: str
    kind: str
    plural: str
    singular: str
    short_names: tuple[str, ...] = ()
    namespaced: bool = True
    categories: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()
    """Names served below an object, e.g. `status`, `scale`, `log`."""
    scale: Scale | None = None
    columns: tuple[Column, ...] = (columns.NAME, columns.AGE)
    """Printer columns, the name included."""
    verbs: tuple[str, ...] = VERBS
    custom: bool = False
    """Defined by a CustomResourceDefinition: strategic merge is refused, generation follows the whole non-metadata."""
    storage: bool = True
    """Objects are stored in this version; false for the other served versions of a CRD."""
    fields: tuple[str, ...] = BY_NAME
    """Paths a field selector may name."""
    definition: str = ""
    """Name of the schema in OpenAPI, e.g. `io.k8s.api.core.v1.Pod`."""
    declared: Mapping[str, Any] | None = None
    """The schema as its CRD declares it; None for built-in kinds."""

    @property
    def api_version(self) -> str:
        """`group/version`, or just the version in the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def list_kind(self) -> str:
        return f"{self.kind}List"

    @property
    def resource(self) -> str:
        """`plural.group`, as error texts name it: `services.serving.knative.dev`, `pods`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @functools.cached_property
    def schema(self) -> Mapping[str, Any] | None:
        """The structural schema, linked (no `$ref`), with the standard metadata put in. Never change it."""
        if self.declared is not None:
            return _complete(self.declared, root=True)
        return definitions.load(self.definition) if self.definition else None


def from_crd(crd: Mapping[str, Any]) -> list[Kind]:
    """The kinds a CustomResourceDefinition serves, one per served version; the order is the CRD's."""
    spec = crd["spec"]
    names = spec["names"]
    kinds = []
    for version in spec["versions"]:
        if not version.get("served", True):
            continue
        subresources = version.get("subresources") or {}
        scale = subresources.get("scale")
        kinds.append(
            Kind(
                group=spec["group"],
                version=version["name"],
                kind=names["kind"],
                plural=names["plural"],
                singular=names.get("singular") or names["kind"].lower(),
                short_names=tuple(names.get("shortNames") or ()),
                namespaced=spec.get("scope", "Namespaced") == "Namespaced",
                categories=tuple(names.get("categories") or ()),
                subresources=tuple(name for name in ("status", "scale") if name in subresources),
                scale=None
                if scale is None
                else Scale(
                    spec_path=scale["specReplicasPath"],
                    status_path=scale["statusReplicasPath"],
                    selector_path=scale.get("labelSelectorPath", ""),
                ),
                columns=_printer_columns(version),
                custom=True,
                storage=bool(version.get("storage")),
                fields=BY_NAME
                + tuple(field["jsonPath"].lstrip(".") for field in version.get("selectableFields") or ()),
                definition=".".join([*reversed(spec["group"].split(".")), version["name"], names["kind"]]),
                declared=(version.get("schema") or {}).get("openAPIV3Schema") or {"type": "object"},
            )
        )
    return kinds


def _printer_columns(version: Mapping[str, Any]) -> tuple[Column, ...]:
    """The declared columns; a CRD without any shows the age, as upstream."""
    declared = version.get("additionalPrinterColumns")
    if not declared:
        age = Column(name="Age", type="date", path=".metadata.creationTimestamp", description=columns.CREATED)
        return columns.NAME, age
    return columns.NAME, *(
        Column(
            name=column["name"],
            type=column["type"],
            format=column.get("format", ""),
            priority=column.get("priority", 0),
            description=column.get("description", ""),
            path=column["jsonPath"],
        )
        for column in declared
    )


def _complete(schema: Mapping[str, Any], *, root: bool = False) -> dict[str, Any]:
    """A copy of a CRD's schema in which every embedded object has `apiVersion`, `kind` and the standard `metadata`."""
    made = dict(schema)
    if isinstance(properties := schema.get("properties"), Mapping):
        made["properties"] = {name: _complete(part) for name, part in properties.items()}
    for key in ("items", "additionalProperties"):
        if isinstance(part := schema.get(key), Mapping):
            made[key] = _complete(part)
    if root or schema.get("x-kubernetes-embedded-resource"):
        known = made.get("properties") or {}
        made["properties"] = {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            **known,
            "metadata": definitions.load(OBJECT_META),
        }
    return made


PACKAGES = {
    "": "io.k8s.api.core",
    "admissionregistration.k8s.io": "io.k8s.api.admissionregistration",
    "apiextensions.k8s.io": "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions",
    "apps": "io.k8s.api.apps",
    "authentication.k8s.io": "io.k8s.api.authentication",
    "authorization.k8s.io": "io.k8s.api.authorization",
    "autoscaling": "io.k8s.api.autoscaling",
    "batch": "io.k8s.api.batch",
    "coordination.k8s.io": "io.k8s.api.coordination",
    "discovery.k8s.io": "io.k8s.api.discovery",
    "events.k8s.io": "io.k8s.api.events",
    "networking.k8s.io": "io.k8s.api.networking",
    "policy": "io.k8s.api.policy",
    "rbac.authorization.k8s.io": "io.k8s.api.rbac",
    "storage.k8s.io": "io.k8s.api.storage",
}
"""API group -> Go package, which upstream names schemas after."""

_SELECTOR = Scale(selector_path=".spec.selector")


def _builtin(group_version: str, plural: str, kind: str, short: str = "", *, also: str = "", **rest: Any) -> Kind:
    """One row of the table; `short` holds the short names and `also` the selectable fields, separated by spaces."""
    group, _, version = group_version.rpartition("/")
    shown = columns.BUILTIN.get(kind) if group != "events.k8s.io" else None  # that Event has other fields
    return Kind(
        group=group,
        version=version,
        kind=kind,
        plural=plural,
        singular=kind.lower(),
        short_names=tuple(short.split()),
        fields=(*BY_NAME, *also.split()),
        columns=shown or (columns.NAME, columns.AGE),
        definition=f"{PACKAGES[group]}.{version}.{kind}",
        **rest,
    )


_ALL = ("all",)
_STATUS = ("status",)
_SCALED = ("status", "scale")
_API = ("api-extensions",)
_INVOLVED = " ".join(
    f"involvedObject.{name}"
    for name in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
)

KINDS: tuple[Kind, ...] = (
    _builtin(
        "v1",
        "namespaces",
        "Namespace",
        "ns",
        also="status.phase",
        namespaced=False,
        subresources=("status", "finalize"),
        verbs=tuple(verb for verb in VERBS if verb != "deletecollection"),
    ),
    _builtin(
        "v1",
        "pods",
        "Pod",
        "po",
        also="spec.nodeName spec.restartPolicy spec.schedulerName spec.serviceAccountName spec.hostNetwork "
        "status.phase status.podIP status.nominatedNodeName",
        categories=_ALL,
        subresources=("status", "log", "exec"),
    ),
    _builtin(
        "v1", "services", "Service", "svc", also="spec.clusterIP spec.type", categories=_ALL, subresources=_STATUS
    ),
    _builtin("v1", "endpoints", "Endpoints", "ep"),
    _builtin("v1", "configmaps", "ConfigMap", "cm"),
    _builtin("v1", "secrets", "Secret", also="type"),
    _builtin("v1", "serviceaccounts", "ServiceAccount", "sa"),
    _builtin("v1", "events", "Event", "ev", also=f"{_INVOLVED} reason reportingComponent source type"),
    _builtin("v1", "nodes", "Node", "no", also="spec.unschedulable", namespaced=False, subresources=_STATUS),
    _builtin("v1", "persistentvolumeclaims", "PersistentVolumeClaim", "pvc", subresources=_STATUS),
    _builtin("v1", "resourcequotas", "ResourceQuota", "quota", subresources=_STATUS),
    _builtin("v1", "limitranges", "LimitRange", "limits"),
    _builtin("apps/v1", "deployments", "Deployment", "deploy", categories=_ALL, subresources=_SCALED, scale=_SELECTOR),
    _builtin(
        "apps/v1",
        "replicasets",
        "ReplicaSet",
        "rs",
        also="status.replicas",
        categories=_ALL,
        subresources=_SCALED,
        scale=_SELECTOR,
    ),
    _builtin("apps/v1", "statefulsets", "StatefulSet", "sts", categories=_ALL, subresources=_SCALED, scale=_SELECTOR),
    _builtin("apps/v1", "daemonsets", "DaemonSet", "ds", categories=_ALL, subresources=_STATUS),
    _builtin("batch/v1", "jobs", "Job", also="status.successful", categories=_ALL, subresources=_STATUS),
    _builtin("batch/v1", "cronjobs", "CronJob", "cj", categories=_ALL, subresources=_STATUS),
    _builtin(
        "autoscaling/v2",
        "horizontalpodautoscalers",
        "HorizontalPodAutoscaler",
        "hpa",
        categories=_ALL,
        subresources=_STATUS,
    ),
    _builtin("coordination.k8s.io/v1", "leases", "Lease"),
    _builtin("discovery.k8s.io/v1", "endpointslices", "EndpointSlice"),
    _builtin("events.k8s.io/v1", "events", "Event", "ev", also="reason reportingController type regarding.name"),
    _builtin("networking.k8s.io/v1", "ingresses", "Ingress", "ing", subresources=_STATUS),
    _builtin("networking.k8s.io/v1", "networkpolicies", "NetworkPolicy", "netpol"),
    _builtin("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget", "pdb", subresources=_STATUS),
    _builtin("rbac.authorization.k8s.io/v1", "roles", "Role"),
    _builtin("rbac.authorization.k8s.io/v1", "rolebindings", "RoleBinding"),
    _builtin("rbac.authorization.k8s.io/v1", "clusterroles", "ClusterRole", namespaced=False),
    _builtin("rbac.authorization.k8s.io/v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False),
    _builtin(
        "admissionregistration.k8s.io/v1",
        "mutatingwebhookconfigurations",
        "MutatingWebhookConfiguration",
        namespaced=False,
        categories=_API,
    ),
    _builtin(
        "admissionregistration.k8s.io/v1",
        "validatingwebhookconfigurations",
        "ValidatingWebhookConfiguration",
        namespaced=False,
        categories=_API,
    ),
    _builtin(
        "apiextensions.k8s.io/v1",
        "customresourcedefinitions",
        "CustomResourceDefinition",
        "crd crds",
        namespaced=False,
        categories=_API,
        subresources=_STATUS,
    ),
    _builtin("storage.k8s.io/v1", "storageclasses", "StorageClass", "sc", namespaced=False),
)
"""The built-in kinds with stored objects, in the order discovery lists them."""

REVIEWS: tuple[Kind, ...] = tuple(
    _builtin(group_version, f"{kind.lower()}s", kind, namespaced=False, verbs=("create",))
    for group_version, kind in (
        ("authorization.k8s.io/v1", "SelfSubjectAccessReview"),
        ("authorization.k8s.io/v1", "SelfSubjectRulesReview"),
        ("authentication.k8s.io/v1", "SelfSubjectReview"),
    )
)
"""Questions that are answered and not stored: create is their only verb."""
