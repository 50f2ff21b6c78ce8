"""What a queue-proxy is told: environment variables, named and meant as Knative's (serving §6.2)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

from kncore.errors import ConfigError

__all__ = ["Config", "Export", "Probe"]


@dataclass(frozen=True, kw_only=True)
class Export:
    """How metrics or traces leave the process."""

    protocol: str = "none"
    """`none`, `prometheus` (metrics), `stdout` (traces), `http/protobuf` or `grpc`."""
    endpoint: str = ""
    """Where to push."""
    interval: float = 0.0
    """Seconds between pushes; 0 is the exporter's default."""

    @property
    def pushes(self) -> bool:
        """Something has to be sent from time to time."""
        return self.protocol in ("http/protobuf", "grpc", "stdout")


H2C_PORT: Final = 8013
CERTIFICATES: Final = "/var/lib/knative/certs"
"""Where a queue-proxy listens whose app speaks HTTP/2 in clear."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One container's readiness probe, as it is run from inside the pod."""

    kind: str
    """`http`, `tcp` or `grpc`."""
    port: int
    host: str = "127.0.0.1"
    path: str = "/"
    """For http."""
    tls: bool = False
    """For http: scheme HTTPS."""
    headers: Sequence[tuple[str, str]] = ()
    """For http."""
    service: str = ""
    """For grpc."""
    period: float = 10.0
    """0 means aggressive: tried again and again within one call, until it passes or 10 s are over."""
    timeout: float = 1.0
    success_threshold: int = 1

    @classmethod
    def parse(cls, given: Mapping[str, Any], user_port: int) -> Self:
        """From a core/v1 Probe.

        Raises:
            ValueError: no handler that can be run from here.
        """
        period = given.get("periodSeconds", 0)
        common: dict[str, Any] = {
            "period": float(period),
            "timeout": float(max(given.get("timeoutSeconds", 1), 1)),
            "success_threshold": max(given.get("successThreshold", 1), 1),
        }
        if (http := given.get("httpGet")) is not None:
            path = http.get("path") or "/"
            return cls(
                kind="http",
                host=http.get("host") or "127.0.0.1",
                port=_port(http, user_port),
                path=path if path.startswith("/") else "/" + path,
                tls=http.get("scheme", "HTTP").upper() == "HTTPS",
                headers=tuple((header["name"], header.get("value", "")) for header in http.get("httpHeaders") or ()),
                **common,
            )
        if (tcp := given.get("tcpSocket")) is not None:
            return cls(kind="tcp", host=tcp.get("host") or "127.0.0.1", port=_port(tcp, user_port), **common)
        if (grpc := given.get("grpc")) is not None:
            return cls(kind="grpc", port=_port(grpc, user_port), service=grpc.get("service") or "", **common)
        raise ValueError("no httpGet, tcpSocket or grpc")


def _port(handler: Mapping[str, Any], user_port: int) -> int:
    port = handler.get("port")
    return port if isinstance(port, int) and port > 0 else user_port


@dataclass(frozen=True, kw_only=True)
class Config:
    """One queue-proxy. Seconds are floats; 0 turns a limit off unless the field says otherwise."""

    namespace: str
    service: str = ""
    configuration: str = ""
    revision: str
    pod: str
    pod_ip: str = ""
    """Also where to listen if it is a loopback address (pods of embedded mode); otherwise on all addresses."""
    serving_port: int = 8012
    user_port: int = 8080
    admin_port: int = 8022
    metrics_port: int = 9090
    container_concurrency: int = 0
    """Requests at once in the app; 0 no limit."""
    timeout: float = 300.0
    response_start_timeout: float = 0.0
    idle_timeout: float = 0.0
    probes: Sequence[Probe] = ()
    """All must pass; none means always ready."""
    detect_http2: bool = False
    """ENABLE_HTTP2_AUTO_DETECTION: http probes try HTTP/2 first."""
    logging_level: str = "info"
    request_log: bool = False
    request_log_template: str = ""
    """Go template; empty is the default line."""
    probe_request_log: bool = False
    request_metrics: Export = Export()
    tracing: Export = Export()
    sampling_rate: float = 0.0
    """Share of new traces recorded, 0..1."""
    profiling: bool = False
    user_metrics_port: int = 9091
    """For Prometheus, with `request_metrics`."""
    profiling_port: int = 8008
    https_port: int = 8112
    """QUEUE_SERVING_TLS_PORT: like `serving_port` in TLS, with `certificates`."""
    certificates: str = CERTIFICATES
    """TORPOR_CERTIFICATES: directory that may hold tls.crt and tls.key; without them there is no TLS."""
    stats_url: str = ""
    """TORPOR_STATS_URL: websocket of the autoscaler to push stats to; empty: wait to be scraped."""
    drain_quiet: float = 30.0
    """TORPOR_DRAIN_QUIET: seconds without a request after which the proxy believes that everybody has noticed."""
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, environ: Mapping[str, str]) -> Self:
        """The configuration in an environment.

        Raises:
            ConfigError: naming every variable that is missing or cannot be understood.
        """
        read = _Reader(environ)
        observability = read.document("OBSERVABILITY_CONFIG", {})
        if not isinstance(observability, dict):
            observability = {}
        template = observability.get("requestLogTemplate", "")
        tracing = _part(observability, "tracing")
        made = cls(
            namespace=read.required("SERVING_NAMESPACE"),
            service=environ.get("SERVING_SERVICE", ""),
            configuration=environ.get("SERVING_CONFIGURATION", ""),
            revision=read.required("SERVING_REVISION"),
            pod=read.required("SERVING_POD"),
            pod_ip=environ.get("SERVING_POD_IP", ""),
            serving_port=read.port("QUEUE_SERVING_PORT", cls.serving_port),
            user_port=read.port("USER_PORT", cls.user_port),
            admin_port=read.port("TORPOR_ADMIN_PORT", cls.admin_port),
            metrics_port=read.port("TORPOR_METRICS_PORT", cls.metrics_port),
            container_concurrency=read.whole("CONTAINER_CONCURRENCY", cls.container_concurrency),
            timeout=float(read.whole("REVISION_TIMEOUT_SECONDS", int(cls.timeout))),
            response_start_timeout=float(read.whole("REVISION_RESPONSE_START_TIMEOUT_SECONDS", 0)),
            idle_timeout=float(read.whole("REVISION_IDLE_TIMEOUT_SECONDS", 0)),
            probes=read.probes("SERVING_READINESS_PROBE", read.port("USER_PORT", cls.user_port)),
            detect_http2=environ.get("ENABLE_HTTP2_AUTO_DETECTION", "").lower() == "true",
            logging_level=environ.get("SERVING_LOGGING_LEVEL") or _level(environ) or cls.logging_level,
            request_log=bool(observability.get("enableRequestLog", False)) and bool(template),
            request_log_template=template,
            probe_request_log=bool(observability.get("enableProbeRequestLog", False)),
            request_metrics=_export(_part(observability, "requestMetrics")),
            tracing=_export(tracing),
            sampling_rate=_rate(tracing.get("samplingRate")),
            profiling=_part(observability, "runtime").get("profiling") == "enabled",
            user_metrics_port=read.port("TORPOR_USER_METRICS_PORT", cls.user_metrics_port),
            profiling_port=read.port("TORPOR_PROFILING_PORT", cls.profiling_port),
            https_port=read.port("QUEUE_SERVING_TLS_PORT", cls.https_port),
            # where nothing can be mounted, the node shows volumes below a directory of the container's
            certificates=environ.get("TORPOR_CERTIFICATES") or environ.get("TORPOR_MOUNT_ROOT", "") + CERTIFICATES,
            stats_url=environ.get("TORPOR_STATS_URL", ""),
            drain_quiet=read.seconds("TORPOR_DRAIN_QUIET", cls.drain_quiet),
            environ=environ,
        )
        read.finish()
        return made

    @property
    def http2(self) -> bool:
        """The app speaks HTTP/2: the revision's port is named `h2c`, which the serving port tells (serving §6.1).

        What the client speaks does not matter. The original follows it, and so an app that speaks one version only
        fails for clients of the other.
        """
        return self.serving_port == H2C_PORT

    @property
    def listen_host(self) -> str | None:
        """Address to listen on; None is every one, IPv4 and IPv6."""
        return self.pod_ip if self.pod_ip.startswith("127.") else None


def _part(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = document.get(name)
    return found if isinstance(found, dict) else {}


def _export(given: Mapping[str, Any]) -> Export:
    nanoseconds = given.get("exportInterval")
    return Export(
        protocol=str(given.get("protocol") or "none"),
        endpoint=str(given.get("endpoint") or ""),
        interval=nanoseconds / 1e9 if isinstance(nanoseconds, (int, float)) and nanoseconds > 0 else 0.0,
    )


def _rate(value: Any) -> float:
    return min(max(float(value), 0.0), 1.0) if isinstance(value, (int, float)) and value == value else 0.0


def _level(environ: Mapping[str, str]) -> str:
    """The level that a zap configuration names; logs are too little to fail for, so anything odd is none."""
    try:
        level = json.loads(environ.get("SERVING_LOGGING_CONFIG") or "{}").get("level", "")
    except (ValueError, AttributeError):
        return ""
    return level if isinstance(level, str) else ""


class _Reader:
    """Reads variables and collects what is wrong with them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._wrong: dict[str, str] = {}

    def required(self, name: str) -> str:
        value = self._environ.get(name, "")
        if not value:
            self._wrong[name] = f"{name} is missing"
        return value

    def whole(self, name: str, default: int) -> int:
        value = self._environ.get(name, "")
        if not value:
            return default
        if not (value.isascii() and value.isdigit() and len(value) < 10):
            self._wrong[name] = f"{name}={value!r} is not a whole number"
            return default
        return int(value)

    def port(self, name: str, default: int) -> int:
        value = self.whole(name, default)
        if value > 65535:
            self._wrong[name] = f"{name}={value} is not a port"
        return value

    def seconds(self, name: str, default: float) -> float:
        value = self._environ.get(name, "")
        try:
            number = float(value) if value else default
        except ValueError:
            number = -1.0
        if not 0 <= number < 1e6:
            self._wrong[name] = f"{name}={value!r} is not a number of seconds"
            return default
        return number

    def document(self, name: str, default: Any) -> Any:
        value = self._environ.get(name, "")
        if not value:
            return default
        try:
            return json.loads(value)
        except ValueError as exc:
            self._wrong[name] = f"{name} is not JSON: {exc}"
            return default

    def probes(self, name: str, user_port: int) -> tuple[Probe, ...]:
        given = self.document(name, [])
        try:
            return tuple(Probe.parse(one, user_port) for one in (given if isinstance(given, list) else [given]))
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            self._wrong[name] = f"{name} is not a probe: {exc}"
            return ()

    def finish(self) -> None:
        if self._wrong:
            raise ConfigError("cannot start the queue-proxy: " + "; ".join(self._wrong.values()))
