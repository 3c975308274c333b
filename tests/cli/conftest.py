"""The fake server, an environment without TUNER_ variables, and the command's runner."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_server import FakeServer
from fastapi.testclient import TestClient
from typer.testing import CliRunner, Result

from tuner.cli import app as commands
from tuner.client import Client


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    """A fake server that TUNER_SERVER points to."""
    with FakeServer() as fake:
        thread = threading.Thread(target=fake.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        monkeypatch.setenv("TUNER_SERVER", fake.url)
        yield fake
        fake.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TUNER_TOKEN", "TUNER_DATA_DIR", "TUNER_SERVER", "FORCE_COLOR", "NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def tuner() -> Callable[..., Result]:
    """Run a command: `tuner("best", "demo")`."""

    def run(*arguments: str, **options: Any) -> Result:
        return CliRunner().invoke(commands, list(arguments), **options)

    return run


@pytest.fixture
def app(serve_app: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch) -> TestClient:
    """The real app, which every command of the test talks to."""
    client = serve_app()
    connect = Client.__init__

    def connected(self: Client, url: str | None = None, token: str | None = None, **_: object) -> None:
        connect(self, "http://127.0.0.1:8700", token, transport=client._transport)

    monkeypatch.setattr(Client, "__init__", connected)
    monkeypatch.setattr(Client, "close", lambda self: None)  # the app's own transport outlives a command
    return client
