"""An app for the platform tests: slow to start ($STARTUP seconds); it can work (?sleep=ms), fail and tell its pid."""

import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

served = 0
overlap = 0
highest = 0
lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        global served, overlap, highest
        query = parse_qs(urlsplit(self.path).query)
        with lock:
            served += 1
            overlap += 1
            highest = max(highest, overlap)
        time.sleep(float(query.get("sleep", ["0"])[0]) / 1000)
        with lock:
            overlap -= 1
        body = f"{os.environ.get('K_REVISION', '-')} {os.getpid()} served={served} highest={highest}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024


time.sleep(float(os.environ.get("STARTUP", "0")))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
server = Server(("127.0.0.1", int(os.environ["PORT"])), Handler)
server.serve_forever()
