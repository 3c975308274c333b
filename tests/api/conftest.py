"""The app of every test runs on SQLite and on a real PostgreSQL server."""

import pytest


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str | None:
    return None if request.param == "sqlite" else request.getfixturevalue("emptied_postgresql")
