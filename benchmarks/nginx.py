"""nginx as reverse proxy, set up to do what ours do and no more: keep-alive both ways, forwarded headers, no log."""

import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.client import ask
from benchmarks.ports import free_port

__all__ = ["NoNginx", "configuration", "program", "proxy"]

CONFIGURATION = """
daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log stderr crit;
events {{ worker_connections 8192; }}
http {{
    access_log off; client_max_body_size 0; keepalive_requests 1000000000; keepalive_timeout 3600s;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    map $http_upgrade $passed {{ default upgrade; '' ''; }}
    upstream next {{ server {host}:{port}; keepalive 1024; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{listen} backlog=4096;
        location / {{
            proxy_pass http://next; proxy_http_version 1.1;
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_request_buffering off; proxy_max_temp_file_size 0;
            proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $passed;
        }}
    }}
}}
"""


class NoNginx(Exception):
    """nginx is not installed."""


def program() -> str:
    """The path of nginx.

    Raises:
        NoNginx: it is not there.
    """
    path = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if path is None:
        raise NoNginx("nginx is not installed (Debian: apt-get install nginx-light)")
    return path


def configuration(folder: str, listen: int, upstream: tuple[str, int]) -> str:
    """nginx.conf of a proxy on a port of 127.0.0.1 that keeps its files in `folder`."""
    return CONFIGURATION.format(folder=folder, listen=listen, host=upstream[0], port=upstream[1])


@contextlib.contextmanager
def proxy(upstream: tuple[str, int]) -> Iterator[tuple[subprocess.Popen[bytes], tuple[str, int]]]:
    """One single-process nginx in front of `upstream`: its process and address.

    Raises:
        NoNginx: it is not there.
    """
    nginx = program()
    with tempfile.TemporaryDirectory(prefix="torpor-nginx-") as folder:
        listen = free_port()
        path = Path(folder, "nginx.conf")
        path.write_text(configuration(folder, listen, upstream))
        process = subprocess.Popen(
            [nginx, "-p", folder, "-c", str(path)], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            _until_it_answers(("127.0.0.1", listen))
            yield process, ("127.0.0.1", listen)
        finally:
            process.kill()
            process.wait(10)


def _until_it_answers(address: tuple[str, int]) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            if ask(address, "/", "localhost").status == 200:
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.02)
