"""The fake server behind real HTTP: the two routes that a worker uses."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from worker_doubles import FakeServer

from tuner.wire.sync import Registration, SyncRequest


class Handler(BaseHTTPRequestHandler):
    fake: FakeServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/v1/workers":
            answer = self.fake.register(Registration.model_validate_json(body)).model_dump_json()
        else:
            worker = int(self.path.split("/")[-2])
            answer = self.fake.sync(worker, SyncRequest.model_validate_json(body)).model_dump_json()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class HttpServer:
    """Serves a `FakeServer` on a free port of the loopback."""

    def __init__(self, fake: FakeServer) -> None:
        handler = type("BoundHandler", (Handler,), {"fake": fake})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "HttpServer":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
