"""What owners do to services while people use them: update, break, roll back, delete, scale by hand."""

import asyncio
import json
from typing import Any

import pytest

TALK = "test.local/talk:1"
MIN_SCALE_1 = {"autoscaling.knative.dev/min-scale": "1"}
MIN_SCALE_2 = {"autoscaling.knative.dev/min-scale": "2"}


def conditions(obj: dict[str, Any]) -> dict[str, tuple[str, str, str]]:
    """(status, reason, message) by type."""
    found = obj.get("status", {}).get("conditions", [])
    return {one["type"]: (one["status"], one.get("reason", ""), one.get("message", "")) for one in found}


async def failed(platform: Any, revision: str, within: float = 20) -> tuple[str, str, str]:
    """Wait for a revision to fail; its Ready condition."""

    def ready() -> tuple[str, str, str] | None:
        found = [one for one in platform.get("revision") if one["metadata"]["name"] == revision]
        now = conditions(found[0]).get("Ready") if found else None
        return now if now and now[0] == "False" else None

    found: tuple[str, str, str] = await platform.eventually(ready, within, f"the failure of {revision}")
    return found


@pytest.mark.timeout(90)
async def test_updates_under_load_fail_no_request_and_the_old_revision_sleeps(platform, load) -> None:
    platform.apply(platform.manifest(name="moving", image=TALK, env={"NAME": "one"}))
    await platform.ready("moving")
    async with load.asking(platform.url("moving")):
        for name in ("two", "three"):
            platform.apply(platform.manifest(name="moving", image=TALK, env={"NAME": name}))
            await platform.ready("moving")
        await asyncio.sleep(0.5)
        load.bodies.clear()
        await asyncio.sleep(0.5)
        assert set(load.bodies) == {"moving-00003"}

        def old_pods() -> list[str]:
            names = [pod["metadata"]["name"] for pod in platform.pods("moving")]
            return [name for name in names if not name.startswith("moving-00003-")]

        await platform.eventually(lambda: not old_pods(), 30, "sleep of the old revisions")
    assert load.failures == []


@pytest.mark.timeout(90)
async def test_a_broken_update_says_why_and_the_old_revision_goes_on(platform, load) -> None:
    platform.apply(platform.manifest(name="broken", image=TALK))
    await platform.ready("broken")
    async with load.asking(platform.url("broken"), clients=2):
        platform.apply(platform.manifest(name="broken", image=TALK, env={"FAIL": "the password is wrong"}))
        status, reason, message = await failed(platform, "broken-00002")
        assert (status, reason) == ("False", "ExitCode42")
        assert "the password is wrong" in message
        mute = {"serving.knative.dev/progress-deadline": "2s"}
        platform.apply(platform.manifest(name="broken", image=TALK, env={"MUTE": "1"}, annotations=mute))
        assert (await failed(platform, "broken-00003"))[1] == "ProgressDeadlineExceeded"
        service = platform.get("ksvc", "broken")
        assert service["status"]["latestReadyRevisionName"] == "broken-00001"
        assert conditions(service)["RoutesReady"][0] == "True"
        assert conditions(service)["Ready"][:2] == ("False", "RevisionFailed")
        platform.apply(platform.manifest(name="broken", image=TALK, env={"NAME": "mended"}))
        await platform.ready("broken")
        await platform.eventually(lambda: load.bodies["broken-00004"] > 0, 5, "an answer of the mended one")
    assert load.failures == []


@pytest.mark.timeout(90)
async def test_what_is_done_by_hand_below_a_service_is_put_right_without_a_failure(platform, load) -> None:
    platform.apply(platform.manifest(name="steady", image=TALK, annotations=MIN_SCALE_2))
    await platform.ready("steady")
    deployment = "steady-00001-deployment"

    def two_ready() -> bool:
        pods = platform.pods("steady")
        return len(pods) == 2 and all(conditions(pod).get("Ready", ("",))[0] == "True" for pod in pods)

    async with load.asking(platform.url("steady"), clients=4):
        for replicas in (5, 0, 1):
            patch = json.dumps({"spec": {"replicas": replicas}})
            platform.torpor("patch", f"deployment/{deployment}", "-p", patch)
            await platform.eventually(two_ready, 10, f"two pods after scaling to {replicas} by hand")
        for _ in range(2):
            platform.torpor("delete", "--no-wait", "pod", platform.pods("steady")[0]["metadata"]["name"])
            await platform.eventually(two_ready, 10, "another pod")
        platform.torpor("delete", "--no-wait", "deployment", deployment)
        await platform.eventually(two_ready, 10, "the deployment's return")
        for kind in ("kpa", "sks"):
            platform.torpor("delete", kind, "steady-00001")
            await platform.eventually(lambda kind=kind: platform.get(kind), 10, f"the {kind}'s return")
        await asyncio.sleep(1)
    assert load.failures == []


async def test_a_name_can_be_used_again_at_once(platform, http) -> None:
    url, headers = platform.url("again")
    for name in ("one", "two", "three"):
        platform.apply(platform.manifest(name="again", image=TALK, env={"NAME": name}))
        await platform.ready("again")
        async with http.get(url, headers=headers) as response:
            assert (await response.text()).split(" ")[:2] == ["again-00001", name]
        platform.torpor("delete", "ksvc", "again")
        async with http.get(url, headers=headers) as response:
            assert response.status == 404
    kinds = ("revision", "route", "configuration", "kpa", "sks", "king", "deployment")
    await platform.eventually(lambda: not any(map(platform.get, kinds)), 10, "the end of everything it owned")


@pytest.mark.timeout(60)
async def test_who_waits_for_a_service_that_is_deleted_is_told(platform, http) -> None:
    manifest = platform.manifest(name="doomed", image="test.local/slow:1", env={"STARTUP": "3"})
    platform.apply(manifest)
    await platform.ready("doomed")
    await platform.asleep("doomed")
    url, headers = platform.url("doomed")

    async def ask() -> tuple[int, str]:
        async with http.get(url, headers=headers) as response:
            return response.status, await response.text()

    waiting = [asyncio.ensure_future(ask()) for _ in range(20)]
    await platform.eventually(lambda: platform.pods("doomed"), 5, "a pod")
    platform.torpor("delete", "ksvc", "doomed")
    async with asyncio.timeout(2):
        answers = set(await asyncio.gather(*waiting))
    assert answers == {(404, 'Error getting active endpoint: revision.serving.knative.dev "doomed-00001" not found\n')}
