"""What the vectors do not say about configuration: all problems at once, swapping, names, templates."""

from dataclasses import FrozenInstanceError

import pytest

from kncore.config import store as config
from kncore.config.autoscaler import Autoscaler
from kncore.config.defaults import Defaults
from kncore.config.deployment import Deployment
from kncore.config.domain import Domain
from kncore.config.features import KEYS, Features, Flag
from kncore.config.gc import Gc
from kncore.config.logging import Logging
from kncore.config.network import Network
from kncore.config.observability import Observability
from kncore.config.reader import InvalidConfig
from kncore.config.store import Store
from kncore.errors import ConfigError


def test_every_problem_is_listed_parse_errors_first() -> None:
    data = {"stable-window": "1s", "min-scale": "x", "max-scale-up-rate": "0.5", "max-scale": "5"}
    with pytest.raises(InvalidConfig) as caught:
        Autoscaler.parse(data)
    assert caught.value.problems == (
        'failed to parse data: failed to parse "min-scale": strconv.ParseInt: parsing "x": invalid syntax',
        "max-scale-up-rate = 0.5, must be greater than 1.0",
        "stable-window = 1s, must be in [6s; 1h0m0s] range",
    )
    assert str(caught.value) == "; ".join(caught.value.problems)


def test_a_rule_about_a_key_that_did_not_parse_is_not_checked() -> None:
    with pytest.raises(InvalidConfig) as caught:
        Autoscaler.parse({"max-scale": "x", "max-scale-limit": "5"})
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("value", ["NaN", "Inf", "-inf"])
@pytest.mark.parametrize("key", ["activator-capacity", "target-burst-capacity", "panic-threshold-percentage"])
def test_numbers_must_be_finite(key: str, value: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        Autoscaler.parse({key: value})
    assert len(caught.value.problems) == 1
    assert key in str(caught.value)


def test_a_negative_timeout_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="cannot be negative"):
        Defaults.parse({"revision-timeout-seconds": "-1"})


def test_apply_swaps_and_tells() -> None:
    store = Store()
    told: list[tuple[str, float]] = []
    stop = store.subscribe(lambda name: told.append((name, store.autoscaler.stable_window)))
    before = store.autoscaler
    assert store.apply("config-autoscaler", {"stable-window": "30s"})
    assert not store.apply("config-autoscaler", {"stable-window": "0.5m", "_example": "changed"})
    assert told == [("config-autoscaler", 30)]
    assert before.stable_window == 60
    assert store.apply("config-autoscaler", None)
    assert store.autoscaler == Autoscaler()
    stop()
    assert store.apply("config-autoscaler", {"stable-window": "10s"})
    assert len(told) == 2


def test_a_bad_config_map_leaves_the_last_good_value() -> None:
    store = Store.of({"config-gc": {"min-non-active-revisions": "3"}})
    told: list[str] = []
    store.subscribe(told.append)
    with pytest.raises(ConfigError):
        store.apply("config-gc", {"min-non-active-revisions": "-3"})
    assert store.gc.min_non_active_revisions == 3
    assert told == []


def test_unknown_config_maps_are_none_of_its_business() -> None:
    assert not Store().apply("config-br-defaults", {"x": "y"})
    assert config.parse("config-br-defaults", {"x": "y"}) is None


def test_every_known_config_map_has_a_place_and_frozen_defaults() -> None:
    store = Store()
    assert len(config.NAMES) == 11
    for name in config.NAMES - {"config-deployment"}:
        assert not store.apply(name, {}), name
    with pytest.raises(FrozenInstanceError):
        store.autoscaler.stable_window = 5  # type: ignore[misc]


def test_feature_keys_are_knatives() -> None:
    assert KEYS["podspec_volumes_mount_propagation"] == "kubernetes.podspec-volumes-mount-propagation"
    assert KEYS["containerspec_addcapabilities"] == "kubernetes.containerspec-addcapabilities"
    assert KEYS["queueproxy_mount_podinfo"] == "queueproxy.mount-podinfo"
    assert KEYS["multi_container"] == "multi-container"
    assert Features.parse({"multi-container": "disabled"}).multi_container is Flag.DISABLED
    assert Features.parse({"multi-container": "AllowRootBounded"}) == Features()


def test_gc_rules_can_be_disabled() -> None:
    made = Gc.parse({"retain-since-create-time": "Disabled", "max-non-active-revisions": "disabled"})
    assert (made.retain_since_create_time, made.max_non_active_revisions) == (None, None)
    assert made.retain_since_last_active_time == 15 * 3600


def test_container_names_come_from_templates() -> None:
    made = Defaults.parse({"container-name-template": "{{.Labels.app}}-{{.Name}}"})
    assert made.user_container_name({"name": "web", "labels": {"app": "shop"}}) == "shop-web"
    assert made.init_container_name({}) == "init-container"


def test_enable_service_links_is_a_tri_state() -> None:
    texts = ("true", "FALSE", "default")
    read = [Defaults.parse({"enable-service-links": text}).enable_service_links for text in texts]
    assert read == [True, False, None]


def test_hosts_come_from_templates() -> None:
    made = Network.parse({"domain-template": '{{.Name}}.{{index .Labels "team"}}.{{.Domain}}'})
    assert made.host("web", "ns", "example.com", labels={"team": "a"}) == "web.a.example.com"
    assert made.tagged_name("v1", "web") == "v1-web"


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ("{{.Name}}:x", 'parse "https://foo:x": invalid port ":x" after host'),
        ("", "empty hostname"),
        (":80", "empty hostname"),
        ("{{.Name}}#x", None),
        ("{{.Name}}:80", None),
    ],
)
def test_a_domain_template_must_render_a_host(template: str, error: str | None) -> None:
    if error is None:
        assert Network.parse({"domain-template": template}).domain_template == template
    else:
        with pytest.raises(InvalidConfig) as caught:
            Network.parse({"domain-template": template})
        assert str(caught.value) == error


def test_the_most_specific_domain_wins() -> None:
    made = Domain.parse({"b.com": "", "a.com": "", "shop.com": "selector: {app: shop}"}, cluster_domain="k8s.local")
    assert made.lookup({"app": "shop"}) == "shop.com"
    assert made.lookup({}) == "a.com"
    assert made.lookup({"networking.knative.dev/visibility": "cluster-local"}) == "svc.k8s.local"
    assert Domain.parse({"x.com": "selector: {app: shop}"}, cluster_domain="k8s.local").lookup({}) == "svc.k8s.local"


def test_runtime_class_by_labels() -> None:
    classes = "kata:\n  selector: {a: '1'}\ngvisor:\n  selector: {a: '1', b: '2'}\nrunc: {}\n"
    made = Deployment.parse({"queue-sidecar-image": "q", "runtime-class-name": classes})
    picked = [made.runtime_class(labels) for labels in ({}, {"a": "1"}, {"a": "1", "b": "2", "c": "3"})]
    assert picked == ["runc", "kata", "gvisor"]
    assert Deployment().runtime_class({"a": "1"}) == ""


def test_log_levels() -> None:
    made = Logging.parse({"zap-logger-config": '{"level": "warn"}', "loglevel.activator": "debug"})
    assert (made.level("activator"), made.level("controller")) == ("debug", "warn")
    with pytest.raises(InvalidConfig) as caught:
        Logging.parse({"zap-logger-config": "{", "loglevel.autoscaler": "loud"})
    assert len(caught.value.problems) == 2


def test_request_log_template_is_tried() -> None:
    with pytest.raises(InvalidConfig, match="unclosed action"):
        Observability.parse({"logging.request-log-template": "{{.Request"})


def test_yaml_errors_name_the_line_as_go_does() -> None:
    with pytest.raises(InvalidConfig) as caught:
        Domain.parse({"x.com": "selector:\n  a: b: c"})
    expected = "error converting YAML to JSON: yaml: line 2: mapping values are not allowed in this context"
    assert str(caught.value) == expected
