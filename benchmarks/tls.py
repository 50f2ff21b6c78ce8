"""What TLS costs: requests on kept connections and whole handshakes, through our queue-proxy and through nginx.

Both forward to one backend (another nginx) and serve the same certificate, on a processor of their own. A request in
TLS minus one in clear is what encrypting it costs; handshakes come from two `openssl s_time`, each a new connection
without resuming, with one request. Figures are CPU time of the proxy per request or handshake, which others on the
machine disturb least; rates are there too.
"""

import contextlib
import datetime
import json
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from benchmarks import nginx
from benchmarks.load import wrk
from benchmarks.peers.process import Running, process
from benchmarks.ports import free_ports
from benchmarks.procfs import cpu_seconds, memory
from benchmarks.report import Report
from benchmarks.samples import table

__all__ = ["measure"]

KINDS = {"ecdsa": "P-256", "rsa": "RSA 2048"}
CROWD = 500
BACKEND = """
daemon off; master_process off; pid {folder}/pid; error_log stderr crit; events {{ worker_connections 4096; }}
http {{
    access_log off; keepalive_requests 1000000000;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{ listen 127.0.0.1:{listen} backlog=4096; location / {{ return 200 "hello"; }} }}
}}
"""
SECURE = (
    "listen 127.0.0.1:{listen} ssl backlog=4096;"
    " ssl_certificate {folder}/tls.crt; ssl_certificate_key {folder}/tls.key;"
    " ssl_protocols TLSv1.2 TLSv1.3; listen 127.0.0.1:{plain} backlog=4096;"
)


async def measure(report: Report) -> None:
    """Take the samples and summarise them."""
    seconds = 1.0 if report.options.quick else 4.0
    rounds = report.options.samples(full=3, quick=1)
    processors = sorted(os.sched_getaffinity(0))
    ours, others = processors[-1], processors[0]
    rows: dict[str, list[float | str]] = {}
    for kind, shown in KINDS.items():
        with tempfile.TemporaryDirectory(prefix="torpor-tls-") as folder:
            _certificate(Path(folder), kind)
            for name, start in (("torpor", _ours), ("nginx", _nginx)):
                taken = []
                for _ in range(rounds):
                    with _backend(Path(folder), others) as backend, start(Path(folder), backend, ours) as running:
                        taken.append(_round(*running, seconds=seconds, processor=others))
                report.samples[f"{name} {kind}"] = taken
                middle = {key: sorted(one[key] for one in taken)[len(taken) // 2] for key in taken[0]}
                report.summary[f"{name} {kind}"] = {key: round(value, 1) for key, value in middle.items()}
                rows[f"{name}, {shown}"] = [*middle.values()]
                report.note(f"{name}, {shown}: {report.summary[f'{name} {kind}']}")
    columns = ("clear us", "TLS us", "TLS requests/s", "handshake us", "handshakes/s", f"KB each of {CROWD}")
    report.say(f"CPU per request (64 connections) and handshake (TLS 1.3), {rounds} rounds", *table(columns, rows))


def _round(proxy: Running, secure: int, *, seconds: float, processor: int) -> dict[str, float]:
    pids = [proxy.pid]
    found: dict[str, float] = {}
    for name, url in (("clear", proxy.address[1]), ("tls", secure)):
        scheme = "http" if name == "clear" else "https"
        before = cpu_seconds(pids)
        load = wrk.run(f"{scheme}://127.0.0.1:{url}/", proxy.headers or {}, seconds=seconds, processor=processor)
        found[f"{name}_us"] = (cpu_seconds(pids) - before) / load.requests * 1e6
    found["tls_rate"] = load.rate
    before, begun = cpu_seconds(pids), time.monotonic()
    count = _handshakes(secure, seconds)
    found["handshake_us"] = (cpu_seconds(pids) - before) / count * 1e6
    found["handshake_rate"] = count / (time.monotonic() - begun)
    found["connection_kb"] = _crowd(proxy, secure)
    return found


def _handshakes(port: int, seconds: float) -> int:
    """Whole handshakes that two clients get done."""
    command = ["openssl", "s_time", "-connect", f"127.0.0.1:{port}", "-new", "-www", "/"]
    running = [
        subprocess.Popen([*command, "-time", str(max(1, round(seconds)))], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    done = 0
    for one in running:
        text, _ = one.communicate()
        done += int(text.partition(" connections in")[0].split()[-1])
    return done


def _crowd(proxy: Running, port: int) -> float:
    """What an idle connection that has had an answer holds, kilobytes."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    before = memory(proxy.pid).uss
    request = b"".join(b"%s: %s\r\n" % (k.encode(), v.encode()) for k, v in (proxy.headers or {}).items())
    with contextlib.ExitStack() as stack:
        for _ in range(CROWD):
            raw = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            connection = stack.enter_context(context.wrap_socket(raw, server_hostname="localhost"))
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % request)
            connection.recv(4096)
        return (memory(proxy.pid).uss - before) / CROWD / 1000


@contextlib.contextmanager
def _backend(folder: Path, processor: int) -> Iterator[tuple[str, int]]:
    (listen,) = free_ports(1)
    path = folder / "backend.conf"
    path.write_text(BACKEND.format(folder=folder, listen=listen))
    command = [nginx.program(), "-p", str(folder), "-c", str(path)]
    with process("backend", command, ("127.0.0.1", listen), processor=processor) as running:
        yield running.address


@contextlib.contextmanager
def _ours(folder: Path, backend: tuple[str, int], processor: int) -> Iterator[tuple[Running, int]]:
    serving, secure, admin, metrics = free_ports(4)
    environment = {
        "SERVING_NAMESPACE": "default",
        "SERVING_REVISION": "hello-1",
        "SERVING_POD": "hello-1-pod",
        "SERVING_POD_IP": "127.0.0.1",
        "USER_PORT": str(backend[1]),
        "QUEUE_SERVING_PORT": str(serving),
        "QUEUE_SERVING_TLS_PORT": str(secure),
        "TORPOR_ADMIN_PORT": str(admin),
        "TORPOR_METRICS_PORT": str(metrics),
        "TORPOR_CERTIFICATES": str(folder),
        "QUEUE_PROXY_TLS_MIN_VERSION": "1.2",
        "SERVING_READINESS_PROBE": json.dumps({"tcpSocket": {"port": backend[1], "host": "127.0.0.1"}}),
    }
    command = [sys.executable, "-m", "queueproxy"]
    with process("torpor", command, ("127.0.0.1", serving), processor=processor, environment=environment) as running:
        yield running, secure


@contextlib.contextmanager
def _nginx(folder: Path, backend: tuple[str, int], processor: int) -> Iterator[tuple[Running, int]]:
    plain, secure = free_ports(2)
    text = nginx.configuration(str(folder), plain, backend).replace(
        f"listen 127.0.0.1:{plain} backlog=4096;", SECURE.format(listen=secure, plain=plain, folder=folder)
    )
    path = folder / "proxy.conf"
    path.write_text(text.replace("/pid;", "/proxy-pid;"))
    command = [nginx.program(), "-p", str(folder), "-c", str(path)]
    with process("nginx", command, ("127.0.0.1", plain), processor=processor) as running:
        yield running, secure


def _certificate(folder: Path, kind: str) -> None:
    """A self-signed certificate, `tls.crt` and `tls.key`."""
    key: Any = ec.generate_private_key(ec.SECP256R1()) if kind == "ecdsa" else rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "tls.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "tls.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
