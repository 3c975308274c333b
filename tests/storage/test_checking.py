"""`tuner db check`: every kind of fault is found, and nothing in a database that is well."""

from pathlib import Path

import pytest
from finished_trials import finish_trials
from sqlalchemy import text
from study_documents import study_document

from api.plans import Plans
from storage import studies
from storage.checking import faults
from storage.database import Database
from storage.migrate import VERSION_TABLE
from tuner.study.catalogue import BUILT_IN_WORKLOADS, load_catalogue
from tuner.study.check import parse_study


@pytest.fixture
def filled(database: Database) -> Database:
    """A study of eight trials."""
    spec = parse_study(study_document(name="mine", run_cap=8), load_catalogue(), set(BUILT_IN_WORKLOADS), {})
    with database.write() as session:
        study = studies.create(
            session, name="mine", title="", document=spec.model_dump(mode="json"), run_cap=8, parallel=4,
            batch_groups=[{"micro_batch": 16, "batch_sizes": [16, 32]}], idempotency_key=None,
            now=database.now(session),
        )  # fmt: skip
    finish_trials(database, Plans(), study.id, 8)
    return database


def broken(database: Database, statement: str) -> list[str]:
    with database.write() as session:
        session.execute(text(statement))
    return faults(database)


def test_a_database_that_is_well(filled: Database) -> None:
    assert faults(filled) == []


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("delete from trials where number = 7", "8 trials were created, 7 are there, the last is number 6"),
        ("delete from trials where number = 3", "8 trials were created, 7 are there, the last is number 7"),
        ("update studies set runs = 5", "5 runs are counted, 8 trials are runs"),
        ("update studies set revision = 0", "its revision is 0, its last event has 8"),
        ('update studies set document = \'{"name": "mine"}\'', "study mine: its document cannot be read: workload:"),
        (
            "update trials set state = 'running', finished_at = null where number = 2",
            "trial 2 of study 1 is running, and",
        ),
        ("update trials set finished_at = null where number = 4", "trial 4 of study 1 is"),
    ],
)
def test_every_kind_of_fault_is_named(filled: Database, statement: str, said: str) -> None:
    assert any(said in line for line in broken(filled, statement))


def test_few_of_many_are_named(filled: Database) -> None:
    lines = broken(filled, "update trials set finished_at = null")
    assert len(lines) == 6
    assert lines[-1] == "and 3 more like the last one"


def test_another_schema_is_said_first(filled: Database) -> None:
    lines = broken(filled, f"update {VERSION_TABLE} set version_num = '0003'")
    assert len(lines) == 1
    assert "the schema is 0003, not" in lines[0]


def test_a_damaged_file_is_found(tmp_path: Path, sqlite_template: Path) -> None:
    path = tmp_path / "damaged.sqlite"
    content = bytearray(sqlite_template.read_bytes())
    page = int.from_bytes(content[16:18], "big")
    content[-page:] = b"\xff" * page
    path.write_bytes(content)
    database = Database(f"sqlite:///{path}")
    assert any(line.startswith("the file is damaged") for line in faults(database))
    database.close()
