"""Pure parts of the controllers that no recorded case pins down."""

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller import traffic
from controller.__main__ import cluster_domain
from controller.children import covers, equal
from controller.resources import deployment, placeholder
from controller.rollout import ConfigurationRollout, Rollout, Share, observe, step
from controller.traffic import Target

Obj = dict[str, Any]


@given(
    st.lists(
        st.tuples(st.integers(0, 100), st.integers(1, 9), st.integers(0, 200), st.booleans()), min_size=1, max_size=30
    )
)
def test_a_rollout_always_gives_out_exactly_its_percent(moves: list[tuple[int, int, int, bool]]) -> None:
    """Whatever targets come in whatever order: shares add up, none is negative, and the newest is always among them."""
    state: Rollout | None = None
    now_ns = 1_700_000_000_000_000_000
    for percent, revision, seconds, ready in moves:
        now_ns += seconds * 1_000_000_000
        goal = ConfigurationRollout(
            configuration="c", percent=percent, revisions=(Share(revision=f"r{revision}", percent=percent),)
        )
        if ready and state is not None:
            state = observe(state, now_ns, 60.0)
        state, next_ns = step(Rollout.of([goal]), state, now_ns)
        for item in state.configurations:
            shares = [share.percent for share in item.revisions]
            assert sum(shares) == item.percent == percent
            assert all(share > 0 for share in shares) or percent == 0
            assert item.revisions[-1].revision == f"r{revision}"
        assert next_ns == 0 or next_ns > now_ns


@given(st.integers(2, 100), st.integers(1, 3600))
def test_a_rollout_that_is_left_alone_ends(percent: int, duration: int) -> None:
    def goal(revision: str) -> Rollout:
        return Rollout.of(
            [
                ConfigurationRollout(
                    configuration="c", percent=percent, revisions=(Share(revision=revision, percent=percent),)
                )
            ]
        )

    now_ns = 1_700_000_000_000_000_000
    state, _ = step(goal("old"), None, now_ns)
    state, _ = step(goal("new"), state, now_ns)
    state = observe(state, now_ns + 1_000_000_000, float(duration))
    steps = 0
    next_ns = state.configurations[0].next_step_ns
    while not state.done:
        state, next_ns = step(goal("new"), state, next_ns)
        steps += 1
        assert steps <= percent
    assert state.configurations == goal("new").configurations


def test_state_from_a_stranger_does_not_steer_traffic() -> None:
    assert Rollout.parse("") is None
    assert Rollout.parse("[]") is None
    assert Rollout.parse('{"configurations":[{"configurationName":"c","percent":101}]}') is None
    assert Rollout.parse('{"configurations":[{"configurationName":"c","percent":"x"}]}') is None
    half = (
        '{"configurations":[{"configurationName":"c","percent":100,"revisions":[{"revisionName":"r","percent":50}]}]}'
    )
    assert Rollout.parse(half) is None


def test_entries_that_follow_one_configuration_share_out_its_rollout() -> None:
    rolling = Rollout.of(
        [
            ConfigurationRollout(
                configuration="web",
                percent=60,
                revisions=(Share(revision="old", percent=55), Share(revision="new", percent=5)),
            )
        ]
    )
    entries = [
        Target(revision="new", percent=50, configuration="web", latest=True),
        Target(revision="new", percent=10, configuration="web", latest=True, tag="next"),
        Target(revision="old", percent=40, configuration="web"),
        Target(revision="new", percent=0, configuration="web", latest=True, tag="idle"),
    ]
    shown = traffic.status_traffic(entries, rolling, lambda tag: f"http://{tag}")
    assert [(item["revisionName"], item["percent"], item.get("tag", "")) for item in shown] == [
        ("old", 50, ""),
        ("old", 5, "next"),
        ("new", 5, "next"),
        ("old", 40, ""),
        ("new", 0, "idle"),
    ]


def route(*targets: Obj, owner: str = "") -> Obj:
    metadata: Obj = {"name": "r", "namespace": "ns"}
    if owner:
        metadata["ownerReferences"] = [{"kind": "Service", "name": owner, "uid": "u", "controller": True}]
    return {"metadata": metadata, "spec": {"traffic": list(targets)}}


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ({"serving.knative.dev/service": "b"}, 'Revision "x" belongs to Service "b", not Service "a".'),
        ({}, 'Revision "x" does not belong to Service "a".'),
    ],
)
def test_a_service_may_not_name_the_revision_of_another(labels: dict[str, str], text: str) -> None:
    revision = {
        "metadata": {"name": "x", "labels": labels},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }
    wanted = route({"revisionName": "x", "percent": 100}, owner="a")
    made = traffic.resolve(wanted, lambda _: None, lambda _: revision)
    assert made.problem == traffic.Problem(failed=True, reason="RevisionNotOwned", message=text)


def test_a_failure_weighs_more_than_waiting_for_something() -> None:
    states = {"ready": "True", "failed": "False", "waiting": "Unknown"}

    def revision(name: str) -> Obj:
        return {"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": states[name]}]}}

    for order in (("failed", "waiting"), ("waiting", "failed")):
        made = traffic.resolve(
            route(*({"revisionName": name, "percent": 50} for name in order)), lambda _: None, revision
        )
        assert made.problem is not None
        assert made.problem.message == 'Revision "failed" failed to become ready.'
        assert {name for _, name in made.seen} == {"failed", "waiting"}


def test_the_deployment_hash_depends_on_content_only() -> None:
    one = deployment.digest({"a": 1, "b": [2]})
    assert one == deployment.digest({"b": [2], "a": 1})
    assert one != deployment.digest({"a": 1, "b": [3]})
    assert set(one) <= set(string.digits + string.ascii_lowercase)
    assert deployment.digest({}) == "nf0rvp"  # another value would roll every Deployment at the next upgrade


@pytest.mark.parametrize(
    ("before", "after", "again"),
    [
        ({"type": "ExternalName"}, {"type": "ExternalName"}, False),
        ({"type": "ClusterIP", "clusterIP": "10.0.0.1"}, {"type": "ExternalName"}, True),
        ({"type": "ClusterIP", "clusterIP": "10.0.0.1"}, {"type": "ClusterIP", "clusterIP": "None"}, True),
        ({"type": "ClusterIP", "clusterIP": "None"}, {"type": "ClusterIP", "clusterIP": "None"}, False),
    ],
)
def test_services_that_cannot_be_updated_are_made_anew(before: Obj, after: Obj, again: bool) -> None:
    assert placeholder.must_recreate({"spec": before}, {"spec": after}) is again


def test_comparing_what_the_server_filled_in() -> None:
    wanted = {"ports": [{"port": 80}], "type": "ClusterIP"}
    assert covers(wanted | {"clusterIP": "10.0.0.1", "ports": [{"port": 80, "protocol": "TCP"}]}, wanted)
    assert not covers({"ports": [{"port": 81}], "type": "ClusterIP"}, wanted)
    assert not covers({"ports": [{"port": 80}, {"port": 81}], "type": "ClusterIP"}, wanted)
    assert equal({"a": {}, "b": None, "c": ["x"]}, {"c": ["x"], "d": ""})
    assert not equal({"a": 0}, {})


@pytest.mark.parametrize(
    ("environ", "text", "domain"),
    [
        ({}, "nameserver 10.0.0.1\nsearch ns.svc.corp.local svc.corp.local corp.local\n", "corp.local"),
        ({}, "search example.com", "cluster.local"),
        ({}, "", "cluster.local"),
        ({"CLUSTER_DOMAIN": "x.y"}, "search svc.corp.local", "x.y"),
    ],
)
def test_the_cluster_domain(environ: dict[str, str], text: str, domain: str) -> None:
    assert cluster_domain(environ, text) == domain
