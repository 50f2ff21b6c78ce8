"""What a sidecar loads: it runs in every pod, so every megabyte counts as often as there are pods."""

import json
import subprocess
import sys

SCRIPT = """
import json, sys, threading
import queueproxy.__main__
import asyncio
print(json.dumps({
    "modules": sorted(sys.modules),
    "threads": threading.active_count(),
    "loop": asyncio._get_running_loop() is not None,
}))
"""


def test_starts_nothing_and_loads_no_heavy_library() -> None:
    ran = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    found = json.loads(ran.stdout)
    tops = {name.partition(".")[0] for name in found["modules"]}
    assert tops.isdisjoint(
        {
            "aiohttp",
            "kubernetes_asyncio",
            "prometheus_client",
            "wsproto",
            "h11",
            "h2",
            "yaml",
            "rich",
            "typer",
            "google",
            "orjson",
        }
    )
    assert "kncore.kube" not in found["modules"]
    assert "kncore.gotemplate" not in found["modules"]
    assert (found["threads"], found["loop"]) == (1, False)
