"""Admission under any input: it answers, it never breaks, and doing it twice changes nothing."""

import copy
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kncore.api.admission import Admitted, Denied, admit
from kncore.api.defaults import set_defaults
from kncore.api.kinds import KINDS
from kncore.api.shapes import DecodeError
from kncore.api.validation import Outcome, validate
from kncore.config.features import KEYS
from kncore.config.store import Store

STOCK = Store()
OPEN = Store.of(
    {
        "config-features": dict.fromkeys(KEYS.values(), "Enabled"),
        "config-defaults": {"revision-cpu-request": "100m", "revision-idle-timeout-seconds": "30"},
    }
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)

# One of everything, so that a random place in it is likely an interesting one.
CONTAINER: dict[str, Any] = {
    "name": "web",
    "image": "example.com/web",
    "ports": [{"containerPort": 8080, "name": "h2c", "protocol": "TCP"}],
    "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
    "envFrom": [{"prefix": "X", "configMapRef": {"name": "c", "optional": True}}],
    "resources": {"limits": {"cpu": "1"}, "requests": {"memory": "64Mi"}, "claims": [{"name": "gpu"}]},
    "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
    "livenessProbe": {"grpc": {"port": 9000}},
    "startupProbe": {"exec": {"command": ["true"]}},
    "securityContext": {"runAsUser": 1, "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "Localhost"}},
    "volumeMounts": [{"name": "v", "mountPath": "/v", "mountPropagation": "None"}],
}
POD: dict[str, Any] = {
    "containers": [CONTAINER, {"image": "side", "tcpSocket": {}, "livenessProbe": {"tcpSocket": {"port": 1}}}],
    "initContainers": [{"image": "init", "name": "i", "ports": [{"containerPort": 1}]}],
    "volumes": [
        {"name": "v", "emptyDir": {"sizeLimit": "1Gi"}},
        {"name": "p", "projected": {"sources": [{"downwardAPI": {"items": [{"path": "a"}]}}, {"secret": {}}]}},
        {"name": "c", "persistentVolumeClaim": {"claimName": "c"}},
    ],
    "securityContext": {"fsGroup": 1, "supplementalGroups": [1]},
    "timeoutSeconds": 10,
    "serviceAccountName": "robot",
}
METADATA: dict[str, Any] = {
    "name": "hello",
    "namespace": "default",
    "labels": {"serving.knative.dev/service": "hello"},
    "annotations": {"autoscaling.knative.dev/target": "10", "serving.knative.dev/rollout-duration": "1s"},
    "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": "hello", "uid": "1"}],
    "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}],
}
SPECS: dict[str, Any] = {
    "Service": {
        "template": {"metadata": METADATA, "spec": POD},
        "traffic": [{"tag": "a", "percent": 100, "revisionName": "hello-1", "url": "http://x"}],
    },
    "Configuration": {"template": {"metadata": METADATA, "spec": POD}},
    "Revision": POD,
    "Route": {"traffic": [{"tag": "a", "percent": 100, "configurationName": "hello"}]},
    "DomainMapping": {"ref": {"kind": "Service", "name": "hello", "apiVersion": "v1"}, "tls": {"secretName": "s"}},
    "PodAutoscaler": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "D", "name": "d"}, "protocolType": "h2c"},
    "Metric": {"stableWindow": 1, "panicWindow": 1, "scrapeTarget": "x"},
    "ServerlessService": {"mode": "Proxy", "objectRef": {"name": "d"}, "protocolType": "http1", "numActivators": 1},
    "Ingress": {
        "rules": [{"hosts": ["a.b"], "http": {"paths": [{"splits": [{"serviceName": "s", "servicePort": 80}]}]}}],
        "tls": [{"hosts": ["a.b"], "secretName": "s"}],
    },
    "Certificate": {"dnsNames": ["a.b"], "domain": "b", "secretName": "s"},
}
STATUS = {"conditions": [{"type": "Ready", "status": "True"}], "observedGeneration": 1}


@st.composite
def objects(draw: st.DrawFn) -> Any:
    """A full object of some kind, with a random place replaced by anything, or removed."""
    kind = draw(st.sampled_from(sorted(SPECS)))
    made: dict[str, Any] = copy.deepcopy(
        {
            "apiVersion": KINDS[kind],
            "kind": kind,
            "metadata": METADATA,
            "spec": SPECS[kind],
            "status": STATUS,
        }
    )
    for _ in range(draw(st.integers(0, 3))):
        here: Any = made
        while True:
            steps = sorted(here) if isinstance(here, dict) else list(range(len(here)))
            if not steps:
                break
            step = draw(st.sampled_from(steps))
            inside = here[step]
            if isinstance(inside, dict | list) and draw(st.integers(0, 4)):
                here = inside
                continue
            if draw(st.booleans()):
                here[step] = draw(JSON)
            else:
                del here[step]
            break
    return made


def test_every_kind_is_covered() -> None:
    assert SPECS.keys() == KINDS.keys()


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(obj=objects() | JSON, old=st.none() | objects(), settings_=st.sampled_from([STOCK, OPEN]))
def test_any_object_gets_an_answer(obj: Any, old: Any, settings_: Store) -> None:
    operation = "CREATE" if old is None else "UPDATE"
    if isinstance(obj, dict) and isinstance(old, dict):
        old["kind"], old["apiVersion"] = obj.get("kind"), obj.get("apiVersion")
    answer: Admitted | Denied
    try:
        answer = admit(obj, old=old, operation=operation, config=settings_, user="u")
    except Denied as denied:
        answer = denied
    assert isinstance(answer, Admitted) or answer.message
    assert isinstance(validate(obj, old=old, operation=operation, config=settings_), Outcome)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(obj=objects(), settings_=st.sampled_from([STOCK, OPEN]))
def test_defaulting_twice_is_defaulting_once(obj: Any, settings_: Store) -> None:
    try:
        once = set_defaults(obj, config=settings_, user="u")
    except DecodeError:
        return
    assert set_defaults(once, config=settings_, user="u") == once
    # And a later update that changes nothing is no change.
    assert set_defaults(once, old=once, config=settings_, user="other", operation="UPDATE") == once
