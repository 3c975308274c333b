"""Live servers for the acceptance tests, each on a folder of its own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from live_server import LiveServer


@pytest.fixture
def live_server(tmp_path: Path) -> Iterator[Callable[..., LiveServer]]:
    """Make servers, and end whatever the test leaves running."""
    made: list[LiveServer] = []

    def make(*flags: str, **environment: str) -> LiveServer:
        server = LiveServer(tmp_path / f"server-{len(made)}", *flags, **environment)
        made.append(server)
        server.start()
        return server

    yield make
    for server in made:
        server.stop()
