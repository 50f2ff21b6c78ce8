"""The objects a fresh platform starts with: Knative's ConfigMaps and the Services of our own components.

Users' habits expect them under Knative's names (`kubectl patch configmap/config-network --namespace knative-serving
...`). They are only created where absent: what a user changed stays changed. Addresses are the exception, for they
belong to this run: they are written at every start.
"""

from typing import Any

from kncore.api import keys
from kncore.api.resources import CONFIG_MAPS, ENDPOINTS, SERVICES, Resource
from kncore.kube.client import Client, Patch
from kncore.kube.errors import AlreadyExists

__all__ = ["SYSTEM_NAMESPACE", "config_maps", "plant"]

SYSTEM_NAMESPACE = "knative-serving"

# What a laptop needs to differ from the defaults of a cluster; every other key is left to its default.
_EMBEDDED_DATA: dict[str, dict[str, str]] = {
    "config-autoscaler": {},
    "config-defaults": {},
    "config-deployment": {"queue-sidecar-image": "dev.local/torpor-queue-proxy:embedded"},
    "config-features": {},
    "config-gc": {},
    "config-leader-election": {},
    "config-logging": {},
    "config-network": {
        "ingress-class": keys.INGRESS_CLASS_TORPOR,
        "autocreate-cluster-domain-claims": "true",
    },
    "config-observability": {},
}
_COMPONENTS = {
    "config-network": "networking",
    "config-observability": "observability",
    "config-autoscaler": "autoscaler",
    "config-logging": "logging",
}


def config_maps(domain: str) -> list[dict[str, Any]]:
    """The ConfigMaps of `knative-serving`; public URLs end in `domain`."""
    data = {**_EMBEDDED_DATA, "config-domain": {domain: ""}}
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": name,
                "namespace": SYSTEM_NAMESPACE,
                "labels": {
                    "app.kubernetes.io/name": "knative-serving",
                    "app.kubernetes.io/component": _COMPONENTS.get(name, "controller"),
                },
            },
            "data": values,
        }
        for name, values in sorted(data.items())
    ]


def _service(name: str, address: str, ports: dict[str, tuple[int, int]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A Service without selector, and the Endpoints behind it; ports are name -> (port, target)."""
    metadata = {
        "name": name,
        "namespace": SYSTEM_NAMESPACE,
        "labels": {"app": name.removesuffix("-service"), "app.kubernetes.io/name": "knative-serving"},
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "type": "ClusterIP",
            "ports": [
                {"name": port_name, "port": port, "targetPort": target, "protocol": "TCP"}
                for port_name, (port, target) in ports.items()
            ],
        },
    }
    endpoints = {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": metadata,
        "subsets": [
            {
                "addresses": [{"ip": address}],
                "ports": [
                    {"name": port_name, "port": target, "protocol": "TCP"} for port_name, (_, target) in ports.items()
                ],
            }
        ],
    }
    return service, endpoints


async def plant(client: Client, *, domain: str, activator: str, autoscaler: str) -> None:
    """Create what is absent and write this run's addresses.

    Args:
        domain: suffix of public URLs for a first start; later the ConfigMap decides.
        activator, autoscaler: addresses on the loopback network of this run.
    """
    for config_map in config_maps(domain):
        await _create_if_absent(client, CONFIG_MAPS, config_map)
    for service, endpoints in (
        _service("activator-service", activator, {"http": (80, 8012), "http2": (81, 8012), "https": (443, 8112)}),
        _service("autoscaler", autoscaler, {"http": (8080, 8080)}),
    ):
        await _create_if_absent(client, SERVICES, service)
        if not await _create_if_absent(client, ENDPOINTS, endpoints):
            patch = {"subsets": endpoints["subsets"]}
            await client.patch(ENDPOINTS, endpoints["metadata"]["name"], patch, SYSTEM_NAMESPACE, how=Patch.MERGE)


async def _create_if_absent(client: Client, resource: Resource, obj: dict[str, Any]) -> bool:
    try:
        await client.create(resource, obj)
    except AlreadyExists:
        return False
    return True
