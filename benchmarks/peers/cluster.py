"""A cluster for activators: our embedded API server holding one awake service, and nobody who would change it.

For comparisons a service's one pod is the backend itself, which answers an activator's probes as a queue-proxy would,
so that the activator is alone on the way. There are two revisions, one for HTTP/1.1 and one whose port is `h2c`.
"""

import base64
import contextlib
import json
import ssl
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.peers import programs
from benchmarks.peers.isolation import AUTOSCALER
from benchmarks.peers.process import Address, process
from benchmarks.ports import free_ports

__all__ = ["HTTP1", "HTTP2", "SYSTEM", "Cluster", "cluster", "host"]

SYSTEM = "knative-serving"
HTTP1 = "plain-00001"
HTTP2 = "grpc-00001"
PORT_NAMES = {HTTP1: "http", HTTP2: "http2"}
CONFIG_MAPS = ("config-logging", "config-network", "config-observability", "config-tracing")
LOGGING = {"zap-logger-config": '{"level": "error", "outputPaths": ["stderr"], "encoding": "json"}'}
OBSERVABILITY = {
    "metrics-protocol": "prometheus",
    "metrics.backend-destination": "prometheus",  # what the pinned original calls it
}


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What an activator needs to know of it."""

    kubeconfig: Path
    autoscaler: Address
    """A stat server that reads and forgets."""


def host(revision: str) -> str:
    """The public name of a revision's service."""
    return f"{revision.partition('-')[0]}.default.example.com"


@contextlib.contextmanager
def cluster(backends: Mapping[str, Address], processor: int | None) -> Iterator[Cluster]:
    """Start it, with everything on `processor`; it has little to do once activators have read it.

    Args:
        backends: the pod of `HTTP1`, and that of `HTTP2`.
    Raises:
        NotBuilt, NotStarted.
    """
    with tempfile.TemporaryDirectory(prefix="torpor-cluster-") as folder, contextlib.ExitStack() as stack:
        kubeconfig = Path(folder, "kubeconfig")
        address = ("127.0.0.1", free_ports(1)[0])
        command = [
            *(sys.executable, "-P", "-m", "torpor.embedded.apiserver", "--state-dir", folder),
            *("--listen", f"{address[0]}:{address[1]}", "--kubeconfig", str(kubeconfig)),
        ]
        stack.enter_context(
            process("API server", command, address, ready=lambda: _ready(kubeconfig), processor=processor)
        )
        sink = [str(programs.built("backend")), "-silent", "-listen", f"{AUTOSCALER[0]}:{AUTOSCALER[1]}"]
        stack.enter_context(process("stat server", sink, AUTOSCALER, processor=processor))
        _fill(_Api(kubeconfig), backends)
        yield Cluster(kubeconfig=kubeconfig, autoscaler=AUTOSCALER)


def _ready(kubeconfig: Path) -> bool:
    if not kubeconfig.exists():
        return False
    try:
        _Api(kubeconfig).ask("GET", "/readyz")
    except OSError:
        return False
    return True


class _Api:
    """Creates objects."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        self._server = config["clusters"][0]["cluster"]["server"]
        authority = base64.b64decode(config["clusters"][0]["cluster"]["certificate-authority-data"]).decode()
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            urllib.request.HTTPSHandler(context=ssl.create_default_context(cadata=authority)),
        )
        self._token = config["users"][0]["user"]["token"]

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        request = urllib.request.Request(
            self._server + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
            method=method,
        )
        try:
            with self._opener.open(request, timeout=10) as answer:
                text: bytes = answer.read()
                return text
        except urllib.error.HTTPError as exc:
            raise OSError(f"{method} {path}: {exc.code} {exc.read()[:300]!r}") from exc

    def create(self, group: str, version: str, plural: str, obj: Mapping[str, Any]) -> dict[str, Any]:
        root = f"/apis/{group}/{version}" if group else f"/api/{version}"
        namespace = obj["metadata"].get("namespace")
        inside = f"/namespaces/{namespace}" if namespace else ""
        full = {"apiVersion": f"{group}/{version}" if group else version, **obj}
        made: dict[str, Any] = json.loads(self.ask("POST", f"{root}{inside}/{plural}", full))
        return made


def _fill(api: _Api, backends: Mapping[str, Address]) -> None:
    for name in CONFIG_MAPS:
        data = LOGGING if name == "config-logging" else OBSERVABILITY if name == "config-observability" else {}
        metadata = {"name": name, "namespace": SYSTEM}
        api.create("", "v1", "configmaps", {"kind": "ConfigMap", "metadata": metadata, "data": data})
    for revision, port_name in PORT_NAMES.items():
        _revision(api, revision, port_name, backends[revision])


def _revision(api: _Api, name: str, port_name: str, backend: Address) -> None:
    service = name.partition("-")[0]
    labels = {
        "serving.knative.dev/service": service,
        "serving.knative.dev/revision": name,
    }
    port = {"containerPort": 8080, **({"name": "h2c"} if port_name == "http2" else {})}
    revision = {
        "kind": "Revision",
        "metadata": {"name": name, "namespace": "default", "labels": labels},
        "spec": {
            "containerConcurrency": 1000,  # as for the queue-proxies: a breaker that never stops the largest load
            "timeoutSeconds": 300,
            "responseStartTimeoutSeconds": 300,
            "idleTimeoutSeconds": 300,
            "containers": [{"name": "app", "image": "dev.local/app", "ports": [port]}],
        },
    }
    made = api.create("serving.knative.dev", "v1", "revisions", revision)
    labels = {
        **labels,
        "serving.knative.dev/revisionUID": made["metadata"]["uid"],
        "networking.internal.knative.dev/serviceType": "Private",
        "app": name,
    }
    private = f"{name}-private"
    metadata = {"name": private, "namespace": "default", "labels": labels}
    ports = [{"name": port_name, "port": 80, "targetPort": backend[1], "protocol": "TCP"}]
    api.create("", "v1", "services", {"kind": "Service", "metadata": metadata, "spec": {"ports": ports}})
    here = [{"name": port_name, "port": backend[1], "protocol": "TCP"}]
    subsets = [{"addresses": [{"ip": backend[0]}], "ports": here}]
    api.create("", "v1", "endpoints", {"kind": "Endpoints", "metadata": metadata, "subsets": subsets})
    api.create(
        "discovery.k8s.io",
        "v1",
        "endpointslices",
        {
            "kind": "EndpointSlice",
            "metadata": {**metadata, "labels": {**labels, "kubernetes.io/service-name": private}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [backend[0]], "conditions": {"ready": True}}],
            "ports": here,
        },
    )
    split = {"serviceName": name, "serviceNamespace": "default", "servicePort": 80, "percent": 100}
    split["appendHeaders"] = {"Knative-Serving-Revision": name, "Knative-Serving-Namespace": "default"}
    ingress = {
        "kind": "Ingress",
        "metadata": {
            "name": service,
            "namespace": "default",
            "annotations": {"networking.knative.dev/ingress.class": "torpor.ingress.networking.knative.dev"},
        },
        "spec": {
            "httpOption": "Enabled",
            "rules": [
                {
                    "hosts": [host(name)],
                    "visibility": "ExternalIP",
                    "http": {"paths": [{"splits": [split]}]},
                }
            ],
        },
    }
    api.create("networking.internal.knative.dev", "v1alpha1", "ingresses", ingress)
