"""Makes `definitions.jsonl` and `descriptions.json.gz`: the schemas of the built-in kinds.

    python torpor/embedded/apiserver/data/generate.py

Names, types, required fields and descriptions come from the models of kubernetes_asyncio, which are generated from the
API's own OpenAPI document. What those models lost is written down here: which lists are maps or sets and by which keys,
how strategic merge patches treat them, which fields are quantities or int-or-string, and the constant defaults the API
server fills in. Run it again when the supported Kubernetes version moves; the output is sorted, so the difference is
readable.
"""

import gzip
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from kubernetes_asyncio.client import models

Node = dict[str, Any]

OUT = Path(__file__).parent
REF = "#/components/schemas/"
META = "io.k8s.apimachinery.pkg.apis.meta.v1"
QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"
INT_OR_STRING = "io.k8s.apimachinery.pkg.util.intstr.IntOrString"

# Root kinds by package with their description, the core group first: a part that two groups share belongs to the core.
ROOTS: dict[str, dict[str, str]] = {
    META: {
        "V1ObjectMeta": "What every persisted object carries: its name, labels, owners and history.",
        "V1DeleteOptions": "How to delete an object.",
        "V1Status": "The outcome of a call that returns no object.",
    },
    "io.k8s.api.core.v1": {
        "V1Pod": "A group of containers that run together on one node.",
        "V1PersistentVolumeClaim": "A request for storage.",
        "V1Service": "A named set of pods behind one address.",
        "V1Endpoints": "The addresses that implement a Service.",
        "V1ConfigMap": "Configuration data for pods to use.",
        "V1Secret": "Secret data of a certain type; the total size of its values must be less than 1 MiB.",
        "V1ServiceAccount": "An identity for the processes of pods.",
        "V1Namespace": "A scope for names.",
        "CoreV1Event": "A report of something that happened somewhere in the cluster.",
        "V1Node": "A machine that runs pods.",
        "V1ResourceQuota": "Limits on the total resources of a namespace.",
        "V1LimitRange": "Limits on the resources of each object of a namespace.",
    },
    "io.k8s.api.apps.v1": {
        "V1Deployment": "Declarative updates for pods and ReplicaSets.",
        "V1ReplicaSet": "A given number of copies of a pod.",
        "V1StatefulSet": "Pods with stable names and storage.",
        "V1DaemonSet": "One copy of a pod on each node.",
    },
    "io.k8s.api.batch.v1": {
        "V1Job": "Pods that run to completion.",
        "V1CronJob": "Jobs on a schedule.",
    },
    "io.k8s.api.autoscaling.v2": {
        "V2HorizontalPodAutoscaler": "The number of pods of a scalable object, by metrics.",
    },
    "io.k8s.api.autoscaling.v1": {"V1Scale": "A request to scale an object, and how far it got."},
    "io.k8s.api.coordination.v1": {"V1Lease": "A lock that must be renewed."},
    "io.k8s.api.discovery.v1": {"V1EndpointSlice": "A part of the addresses that implement a Service."},
    "io.k8s.api.events.v1": {"EventsV1Event": "A report of something that happened somewhere in the cluster."},
    "io.k8s.api.networking.v1": {
        "V1Ingress": "Rules that let traffic from outside reach Services.",
        "V1NetworkPolicy": "Which traffic a set of pods may receive and send.",
    },
    "io.k8s.api.policy.v1": {
        "V1PodDisruptionBudget": "How many of a set of pods may be down on purpose.",
        "V1Eviction": "A request to evict a pod within its disruption budget.",
    },
    "io.k8s.api.rbac.v1": {
        "V1Role": "Rules of what may be done in a namespace.",
        "V1RoleBinding": "Who has a Role in a namespace.",
        "V1ClusterRole": "Rules of what may be done in the cluster.",
        "V1ClusterRoleBinding": "Who has a ClusterRole.",
    },
    "io.k8s.api.admissionregistration.v1": {
        "V1MutatingWebhookConfiguration": "Webhooks that may change an object before it is stored.",
        "V1ValidatingWebhookConfiguration": "Webhooks that may refuse an object before it is stored.",
    },
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1": {
        "V1CustomResourceDefinition": "A kind of object the API server is to serve.",
    },
    "io.k8s.api.storage.v1": {"V1StorageClass": "How volumes of a class are provisioned."},
    "io.k8s.api.authorization.v1": {
        "V1SelfSubjectAccessReview": "May the caller do this?",
        "V1SelfSubjectRulesReview": "What may the caller do in a namespace?",
    },
    "io.k8s.api.authentication.v1": {"V1SelfSubjectReview": "Who is the caller?"},
}

# Parts that other packages than the one reaching them first own.
OWNERS = {
    "V1Condition": META,
    "V1FieldSelectorRequirement": META,
    "V1LabelSelector": META,
    "V1LabelSelectorRequirement": META,
    "V1ListMeta": META,
    "V1ManagedFieldsEntry": META,
    "V1OwnerReference": META,
    "V1PodTemplateSpec": "io.k8s.api.core.v1",
    "V1Preconditions": META,
    "V1StatusCause": META,
    "V1StatusDetails": META,
    "V1TopologySelectorLabelRequirement": "io.k8s.api.core.v1",
    "V1TopologySelectorTerm": "io.k8s.api.core.v1",
}

# Lists that are maps, with their keys, or sets (no keys). A `*` in front: strategic merge patches merge them too, by
# the first key. Everything else is replaced as a whole.
LISTS = """
meta.v1.ObjectMeta            *ownerReferences=uid *finalizers
core.v1.PodSpec               *containers=name *initContainers=name *ephemeralContainers=name *volumes=name
core.v1.PodSpec               *imagePullSecrets=name *hostAliases=ip *schedulingGates=name *resourceClaims=name
core.v1.PodSpec               *topologySpreadConstraints=topologyKey,whenUnsatisfiable
core.v1.PodStatus             *conditions=type *podIPs=ip *resourceClaimStatuses=name
core.v1.Container             *env=name *ports=containerPort,protocol *volumeMounts=mountPath *volumeDevices=devicePath
core.v1.EphemeralContainer    *env=name *ports=containerPort,protocol *volumeMounts=mountPath *volumeDevices=devicePath
core.v1.ContainerStatus       *volumeMounts=mountPath *allocatedResourcesStatus=name
core.v1.ResourceRequirements  claims=name
core.v1.ResourceStatus        resources=resourceID
core.v1.ContainerRestartRuleOnExitCodes values
core.v1.ServiceSpec           *ports=port,protocol
core.v1.ServiceStatus         *conditions=type
core.v1.ServiceAccount        *secrets=name
core.v1.NamespaceStatus       *conditions=type
core.v1.NodeSpec              *podCIDRs
core.v1.NodeStatus            *conditions=type *addresses=type
core.v1.PersistentVolumeClaimStatus *conditions=type
apps.v1.DeploymentStatus      *conditions=type
apps.v1.ReplicaSetStatus      *conditions=type
apps.v1.StatefulSetStatus     *conditions=type
apps.v1.DaemonSetStatus       *conditions=type
batch.v1.UncountedTerminatedPods failed succeeded
batch.v1.PodFailurePolicyOnExitCodesRequirement values
autoscaling.v2.HorizontalPodAutoscalerStatus *conditions=type
discovery.v1.Endpoint         addresses
policy.v1.PodDisruptionBudgetStatus *conditions=type
admissionregistration.v1.MutatingWebhook *matchConditions=name
admissionregistration.v1.ValidatingWebhook *matchConditions=name
admissionregistration.v1.MutatingWebhookConfiguration *webhooks=name
admissionregistration.v1.ValidatingWebhookConfiguration *webhooks=name
apiextensions.v1.CustomResourceDefinitionStatus conditions=type
apiextensions.v1.JSONSchemaProps x-kubernetes-validations=rule
"""

# Replaced as a whole by server-side apply, yet merged by strategic merge patches.
PATCHED = """
batch.v1.JobStatus            conditions=type
core.v1.PodStatus             hostIPs=ip
"""

# Objects whose keys absent from a strategic merge patch's $retainKeys go away.
RETAIN_KEYS = {
    ("apps.v1.DeploymentSpec", "strategy"),
    ("core.v1.PodSpec", "volumes"),
    ("core.v1.PodSpec", "resourceClaims"),
    ("core.v1.PodStatus", "resourceClaimStatuses"),
}

# Objects that server-side apply replaces as a whole.
ATOMIC = {
    "core.v1.ConfigMapKeySelector",
    "core.v1.EndpointAddress",
    "core.v1.EndpointPort",
    "core.v1.FileKeySelector",
    "core.v1.LocalObjectReference",
    "core.v1.NodeSelector",
    "core.v1.NodeSelectorTerm",
    "core.v1.ObjectFieldSelector",
    "core.v1.ObjectReference",
    "core.v1.ResourceFieldSelector",
    "core.v1.ScopeSelector",
    "core.v1.SecretKeySelector",
    "core.v1.SecretReference",
    "core.v1.TopologySelectorTerm",
    "core.v1.TypedLocalObjectReference",
    "discovery.v1.EndpointPort",
    "meta.v1.LabelSelector",
    "meta.v1.OwnerReference",
    "networking.v1.ServiceBackendPort",
    "rbac.v1.RoleRef",
    "rbac.v1.Subject",
}
ATOMIC_FIELDS = {("core.v1.PodSpec", "nodeSelector"), ("core.v1.ServiceSpec", "selector")}

QUANTITIES = """
core.v1.PodSpec                       overhead
core.v1.ResourceRequirements          limits requests
core.v1.VolumeResourceRequirements    limits requests
core.v1.PodStatus                     allocatedResources
core.v1.ContainerStatus               allocatedResources
core.v1.NodeStatus                    allocatable capacity
core.v1.NodeAllocatableResourceClaimStatus resources
core.v1.PersistentVolumeClaimStatus   allocatedResources capacity
core.v1.ResourceQuotaSpec             hard
core.v1.ResourceQuotaStatus           hard used
core.v1.LimitRangeItem                default defaultRequest max maxLimitRequestRatio min
core.v1.EmptyDirVolumeSource          sizeLimit
core.v1.ResourceFieldSelector         divisor
autoscaling.v2.MetricTarget           averageValue value
autoscaling.v2.MetricValueStatus      averageValue value
autoscaling.v2.HPAScalingRules        tolerance
"""

INTS_OR_STRINGS = """
core.v1.HTTPGetAction                 port
core.v1.TCPSocketAction               port
core.v1.ServicePort                   targetPort
apps.v1.RollingUpdateDeployment       maxSurge maxUnavailable
apps.v1.RollingUpdateStatefulSetStrategy maxUnavailable
apps.v1.RollingUpdateDaemonSet        maxSurge maxUnavailable
networking.v1.NetworkPolicyPort       port
policy.v1.PodDisruptionBudgetSpec     maxUnavailable minAvailable
"""

# Defaults that do not depend on other fields; those that do are the server's admission.
DEFAULTS: dict[str, Node] = {
    "core.v1.PodSpec": {
        "restartPolicy": "Always",
        "dnsPolicy": "ClusterFirst",
        "schedulerName": "default-scheduler",
        "terminationGracePeriodSeconds": 30,
        "securityContext": {},
    },
    "core.v1.Container": {
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "resources": {},
    },
    "core.v1.ContainerPort": {"protocol": "TCP"},
    "core.v1.Probe": {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
    "core.v1.HTTPGetAction": {"path": "/", "scheme": "HTTP"},
    "core.v1.ObjectFieldSelector": {"apiVersion": "v1"},
    "core.v1.ConfigMapVolumeSource": {"defaultMode": 0o644},
    "core.v1.SecretVolumeSource": {"defaultMode": 0o644},
    "core.v1.DownwardAPIVolumeSource": {"defaultMode": 0o644},
    "core.v1.ProjectedVolumeSource": {"defaultMode": 0o644},
    "core.v1.ServiceSpec": {"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster"},
    "core.v1.ServicePort": {"protocol": "TCP"},
    "core.v1.EndpointPort": {"protocol": "TCP"},
    "core.v1.Secret": {"type": "Opaque"},
    "core.v1.PersistentVolumeClaimSpec": {"volumeMode": "Filesystem"},
    "apps.v1.DeploymentSpec": {
        "replicas": 1,
        "revisionHistoryLimit": 10,
        "progressDeadlineSeconds": 600,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
    },
    "apps.v1.ReplicaSetSpec": {"replicas": 1},
    "apps.v1.StatefulSetSpec": {"replicas": 1, "podManagementPolicy": "OrderedReady", "revisionHistoryLimit": 10},
    "apps.v1.DaemonSetSpec": {"revisionHistoryLimit": 10},
    "batch.v1.JobSpec": {"backoffLimit": 6, "completionMode": "NonIndexed", "suspend": False},
    "batch.v1.CronJobSpec": {
        "concurrencyPolicy": "Allow",
        "suspend": False,
        "successfulJobsHistoryLimit": 3,
        "failedJobsHistoryLimit": 1,
    },
    "autoscaling.v2.HorizontalPodAutoscalerSpec": {"minReplicas": 1},
    "discovery.v1.EndpointPort": {"name": "", "protocol": "TCP"},
    "networking.v1.NetworkPolicyPort": {"protocol": "TCP"},
    "storage.v1.StorageClass": {"reclaimPolicy": "Delete", "volumeBindingMode": "Immediate"},
    "admissionregistration.v1.MutatingWebhook": {
        "failurePolicy": "Fail",
        "matchPolicy": "Equivalent",
        "namespaceSelector": {},
        "objectSelector": {},
        "reinvocationPolicy": "Never",
        "timeoutSeconds": 10,
    },
    "admissionregistration.v1.ValidatingWebhook": {
        "failurePolicy": "Fail",
        "matchPolicy": "Equivalent",
        "namespaceSelector": {},
        "objectSelector": {},
        "timeoutSeconds": 10,
    },
    "apiextensions.v1.CustomResourceDefinitionSpec": {"conversion": {"strategy": "None"}},
}

# Go writes an empty slice as null, and the API server takes it for the empty list, whatever OpenAPI says of `required`.
REQUIRED_LISTS = {("core.v1.PodSpec", "containers"), ("apiextensions.v1.CustomResourceDefinitionSpec", "versions")}

# Definitions without a model, or with one that says too little.
SCALARS: dict[str, Node] = {
    QUANTITY: {"oneOf": [{"type": "string"}, {"type": "number"}]},
    INT_OR_STRING: {"x-kubernetes-int-or-string": True},
    f"{META}.Time": {"type": "string", "format": "date-time"},
    f"{META}.MicroTime": {"type": "string", "format": "date-time"},
    f"{META}.FieldsV1": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
}
MICRO_TIMES = {("LeaseSpec", "acquireTime"), ("LeaseSpec", "renewTime"), ("Event", "eventTime")} | {
    ("EventSeries", "lastObservedTime")
}


def main() -> None:
    names, live = place()
    lines, texts = [], {}
    for model, name in names.items():
        schema, described = define(model, name, names, required=model in live)
        lines.append((name, schema))
        texts[name] = described
    lines.extend(SCALARS.items())
    body = "".join(f"{name}\t{json.dumps(schema, separators=(',', ':'))}\n" for name, schema in sorted(lines))
    (OUT / "definitions.jsonl").write_text(body, encoding="utf-8")
    packed = json.dumps(texts, separators=(",", ":"), sort_keys=True).encode()
    (OUT / "descriptions.json.gz").write_bytes(gzip.compress(packed, 9, mtime=0))


def place() -> tuple[dict[str, str], set[str]]:
    """Upstream name by model, and the models that users write (reached without passing through a `status`)."""
    names: dict[str, str] = {}
    live: set[str] = set()

    def visit(model: str, package: str, written: bool) -> None:
        known = model in names
        if known and (model in live or not written):
            return
        names.setdefault(model, f"{OWNERS.get(model, package)}.{bare(model)}")
        if written:
            live.add(model)
        cls = getattr(models, model)
        for attribute, spelled in cls.openapi_types.items():
            for part in re.findall(r"\b[A-Z]\w+", spelled):
                visit(part, package, written and attribute != "status")

    for package, kinds in ROOTS.items():
        for model in kinds:
            visit(model, package, True)
    return names, live


def bare(model: str) -> str:
    """The Go type's name: models carry a version, and a group where two groups have the same type."""
    return re.sub(r"^(Core|Events|Discovery|Rbac|Apiextensions|Admissionregistration|Authentication)?V\d", "", model)


def define(model: str, name: str, names: dict[str, str], *, required: bool) -> tuple[Node, dict[str, str]]:
    """The schema of a model, and the descriptions of its fields."""
    cls = getattr(models, model)
    short = tail(name)
    made: Node = {"type": "object"}
    properties: Node = {}
    wanted = []
    described = {"": next((kinds[model] for kinds in ROOTS.values() if model in kinds), "")}
    for attribute, spelled in cls.openapi_types.items():
        field = cls.attribute_map[attribute]
        part = properties[field] = typed(short, field, spelled, names)
        if field in DEFAULTS.get(short, {}):
            part["default"] = DEFAULTS[short][field]
        accessor = getattr(cls, attribute)
        described[field] = sentence(accessor.fget.__doc__)
        if required and demands(cls, attribute) and (part.get("type") != "array" or (short, field) in REQUIRED_LISTS):
            wanted.append(field)
    made["properties"] = dict(sorted(properties.items()))
    if wanted:
        made["required"] = sorted(wanted)
    if short in ATOMIC:
        made["x-kubernetes-map-type"] = "atomic"
    return made, {field: text for field, text in described.items() if text}


def typed(short: str, field: str, spelled: str, names: dict[str, str]) -> Node:
    """The schema of one field from the model's spelling of its type, e.g. `list[V1Container]`, `dict(str, str)`."""
    if listed := re.fullmatch(r"list\[(.+)\]", spelled):
        made: Node = {"type": "array", "items": typed(short, "", listed[1], names)}
        if (keys := LIST_KEYS.get((short, field))) is not None:
            made["x-kubernetes-list-type"] = "map" if keys else "set"
            if keys:
                made["x-kubernetes-list-map-keys"] = keys
        if (key := MERGE_KEYS.get((short, field))) is not None:
            made["x-kubernetes-patch-strategy"] = "merge,retainKeys" if (short, field) in RETAIN_KEYS else "merge"
            if key:
                made["x-kubernetes-patch-merge-key"] = key
        return made
    if mapped := re.fullmatch(r"dict\(str, (.+)\)", spelled):
        values = ref(QUANTITY) if (short, field) in QUANTITY_FIELDS else typed(short, "", mapped[1], names)
        made = {"type": "object", "additionalProperties": values}
        if (short, field) in ATOMIC_FIELDS:
            made["x-kubernetes-map-type"] = "atomic"
        return made
    if (short, field) in QUANTITY_FIELDS:
        return ref(QUANTITY)
    if (short, field) in INT_OR_STRING_FIELDS:
        return ref(INT_OR_STRING)
    if spelled == "datetime":
        micro = (short.rpartition(".")[2], field) in MICRO_TIMES
        return ref(f"{META}.MicroTime" if micro else f"{META}.Time")
    if spelled == "object":
        if field == "fieldsV1":
            return ref(f"{META}.FieldsV1")
        return {"x-kubernetes-preserve-unknown-fields": True}
    if spelled in SPELLED:
        return {"type": SPELLED[spelled]}
    part = ref(names[spelled])
    if (short, field) in RETAIN_KEYS:
        part["x-kubernetes-patch-strategy"] = "retainKeys"
    return part


SPELLED = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}


def ref(name: str) -> Node:
    """A reference; keys put beside it later are said of this use only, which OpenAPI itself wants spelled `allOf`."""
    return {"$ref": REF + name}


def tail(name: str) -> str:
    """`io.k8s.api.core.v1.Pod` -> `core.v1.Pod`."""
    return ".".join(name.split(".")[-3:])


def demands(cls: Any, attribute: str) -> bool:
    """Whether the model refuses None for an attribute."""
    try:
        made = cls.__new__(cls)
        made.local_vars_configuration = type("Checking", (), {"client_side_validation": True})()
        setattr(made, attribute, None)
    except ValueError:
        return True
    return False


def sentence(doc: str | None) -> str:
    """The first sentence of an accessor's description, at most 300 characters."""
    text = re.split(r":return:", doc or "")[0].partition("# noqa: E501")[2]
    text = " ".join(text.replace("# noqa: E501", "").split())
    first = re.split(r"(?<=[a-z)\]\"'`0-9])\.\s+(?=[A-Z])", text, maxsplit=1)[0].rstrip(". ")
    if len(first) > 300:
        first = first[:299].rsplit(" ", 1)[0] + "…"
    return f"{first}." if first and not first.endswith("…") else first


def fields(table: str) -> Iterator[tuple[str, str]]:
    for line in table.strip().splitlines():
        owner, *entries = line.split()
        for entry in entries:
            yield owner, entry


def keyed(entries: Iterable[tuple[str, str]]) -> Iterator[tuple[tuple[str, str], list[str]]]:
    for owner, entry in entries:
        field, _, keys = entry.lstrip("*").partition("=")
        yield (owner, field), keys.split(",") if keys else []


QUANTITY_FIELDS = set(fields(QUANTITIES))
INT_OR_STRING_FIELDS = set(fields(INTS_OR_STRINGS))
LIST_KEYS = dict(keyed(fields(LISTS)))
MERGE_KEYS = {
    at: keys[0] if keys else ""
    for at, keys in [*keyed(pair for pair in fields(LISTS) if pair[1].startswith("*")), *keyed(fields(PATCHED))]
}

if __name__ == "__main__":
    main()
