"""Knative's say in writes: its ConfigMaps are judged, and judge."""

import functools
from typing import Any

import pytest

from torpor.embedded.apiserver.admission import IDLE, KnativeAdmission, example_checksum
from torpor.embedded.apiserver.builtin import KINDS
from torpor.embedded.apiserver.errors import StatusError

PREFIX = 'admission webhook "config.webhook.serving.knative.dev" denied the request: validation failed: '
EXAMPLE = "\n################\n# do not edit\n\nmax-scale: 0\n"


async def config(api: Any, name: str, namespace: str = "knative-serving", **data: str) -> Any:
    return await api.create("configmaps", name, namespace, data={key.replace("_", "-"): data[key] for key in data})


def service(**annotations: str) -> dict[str, Any]:
    named = {f"autoscaling.knative.dev/{key.replace('_', '-')}": value for key, value in annotations.items()}
    return {"template": {"metadata": {"annotations": named}, "spec": {"containers": [{"image": "dev.local/app"}]}}}


async def test_a_config_map_that_does_not_parse_is_refused_and_the_old_one_stays(api: Any) -> None:
    await config(api, "config-defaults", revision_timeout_seconds="123")
    with pytest.raises(StatusError) as caught:
        await api.patch(
            "configmaps", "config-defaults", {"data": {"revision-timeout-seconds": "soon"}}, namespace="knative-serving"
        )
    assert caught.value.code == 400
    assert caught.value.message.startswith(PREFIX)
    assert "revision-timeout-seconds" in caught.value.message
    made = await api.create("ksvc", "a", spec=service())
    assert made["spec"]["template"]["spec"]["timeoutSeconds"] == 123


async def test_a_change_is_in_force_for_the_very_next_write(api: Any) -> None:
    await config(api, "config-defaults", revision_timeout_seconds="100")
    first = await api.create("ksvc", "a", spec=service())
    patch = {"data": {"revision-timeout-seconds": "200"}}
    await api.patch("configmaps", "config-defaults", patch, namespace="knative-serving")
    second = await api.create("ksvc", "b", spec=service())
    await api.delete("configmaps", "config-defaults", "knative-serving")
    third = await api.create("ksvc", "c", spec=service())
    timeouts = [one["spec"]["template"]["spec"]["timeoutSeconds"] for one in (first, second, third)]
    assert timeouts == [100, 200, 300]


async def test_other_config_maps_are_nobodys_business(api: Any) -> None:
    await config(api, "config-defaults", "default", revision_timeout_seconds="soon")
    await config(api, "my-settings", revision_timeout_seconds="soon")


@pytest.mark.parametrize("resource", ["jobs.batch", "statefulsets.apps", "resourcequotas"])
def test_whoever_creates_what_nothing_acts_upon_is_told(resource: str) -> None:
    (kind,) = [one for one in KINDS if one.resource == resource]
    made = {"metadata": {"name": "x", "namespace": "default"}}
    admit = functools.partial(KnativeAdmission().admit, subresource="", user="admin", dry_run=False)
    admitted = admit("CREATE", kind, made, None)
    assert admitted.warnings == (f"{resource} are only stored here: nothing acts upon them",)
    assert admit("UPDATE", kind, made, made).warnings == ()


def test_every_kind_that_is_only_stored_is_a_kind() -> None:
    assert IDLE.issubset(one.resource for one in KINDS)


async def test_editing_inside_the_example_is_refused(api: Any) -> None:
    annotations = {"knative.dev/example-checksum": example_checksum(EXAMPLE)}
    made = {"metadata": {"annotations": annotations}, "data": {"_example": EXAMPLE}}
    await api.create("configmaps", "config-autoscaler", "knative-serving", **made)
    with pytest.raises(StatusError) as caught:
        await api.patch(
            "configmaps",
            "config-autoscaler",
            {"data": {"_example": EXAMPLE.replace("0", "5")}},
            namespace="knative-serving",
        )
    assert caught.value.message == (
        f'{PREFIX}the update modifies a key in "_example" which is probably not what you want. Instead, copy the '
        'respective setting to the top-level of the ConfigMap, directly below "data"'
    )


def test_the_checksum_ignores_surrounding_space_and_counts_runs_of_newlines_once() -> None:
    assert example_checksum("a\nb") == example_checksum("\n a\n\n\nb \n")
    assert example_checksum("a\nb") != example_checksum("a b")
    assert example_checksum("a\nb") == "9fbadef3"


@pytest.mark.parametrize("excluded", [True, False])
async def test_a_namespace_can_opt_out(api: Any, excluded: bool) -> None:
    labels = {"webhooks.knative.dev/exclude": "true"} if excluded else {}
    await api.create("namespaces", "team", metadata={"labels": labels})
    action = api.create("ksvc", "a", "team", spec=service(min_scale="many"))
    if excluded:
        assert "traffic" not in (await action)["spec"]
    else:
        with pytest.raises(StatusError, match="min-scale"):
            await action
