"""Migrations keep what is stored: a database with rows is upgraded and loses none of them."""

import json
from typing import Any

import pytest
from alembic import command
from sqlalchemy import text

from storage import orders, studies, trials
from storage.database import Database
from storage.migrate import alembic_config, upgrade
from tuner.study.states import Order, OrderedBy, Origin

AT = "2026-01-01 00:00:00"
STUDY = {
    "title": "", "state": "running", "document": json.dumps({"workload": {"name": "w"}}), "stack": "k", "run_cap": 9,
    "parallel": 4, "revision": 0, "created_at": AT,
}  # fmt: skip
NEWER = {**{name: value for name, value in STUDY.items() if name != "stack"}, "batch_groups": "[]"}
TRIAL = {
    "params": "{}", "seed": 0, "replicate": 0, "state": "queued", "asked_after": 0, "attempt": 0, "charged": 0,
    "step": 0, "examples": 0, "total_steps": 1, "total_examples": 32, "created_at": AT,
}  # fmt: skip


def insert(database: Database, table: str, **values: Any) -> None:
    columns = ", ".join(values)
    with database.write() as session:
        session.execute(text(f"insert into {table} ({columns}) values ({', '.join(f':{c}' for c in values)})"), values)


def count(database: Database, table: str) -> int:
    with database.read() as session:
        return int(session.execute(text(f"select count(*) from {table}")).scalar_one())


@pytest.fixture
def at_0003(database: Database) -> Database:
    """Two studies of three and two families with 7 and 3 trials, and an attempt with a report."""
    command.downgrade(alembic_config(database), "0003")
    for study, families, many in ((1, ("sgd", "adamw", "muon"), 7), (2, ("muon", "sgd"), 3)):
        insert(database, "studies", id=study, name=f"s{study}", trials_created=many, **STUDY)
        for number in range(many):
            trial_id, family = 10 * study + number, families[number % len(families)]
            insert(database, "trials", id=trial_id, study_id=study, number=number, family=family, **TRIAL)
    insert(
        database, "workers", id=1, session="x", name="w", devices="[]", workloads="[]", version="", seq=0,
        first_seen=AT, last_seen=AT,
    )  # fmt: skip
    insert(
        database, "attempts", trial_id=10, attempt=1, worker_id=1, device="cpu", lease_expires=AT, resumed_from=0,
        started_at=AT, ticks=0, computed=0,
    )  # fmt: skip
    insert(database, "reports", trial_id=10, attempt=1, step=5, examples=160, elapsed_s=1.0, metrics="{}")
    return database


def test_stored_trials_become_the_proposals_that_they_were(at_0003: Database) -> None:
    upgrade(at_0003)
    with at_0003.read() as session:
        first, second = (studies.get(session, name) for name in ("s1", "s2"))
        assert [(study.trials_created, study.runs) for study in (first, second)] == [(7, 7), (3, 3)]
        for study, families in ((first, 3), (second, 2)):
            found = trials.of_study(session, study_id=study.id)
            assert [trial.family_index for trial in found] == [trial.number // families for trial in found]
            assert {(trial.origin, trial.parent) for trial in found} == {(Origin.PROPOSED, None)}
        assert trials.next_indexes(session, study_id=1, families=["adamw", "sgd", "lion"]) == [2, 3, 0]


def test_a_migration_loses_no_row_of_any_table_and_foreign_keys_hold_afterwards(at_0003: Database) -> None:
    upgrade(at_0003)
    tables = ("studies", "trials", "attempts", "reports")
    assert [count(at_0003, table) for table in tables] == [2, 10, 1, 1]
    with at_0003.write() as session:
        studies.delete_study(session, study_id=1)
    assert [count(at_0003, table) for table in tables] == [1, 3, 0, 0]


def test_a_downgrade_brings_the_earlier_schema_back_with_its_rows(at_0003: Database) -> None:
    upgrade(at_0003)
    command.downgrade(alembic_config(at_0003), "0003")
    assert [count(at_0003, table) for table in ("studies", "trials", "attempts", "reports")] == [2, 10, 1, 1]
    upgrade(at_0003)
    command.check(alembic_config(at_0003))


def test_stored_studies_keep_their_stacks_and_micro_batches_and_ids_go_on(database: Database) -> None:
    """Their later trials must share the stacks of their earlier ones."""
    command.downgrade(alembic_config(database), "0005")
    sizes = {"parameters": {"batch_size": {"values": [8, 32, 256, 100_000]}}}
    own = {"optimizers": [{"name": "sgd", "overrides": {"batch_size": {"value": 24}}}, {"name": "adamw"}]}
    documents = {
        1: {**sizes, "optimizers": [{"name": "sgd", "overrides": {}}], "budget": {"examples_per_trial": 20_000}},
        2: {**sizes, **own, "micro_batch": 8},
        3: {"optimizers": [{"name": "sgd"}]},
    }
    for study, document in documents.items():
        stored = {**STUDY, "document": json.dumps({**document, "workload": {"name": "w"}}), "stack": f"w/{study}"}
        insert(database, "studies", id=study, name=f"s{study}", trials_created=1, runs=1, **stored)
        row = {**TRIAL, "family_index": 0, "origin": "proposed"}
        insert(database, "trials", id=study, study_id=study, number=0, family="sgd", **row)
    insert(database, "studies", id=7, name="deleted", trials_created=0, runs=0, **STUDY)
    with database.write() as session:
        studies.delete_study(session, study_id=7)
    upgrade(database)
    with database.write() as session:
        found = [studies.get(session, f"s{study}") for study in documents]
        assert [study.batch_groups for study in found] == [
            [{"micro_batch": 4, "batch_sizes": [8, 32, 256]}],
            [{"micro_batch": 8, "batch_sizes": [8, 24, 32, 256]}],
            [{"micro_batch": 8, "batch_sizes": [32]}],
        ]
        assert [trials.get(session, study_id=study, number=0).stack for study in documents] == ["w/1", "w/2", "w/3"]
        assert {(study.priority, study.served, study.parallel) for study in found} == {(1.0, 0.0, 4)}
    if database.is_sqlite:  # PostgreSQL's sequence did not see the ids that were given here
        insert(database, "studies", name="new", trials_created=0, runs=0, **NEWER)
        assert count(database, "studies where id = 8") == 1


def test_stops_that_were_ordered_become_orders_and_go_back(database: Database) -> None:
    """Whose stop it was was told by its text alone."""
    command.downgrade(alembic_config(database), "0008")
    insert(database, "studies", id=1, name="s", trials_created=6, runs=6, **NEWER)
    stops = {
        "running": ["study stopped", "stopped by a user", None],
        "cancelled": ["study completed", "stopped by a user"],
    }
    rows = [(state, why) for state, texts in stops.items() for why in texts] + [("queued", "left over")]
    for number, (state, why) in enumerate(rows):
        own = {**TRIAL, "state": state, "stop_why": why, "reason": why if state == "cancelled" else None}
        own |= {"stack": "k", "family_index": number, "origin": "proposed"}
        insert(database, "trials", id=number + 1, study_id=1, number=number, family="sgd", **own)
    upgrade(database)
    with database.read() as session:
        found = trials.of_study(session, study_id=1)
        assert (studies.get(session, 1).edition, studies.get(session, 1).submitted) == (0, None)
    assert [(trial.order, trial.order_why, trial.ordered_by) for trial in found] == [
        ("stop", "study stopped", "study"),
        ("stop", "stopped by a user", "user"),
        (None, None, None),
        (None, None, "study"),
        (None, None, "user"),
        (None, None, None),
    ]
    with database.write() as session:
        orders.lock_open(session, study_id=1)
        orders.give(session, study_id=1, order=Order.PAUSE, why="a pause", by=OrderedBy.STUDY)
    insert(database, "trials", id=9, study_id=1, number=6, family="sgd", stack="k", family_index=6, origin="proposed",
           **{**TRIAL, "state": "paused"})  # fmt: skip
    command.downgrade(alembic_config(database), "0008")
    with database.read() as session:
        rows = session.execute(text("select state, stop_why from trials order by number")).all()
    assert [tuple(row) for row in rows] == [
        ("running", "study stopped"), ("running", "stopped by a user"), ("running", None), ("cancelled", None),
        ("cancelled", None), ("queued", None), ("queued", None),
    ]  # fmt: skip
    upgrade(database)
    command.check(alembic_config(database))
