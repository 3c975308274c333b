"""Servers that share a PostgreSQL database, in this process: each has its own app, loop and line."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from api.app import create_app, open_database
from api.servers.shards import Shards
from api.settings import Settings
from api.state import Server
from api.waits import Waits


class Served:
    """One of the servers."""

    def __init__(self, url: str, folder: Path, **changes: Any) -> None:
        waits = changes.pop("waits", Waits(tick_s=0.05, pause=0.0))
        settings = Settings(data_dir=folder, database_url=url, **changes)
        self._app = create_app(settings, open_database(settings), waits)
        self.client = TestClient(self._app, base_url="http://127.0.0.1:8700")
        self.client.__enter__()
        self.running = True

    @property
    def server(self) -> Server:
        """Its components."""
        found: Server = self._app.state.server
        return found

    @property
    def shards(self) -> Shards:
        """What it drives."""
        found = self.server.ownership
        assert isinstance(found, Shards)
        return found

    def close(self) -> None:
        """Shut it down in order."""
        if self.running:
            self.running = False
            self.client.__exit__(None, None, None)


def eventually(condition: Callable[[], object], what: str, timeout_s: float = 30.0) -> None:
    """Wait until a condition holds."""
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, f"waited {timeout_s:.0f} s in vain for {what}"
        time.sleep(0.01)
