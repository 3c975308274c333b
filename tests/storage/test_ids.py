"""Ids are never used twice, on either database and after the migration that made it so."""

import sqlite3
from dataclasses import dataclass
from pathlib import Path

import pytest
import stored_leases
from alembic import command
from sqlalchemy import text
from stored_leases import NOW

from storage import identity, studies, trials, workers
from storage.database import Database
from storage.migrate import alembic_config, upgrade
from storage.trials import NewTrial
from tuner.study.states import TrialState


@dataclass
class Ids:
    study: int
    trial: int
    worker: int


def make(database: Database, session_name: str) -> Ids:
    """A study with a trial that a worker runs."""
    with database.write() as session:
        study = studies.create(
            session, name="s", title="", document={"workload": {"name": "w"}}, run_cap=9, parallel=4,
            idempotency_key=None, now=NOW,
        )  # fmt: skip
        studies.reserve_number(session, study_id=study.id)
        new = NewTrial(0, "sgd", {"lr": 0.1}, 0, TrialState.QUEUED, None, 0, 10, 320, "k")
        trial = trials.create(session, study_id=study.id, trial=new, now=NOW)
        worker = workers.register(
            session, worker_session=session_name * 16, name="w", devices=[], workloads=[], version="", now=NOW
        )
        stored_leases.grant(session, trial, worker)
    return Ids(study.id, trial, worker)


def wipe(database: Database, ids: Ids) -> None:
    with database.write() as session:
        studies.delete_study(session, study_id=ids.study)
        session.execute(text("delete from workers"))


def test_no_id_is_used_twice(database: Database) -> None:
    first = make(database, "a")
    wipe(database, first)
    second = make(database, "b")
    assert second.study > first.study and second.trial > first.trial and second.worker > first.worker


def test_the_name_of_a_database_is_its_own_and_stays(database: Database, tmp_path: Path) -> None:
    with database.read() as session:
        name = identity.token(session)
    upgrade(database)
    other = Database(f"sqlite:///{tmp_path / 'other.sqlite'}")
    upgrade(other)
    with database.read() as session, other.read() as elsewhere:
        assert identity.token(session) == name != identity.token(elsewhere)
    other.close()


@pytest.fixture
def old(tmp_path: Path) -> Database:
    """A SQLite database from before, with a running trial."""
    database = Database(f"sqlite:///{tmp_path / 'old.sqlite'}")
    command.upgrade(alembic_config(database), "0003")
    moment = "2026-01-01 00:00:00.000000"
    with sqlite3.connect(tmp_path / "old.sqlite") as raw:
        raw.execute(
            "insert into studies (id, name, title, state, document, stack, run_cap, parallel, trials_created, revision,"
            " created_at) values (7, 's', '', 'running', '{\"workload\": {\"name\": \"w\"}}', 'k', 9, 4, 1, 0, ?)",
            [moment],
        )
        raw.execute(
            "insert into trials (id, study_id, number, family, params, seed, replicate, state, asked_after, attempt,"
            " charged, step, examples, total_steps, total_examples, created_at)"
            " values (5, 7, 0, 'sgd', '{\"lr\": 0.1}', 0, 0, 'running', 0, 1, 0, 3, 96, 10, 320, ?)",
            [moment],
        )
        raw.execute(
            "insert into workers (id, session, name, devices, workloads, version, seq, first_seen, last_seen)"
            " values (3, ?, 'w', '[]', '[]', '', 1, ?, ?)",
            ["s" * 16, moment, moment],
        )
        raw.execute(
            "insert into attempts (trial_id, attempt, worker_id, device, lease_expires, resumed_from, started_at)"
            " values (5, 1, 3, 'cpu', ?, 0, ?)",
            [moment, moment],
        )
    raw.close()
    return database


def test_the_migration_keeps_rows_what_refers_to_them_and_what_guards_them(old: Database) -> None:
    upgrade(old)
    with old.read() as session:
        trial = trials.get(session, study_id=7, number=0)
        assert (trial.id, trial.step, trial.params) == (5, 3, {"lr": 0.1})
        assert stored_leases.live(session, 5).worker_id == 3
        assert session.execute(text("pragma foreign_key_check")).all() == []
        assert session.execute(text("pragma foreign_keys")).scalar() == 1
        indexes = session.execute(text("select name from sqlite_master where type = 'index'")).scalars().all()
        assert {"ix_trials_state", "ix_studies_state"} <= set(indexes)
    for broken in ("update trials set state = 'odd'", "update studies set runs = 10"):
        with pytest.raises(Exception, match="CHECK constraint failed"), old.write() as session:
            session.execute(text(broken))
    with old.write() as session:
        studies.delete_study(session, study_id=7)
        assert session.execute(text("select count(*) from attempts")).scalar() == 0, "deleting a study still cascades"
    found = make(old, "n")
    assert (found.study, found.trial, found.worker) == (8, 6, 4)
    old.close()
