import json
from collections.abc import Mapping

import pytest

from kncore.errors import ConfigError
from queueproxy.config import Config, Export, Probe

LEAST = {"SERVING_NAMESPACE": "default", "SERVING_REVISION": "hello-00001", "SERVING_POD": "hello-pod"}


def test_defaults_are_the_original_s() -> None:
    config = Config.parse(LEAST)
    assert (config.serving_port, config.user_port, config.admin_port, config.metrics_port) == (8012, 8080, 8022, 9090)
    assert (config.timeout, config.response_start_timeout, config.idle_timeout) == (300.0, 0.0, 0.0)
    assert (config.container_concurrency, config.drain_quiet, config.probes) == (0, 30.0, ())
    assert config.listen_host is None


def test_pods_on_loopback_listen_on_their_address_only() -> None:
    assert Config.parse({**LEAST, "SERVING_POD_IP": "127.7.128.3"}).listen_host == "127.7.128.3"
    assert Config.parse({**LEAST, "SERVING_POD_IP": "10.1.2.3"}).listen_host is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {"tcpSocket": {"port": 9000, "host": "127.0.0.1"}, "successThreshold": 1},
            Probe(kind="tcp", port=9000, period=0.0),
        ),
        (
            {
                "httpGet": {
                    "path": "ready?x=1",
                    "port": 9000,
                    "scheme": "HTTPS",
                    "httpHeaders": [{"name": "A", "value": "b"}],
                },
                "periodSeconds": 5,
                "timeoutSeconds": 0,
            },
            Probe(kind="http", port=9000, path="/ready?x=1", tls=True, headers=(("A", "b"),), period=5.0, timeout=1.0),
        ),
        (
            {"grpc": {"service": "s"}, "periodSeconds": 1, "timeoutSeconds": 3, "successThreshold": 2},
            Probe(kind="grpc", port=8081, service="s", period=1.0, timeout=3.0, success_threshold=2),
        ),
    ],
)
def test_probes(given: Mapping[str, object], expected: Probe) -> None:
    environ = {**LEAST, "USER_PORT": "8081", "SERVING_READINESS_PROBE": json.dumps(given)}
    assert Config.parse(environ).probes == (expected,)
    environ["SERVING_READINESS_PROBE"] = json.dumps([given, given])
    assert Config.parse(environ).probes == (expected, expected)


def test_request_log_comes_from_the_observability_config() -> None:
    given = {"enableRequestLog": True, "requestLogTemplate": "{{.Request.Method}}", "enableProbeRequestLog": True}
    config = Config.parse({**LEAST, "OBSERVABILITY_CONFIG": json.dumps(given)})
    assert (config.request_log, config.request_log_template, config.probe_request_log) == (
        True,
        "{{.Request.Method}}",
        True,
    )


def test_everything_wrong_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Config.parse(
            {
                "SERVING_NAMESPACE": "default",
                "USER_PORT": "http",
                "QUEUE_SERVING_PORT": "70000",
                "CONTAINER_CONCURRENCY": "-1",
                "SERVING_READINESS_PROBE": '{"exec": {}}',
                "OBSERVABILITY_CONFIG": "{",
                "TORPOR_DRAIN_QUIET": "soon",
            }
        )
    for name in (
        "SERVING_REVISION is missing",
        "SERVING_POD is missing",
        "USER_PORT='http'",
        "QUEUE_SERVING_PORT=70000",
        "CONTAINER_CONCURRENCY='-1'",
        "SERVING_READINESS_PROBE is not a probe",
        "OBSERVABILITY_CONFIG is not JSON",
        "TORPOR_DRAIN_QUIET='soon'",
    ):
        assert name in str(caught.value)


@pytest.mark.parametrize(("port", "http2"), [("8012", False), ("8013", True)])
def test_the_serving_port_tells_what_the_app_speaks(port: str, http2: bool) -> None:
    assert Config.parse({**LEAST, "QUEUE_SERVING_PORT": port}).http2 is http2


def test_everything_that_the_controller_writes_is_understood() -> None:
    """Deployment and queue-proxy must agree (serving §6.2): what one sets, the other finds."""
    from controller.resources import queue
    from controller.settings import Settings
    from kncore.config.store import Store

    store = Store.of(
        {
            "config-observability": {
                "logging.enable-request-log": "true",
                "logging.enable-probe-request-log": "true",
                "request-metrics-protocol": "http/protobuf",
                "request-metrics-endpoint": "http://collector:4318",
                "request-metrics-export-interval": "15s",
                "tracing-protocol": "grpc",
                "tracing-endpoint": "collector:4317",
                "tracing-sampling-rate": "0.25",
                "runtime-profiling": "enabled",
            },
            "config-logging": {"zap-logger-config": '{"level": "error"}', "loglevel.queueproxy": "debug"},
            "config-features": {"autodetect-http2": "enabled", "multi-container-probing": "enabled"},
        }
    )
    revision = {
        "metadata": {
            "name": "hello-00001",
            "namespace": "ns",
            "labels": {"serving.knative.dev/service": "hello", "serving.knative.dev/configuration": "conf"},
        },
        "spec": {
            "containerConcurrency": 7,
            "timeoutSeconds": 31,
            "responseStartTimeoutSeconds": 11,
            "idleTimeoutSeconds": 5,
        },
    }
    serving = {"name": "app", "readinessProbe": {"httpGet": {"path": "/ok"}, "periodSeconds": 3}}
    sidecar = {"name": "side", "readinessProbe": {"tcpSocket": {"port": 9000}, "periodSeconds": 3}}
    made = queue.make(revision, serving, [sidecar], 8888, "h2c", Settings.of(store))
    told = {"SERVING_POD": "p", "SERVING_POD_IP": "10.0.0.1", "HOST_IP": "10.0.0.2"}
    environ = {one["name"]: one.get("value", told.get(one["name"], "")) for one in made["env"]}

    config = Config.parse(environ)

    assert (config.namespace, config.service, config.configuration, config.revision) == (
        "ns", "hello", "conf", "hello-00001",
    )  # fmt: skip
    assert (config.pod, config.pod_ip, config.user_port, config.serving_port) == ("p", "10.0.0.1", 8888, 8013)
    assert (config.container_concurrency, config.timeout) == (7, 31.0)
    assert (config.response_start_timeout, config.idle_timeout) == (11.0, 5.0)
    assert [(one.kind, one.port) for one in config.probes] == [("http", 8888), ("tcp", 9000)]
    assert (config.detect_http2, config.logging_level) == (True, "debug")
    assert (config.request_log, config.probe_request_log) == (True, True)
    assert config.request_metrics == Export(protocol="http/protobuf", endpoint="http://collector:4318", interval=15.0)
    assert config.tracing == Export(protocol="grpc", endpoint="collector:4317")
    assert (config.sampling_rate, config.profiling) == (0.25, True)
    ports = {port["containerPort"] for port in made["ports"]}
    assert {config.serving_port, config.metrics_port, config.user_metrics_port, config.profiling_port} <= ports


@pytest.mark.parametrize(
    ("given", "level"),
    [
        ({}, "info"),
        ({"SERVING_LOGGING_CONFIG": '{"level": "warn"}'}, "warn"),
        ({"SERVING_LOGGING_CONFIG": '{"level": "warn"}', "SERVING_LOGGING_LEVEL": "error"}, "error"),
        ({"SERVING_LOGGING_CONFIG": "nonsense"}, "info"),
        ({"SERVING_LOGGING_CONFIG": "[]"}, "info"),
        ({"SERVING_LOGGING_CONFIG": '{"level": 5}'}, "info"),
    ],
)
def test_level_of_the_logs(given: Mapping[str, str], level: str) -> None:
    assert Config.parse({**LEAST, **given}).logging_level == level


@pytest.mark.parametrize(
    "given",
    [
        {"tracing": {"protocol": "none", "samplingRate": "much"}},
        {"tracing": None, "requestMetrics": [], "runtime": "x"},
        {"requestMetrics": {"exportInterval": "soon"}},
        {"tracing": {"samplingRate": -3}},
    ],
)
def test_an_odd_observability_config_is_no_reason_not_to_serve(given: Mapping[str, object]) -> None:
    config = Config.parse({**LEAST, "OBSERVABILITY_CONFIG": json.dumps(given)})
    assert (config.request_metrics, config.tracing, config.sampling_rate) == (Export(), Export(), 0.0)
