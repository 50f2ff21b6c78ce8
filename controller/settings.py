"""The configuration that shapes a Revision's children, as one value."""

import json
from dataclasses import dataclass
from typing import Any, Self

from kncore.config.autoscaler import Autoscaler
from kncore.config.deployment import Deployment
from kncore.config.features import Features
from kncore.config.logging import Logging
from kncore.config.network import Network
from kncore.config.observability import Metrics, Observability
from kncore.config.store import Store

__all__ = ["Settings"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A snapshot, so that one reconcile does not mix two configurations."""

    autoscaler: Autoscaler
    deployment: Deployment
    features: Features
    network: Network
    observability: Observability
    logging: Logging
    system_namespace: str = "knative-serving"

    @classmethod
    def of(cls, store: Store, system_namespace: str = "knative-serving") -> Self:
        """What is in force now."""
        return cls(
            autoscaler=store.autoscaler,
            deployment=store.deployment,
            features=store.features,
            network=store.network,
            observability=store.observability,
            logging=store.logging,
            system_namespace=system_namespace,
        )

    @property
    def observability_json(self) -> str:
        """The observability configuration as the queue-proxy reads it: durations in nanoseconds, empty fields left out,
        field names as Knative spells them.
        """
        seen = self.observability
        made: dict[str, Any] = {
            "tracing": _filled(
                protocol=seen.tracing.protocol,
                endpoint=seen.tracing.endpoint,
                samplingRate=seen.tracing.sampling_rate,
            ),
            "metrics": _metrics(seen.metrics),
            "runtime": _filled(
                profiling=seen.runtime.profiling, exportInterval=_nanoseconds(seen.runtime.export_interval)
            ),
            "requestMetrics": _metrics(seen.request_metrics),
        }
        made |= _filled(
            EnableVarLogCollection=seen.enable_var_log_collection,
            loggingURLTemplate=seen.revision_url_template,
            requestLogTemplate=seen.request_log_template,
            enableRequestLog=seen.enable_request_log,
            enableProbeRequestLog=seen.enable_probe_request_log,
        )
        return json.dumps(made, separators=(",", ":"))


def _metrics(metrics: Metrics) -> dict[str, Any]:
    return _filled(
        protocol=metrics.protocol,
        endpoint=metrics.endpoint,
        exportInterval=_nanoseconds(metrics.export_interval),
    )


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1_000_000_000)


def _filled(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value}
