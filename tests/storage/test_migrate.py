"""Upgrading: databases of a newer version, several servers at once, odd paths."""

import threading
from pathlib import Path

import pytest
from postgresql import fresh_database
from sqlalchemy import URL, inspect, text

from storage import migrate
from storage.database import Database, DatabaseUnusable
from storage.migrate import UPGRADE_LOCK, VERSION_TABLE, upgrade

WAITING = text("select count(*) from pg_locks where locktype = 'advisory' and not granted")


def test_a_database_of_a_newer_version_is_refused_in_one_line(database: Database) -> None:
    with database.write() as session:
        session.execute(text(f"update {VERSION_TABLE} set version_num = '9999'"))
    with pytest.raises(DatabaseUnusable, match=r"has schema 9999, which a newer version of Tuner wrote") as caught:
        upgrade(database)
    assert "\n" not in str(caught.value)


def test_servers_that_share_a_fresh_database_upgrade_it_one_after_the_other(postgresql_url: str) -> None:
    database = Database(fresh_database(postgresql_url))
    with database.engine.connect() as other:
        other.execute(text("select pg_advisory_lock(:key)"), {"key": UPGRADE_LOCK})
        second = threading.Thread(target=upgrade, args=(database,))
        second.start()
        while not other.execute(WAITING).scalar():
            assert second.is_alive()
        assert inspect(other).get_table_names() == []
        other.rollback()
        other.execute(text("select pg_advisory_unlock(:key)"), {"key": UPGRADE_LOCK})
        second.join()
        assert "studies" in inspect(other).get_table_names()
    database.close()


@pytest.mark.parametrize("name", ["a?b", "a%20b", "a#b", "a b", "a&mode=ro", "ü"])
def test_a_database_lies_where_its_path_says(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "tuner.sqlite"
    database = Database(URL.create("sqlite", database=str(path)))
    upgrade(database)
    database.close()
    assert path.is_file()
    assert [place.name for place in tmp_path.iterdir()] == [name]


def test_the_scripts_may_lie_under_any_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place = tmp_path / "100%20"
    place.mkdir()
    (place / "migrations").symlink_to(Path(migrate.__file__).parent / "migrations")
    monkeypatch.setattr(migrate, "__file__", str(place / "migrate.py"))
    database = Database(f"sqlite:///{tmp_path / 'x.sqlite'}")
    assert migrate.alembic_config(database).get_main_option("script_location") == str(place / "migrations")
    database.close()


@pytest.mark.parametrize(
    "url",
    ["postgresql+psycopg://me:hunter2@127.0.0.1:1/x", "postgresql+psycopg://127.0.0.1:1/x?user=me&password=hunter2"],
)
def test_no_message_holds_the_password(url: str) -> None:
    database = Database(url)
    with pytest.raises(DatabaseUnusable) as caught:
        upgrade(database)
    error: BaseException | None = caught.value
    while error is not None:
        assert "hunter2" not in f"{error} {error!r}"
        error = error.__cause__ or error.__context__
    assert "127.0.0.1:1/x" in str(caught.value)
    assert "hunter2" not in repr(vars(database))
