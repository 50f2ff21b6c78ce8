import json
from collections.abc import Mapping

import pytest

from kncore.errors import ConfigError
from queueproxy.config import Config, Probe

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
