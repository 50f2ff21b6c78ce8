"""The informer and the embedded API server through restarts: what a `kill -9` of the control process looks like."""

import asyncio
from pathlib import Path

from benchmarks.ports import free_port
from kncore.api.resources import CONFIG_MAPS, DEPLOYMENTS
from kncore.kube.client import Key, Obj, Patch
from kncore.kube.cluster import HttpClient
from kncore.kube.informer import Change, Informer
from torpor.embedded.apiserver.server import ApiServer


def config(name: str, value: str) -> Obj:
    return {"metadata": {"name": name, "namespace": "default"}, "data": {"v": value}}


async def test_an_informer_lives_through_restarts_of_the_server(tmp_path: Path) -> None:
    port = free_port()

    def made() -> ApiServer:
        return ApiServer(tmp_path, listen=("127.0.0.1", port), knative=False)

    server = made()
    await server.start()
    client = HttpClient(server.url, ca=server.ca_pem, token=server.token)
    informer = Informer(client, CONFIG_MAPS, namespace="default")
    changes: list[Change] = []
    informer.add_handler(changes.append)
    running = asyncio.create_task(informer.run())
    try:
        for round_ in range(3):
            await client.create(CONFIG_MAPS, config(f"c{round_}", "1"))
            await client.patch(CONFIG_MAPS, "c0", {"data": {"v": f"round {round_}"}}, "default")
            if round_ == 2:
                await client.delete(CONFIG_MAPS, "c1", "default")
            await server.stop()
            server = made()
            await server.start()
            await client.create(CONFIG_MAPS, config(f"after{round_}", "1"))
        wanted = {"c0", "c2", "after0", "after1", "after2"}

        def names() -> set[str]:
            return {obj["metadata"]["name"] for obj in informer.list()} - {"kube-root-ca.crt"}

        async with asyncio.timeout(20.0):
            while names() != wanted:  # noqa: ASYNC110 (the cache has no event for this)
                await asyncio.sleep(0.02)
        rebuilt: dict[Key, Obj] = {}
        for change in changes:
            assert (change.type == "added") == (change.key not in rebuilt)
            if change.type == "deleted":
                del rebuilt[change.key]
            else:
                rebuilt[change.key] = change.object
        assert rebuilt[Key("default", "c0")]["data"] == {"v": "round 2"}
        assert rebuilt == {Key.of(obj): obj for obj in informer.list()}
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await client.aclose()
        await server.stop()


async def test_a_scale_patch_reaches_a_watcher_at_once(tmp_path: Path) -> None:
    """The control plane's share of a wake-up: one request, one event, no polling in between."""
    server = ApiServer(tmp_path, knative=False)
    await server.start()
    client = HttpClient(server.url, ca=server.ca_pem, token=server.token)
    informer = Informer(client, DEPLOYMENTS)
    seen: asyncio.Queue[int] = asyncio.Queue()
    informer.add_handler(lambda change: seen.put_nowait(change.object["spec"]["replicas"]))
    running = asyncio.create_task(informer.run())
    loop = asyncio.get_running_loop()
    try:
        await informer.wait_synced(loop.time() + 10.0)
        labels = {"app": "a"}
        template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "app", "image": "dev.local/a"}]}}
        spec = {"replicas": 0, "selector": {"matchLabels": labels}, "template": template}
        await client.create(DEPLOYMENTS, {"metadata": {"name": "a", "namespace": "default"}, "spec": spec})
        assert await seen.get() == 0
        took = []
        for replicas in range(1, 51):
            patch = [{"op": "replace", "path": "/spec/replicas", "value": replicas}]
            started = loop.time()
            await client.patch(DEPLOYMENTS, "a", patch, "default", how=Patch.JSON, subresource="scale")
            assert await seen.get() == replicas
            took.append(loop.time() - started)
        assert sorted(took)[25] < 0.05  # usually below 1 ms; a poll anywhere on the way would show
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await client.aclose()
        await server.stop()
