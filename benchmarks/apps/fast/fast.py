"""The fastest backend at hand on $PORT: nginx answering 12 bytes from memory, else a bare uvloop protocol.

With a backend that costs next to nothing, what is measured is the way to it. nginx takes this process's place, so
nobody is left to remove its files: they go to $SCRATCH, which whoever starts this removes.
"""

import asyncio
import os
import shutil
import sys
import tempfile
from pathlib import Path

BODY = b"hello world\n"
PORT = int(os.environ.get("PORT", "8080"))
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")

CONFIGURATION = """
daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
    access_log off; keepalive_requests 1000000000; keepalive_timeout 3600s;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{ listen 127.0.0.1:{port} backlog=4096; default_type text/plain;
              location / {{ return 200 "hello world\\n"; }} }}
}}
"""


class Fast(asyncio.Protocol):
    """Answers every header block it sees, without looking at it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._pending = b""
        self._answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s" % (
            len(BODY),
            BODY,
        )

    def data_received(self, data: bytes) -> None:
        *heads, self._pending = (self._pending + data).split(b"\r\n\r\n")
        if heads:
            self._transport.write(self._answer * len(heads))  # type: ignore[attr-defined]  # a stream's transport


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Fast, "127.0.0.1", PORT, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    if NGINX:
        folder = tempfile.mkdtemp(prefix="torpor-fast-", dir=os.environ.get("SCRATCH"))
        path = Path(folder, "nginx.conf")
        path.write_text(CONFIGURATION.format(folder=folder, port=PORT))
        os.execv(NGINX, [NGINX, "-p", folder, "-c", str(path)])
    import uvloop

    sys.exit(uvloop.run(serve()))
