"""ConfigMap config-observability: logs, metrics, traces (serving §3.8)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from kncore.config.reader import Reader
from kncore.gotemplate import Template
from kncore.quantity import format_duration
from kncore.strconv import format_float, quote

__all__ = ["REQUEST_LOG_TEMPLATE", "Metrics", "Observability", "Runtime", "Tracing"]

REQUEST_LOG_TEMPLATE: Final = (
    '{"httpRequest": {"requestMethod": "{{.Request.Method}}", "requestUrl": "{{js .Request.RequestURI}}", '
    '"requestSize": "{{.Request.ContentLength}}", "status": {{.Response.Code}}, '
    '"responseSize": "{{.Response.Size}}", "userAgent": "{{js .Request.UserAgent}}", '
    '"remoteIp": "{{js .Request.RemoteAddr}}", "serverIp": "{{.Revision.PodIP}}", '
    '"referer": "{{js .Request.Referer}}", "latency": "{{.Response.Latency}}s", '
    '"protocol": "{{.Request.Proto}}"}, "traceId": "{{.TraceID}}"}'
)
"""One JSON object per request."""


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """How metrics leave a process."""

    protocol: str = "none"
    """`none`, `prometheus`, `http/protobuf` or `grpc`."""
    endpoint: str = ""
    """Where to push, or host:port to serve Prometheus on."""
    export_interval: float = 0.0
    """Seconds between pushes; 0 = the exporter's default, 60."""

    def validate(self, read: Reader, *keys: str) -> None:
        """Note what is inconsistent."""
        protocol, shown = self.protocol, quote(self.protocol)
        known = protocol in ("none", "prometheus", "http/protobuf", "grpc")
        read.check(known, f"unsupported protocol {shown}", *keys)
        if protocol == "none":
            read.check(not self.endpoint, f"endpoint should not be set when protocol is {shown}", *keys)
        elif protocol in ("http/protobuf", "grpc"):
            read.check(bool(self.endpoint), f"endpoint should be set when protocol is {shown}", *keys)
        interval = quote(format_duration(self.export_interval))
        read.check(self.export_interval >= 0, f"export interval {interval} should be greater than zero", *keys)


@dataclass(frozen=True, kw_only=True)
class Tracing:
    """How traces leave a process."""

    protocol: str = "none"
    """`none`, `http/protobuf`, `grpc` or `stdout`."""
    endpoint: str = ""
    sampling_rate: float = 0.0
    """Share of new traces recorded, 0..1; the caller's decision is kept."""

    def validate(self, read: Reader, *keys: str) -> None:
        """Note what is inconsistent."""
        protocol = self.protocol
        known = protocol in ("none", "http/protobuf", "grpc", "stdout")
        read.check(known, f"unsupported protocol {quote(protocol)}", *keys)
        if protocol in ("http/protobuf", "grpc"):
            read.check(bool(self.endpoint), f"endpoint should be set for protocol {quote(protocol)}", *keys)
        elif known:
            read.check(not self.endpoint, "endpoint should not be set when protocol is 'none'", *keys)
        rate = self.sampling_rate
        shown = f"{rate:.6f}" if math.isfinite(rate) else format_float(rate)
        key = "tracing-sampling-rate"
        read.check(not rate < 0, f"sampling rate {shown} should be greater or equal to zero", key)
        read.check(not rate > 1, f"sampling rate {shown} should be less than or equal to one", key)


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Introspection of a process."""

    profiling: str = "disabled"
    """`enabled` serves profiles."""
    export_interval: float = 15.0
    """Least seconds between memory statistics."""


@dataclass(frozen=True, kw_only=True)
class Observability:
    """What components tell about themselves and about requests."""

    enable_var_log_collection: bool = False
    """Pods mount a volume at /var/log for a node's log collector."""
    revision_url_template: str = ""
    """URL of a revision's logs, with ${REVISION_UID}."""
    enable_request_log: bool = False
    request_log_template: str = REQUEST_LOG_TEMPLATE
    """Go template of a request log line."""
    enable_probe_request_log: bool = False
    metrics: Metrics = Metrics()
    """Of the components."""
    request_metrics: Metrics = Metrics()
    """Of the queue-proxies."""
    runtime: Runtime = Runtime()
    tracing: Tracing = Tracing()

    @classmethod
    def parse(cls, data: Mapping[str, str]) -> Self:
        """The configuration in a ConfigMap's data.

        Raises:
            InvalidConfig: naming every bad key.
        """
        read = Reader(data)
        # Part by part, each read and then checked: the order in which the original finds problems.
        tracing = Tracing(
            protocol=read.string("tracing-protocol", Tracing.protocol),
            endpoint=read.string("tracing-endpoint", ""),
            sampling_rate=read.number("tracing-sampling-rate", Tracing.sampling_rate),
        )
        tracing.validate(read, "tracing-protocol", "tracing-endpoint")
        metrics = _metrics(read, "metrics-")
        runtime = Runtime(
            profiling=read.string("runtime-profiling", Runtime.profiling),
            export_interval=read.duration("runtime-export-interval", Runtime.export_interval),
        )
        known = runtime.profiling in ("enabled", "disabled")
        read.check(known, f"unsupported profile setting {quote(runtime.profiling)}", "runtime-profiling")
        request_metrics = _metrics(read, "request-metrics-")
        logs = cls(
            enable_var_log_collection=read.boolean("logging.enable-var-log-collection", cls.enable_var_log_collection),
            revision_url_template=read.string("logging.revision-url-template", cls.revision_url_template),
            enable_request_log=read.boolean("logging.enable-request-log", cls.enable_request_log),
            request_log_template=read.string("logging.request-log-template", cls.request_log_template),
            enable_probe_request_log=read.boolean("logging.enable-probe-request-log", cls.enable_probe_request_log),
            metrics=metrics,
            request_metrics=request_metrics,
            runtime=runtime,
            tracing=tracing,
        )
        key = "logging.request-log-template"
        read.check(
            bool(logs.request_log_template) or not logs.enable_request_log,
            f'"logging.enable-request-log" was set to true, but no "{key}" was specified',
            key,
        )
        read.attempt(lambda: Template("requestLog", logs.request_log_template), None, key)
        read.finish()
        return logs


def _metrics(read: Reader, prefix: str) -> Metrics:
    made = Metrics(
        protocol=read.string(f"{prefix}protocol", Metrics.protocol),
        endpoint=read.string(f"{prefix}endpoint", ""),
        export_interval=read.duration(f"{prefix}export-interval", Metrics.export_interval),
    )
    made.validate(read, f"{prefix}protocol", f"{prefix}endpoint", f"{prefix}export-interval")
    return made
