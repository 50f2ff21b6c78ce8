"""What `kubectl get` shows of the built-in kinds, as the real API server computes it.

A Table is rendered on the server, so these functions decide what users read; the behaviour they follow is
`pkg/printers/internalversion/printers.go` of Kubernetes 1.32. Each takes an object and the wall-clock time and returns
one cell; none keeps state or fails on an object that lacks what it shows.
"""

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

__all__ = ["AGE", "BUILTIN", "CREATED", "NAME", "Column", "age", "human_duration", "unix_time"]

Obj = Mapping[str, Any]
Cell = Callable[[Obj, float], Any]

CREATED = (
    "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed "
    "to be set in happens-before order across separate operations."
)
_SHOWN = 3
"""Items shown of a long list before ` + N more...`."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a Table: either a JSONPath into the object (custom kinds) or a function of it (built-in kinds)."""

    name: str
    type: str = "string"
    """`string`, `integer`, `number`, `boolean` or `date`."""
    format: str = ""
    priority: int = 0
    """0 is always shown, 1 with `-o wide`."""
    description: str = ""
    path: str = ""
    """JSONPath of the cell, e.g. `.status.url`."""
    cell: Cell | None = None
    """The cell of an object at a wall-clock time (seconds); wins over `path`."""


# ----------------------------------------------------------------------------------------------------------- times


def human_duration(seconds: float) -> str:
    """A duration as kubectl prints it: `45s`, `5m30s`, `3h`, `5d3h`, `2y10d`; `<invalid>` for the future.

    Source: apimachinery pkg/util/duration, HumanDuration.
    """
    whole = int(seconds)
    if whole < -1:
        return "<invalid>"
    if whole < 0:
        return "0s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if whole < 120:
        return f"{whole}s"
    if minutes < 10:
        return f"{minutes}m{whole % 60}s" if whole % 60 else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    if hours < 192:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    if days < 730:
        return f"{days}d"
    if days < 2920:
        return f"{days // 365}y{days % 365}d" if days % 365 else f"{days // 365}y"
    return f"{days // 365}y"


def unix_time(text: str) -> float | None:
    """Unix seconds of an RFC 3339 time; None if it is none."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.timestamp() if moment.tzinfo is not None else None


def age(text: Any, now: float) -> str:
    """How long ago an RFC 3339 time was, for people; `<unknown>` when there is none, `<invalid>` when it is no time."""
    if not text:
        return "<unknown>"
    then = unix_time(text) if isinstance(text, str) else None
    return "<invalid>" if then is None else human_duration(now - then)


# ---------------------------------------------------------------------------------------------------- reading objects


def _at(obj: Any, path: str) -> Any:
    """The value at a dotted path, or None."""
    for part in path.split("."):
        if not isinstance(obj, Mapping):
            return None
        obj = obj.get(part)
    return obj


def _items(obj: Any, path: str) -> list[Any]:
    found = _at(obj, path)
    return found if isinstance(found, list) else []


def _text(path: str, missing: str = "") -> Cell:
    def cell(obj: Obj, now: float) -> Any:
        found = _at(obj, path)
        return missing if found is None or found == "" else str(found)

    return cell


def _number(path: str, missing: int = 0) -> Cell:
    def cell(obj: Obj, now: float) -> Any:
        found = _at(obj, path)
        return found if isinstance(found, int) else missing

    return cell


def _size(*paths: str) -> Cell:
    def cell(obj: Obj, now: float) -> Any:
        return sum(len(_at(obj, path) or ()) for path in paths)

    return cell


def _since(path: str) -> Cell:
    def cell(obj: Obj, now: float) -> Any:
        return age(_at(obj, path), now)

    return cell


def _created_at(obj: Obj, now: float) -> Any:
    then = unix_time(_at(obj, "metadata.creationTimestamp") or "")
    return "<unknown>" if then is None else datetime.fromtimestamp(then, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _flag(path: str) -> Cell:
    def cell(obj: Obj, now: float) -> Any:
        found = _at(obj, path)
        return "<unset>" if found is None else str(bool(found))

    return cell


def _first(items: list[str], total: int | None = None) -> str:
    """At most three items, then how many more there are."""
    total = len(items) if total is None else total
    shown = ",".join(items[:_SHOWN])
    return f"{shown} + {total - _SHOWN} more..." if total > _SHOWN else shown


def _labels(labels: Mapping[str, str] | None) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted((labels or {}).items())) or "<none>"


def _label_selector(selector: Any, missing: str = "<none>") -> str:
    """A LabelSelector object as its text."""
    if not isinstance(selector, Mapping):
        return missing
    terms = [(key, f"{key}={value}") for key, value in (selector.get("matchLabels") or {}).items()]
    for expression in selector.get("matchExpressions") or ():
        key, values = expression.get("key", ""), ",".join(sorted(expression.get("values") or ()))
        match expression.get("operator"):
            case "In":
                terms.append((key, f"{key} in ({values})"))
            case "NotIn":
                terms.append((key, f"{key} notin ({values})"))
            case "Exists":
                terms.append((key, key))
            case "DoesNotExist":
                terms.append((key, f"!{key}"))
    return ",".join(text for _, text in sorted(terms)) or missing


def _selector(path: str, missing: str = "<none>") -> Cell:
    def cell(obj: Obj, now: float) -> Any:
        return _label_selector(_at(obj, path), missing)

    return cell


def _of_containers(field: str, path: str = "spec.template.spec.containers") -> Cell:
    def cell(obj: Obj, now: float) -> Any:
        return ",".join(str(container.get(field, "")) for container in _items(obj, path))

    return cell


def _condition(obj: Any, kind: str) -> Mapping[str, Any] | None:
    return next((found for found in _items(obj, "status.conditions") if found.get("type") == kind), None)


def _holds(obj: Any, kind: str) -> bool:
    return (_condition(obj, kind) or {}).get("status") == "True"


# ------------------------------------------------------------------------------------------------------------ pods


@dataclass
class _Tally:
    """What the statuses of a pod's containers add up to."""

    ready: int = 0
    restarts: int = 0
    restarted: float = 0.0
    """Unix time of the last restart; 0 if unknown."""

    def count(self, status: Mapping[str, Any]) -> None:
        self.restarts += status.get("restartCount", 0)
        ended = unix_time(_at(status, "lastState.terminated.finishedAt") or "")
        self.restarted = max(self.restarted, ended or 0.0)


def _ended(terminated: Mapping[str, Any]) -> str:
    if reason := terminated.get("reason"):
        return str(reason)
    if signal := terminated.get("signal"):
        return f"Signal:{signal}"
    return f"ExitCode:{terminated.get('exitCode', 0)}"


def _pod(pod: Obj) -> tuple[str, _Tally, int]:
    """Status word, tally and number of containers of a pod."""
    phase = _at(pod, "status.phase") or ""
    word = _at(pod, "status.reason") or phase
    scheduled = _condition(pod, "PodScheduled")
    if scheduled is not None and scheduled.get("reason") == "SchedulingGated":
        word = "SchedulingGated"
    inits = _items(pod, "spec.initContainers")
    sidecars = {container.get("name") for container in inits if container.get("restartPolicy") == "Always"}
    total = len(_items(pod, "spec.containers")) + len(sidecars)

    starting, lasting = _Tally(), _Tally()  # all init containers; only the sidecars among them
    initializing = False
    for index, status in enumerate(_items(pod, "status.initContainerStatuses")):
        sidecar = status.get("name") in sidecars
        starting.count(status)
        if sidecar:
            lasting.count(status)
        terminated = _at(status, "state.terminated")
        waiting = _at(status, "state.waiting.reason")
        if terminated is not None and terminated.get("exitCode", 0) == 0:
            continue
        if sidecar and status.get("started"):
            lasting.ready += bool(status.get("ready"))
            continue
        initializing = True
        if terminated is not None:
            word = f"Init:{_ended(terminated)}"
        elif waiting and waiting != "PodInitializing":
            word = f"Init:{waiting}"
        else:
            word = f"Init:{index}/{len(inits)}"
        break

    if initializing and not _holds(pod, "Initialized"):
        starting.ready = lasting.ready
        tally = starting
    else:
        tally = lasting
        running = False
        for status in reversed(_items(pod, "status.containerStatuses")):
            tally.count(status)
            terminated = _at(status, "state.terminated")
            if waiting := _at(status, "state.waiting.reason"):
                word = waiting
            elif terminated is not None:
                word = _ended(terminated)
            elif status.get("ready") and _at(status, "state.running") is not None:
                running = True
                tally.ready += 1
        if word == "Completed" and running:
            word = "Running" if _holds(pod, "Ready") else "NotReady"

    if _at(pod, "metadata.deletionTimestamp"):
        if _at(pod, "status.reason") == "NodeLost":
            word = "Unknown"
        elif phase not in ("Succeeded", "Failed"):
            word = "Terminating"
    return word, tally, total


def _pod_ready(pod: Obj, now: float) -> Any:
    _, tally, total = _pod(pod)
    return f"{tally.ready}/{total}"


def _pod_status(pod: Obj, now: float) -> Any:
    return _pod(pod)[0]


def _pod_restarts(pod: Obj, now: float) -> Any:
    tally = _pod(pod)[1]
    if tally.restarts and tally.restarted:
        return f"{tally.restarts} ({human_duration(now - tally.restarted)} ago)"
    return str(tally.restarts)


def _pod_ip(pod: Obj, now: float) -> Any:
    addresses = _items(pod, "status.podIPs")
    return (addresses[0].get("ip") if addresses else _at(pod, "status.podIP")) or "<none>"


def _pod_gates(pod: Obj, now: float) -> Any:
    gates = _items(pod, "spec.readinessGates")
    if not gates:
        return "<none>"
    return f"{sum(_holds(pod, gate.get('conditionType', '')) for gate in gates)}/{len(gates)}"


# ------------------------------------------------------------------------------------------------------- workloads


def _of(ready: str, wanted: str) -> Cell:
    """`2/3`: two numbers of an object."""

    def cell(obj: Obj, now: float) -> Any:
        return f"{_at(obj, ready) or 0}/{_at(obj, wanted) or 0}"

    return cell


def _job_status(job: Obj, now: float) -> Any:
    for kind, word in (("Complete", "Complete"), ("Failed", "Failed")):
        if _holds(job, kind):
            return word
    if _at(job, "metadata.deletionTimestamp"):
        return "Terminating"
    return next((word for word in ("Suspended", "FailureTarget", "SuccessCriteriaMet") if _holds(job, word)), "Running")


def _job_completions(job: Obj, now: float) -> Any:
    done, wanted = _at(job, "status.succeeded") or 0, _at(job, "spec.completions")
    if wanted is not None:
        return f"{done}/{wanted}"
    parallel = _at(job, "spec.parallelism") or 0
    return f"{done}/1 of {parallel}" if parallel > 1 else f"{done}/1"


def _job_duration(job: Obj, now: float) -> Any:
    start, end = (unix_time(_at(job, f"status.{key}") or "") for key in ("startTime", "completionTime"))
    if start is None:
        return ""
    return human_duration((now if end is None else end) - start)


def _last_schedule(job: Obj, now: float) -> Any:
    return age(last, now) if (last := _at(job, "status.lastScheduleTime")) else "<none>"


def _scaled(hpa: Obj, now: float) -> Any:
    return f"{_at(hpa, 'spec.scaleTargetRef.kind') or ''}/{_at(hpa, 'spec.scaleTargetRef.name') or ''}"


def _hpa_targets(hpa: Obj, now: float) -> Any:
    current = {_at(metric, "resource.name"): metric for metric in _items(hpa, "status.currentMetrics")}
    texts = []
    for metric in _items(hpa, "spec.metrics"):
        name = _at(metric, "resource.name")
        for key, unit in (("averageUtilization", "%"), ("averageValue", "")):
            if (wanted := _at(metric, f"resource.target.{key}")) is not None:
                have = _at(current.get(name), f"resource.current.{key}")
                texts.append(f"{name}: {'<unknown>' if have is None else f'{have}{unit}'}/{wanted}{unit}")
                break
    return ", ".join(texts[:2]) + (f" + {len(texts) - 2} more..." if len(texts) > 2 else "") if texts else "<none>"


# ---------------------------------------------------------------------------------------------------------- network


def _address(ip: str, port: Any) -> str:
    try:
        return f"[{ip}]:{port}" if ipaddress.ip_address(ip).version == 6 else f"{ip}:{port}"
    except ValueError:
        return f"{ip}:{port}"


def _cluster_ip(service: Obj, now: float) -> Any:
    addresses = _items(service, "spec.clusterIPs")
    return (addresses[0] if addresses else _at(service, "spec.clusterIP")) or "<none>"


def _external_ip(service: Obj, now: float) -> Any:
    kind = _at(service, "spec.type")
    if kind == "ExternalName":
        return _at(service, "spec.externalName") or ""
    addresses = []
    if kind == "LoadBalancer":
        for ingress in _items(service, "status.loadBalancer.ingress"):
            addresses.append(ingress.get("ip") or ingress.get("hostname") or "")
    addresses += _items(service, "spec.externalIPs")
    return ",".join(addresses) or ("<pending>" if kind == "LoadBalancer" else "<none>")


def _service_ports(service: Obj, now: float) -> Any:
    texts = []
    for port in _items(service, "spec.ports"):
        node = f":{port['nodePort']}" if port.get("nodePort") else ""
        texts.append(f"{port.get('port')}{node}/{port.get('protocol', 'TCP')}")
    return ",".join(texts) or "<none>"


def _endpoints(endpoints: Obj, now: float) -> Any:
    shown: list[str] = []
    for subset in _items(endpoints, "subsets"):
        addresses = [address.get("ip", "") for address in subset.get("addresses") or ()]
        ports = subset.get("ports") or ()
        shown += [_address(ip, port.get("port")) for port in ports for ip in addresses] if ports else addresses
    return _first(shown) if _items(endpoints, "subsets") else "<none>"


def _slice_ports(found: Obj, now: float) -> Any:
    return _first([str(port.get("port") or port.get("name") or "*") for port in _items(found, "ports")]) or "<unset>"


def _slice_endpoints(found: Obj, now: float) -> Any:
    return (
        _first([ip for endpoint in _items(found, "endpoints") for ip in endpoint.get("addresses") or ()]) or "<unset>"
    )


def _ingress_hosts(ingress: Obj, now: float) -> Any:
    return _first([rule["host"] for rule in _items(ingress, "spec.rules") if rule.get("host")]) or "*"


def _ingress_address(ingress: Obj, now: float) -> Any:
    return ",".join(
        item.get("ip") or item.get("hostname") or "" for item in _items(ingress, "status.loadBalancer.ingress")
    )


def _ingress_ports(ingress: Obj, now: float) -> Any:
    return "80, 443" if _items(ingress, "spec.tls") else "80"


# ---------------------------------------------------------------------------------------------------- cluster and rest


def _node_status(node: Obj, now: float) -> Any:
    ready = _condition(node, "Ready")
    word = "Unknown" if ready is None else "Ready" if ready.get("status") == "True" else "NotReady"
    return f"{word},SchedulingDisabled" if _at(node, "spec.unschedulable") else word


def _node_roles(node: Obj, now: float) -> Any:
    labels = _at(node, "metadata.labels") or {}
    prefix = "node-role.kubernetes.io/"
    roles = {key.removeprefix(prefix) for key in labels if key.startswith(prefix) and key != prefix}
    if role := labels.get("kubernetes.io/role"):
        roles.add(role)
    return ",".join(sorted(roles)) or "<none>"


def _node_ip(kind: str) -> Cell:
    def cell(node: Obj, now: float) -> Any:
        addresses = _items(node, "status.addresses")
        return next((found["address"] for found in addresses if found.get("type") == kind), "<none>")

    return cell


def _event_first(event: Obj, now: float) -> Any:
    return age(event.get("firstTimestamp") or event.get("eventTime"), now)


def _event_last(event: Obj, now: float) -> Any:
    if series := event.get("series"):
        return age(series.get("lastObservedTime"), now)
    return age(event["lastTimestamp"], now) if event.get("lastTimestamp") else _event_first(event, now)


def _event_object(event: Obj, now: float) -> Any:
    kind, name = _at(event, "involvedObject.kind") or "", _at(event, "involvedObject.name")
    return f"{kind.lower()}/{name}" if name else kind.lower()


def _event_source(event: Obj, now: float) -> Any:
    component = _at(event, "source.component") or event.get("reportingComponent") or ""
    instance = _at(event, "source.host") or event.get("reportingInstance") or ""
    return f"{component}, {instance}" if instance else component


def _event_count(event: Obj, now: float) -> Any:
    return _at(event, "series.count") or event.get("count") or 1


def _event_message(event: Obj, now: float) -> Any:
    return (event.get("message") or "").strip()


def _class_name(storage_class: Obj, now: float) -> Any:
    annotations = _at(storage_class, "metadata.annotations") or {}
    name = _at(storage_class, "metadata.name") or ""
    default = annotations.get("storageclass.kubernetes.io/is-default-class") == "true"
    return f"{name} (default)" if default else name


def _expands(storage_class: Obj, now: float) -> Any:
    return "true" if storage_class.get("allowVolumeExpansion") else "false"


_MODES = {"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP"}


def _claim_modes(claim: Obj, now: float) -> Any:
    return ",".join(_MODES.get(mode, mode) for mode in _items(claim, "status.accessModes"))


def _claim_status(claim: Obj, now: float) -> Any:
    return "Terminating" if _at(claim, "metadata.deletionTimestamp") else _at(claim, "status.phase") or ""


def _quota(limits: bool) -> Cell:
    def cell(quota: Obj, now: float) -> Any:
        used = _at(quota, "status.used") or {}
        hard = sorted((_at(quota, "status.hard") or {}).items())
        return ", ".join(
            f"{name}: {used.get(name, '0')}/{limit}" for name, limit in hard if name.startswith("limits.") is limits
        )

    return cell


def _role_ref(binding: Obj, now: float) -> Any:
    return f"{_at(binding, 'roleRef.kind') or ''}/{_at(binding, 'roleRef.name') or ''}"


def _subjects(kind: str) -> Cell:
    def cell(binding: Obj, now: float) -> Any:
        found = [subject for subject in _items(binding, "subjects") if subject.get("kind") == kind]
        if kind == "ServiceAccount":
            return ", ".join(f"{subject.get('namespace', '')}/{subject.get('name')}" for subject in found)
        return ", ".join(str(subject.get("name")) for subject in found)

    return cell


# ----------------------------------------------------------------------------------------------------------- the table


def _text_column(name: str, cell: Cell, priority: int = 0) -> Column:
    return Column(name=name, priority=priority, cell=cell)


def _count_column(name: str, cell: Cell, priority: int = 0) -> Column:
    return Column(name=name, type="integer", priority=priority, cell=cell)


NAME = Column(
    name="Name",
    format="name",
    description="Name must be unique within a namespace.",
    cell=_text("metadata.name"),
)
"""The first column of nearly every kind."""
AGE = Column(name="Age", description=CREATED, cell=_since("metadata.creationTimestamp"))

_CREATED_AT = Column(name="Created At", description=CREATED, cell=_created_at)
_CONTAINERS = (
    _text_column("Containers", _of_containers("name"), 1),
    _text_column("Images", _of_containers("image"), 1),
)
_JOB = "spec.jobTemplate.spec.template.spec.containers"
_SUBJECTS = (
    _text_column("Users", _subjects("User"), 1),
    _text_column("Groups", _subjects("Group"), 1),
    _text_column("ServiceAccounts", _subjects("ServiceAccount"), 1),
)

BUILTIN: Mapping[str, tuple[Column, ...]] = {
    "Pod": (
        NAME,
        _text_column("Ready", _pod_ready),
        _text_column("Status", _pod_status),
        _text_column("Restarts", _pod_restarts),
        AGE,
        _text_column("IP", _pod_ip, 1),
        _text_column("Node", _text("spec.nodeName", "<none>"), 1),
        _text_column("Nominated Node", _text("status.nominatedNodeName", "<none>"), 1),
        _text_column("Readiness Gates", _pod_gates, 1),
    ),
    "Deployment": (
        NAME,
        _text_column("Ready", _of("status.readyReplicas", "spec.replicas")),
        _count_column("Up-to-date", _number("status.updatedReplicas")),
        _count_column("Available", _number("status.availableReplicas")),
        AGE,
        *_CONTAINERS,
        _text_column("Selector", _selector("spec.selector", ""), 1),
    ),
    "ReplicaSet": (
        NAME,
        _count_column("Desired", _number("spec.replicas")),
        _count_column("Current", _number("status.replicas")),
        _count_column("Ready", _number("status.readyReplicas")),
        AGE,
        *_CONTAINERS,
        _text_column("Selector", _selector("spec.selector"), 1),
    ),
    "StatefulSet": (NAME, _text_column("Ready", _of("status.readyReplicas", "spec.replicas")), AGE, *_CONTAINERS),
    "DaemonSet": (
        NAME,
        _count_column("Desired", _number("status.desiredNumberScheduled")),
        _count_column("Current", _number("status.currentNumberScheduled")),
        _count_column("Ready", _number("status.numberReady")),
        _count_column("Up-to-date", _number("status.updatedNumberScheduled")),
        _count_column("Available", _number("status.numberAvailable")),
        _text_column("Node Selector", lambda obj, now: _labels(_at(obj, "spec.template.spec.nodeSelector"))),
        AGE,
        *_CONTAINERS,
        _text_column("Selector", _selector("spec.selector"), 1),
    ),
    "Job": (
        NAME,
        _text_column("Status", _job_status),
        _text_column("Completions", _job_completions),
        _text_column("Duration", _job_duration),
        AGE,
        *_CONTAINERS,
        _text_column("Selector", _selector("spec.selector"), 1),
    ),
    "CronJob": (
        NAME,
        _text_column("Schedule", _text("spec.schedule")),
        _text_column("Timezone", _text("spec.timeZone", "<none>")),
        _text_column("Suspend", _flag("spec.suspend")),
        _count_column("Active", _size("status.active")),
        _text_column("Last Schedule", _last_schedule),
        AGE,
        _text_column("Containers", _of_containers("name", _JOB), 1),
        _text_column("Images", _of_containers("image", _JOB), 1),
        _text_column("Selector", _selector("spec.jobTemplate.spec.selector"), 1),
    ),
    "HorizontalPodAutoscaler": (
        NAME,
        _text_column("Reference", _scaled),
        _text_column("Targets", _hpa_targets),
        _text_column("MinPods", _text("spec.minReplicas", "<unset>")),
        _count_column("MaxPods", _number("spec.maxReplicas")),
        _count_column("Replicas", _number("status.currentReplicas")),
        AGE,
    ),
    "Service": (
        NAME,
        _text_column("Type", _text("spec.type")),
        _text_column("Cluster-IP", _cluster_ip),
        _text_column("External-IP", _external_ip),
        _text_column("Port(s)", _service_ports),
        AGE,
        _text_column("Selector", lambda obj, now: _labels(_at(obj, "spec.selector")), 1),
    ),
    "Endpoints": (NAME, _text_column("Endpoints", _endpoints), AGE),
    "EndpointSlice": (
        NAME,
        _text_column("AddressType", _text("addressType")),
        _text_column("Ports", _slice_ports),
        _text_column("Endpoints", _slice_endpoints),
        AGE,
    ),
    "Ingress": (
        NAME,
        _text_column("Class", _text("spec.ingressClassName", "<none>")),
        _text_column("Hosts", _ingress_hosts),
        _text_column("Address", _ingress_address),
        _text_column("Ports", _ingress_ports),
        AGE,
    ),
    "NetworkPolicy": (NAME, _text_column("Pod-Selector", _selector("spec.podSelector")), AGE),
    "Event": (
        _text_column("Last Seen", _event_last),
        _text_column("Type", _text("type")),
        _text_column("Reason", _text("reason")),
        _text_column("Object", _event_object),
        _text_column("Subobject", _text("involvedObject.fieldPath"), 1),
        _text_column("Source", _event_source, 1),
        _text_column("Message", _event_message),
        _text_column("First Seen", _event_first, 1),
        _count_column("Count", _event_count, 1),
        Column(name="Name", format="name", priority=1, description=NAME.description, cell=NAME.cell),
    ),
    "Namespace": (NAME, _text_column("Status", _text("status.phase")), AGE),
    "ConfigMap": (NAME, _count_column("Data", _size("data", "binaryData")), AGE),
    "Secret": (NAME, _text_column("Type", _text("type")), _count_column("Data", _size("data")), AGE),
    "ServiceAccount": (NAME, _count_column("Secrets", _size("secrets")), AGE),
    "Node": (
        NAME,
        _text_column("Status", _node_status),
        _text_column("Roles", _node_roles),
        AGE,
        _text_column("Version", _text("status.nodeInfo.kubeletVersion")),
        _text_column("Internal-IP", _node_ip("InternalIP"), 1),
        _text_column("External-IP", _node_ip("ExternalIP"), 1),
        _text_column("OS-Image", _text("status.nodeInfo.osImage", "<unknown>"), 1),
        _text_column("Kernel-Version", _text("status.nodeInfo.kernelVersion", "<unknown>"), 1),
        _text_column("Container-Runtime", _text("status.nodeInfo.containerRuntimeVersion", "<unknown>"), 1),
    ),
    "PersistentVolumeClaim": (
        NAME,
        _text_column("Status", _claim_status),
        _text_column("Volume", _text("spec.volumeName")),
        _text_column("Capacity", _text("status.capacity.storage")),
        _text_column("Access Modes", _claim_modes),
        _text_column("StorageClass", _text("spec.storageClassName")),
        _text_column("VolumeAttributesClass", _text("spec.volumeAttributesClassName", "<unset>")),
        AGE,
        _text_column("VolumeMode", _text("spec.volumeMode", "<unset>"), 1),
    ),
    "ResourceQuota": (NAME, _text_column("Request", _quota(False)), _text_column("Limit", _quota(True)), AGE),
    "LimitRange": (NAME, _CREATED_AT),
    "Lease": (NAME, _text_column("Holder", _text("spec.holderIdentity")), AGE),
    "PodDisruptionBudget": (
        NAME,
        _text_column("Min Available", _text("spec.minAvailable", "N/A")),
        _text_column("Max Unavailable", _text("spec.maxUnavailable", "N/A")),
        _count_column("Allowed Disruptions", _number("status.disruptionsAllowed")),
        AGE,
    ),
    "Role": (NAME, _CREATED_AT),
    "ClusterRole": (NAME, _CREATED_AT),
    "RoleBinding": (NAME, _text_column("Role", _role_ref), AGE, *_SUBJECTS),
    "ClusterRoleBinding": (NAME, _text_column("Role", _role_ref), AGE, *_SUBJECTS),
    "MutatingWebhookConfiguration": (NAME, _count_column("Webhooks", _size("webhooks")), AGE),
    "ValidatingWebhookConfiguration": (NAME, _count_column("Webhooks", _size("webhooks")), AGE),
    "CustomResourceDefinition": (NAME, _CREATED_AT),
    "StorageClass": (
        Column(name="Name", format="name", description=NAME.description, cell=_class_name),
        _text_column("Provisioner", _text("provisioner")),
        _text_column("ReclaimPolicy", _text("reclaimPolicy", "Delete")),
        _text_column("VolumeBindingMode", _text("volumeBindingMode", "Immediate")),
        _text_column("AllowVolumeExpansion", _expands),
        AGE,
    ),
}
"""Columns by kind; a built-in kind that is not listed shows its name and age."""
