"""Requests a second, CPU per request and memory of one proxy hop, ours beside nginx.

    python benchmarks/proxy/run.py [--seconds 5] [--connections 64] [--rounds 3]

One process each for backend, proxy and load; the proxy has a core to itself (the first), the other two share the
next. Every proxy is measured in every round, so that a noisy moment hits all of them. CPU is the proxy's own, from
/proc: it says more than requests a second on a machine that does other things. Needs wrk; nginx is the backend and a
peer, and must be installed too.
"""

import argparse
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[2]
TICK = os.sysconf("SC_CLK_TCK")

NGINX = """
worker_processes 1; daemon off; master_process off; error_log stderr crit; pid {dir}/{name}.pid;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 1000000000;
  client_body_temp_path {dir}/{name}-b; proxy_temp_path {dir}/{name}-p; fastcgi_temp_path {dir}/{name}-f;
  uwsgi_temp_path {dir}/{name}-u; scgi_temp_path {dir}/{name}-s;
  {body}
}}
"""
BACKEND = 'server {{ listen 127.0.0.1:{port}; location / {{ return 200 "hello\\n"; }} }}'
PROXY = """
  upstream app {{ server 127.0.0.1:{backend}; keepalive 256; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{port}; location / {{
    proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection "";
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }} }}
"""

ACTIVATOR_HEADERS = (
    "User-Agent: Go-http-client/1.1",
    "Accept-Encoding: gzip",
    "Forwarded: for=10.0.0.1;proto=http",
    "K-Original-Host: hello.default.example.com",
    "K-Proxy-Request: activator",
    "X-Forwarded-For: 10.0.0.1, 10.0.0.2",
    "X-Forwarded-Proto: http",
    "X-Request-Id: 7f3d1b2c-aaaa-bbbb-cccc-1234567890ab",
    "Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
)
VARYING = """
local n = 0
request = function()
  n = n + 1
  return wrk.format("GET", "/hello?" .. n)
end
"""
POST = """
wrk.method = "POST"
wrk.body = string.rep("x", 1024)
"""


@dataclass(frozen=True)
class Sample:
    """One run of wrk against one proxy."""

    scenario: str
    proxy: str
    requests_per_second: float
    cpu_us: float
    """CPU of the proxy per request, microseconds."""
    p99_ms: float
    rss_mb: float
    errors: int


def cpu(pid: int) -> float:
    """Seconds of CPU a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def rss(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1000


@contextmanager
def running(*command: str, core: int, **environ: str) -> Iterator[int]:
    """A process on one core; yields its pid."""
    process = subprocess.Popen(
        ["taskset", "-c", str(core), *command],
        cwd=ROOT,
        env={**os.environ, **environ},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(port: int) -> None:
    for _ in range(100):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1).read()
        except OSError:
            time.sleep(0.05)
        else:
            return
    sys.exit(f"nothing answers on port {port}")


def load(scenario: str, proxy: str, pid: int, port: int, options: argparse.Namespace, *extra: str) -> Sample:
    """Run wrk against a proxy."""
    before = cpu(pid)
    wrk = subprocess.run(
        [
            *("taskset", "-c", str(options.cores[1]), "wrk", "-t1", f"-c{options.connections}"),
            *(f"-d{options.seconds}", "--latency", *extra, f"http://127.0.0.1:{port}/hello"),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    used = cpu(pid) - before
    count = int(re.search(r"(\d+) requests in", wrk)[1])  # type: ignore[index]  # wrk always prints it
    errors = re.search(r"Non-2xx or 3xx responses: (\d+)", wrk)
    failed = re.search(r"Socket errors: (.*)", wrk)
    quantile = re.search(r"99%\s+([\d.]+)(us|ms|s)", wrk)
    scale = {"us": 0.001, "ms": 1.0, "s": 1000.0}
    return Sample(
        scenario=scenario,
        proxy=proxy,
        requests_per_second=round(count / options.seconds),
        cpu_us=round(used / count * 1e6, 2),
        p99_ms=round(float(quantile[1]) * scale[quantile[2]], 2) if quantile else 0.0,
        rss_mb=round(rss(pid), 1),
        errors=(int(errors[1]) if errors else 0) + (sum(map(int, re.findall(r"\d+", failed[1]))) if failed else 0),
    )


def measure(options: argparse.Namespace) -> list[Sample]:
    first, second = options.cores
    base = options.base_port
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory() as work:

        def nginx(name: str, body: str) -> str:
            path = Path(work, f"{name}.conf")
            path.write_text(NGINX.format(dir=work, name=name, body=body))
            return str(path)

        (Path(work) / "vary.lua").write_text(VARYING)
        (Path(work) / "post.lua").write_text(POST)
        scenarios = {
            "GET": (),
            "GET, no two alike": ("-s", f"{work}/vary.lua"),
            "GET, 10 headers": tuple(part for header in ACTIVATOR_HEADERS for part in ("-H", header)),
            "POST 1 KiB": ("-s", f"{work}/post.lua"),
        }
        sidecar = {
            **dict.fromkeys(("SERVING_NAMESPACE", "SERVING_REVISION", "SERVING_POD"), "bench"),
            "SERVING_POD_IP": "127.0.0.1",
            "USER_PORT": str(base),
            "TORPOR_DRAIN_QUIET": "0",
        }
        with (
            running("nginx", "-c", nginx("backend", BACKEND.format(port=base)), "-p", work, core=second),
            running(
                *("nginx", "-c", nginx("proxy", PROXY.format(port=base + 1, backend=base)), "-p", work), core=first
            ) as peer,
            running(
                *(sys.executable, "-m", "queueproxy"),
                core=first,
                **sidecar,
                QUEUE_SERVING_PORT=str(base + 2),
                TORPOR_ADMIN_PORT=str(base + 3),
                TORPOR_METRICS_PORT=str(base + 4),
            ) as plain,
            running(
                *(sys.executable, "-m", "queueproxy"),
                core=first,
                **sidecar,
                CONTAINER_CONCURRENCY="100",
                REVISION_RESPONSE_START_TIMEOUT_SECONDS="300",
                REVISION_IDLE_TIMEOUT_SECONDS="300",
                QUEUE_SERVING_PORT=str(base + 5),
                TORPOR_ADMIN_PORT=str(base + 6),
                TORPOR_METRICS_PORT=str(base + 7),
            ) as limited,
        ):
            proxies = {
                "nginx": (peer, base + 1),
                "queue-proxy": (plain, base + 2),
                "queue-proxy, limit and all timeouts": (limited, base + 5),
            }
            for _, port in proxies.values():
                wait_for(port)
            for _ in range(options.rounds):
                for scenario, extra in scenarios.items():
                    for name, (pid, port) in proxies.items():
                        samples.append(load(scenario, name, pid, port, options, *extra))
                        print(samples[-1], file=sys.stderr)
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--base-port", type=int, default=18300)
    parser.add_argument("--cores", type=lambda text: [int(core) for core in text.split(",")], default=[0, 1])
    parser.add_argument("--json", type=Path, help="write the raw samples here")
    options = parser.parse_args()
    for tool in ("wrk", "nginx", "taskset"):
        if shutil.which(tool) is None:
            sys.exit(f"{tool} is not installed (apt-get install wrk nginx-light util-linux)")
    samples = measure(options)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    machine = f"{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}, {commit.strip()}"
    print(f"{machine}; {options.connections} connections, median of {options.rounds} x {options.seconds} s\n")
    print(f"{'scenario':20} {'proxy':36} {'req/s':>8} {'CPU us':>8} {'p99 ms':>8} {'RSS MB':>7} {'errors':>6}")
    for scenario, proxy in dict.fromkeys((sample.scenario, sample.proxy) for sample in samples):
        runs = [sample for sample in samples if (sample.scenario, sample.proxy) == (scenario, proxy)]
        print(
            f"{scenario:20} {proxy:36} {median(run.requests_per_second for run in runs):8.0f} "
            f"{median(run.cpu_us for run in runs):8.2f} {median(run.p99_ms for run in runs):8.2f} "
            f"{median(run.rss_mb for run in runs):7.1f} {sum(run.errors for run in runs):6}"
        )
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "samples": [asdict(sample) for sample in samples]}))


if __name__ == "__main__":
    main()
