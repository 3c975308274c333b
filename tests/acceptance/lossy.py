"""A proxy between workers and servers that loses a part of the requests and of the replies, at random."""

import http.client
import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PASSED_ON = ("content-type", "authorization", "host", "accept-encoding", "content-encoding")


class LossyProxy:
    """Passes each request to one of the servers at random. `lost` counts requests and replies that it dropped."""

    def __init__(self, share: float, seed: int) -> None:
        """`share`: of the requests, and of the replies, that are lost."""
        self.ports: list[int] = []
        """Of the servers that there are now, whether they answer or not."""
        self.passed = 0
        self.lost = {"request": 0, "reply": 0}
        self._share = share
        self._draw = random.Random(seed)
        self._lock = threading.Lock()
        handler = type("BoundHandler", (_Handler,), {"proxy": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def loses(self, what: str) -> bool:
        """Whether to drop the next one."""
        with self._lock:
            self.passed += 1
            lost = self._draw.random() < self._share
            self.lost[what] += lost
            return lost

    def port(self) -> int:
        """Choose a server."""
        with self._lock:
            return self._draw.choice(self.ports)

    def close(self) -> None:
        """Let nothing through any more."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    proxy: LossyProxy
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._pass()

    def do_POST(self) -> None:
        self._pass()

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.close_connection = True  # without an answer, unless there is one
        if self.proxy.loses("request"):
            return
        port = self.proxy.port()
        server = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() in PASSED_ON}
        try:
            server.request(self.command, self.path, body, {**headers, "Host": f"127.0.0.1:{port}"})
            answer = server.getresponse()
            said = answer.read()
        except (OSError, http.client.HTTPException):
            return  # the server is dead, or died
        finally:
            server.close()
        if self.proxy.loses("reply"):
            return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() in ("content-type", "content-encoding", "retry-after"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)
        self.close_connection = False

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True  # the worker is dead
