"""TLS on a whole platform: for users by its own authority, and inside when config-network says so."""

import base64
import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.platforms import Platform


def curl(platform: Platform, *arguments: str, host: str = "hello.default.localhost", path: str = "/") -> str:
    """What curl prints for a URL in https that leads to the platform, with its exit code in front."""
    port = platform.running["https"].rpartition(":")[2]
    done = subprocess.run(
        [
            *("curl", "-sS", "--noproxy", "*", "--max-time", "20", "--resolve", f"*:{port}:127.0.0.1"),
            *(arguments or ("--cacert", str(platform.state / "ca.crt"))),
            f"https://{host}:{port}{path}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"{done.returncode} {done.stdout or done.stderr}"


async def hello(platform: Platform) -> None:
    platform.torpor("apply", "-f", str(platform.examples / "hello" / "hello-service.yaml"))
    await platform.ready("hello")


@pytest.mark.timeout(120)
async def test_services_answer_in_https(platform: Platform, http) -> None:
    await hello(platform)
    assert curl(platform) == "0 Hello from hello-00001!\n"
    assert "SSL certificate problem" in curl(platform, "-g")
    assert curl(platform, host="nobody.default.localhost").startswith("0 no service answers")
    assert "no alternative certificate subject name" in curl(platform, host="hello.elsewhere.localhost")
    assert curl(platform, "-k", host="hello.default.example.com") == "0 Hello from hello-00001!\n"

    redirected = {"metadata": {"annotations": {"networking.knative.dev/http-protocol": "redirected"}}}
    platform.torpor("patch", "ksvc/hello", "-p", json.dumps(redirected))
    url, headers = platform.url("hello", "/a?b=c")
    https = f"https://hello.default.localhost:{platform.running['https'].rpartition(':')[2]}"

    async def sent_away() -> str:
        async with http.get(url, headers=headers, allow_redirects=False) as answer:
            return answer.headers.get("Location", "") if answer.status == 301 else ""

    assert await platform.eventually(sent_away, 10, "redirect") == f"{https}/a?b=c"
    assert curl(platform) == "0 Hello from hello-00001!\n"


@pytest.mark.timeout(180)
async def test_a_platform_that_speaks_tls_inside(own_platform: Callable[..., Platform], http) -> None:
    """Certificates are given, pods are reached at their port for TLS, and the ones of other namespaces are not ours."""
    platform = own_platform()
    enabled = {"data": {"system-internal-tls": "enabled"}}
    platform.torpor("patch", "cm/config-network", "-n", "knative-serving", "-p", json.dumps(enabled))
    await platform.eventually(
        lambda: platform.torpor("get", "secret", "routing-serving-certs", "-n", "knative-serving", check=False),
        20,
        "certificate of the data plane",
    )
    os.kill(platform.pid_of("activator"), signal.SIGKILL)  # read at its start only; the next one does
    await hello(platform)
    url, headers = platform.url("hello")
    async with http.get(url, headers=headers) as answer:
        assert (answer.status, await answer.text()) == (200, "Hello from hello-00001!\n")
    assert towards(8112), "the activator has a connection in TLS"
    (pod,) = platform.pods("hello")
    authority = platform.state / "inside.crt"
    secret = json.loads(platform.torpor("get", "secret", "serving-certs", "-o", "json"))
    authority.write_bytes(base64.b64decode(secret["data"]["ca.crt"]))
    shown = subprocess.run(
        [
            *("openssl", "s_client", "-connect", f"{pod['status']['podIP']}:8112", "-servername"),
            *("data-plane.knative.dev", "-CAfile", str(authority), "-verify_hostname", "kn-user-default"),
        ],
        input="",
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    assert "Verification: OK" in shown
    assert "TLSv1.3" in shown


def towards(port: int) -> list[str]:
    """Established connections to a port on this machine."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [row[2] for row in rows if row[3] == "01" and int(row[2].rpartition(":")[2], 16) == port]
