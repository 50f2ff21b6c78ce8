"""What the controllers do beside reconciling: resolving digests, probing activators."""

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import pytest

from controller.digest import Digests, Failure, Images, registry_of
from controller.prober import Prober
from kncore.kube.client import Key

Obj = dict[str, Any]

KEY = Key("default", "hello-00001")


def revision(*images: str, init: Sequence[str] = ()) -> Obj:
    return {
        "metadata": {"namespace": "default", "name": "hello-00001", "uid": "u1"},
        "spec": {
            "containers": [{"name": f"c{number}", "image": image} for number, image in enumerate(images)],
            "initContainers": [{"name": f"i{number}", "image": image} for number, image in enumerate(init)],
        },
    }


class Slow:
    """A resolver that answers when told, and knows what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.go = asyncio.Event()

    async def resolve(self, image: str, **_: Any) -> str:
        self.asked.append(image)
        await self.go.wait()
        return f"{image}@sha256:{'1' * 64}"


def lookup(digests: Digests, of: Obj) -> Images | Failure | None:
    return digests.lookup(of, skip_registries={"dev.local"}, timeout=10.0)


@pytest.mark.looptime
async def test_images_are_resolved_once_however_often_asked() -> None:
    woken: list[Key] = []
    resolver = Slow()
    digests = Digests(resolver, woken.append, workers=2)
    running = asyncio.ensure_future(digests.run())
    wanted = revision("a/b:1", "dev.local/c", "d@sha256:" + "2" * 64, init=["e:1"])
    for _ in range(5):
        assert lookup(digests, wanted) is None
        await asyncio.sleep(0.1)
    assert resolver.asked == ["e:1"]
    resolver.go.set()
    await asyncio.sleep(0.1)
    assert woken == [KEY]
    found = lookup(digests, wanted)
    assert found == Images(
        containers={"c0": f"a/b:1@sha256:{'1' * 64}", "c1": "", "c2": "d@sha256:" + "2" * 64},
        init_containers={"i0": f"e:1@sha256:{'1' * 64}"},
    )
    digests.forget(KEY)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert digests.statistics().pending == digests.statistics().answered == 0


@pytest.mark.looptime
async def test_a_registry_that_does_not_answer_is_a_failure_and_asked_again() -> None:
    woken: list[Key] = []
    resolver = Slow()
    digests = Digests(resolver, woken.append, workers=1)
    running = asyncio.ensure_future(digests.run())
    wanted = revision("slow.example.com/x:1")
    assert lookup(digests, wanted) is None
    await asyncio.sleep(10.5)
    assert lookup(digests, wanted) == Failure(image="slow.example.com/x:1", message="no answer within 10 s")
    resolver.go.set()
    await asyncio.sleep(2.0)
    assert isinstance(lookup(digests, wanted), Images)
    assert woken == [KEY, KEY]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.looptime
async def test_a_revision_made_anew_under_the_same_name_is_asked_about_anew() -> None:
    resolver = Slow()
    digests = Digests(resolver, lambda _: None, workers=1)
    running = asyncio.ensure_future(digests.run())
    resolver.go.set()
    lookup(digests, revision("a:1"))
    await asyncio.sleep(0.1)
    again = revision("b:1")
    again["metadata"]["uid"] = "u2"
    assert lookup(digests, again) is None
    await asyncio.sleep(0.1)
    assert resolver.asked == ["a:1", "b:1"]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize(
    ("image", "registry"),
    [
        ("busybox", "index.docker.io"),
        ("team/app:v1", "index.docker.io"),
        ("localhost/app", "localhost"),
        ("localhost:5000/app", "localhost:5000"),
        ("gcr.io/a/b:v1", "gcr.io"),
    ],
)
def test_the_registry_of_an_image(image: str, registry: str) -> None:
    assert registry_of(image) == registry


class Activators:
    """Activators that have caught up with some hashes."""

    def __init__(self) -> None:
        self.have: set[str] = set()
        self.asked: list[tuple[float, str, str]] = []

    async def probe(self, address: str, host: str, hash_: str) -> bool:
        self.asked.append((asyncio.get_running_loop().time(), address, hash_))
        return hash_ in self.have


@pytest.mark.looptime
async def test_activators_are_asked_at_once_then_ever_more_rarely() -> None:
    world = Activators()
    confirmed: list[Key] = []
    prober = Prober(world.probe, lambda: ["10.0.0.1:8012"], confirmed.append)
    running = asyncio.ensure_future(prober.run())
    await asyncio.sleep(0)
    started = asyncio.get_running_loop().time()
    assert not await prober.confirm(KEY, "hello", "h1", 0.1)
    await asyncio.sleep(300.0)
    times = [when - started for when, _, _ in world.asked]
    assert times[0] == 0.0
    assert times[1] < 0.01
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps == sorted(gaps)
    assert gaps[-1] == pytest.approx(30.0, rel=0.01)
    world.have.add("h1")
    await asyncio.sleep(31.0)
    assert confirmed == [KEY]
    assert await prober.confirm(KEY, "hello", "h1", 0.0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.looptime
async def test_a_newer_spec_ends_the_asking_for_the_older() -> None:
    world = Activators()
    prober = Prober(world.probe, lambda: ["10.0.0.1:8012", "10.0.0.2:8012"], lambda _: None)
    running = asyncio.ensure_future(prober.run())
    await asyncio.sleep(0)
    assert not await prober.confirm(KEY, "hello", "old", 0.01)
    world.have.add("new")
    assert await prober.confirm(KEY, "hello", "new", 0.01)
    before = len(world.asked)
    await asyncio.sleep(60.0)
    assert len(world.asked) == before
    prober.forget(KEY)
    assert prober.statistics().confirmed == prober.statistics().probing == 0
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
