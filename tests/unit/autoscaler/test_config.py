"""Environment of an autoscaler, and what losing the Lease means."""

import asyncio
from types import SimpleNamespace

import pytest

from autoscaler.__main__ import HandOver
from autoscaler.config import Config
from kncore.errors import ConfigError

ENV = {"POD_NAME": "autoscaler-1", "POD_IP": "10.0.0.9", "SYSTEM_NAMESPACE": "knative-serving"}


def test_environment_of_a_pod() -> None:
    made = Config.read({**ENV, "KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBECONFIG": "/ignored"})
    assert (made.identity, made.namespace, made.kubeconfig) == ("autoscaler-1_10.0.0.9", "knative-serving", "")
    assert (made.listen, made.cluster_domain) == (("0.0.0.0", 8080), "cluster.local")


def test_environment_outside_a_cluster() -> None:
    made = Config.read({**ENV, "KUBECONFIG": "/k", "CLUSTER_DOMAIN": "example.org"})
    assert (made.kubeconfig, made.cluster_domain) == ("/k", "example.org")


def test_missing_variables_are_all_named() -> None:
    with pytest.raises(ConfigError, match="POD_NAME, SYSTEM_NAMESPACE"):
        Config.read({"POD_IP": "10.0.0.9"})


async def test_losing_the_lease_forgets_and_sends_streams_elsewhere() -> None:
    done: list[str] = []

    async def drop() -> None:
        done.append("dropped")

    subscribed = []
    elector = SimpleNamespace(subscribe=subscribed.append)
    built = SimpleNamespace(forget=lambda: done.append("forgot"), server=SimpleNamespace(drop_streams=drop))
    part = HandOver(elector, built)  # type: ignore[arg-type]
    task = asyncio.get_running_loop().create_task(part.run())
    await asyncio.sleep(0)
    subscribed[0]("autoscaler-bucket-00-of-01", True)
    await asyncio.sleep(0)
    assert done == []
    subscribed[0]("autoscaler-bucket-00-of-01", False)
    assert done == ["forgot"], "at once: nothing may be decided any more"
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert done == ["forgot", "dropped"]
    task.cancel()
