"""`tuner db move` and `tuner db backup`: a service goes on where its database was copied to, in all four directions."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_worker import FakeWorker
from fastapi.testclient import TestClient
from over_http import submit, wait_for
from postgresql import fresh_database
from sqlalchemy import Connection, Table, text

from api.app import create_app, open_database
from api.settings import Settings
from api.waits import Waits
from storage import copying
from storage.backup import backup
from storage.checking import faults
from storage.copying import copy
from storage.database import Database
from tuner.errors import Conflict


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without a schema."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'there' / 'tuner.sqlite'}"
    return fresh_database(request.getfixturevalue("postgresql_url"))


@pytest.fixture
def database_of(serve_app: Callable[..., TestClient]) -> Callable[[TestClient], Database]:
    return lambda client: client.app.state.server.database  # type: ignore[attr-defined,no-any-return]


def fill(client: TestClient) -> None:
    """Two studies, the first deleted; of the second one trial finished, one failed its attempt, one runs, some wait."""
    submit(client, name="gone")
    client.delete("/api/v1/studies/gone")
    submit(client, name="mine", run_cap=6, parallel=4, retry={"max": 2})
    worker = FakeWorker(client, width=3)
    first, second, third = worker.take(3)
    nan = {"trial": first["trial"], "attempt": 1, "step": 1, "examples": 16, "elapsed_s": 1.0}
    worker.sync(free=0, reports=[{**nan, "metrics": {"valid_loss": "NaN", "accuracy": 0.5}, "noise": None}])
    worker.finish(first, 0.25)
    worker.finish(second, None, outcome="error", error="Traceback: it broke")
    worker.held.pop((third["trial"], third["attempt"]), None)
    # One ended and four are in flight: the conductor adds nothing while the rows are compared.
    wait_for(lambda: len(client.get("/api/v1/studies/mine/trials").json()["items"]) == 5)


def rows(database: Database) -> dict[str, list[Any]]:
    with database.read() as session:
        found = {}
        for table in copying.Base.metadata.sorted_tables:
            order = ", ".join(column.name for column in table.primary_key)
            query = table.select().order_by(text(order))
            found[table.name] = [tuple(map(repr, row)) for row in session.execute(query)]
        return found


@pytest.fixture
def opened() -> Iterator[Callable[[str], Database]]:
    made: list[Database] = []

    def start(url: str) -> Database:
        made.append(Database(url))
        return made[-1]

    yield start
    for database in made:
        database.close()


def test_every_row_arrives_and_the_service_goes_on(
    client: TestClient,
    database_of: Callable[[TestClient], Database],
    empty_url: str,
    opened: Callable[[str], Database],
    tmp_path: Path,
) -> None:
    fill(client)
    client.post("/api/v1/tokens", json={"role": "admin", "label": "me"})
    source = database_of(client)
    with source.write() as session:
        session.execute(text("update tokens set revoked_at = created_at"))
        before = session.execute(text("select max(id) from trials")).scalar_one()
    told: list[tuple[str, int]] = []
    target = opened(empty_url)
    counts = copy(source, target, lambda table, count: told.append((table, count)))
    assert rows(source) == rows(target)
    assert dict(told) == counts
    assert min(counts[table] for table in ("studies", "trials", "attempts", "reports", "events", "tokens")) > 0
    assert faults(target) == []
    target.close()
    settings = Settings(data_dir=tmp_path / "moved", database_url=empty_url)
    app = create_app(settings, open_database(settings), Waits(tick_s=0.05, pause=0.0))
    with TestClient(app, base_url="http://127.0.0.1:8700") as moved:
        curve = moved.get("/api/v1/studies/mine/trials/0/curve?metric=accuracy").json()
        assert curve["value"] == [0.5]
        # Ids go on: the deleted study's are not given again, and new trials have new ones.
        assert submit(moved, name="later") == 3
        worker = FakeWorker(moved, session="another-session-1", width=2)
        taken = worker.take(2)
        assert all(one["trial"] > before for one in taken if one["study"] == "later")
        worker.finish(taken[0], 0.5)


def test_nothing_is_written_over_anything(
    client: TestClient, database_of: Callable[[TestClient], Database], empty_url: str, opened: Callable[[str], Database]
) -> None:
    fill(client)
    source, target = database_of(client), opened(empty_url)
    copy(source, target)
    kept = rows(target)
    with pytest.raises(Conflict, match=r"is not empty: \d+ rows in studies"):
        copy(source, target)
    assert rows(target) == kept


def test_a_copy_that_breaks_off_leaves_nothing(
    client: TestClient,
    database_of: Callable[[TestClient], Database],
    empty_url: str,
    opened: Callable[[str], Database],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fill(client)
    source, target = database_of(client), opened(empty_url)
    real = copying._count

    def lost(connection: Connection, table: Table) -> int:
        arrived = connection.engine.url == target.engine.url and table.name == "reports"
        return 0 if arrived else real(connection, table)

    monkeypatch.setattr(copying, "_count", lost)
    with pytest.raises(Conflict, match="0 of 1 rows of reports arrived; nothing was kept"):
        copy(source, target)
    monkeypatch.undo()
    with target.read() as session:
        assert session.execute(text("select count(*) from trials")).scalar_one() == 0
    copy(source, target)
    assert rows(source) == rows(target)


def test_an_older_schema_is_upgraded_first(opened: Callable[[str], Database], empty_url: str, tmp_path: Path) -> None:
    source = opened(empty_url)
    with pytest.raises(Conflict, match=r"has no schema, not \d+; upgrade it first: tuner db upgrade"):
        copy(source, opened(f"sqlite:///{tmp_path / 'target.sqlite'}"))


def test_a_backup_is_one_file_that_a_server_can_open(
    client: TestClient, database_of: Callable[[TestClient], Database], opened: Callable[[str], Database], tmp_path: Path
) -> None:
    fill(client)
    source, file = database_of(client), tmp_path / "backup" / "tuner.sqlite"
    file.parent.mkdir()
    backup(source, file)
    assert [path.name for path in file.parent.iterdir()] == ["tuner.sqlite"]
    copied = opened(f"sqlite:///{file}")
    assert rows(copied) == rows(source)
    assert faults(copied) == []
    with pytest.raises(Conflict, match="exists already; a backup replaces nothing"):
        backup(source, file)
