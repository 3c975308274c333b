"""A `tuner.Client` that talks to an app in this process."""

import asyncio
from concurrent import futures

import httpx2
from fastapi.testclient import TestClient

from tuner.client import Client


class Forwarding(httpx2.BaseTransport):
    """Passes requests on to a test client; `away` makes it a server that cannot be reached."""

    def __init__(self, app: TestClient) -> None:
        self._app = app
        self.away = False
        self.requests = 0

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.requests += 1
        if self.away:
            raise httpx2.ConnectError("connection refused", request=request)
        headers = {name: value for name, value in request.headers.items() if name != "host"}
        try:
            answer = self._app.request(request.method, str(request.url), headers=headers, content=request.read())
        except (RuntimeError, futures.CancelledError, asyncio.CancelledError) as error:  # the app was closed meanwhile
            raise httpx2.ConnectError(str(error), request=request) from error
        kept = {k: v for k, v in answer.headers.items() if k not in ("content-encoding", "content-length")}
        return httpx2.Response(answer.status_code, headers=kept, content=answer.content, request=request)


def client_of(app: TestClient) -> tuple[Client, Forwarding]:
    """Return a client of the app, and what is between the two."""
    between = Forwarding(app)
    return Client("http://127.0.0.1:8700", transport=between), between
