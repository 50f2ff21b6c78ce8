"""A small web service: greets on every path, answers /health, logs requests; ?sleep=500 makes it work for 500 ms."""

import logging
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

PORT = int(os.environ.get("PORT", "8080"))
logging.basicConfig(
    stream=sys.stdout, level=os.environ.get("LOG_LEVEL", "info").upper(), format="%(levelname)s %(message)s"
)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        time.sleep(min(float(query.get("sleep", ["0"])[0]), 60_000) / 1000)
        body = (
            b"ok\n" if self.path == "/health" else f"Hello from {os.environ.get('K_REVISION', 'a laptop')}!\n".encode()
        )
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        if self.path != "/health":
            logging.info(format, *args)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024  # a burst that waited for the wake-up arrives all at once


if __name__ == "__main__":
    server = Server(("0.0.0.0", PORT), Handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    logging.info("listening on port %d", PORT)
    server.serve_forever()
