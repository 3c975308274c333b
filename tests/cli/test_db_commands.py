"""`tuner db`: what each command says and its exit code; what it does is tested with the databases themselves."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import Result

from storage.database import Database

Run = Callable[..., Result]


@pytest.fixture
def there(tuner: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory with an empty database."""
    monkeypatch.chdir(tmp_path)
    made = tuner("db", "upgrade")
    assert made.exit_code == 0, made.output
    assert made.stderr.startswith("schema none -> ")
    return tmp_path / "var"


def test_upgrade_and_check(tuner: Run, there: Path) -> None:
    assert tuner("db", "upgrade").stderr.endswith("already\n")
    assert tuner("db", "check").stderr == "all is well\n"
    with closing(sqlite3.connect(there / "tuner.sqlite")) as connection:
        connection.execute("update tuner_schema_version set version_num = '0003'")
        connection.commit()
    wrong = tuner("db", "check")
    assert (wrong.exit_code, "the schema is 0003" in wrong.stderr) == (1, True)


def test_backup_and_move(tuner: Run, there: Path) -> None:
    assert "copy.sqlite: 0.2 MB" in tuner("db", "backup", "copy.sqlite").stderr
    again = tuner("db", "backup", "copy.sqlite")
    assert (again.exit_code, "exists already" in again.stderr) == (1, True)
    target = f"sqlite:///{there.parent / 'new' / 'tuner.sqlite'}"
    moved = tuner("db", "move", target, "--db", f"sqlite:///{there.parent / 'copy.sqlite'}")
    assert moved.exit_code == 0
    assert moved.stderr.splitlines()[0] == "identity: 1 row"
    assert moved.stderr.splitlines()[-1] == f"moved 1 row; serve it with --db {target}"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["check", "--data-dir", "nowhere"], 1, "there is no database"),
        (["backup", "no/such/folder.sqlite"], 1, "no such file or directory"),
        (["move", "nonsense"], 2, "TARGET: not a URL given"),
        (["move", "postgresql://a:secret@h/x"], 2, "contains a password"),
        (["check", "--db", "mysql://x"], 2, "--db (TUNER_DATABASE_URL): mysql given"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(tuner: Run, there: Path, arguments: list[str], code: int, said: str) -> None:
    result = tuner("db", *arguments)
    assert (result.exit_code, said in result.stderr.replace("\n", " ")) == (code, True), result.output
    assert "secret" not in result.output


def test_a_database_that_is_served_is_not_moved(tuner: Run, there: Path) -> None:
    same = tuner("db", "move", f"sqlite:///{there / 'tuner.sqlite'}")
    assert (same.exit_code, "is the database that is to be moved" in same.stderr) == (2, True)
    serving = Database(f"sqlite:///{there / 'tuner.sqlite'}")
    serving.claim()
    refused = tuner("db", "move", f"sqlite:///{there / 'other.sqlite'}")
    assert (refused.exit_code, "another server uses" in refused.stderr) == (1, True)
    assert tuner("db", "backup", str(there / "meanwhile.sqlite")).exit_code == 0
    assert tuner("db", "check").exit_code == 0
    serving.close()
