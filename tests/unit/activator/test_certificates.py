"""Which certificate a name gets, and which Secrets are read for that."""

import asyncio
import base64
from collections.abc import Callable
from typing import Any

import pytest

from activator.certificates import OWN_STREAMS, Certificates, Secrets, Statistics, pair_of
from activator.routes import Table
from kncore.api.resources import SECRETS
from kncore.kube.client import Key
from kncore.kube.informer import Change
from kncore.net.tls import ALPN, BadCertificate, Pair, Settings
from kncore.testing.kube import MemoryClient
from tests import certificates

OURS = "torpor.ingress.networking.knative.dev"
GOOD = certificates.issue("a.example")
OTHER = certificates.issue("b.example")


def ingress(name: str, hosts: dict[str, str], *, namespace: str = "default", **changes: Any):
    """Args: hosts: Secret by host, "" for a host without one."""
    paths = [{"splits": [{"serviceName": "hello-1", "serviceNamespace": namespace, "percent": 100}]}]
    visibility = changes.pop("visibility", "ExternalIP")
    where = changes.pop("where", namespace)
    return {
        "metadata": {
            "namespace": namespace,
            "name": name,
            "creationTimestamp": changes.pop("created", "2026-01-01T00:00:00Z"),
            "annotations": {"networking.knative.dev/ingress.class": changes.pop("class_", OURS)},
        },
        "spec": {
            "rules": [
                {
                    "hosts": [host.replace("*", "x") for host in hosts],
                    "visibility": visibility,
                    "http": {"paths": paths},
                }
            ],
            "tls": [
                {"hosts": [host], "secretName": secret, "secretNamespace": where}
                for host, secret in hosts.items()
                if secret
            ],
        },
    }


def secret(name: str, pair: Pair | None = GOOD, *, namespace: str = "default", labels: dict[str, str] | None = None):
    data = {"tls.crt": pair.chain, "tls.key": pair.key} if pair else {"tls.crt": b"x"}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"namespace": namespace, "name": name, "labels": labels or {}},
        "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
    }


class World:
    """A routing table with certificates beside it."""

    def __init__(self) -> None:
        self.table = Table(serves=lambda class_: class_ == OURS)
        self.certificates = Certificates(
            self.table.hosts.get, Settings(), alpn=ALPN, serves=self.table.serves, inside=lambda: self.inside
        )
        self.inside = None
        self.wanted: set[Key] = set()
        self.certificates.wanted = self._want

    def _want(self, secrets) -> None:
        self.wanted = set(secrets)

    def put(self, *ingresses) -> None:
        for one in ingresses:
            self.table.put(one)
            self.certificates.ingress_changed(Change("added", one))

    def remove(self, one) -> None:
        self.table.remove((one["metadata"]["namespace"], one["metadata"]["name"]))
        self.certificates.ingress_changed(Change("deleted", one))

    def find(self, name: str, *, inside: bool = False):
        return self.certificates.find(name, inside=inside)


@pytest.fixture
def world() -> World:
    return World()


def test_exact_names_before_wildcards(world: World) -> None:
    world.put(ingress("web", {"a.example": "exact", "*.example": "wild", "b.example": ""}))
    assert world.wanted == {Key("default", "exact"), Key("default", "wild")}
    assert world.find("a.example") is None
    world.certificates.secret_changed(secret("exact"))
    world.certificates.secret_changed(secret("wild", OTHER))
    exact, wild = world.find("a.example"), world.find("b.example")
    assert None not in (exact, wild)
    assert exact is not wild
    assert world.find("A.Example.") is exact
    assert world.find("x.example") is wild
    assert world.find("nobody.example") is None, "the wildcard has it, but no rule"
    assert world.find("") is None
    assert world.certificates.statistics() == Statistics(wanted=2, loaded=2, broken=0, unknown_names=0)


def test_who_does_not_hold_the_host_cannot_present_a_certificate_for_it(world: World) -> None:
    older = ingress("web", {"a.example": "ours"})
    world.put(older, ingress("thief", {"a.example": "theirs"}, namespace="other", created="2026-02-02T00:00:00Z"))
    world.certificates.secret_changed(secret("theirs", namespace="other"))
    assert world.find("a.example") is None
    world.certificates.secret_changed(secret("ours"))
    ours = world.find("a.example")
    assert ours is not None
    world.remove(older)
    assert world.find("a.example") not in (None, ours), "it is theirs now"


def test_secrets_of_other_namespaces_and_classes_are_not_even_read(world: World) -> None:
    world.put(
        ingress("borrower", {"a.example": "s"}, where="other"),
        ingress("foreign", {"b.example": "s"}, class_="istio.ingress.networking.knative.dev"),
        ingress("nameless", {"c.example": ""}),
    )
    assert world.wanted == set()


def test_private_hosts_have_certificates_only_inside(world: World) -> None:
    world.put(ingress("web", {"web.default.svc.cluster.local": "local"}, visibility="ClusterLocal"))
    world.certificates.secret_changed(secret("local"))
    assert world.find("web.default.svc.cluster.local") is None
    assert world.find("web.default.svc.cluster.local", inside=True) is not None


def test_what_cannot_be_used_changes_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.put(ingress("web", {"a.example": "s"}))
    world.certificates.secret_changed(secret("s"))
    before = world.find("a.example")
    broken = secret("s")
    broken["data"]["tls.key"] = "no base64!"
    for bad in (secret("s", None), broken, secret("s", Pair(GOOD.chain, OTHER.key))):
        world.certificates.secret_changed(bad)
        assert world.find("a.example") is before
        assert world.certificates.statistics().broken == 1
    assert [record.message for record in caplog.records] == ["the certificate in a Secret cannot be used"] * 3
    world.certificates.secret_changed(secret("s"))
    assert world.certificates.statistics().broken == 0
    assert world.find("a.example") not in (None, before)


def test_the_same_content_makes_no_new_context(world: World) -> None:
    world.put(ingress("web", {"a.example": "s"}))
    world.certificates.secret_changed(secret("s"))
    before = world.find("a.example")
    world.certificates.secret_changed(secret("s", labels={"a": "b"}))
    assert world.find("a.example") is before


def test_what_nobody_names_any_more_is_forgotten(world: World) -> None:
    one, other = ingress("one", {"a.example": "s"}), ingress("other", {"b.example": "s"})
    world.put(one, other)
    world.certificates.secret_changed(secret("s"))
    world.remove(one)
    assert world.wanted == {Key("default", "s")}
    assert world.find("b.example") is not None
    world.put(ingress("other", {"b.example": ""}))
    assert world.wanted == set()
    assert world.certificates.statistics() == Statistics(wanted=0, loaded=0, broken=0, unknown_names=0)
    world.certificates.secret_changed(secret("s"))
    assert world.certificates.statistics().loaded == 0, "a late change of a Secret that is not wanted"


def test_pairs_need_both_parts() -> None:
    assert pair_of(secret("s")) == GOOD
    assert pair_of({"metadata": {}}) == Pair(b"", b"")
    with pytest.raises(BadCertificate, match="no base64"):
        pair_of({"data": {"tls.crt": "?"}})


# which Secrets are read ----------------------------------------------------------------------------------------------

LABEL = {"networking.internal.knative.dev/certificate-uid": "1"}


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  what is waited for has no event of its own
            await asyncio.sleep(0.002)


async def test_secrets_are_followed_only_while_they_are_wanted() -> None:
    client, told = MemoryClient(), list[str]()
    follower = Secrets(client, lambda found: told.append(found["metadata"]["name"]))
    for name, labels in (("labelled", LABEL), ("own", {}), ("private", {})):
        await client.create(SECRETS, secret(name, labels=labels))
    running = asyncio.ensure_future(follower.run())
    await asyncio.sleep(0.02)
    assert not [call for call in client.calls if call.verb in ("list", "watch")], "nothing is read before it is wanted"

    follower.want({Key("default", "labelled"), Key("default", "own"), Key("default", "later")})
    await until(lambda: {"labelled", "own"} <= set(told))
    assert follower.statistics() == {"wanted": 3, "streams": 3}
    await client.create(SECRETS, secret("later"))
    await until(lambda: "later" in told)
    assert "private" not in told

    await client.patch(SECRETS, "later", {"metadata": {"labels": LABEL}}, "default")
    await until(lambda: follower.statistics()["streams"] == 2)
    told.clear()
    await client.patch(SECRETS, "later", {"data": {"tls.crt": "YQ=="}}, "default")
    await until(lambda: "later" in told)

    follower.want(set())
    await until(lambda: follower.statistics()["streams"] == 1)
    told.clear()
    await client.patch(SECRETS, "own", {"data": {"tls.crt": "YQ=="}}, "default")
    await asyncio.sleep(0.02)
    assert told == []
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_streams_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    follower = Secrets(MemoryClient(), lambda found: None)
    running = asyncio.ensure_future(follower.run())
    follower.want({Key("default", f"s{number}") for number in range(OWN_STREAMS + 50)})
    await until(lambda: caplog.records)
    assert follower.statistics()["streams"] == OWN_STREAMS + 1
    assert [record.message for record in caplog.records] == ["too many Secrets without Knative's label to follow"]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
