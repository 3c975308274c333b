"""What a sampler is shown: the same from the rows at any time later, and as cheap after many trials as after few."""

import random
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_worker import FakeWorker
from fastapi.testclient import TestClient
from finished_trials import finish_trials
from over_http import submit
from sqlalchemy import event, select, update
from study_documents import study_document

from api.conductor import histories
from api.conductor.commands import Commands
from api.conductor.conductor import Conductor
from api.conductor.histories import evenly
from api.conductor.proposing import Proposing
from api.conductor.retention import Retention
from api.hub import Hub
from api.plans import Plan, Plans
from api.servers.ownership import Alone
from api.sync.expiry import Expiry
from api.waits import Waits
from storage import events, outcomes, studies
from storage import tables as t
from storage.database import Database
from storage.migrate import upgrade
from tuner.search.methods import propose
from tuner.search.request import AskRequest, Observation, Search
from tuner.store import open_store
from tuner.study.hyperparameter import Scalar
from tuner.study.states import TrialState

DOCUMENT: dict[str, Any] = {"name": "tpe", "method": "tpe", "optimizers": ["sgd", "adamw"], "parallel": 6}


@pytest.mark.parametrize("ended, kept", [(0, 1), (150, 1), (151, 2), (9600, 64)])
def test_an_even_sample_keeps_every_so_manieth(ended: int, kept: int) -> None:
    assert evenly(ended, ended) == range(0, ended, kept)
    assert len(evenly(ended, ended)) <= histories.PART


def shown(seen: dict[int, Observation], part: int, sampled: Sequence[int], indexes: dict[int, int]) -> set[int]:
    """The selection of a family's trials, from all that there was to show."""
    told = [number for number in seen if not seen[number].pending]
    completed = [number for number in told if seen[number].feasible]
    pending = [number for number in seen if seen[number].pending]
    best = sorted(completed, key=lambda number: (seen[number].value or 0.0, number))[:part]
    return {*best, *told[-part:], *(n for n in seen if indexes[n] in sampled), *pending[-part:]}


def replayed(trial: t.Trial, rows: Sequence[t.Trial], ended: list[int], plan: Plan) -> dict[str, Scalar]:
    """Propose a trial's configuration again, from the rows of a study that has ended."""
    before = set(ended[: trial.asked_after])
    own = {row.number: row for row in rows if row.family == trial.family and row.number < trial.number}
    seen = {
        number: Observation(row.params, row.value, row.state == TrialState.COMPLETED)
        if number in before
        else Observation(row.params, None)
        for number, row in own.items()
    }
    assert trial.family_index is not None
    sampled = evenly(trial.family_index, trial.asked_after // len(plan.families))
    selected = shown(seen, histories.PART, sampled, {number: row.family_index or 0 for number, row in own.items()})
    (family,) = (one for one in plan.families if one.optimizer == trial.family)
    search = Search("tpe", plan.spec.seed, trial.family, family.swept, True, 6)
    history = {number: seen[number] for number in sorted(selected)}
    return family.configuration(propose(AskRequest(search, [trial.family_index], history))[0])


def test_every_proposal_can_be_worked_out_again_from_the_rows(
    serve_app: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trials end in any order, some diverge, and the server restarts in between; few are shown."""
    monkeypatch.setattr(histories, "PART", 5)
    client, draw = serve_app(), random.Random(0)
    study_id = submit(client, **DOCUMENT, run_cap=36)
    worker = FakeWorker(client, width=6)
    for ended in range(36):
        if ended == 20:
            worker.client = client = serve_app()
        held = draw.choice(worker.take(min(6, 36 - ended)))
        diverged = draw.random() < 0.2
        worker.finish(held, None if diverged else draw.random(), infeasible="diverged" if diverged else None)
    server = client.app.state.server  # type: ignore[attr-defined]
    with server.database.read() as session:
        plan = server.plans.of(studies.get(session, study_id))
        rows = session.scalars(select(t.Trial).order_by(t.Trial.number)).all()
        told = events.after(session, study_id=study_id, revision=0, limit=1000)
    ended_numbers = [event.trial for event in told if event.kind in ("trial.completed", "trial.infeasible")]
    assert len(ended_numbers) == len(rows) == 36
    assert {row.number: replayed(row, rows, ended_numbers, plan) for row in rows} == {
        row.number: row.params for row in rows
    }


@contextmanager
def counted(database: Database) -> Iterator[list[int]]:
    """Count the tens of steps that SQLite's virtual machine takes: what all statements cost, whatever else runs."""
    found = [0]

    def step() -> int:
        found[0] += 1
        return 0

    def watch(connection: sqlite3.Connection, *_: Any) -> None:
        connection.set_progress_handler(step, 10)

    for engine in (database.engine, database._reader):
        event.listen(engine, "checkout", watch)
    yield found
    for engine in (database.engine, database._reader):
        event.remove(engine, "checkout", watch)


class Even:
    """A sampler that costs nothing; keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[AskRequest] = []

    def ask(self, request: AskRequest) -> list[dict[str, Scalar]]:
        self.asked.append(request)
        return propose(replace(request, search=replace(request.search, method="random")))


def cost_of_rounds(path: Path, ended: int) -> tuple[int, Even]:
    """Rounds of the whole conductor after so many ended trials, in tens of SQLite's steps."""
    database = Database(f"sqlite:///{path}")
    upgrade(database)
    hub, plans, sampler = Hub(), Plans(), Even()
    retention = Retention(database, plans, open_store(str(path.parent / "store")))
    proposing = Proposing(database, plans, hub, sampler, Alone())  # type: ignore[arg-type]
    expiry = Expiry(database, plans, hub, Alone(), 60.0)
    conductor = Conductor(database, plans, hub, proposing, expiry, retention, Alone(), Waits(), lease_s=15.0)
    target = {"name": "valid_loss", "goal": "minimize", "target": -1.0, "stop_on_target": True}
    document = study_document(**DOCUMENT, run_cap=10_000, metric=target)
    study = Commands(database, plans, hub, retention).submit(document, idempotency_key=None)
    finish_trials(database, plans, study.id, ended)
    conductor.tasks[2].work()
    steps = 0
    for round_ in range(6):
        with database.write() as session:
            (number,) = session.scalars(select(t.Trial.number).where(t.Trial.state == "queued").limit(1))
            ending = update(t.Trial).where(t.Trial.number == number)
            session.execute(ending.values(state=TrialState.COMPLETED, value=round_ / 7))
        with counted(database) as found:
            for task in conductor.tasks[:3]:
                task.work()
            retention.sweep()
        steps += found[0]
    database.close()
    return steps, sampler


def test_a_round_costs_no_more_after_many_trials_than_after_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(histories, "PART", 20)
    few, _ = cost_of_rounds(tmp_path / "few.sqlite", 200)
    many, sampler = cost_of_rounds(tmp_path / "many.sqlite", 3000)
    assert many < 1.5 * few
    assert len(sampler.asked) == 8 and all(len(request.history) <= 4 * 20 for request in sampler.asked)


def test_what_stays_in_the_selection_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    real = outcomes.configurations

    def configurations(*args: Any, numbers: Sequence[int], **more: Any) -> Any:
        read.append(len(numbers))
        return real(*args, numbers=numbers, **more)

    monkeypatch.setattr(outcomes, "configurations", configurations)
    cost_of_rounds(tmp_path / "one.sqlite", 100)
    assert read[:2] == [50, 50] and sum(read[2:]) <= 6 * 6
