"""Several servers on a PostgreSQL database."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from several_servers import Served


@pytest.fixture
def database_url(emptied_postgresql: str) -> str:
    return emptied_postgresql


@pytest.fixture
def serve(database_url: str, tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Start one more server on the database."""
    started: list[Served] = []

    def start(**changes: Any) -> Served:
        found = Served(database_url, tmp_path / "data", **changes)
        started.append(found)
        return found

    yield start
    for served in started:
        served.close()
