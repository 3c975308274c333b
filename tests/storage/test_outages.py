"""A database that is locked, gone, replaced or out of connections: one kind of error, and then it goes on."""

import shutil
import sqlite3
import threading
from pathlib import Path

import pytest
from sqlalchemy import text

from storage import studies
from storage.database import Database, DatabaseUnusable
from storage.migrate import upgrade

ISOLATION = "default_transaction_isolation"


def works(database: Database) -> bool:
    with database.read() as session:
        studies.count_by_state(session)
    with database.write() as session:
        studies.count_queued(session)
    return True


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tuner.sqlite"


@pytest.fixture
def sqlite(file: Path) -> Database:
    database = Database(f"sqlite:///{file}", patience_s=0.05)
    upgrade(database)
    assert works(database)
    return database


def test_a_file_that_another_process_has_locked_is_unusable_until_it_lets_go(file: Path, sqlite: Database) -> None:
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("begin immediate")
    with pytest.raises(DatabaseUnusable, match=r"tuner\.sqlite cannot be used: database is locked"):
        works(sqlite)
    other.execute("rollback")
    other.close()
    assert works(sqlite)


def test_a_writer_does_not_wait_for_ever_for_another_of_this_process(sqlite: Database) -> None:
    with sqlite.write(), pytest.raises(DatabaseUnusable, match=r"no turn to write in 0\.05 s"), sqlite.write():
        pass
    assert works(sqlite)


def test_a_file_that_was_deleted_or_replaced_is_noticed_at_once(file: Path, sqlite: Database, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copy(file, copy)
    file.unlink()
    for way in (sqlite.read, sqlite.write):
        with pytest.raises(DatabaseUnusable, match="was deleted while the server ran"), way():
            pass
    copy.rename(file)
    for way in (sqlite.read, sqlite.write):
        with pytest.raises(DatabaseUnusable, match="was replaced by another file while the server ran"), way():
            pass


def test_one_server_at_a_time_has_a_file(file: Path, sqlite: Database) -> None:
    sqlite.claim()
    sqlite.claim()  # again changes nothing
    other = Database(f"sqlite:///{file}")
    with pytest.raises(DatabaseUnusable, match="another server uses"):
        other.claim()
    sqlite.close()
    other.claim()
    other.close()


def test_connections_that_postgresql_ends_are_replaced(postgresql: Database) -> None:
    with pytest.raises(DatabaseUnusable, match="cannot be used: "), postgresql.write() as session:
        own = session.execute(text("select pg_backend_pid()")).scalar_one()
        with postgresql.read() as other:
            other.execute(text("select pg_terminate_backend(:pid)"), {"pid": own})
        studies.count_queued(session)
    assert works(postgresql)


def test_more_readers_than_connections_wait_and_then_hear_of_it(postgresql: Database) -> None:
    narrow = Database(postgresql.engine.url.render_as_string(hide_password=False), readers=2, patience_s=0.05)
    with narrow.read() as one, narrow.read() as two:
        studies.count_queued(one), studies.count_queued(two)
        with pytest.raises(DatabaseUnusable, match="QueuePool limit"), narrow.read() as three:
            studies.count_queued(three)
    failures: list[Exception] = []

    def read() -> None:
        try:
            assert works(narrow)
        except Exception as error:
            failures.append(error)

    patient = Database(narrow.engine.url.render_as_string(hide_password=False), readers=2, patience_s=10)
    narrow.close()
    narrow = patient
    threads = [threading.Thread(target=read) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    patient.close()
    assert not failures


def test_sessions_set_what_they_rely_on(postgresql: Database) -> None:
    """A role may have other defaults."""
    url = postgresql.engine.url
    with postgresql.write() as session:
        name = session.execute(text("select current_database()")).scalar_one()
        for setting in (
            "timezone to 'Asia/Tokyo'",
            "datestyle to 'SQL, DMY'",
            "default_transaction_isolation to 'serializable'",
        ):
            session.execute(text(f'alter database "{name}" set {setting}'))
    fresh = Database(url.render_as_string(hide_password=False))
    found = {}
    for kind in (fresh.read, fresh.write, fresh.read):
        with kind() as session:
            names = ("timezone", "datestyle", "transaction_isolation")
            zone, style, isolation = (session.execute(text(f"show {name}")).scalar_one() for name in names)
        assert found.setdefault(kind.__name__, (zone, style.split(",")[0], isolation))[2] == isolation
    fresh.close()
    assert found == {"read": ("UTC", "ISO", "repeatable read"), "write": ("UTC", "ISO", "read committed")}


def test_messages_do_not_carry_the_password() -> None:
    database = Database("postgresql+psycopg://me:hunter2@127.0.0.1:1/none", patience_s=0.2)
    with pytest.raises(DatabaseUnusable) as raised, database.read() as session:
        studies.count_queued(session)
    assert "hunter2" not in str(raised.value) and "me:***@127.0.0.1" in str(raised.value)
    with pytest.raises(DatabaseUnusable) as raised:
        upgrade(database)
    assert "hunter2" not in str(raised.value)
