"""A study of many finished trials, written straight into a database by the storage functions; some more are queued."""

import math
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy.orm import Session

from api.app import open_database
from api.plans import Plan, Plans, stored
from api.settings import Settings
from storage import attempts, events, reports, studies, trials, workers
from storage.attempts import AttemptRecord
from storage.database import Database
from storage.events import Change
from storage.reports import Noise, ReportRow
from storage.trials import NewTrial, TrialRecord
from tuner.study.catalogue import BUILT_IN_WORKLOADS, load_catalogue
from tuner.study.check import parse_study
from tuner.study.states import Origin, TrialState

ROWS = 20
EXAMPLES = 20_000
PART = 500
PROGRAM = {"path": "eager", "device": "cpu", "width": 32, "kind": "classification", "train_examples": 1437}


def document(name: str, finished: int, queued: int) -> dict[str, object]:
    """The demo's five optimizers, at so many trials that none is proposed while the benchmark runs."""
    return {
        "name": name,
        "workload": "digits-mlp",
        "optimizers": ["sgd", "momentum", "nesterov", "adamw", "muon"],
        "parameters": {"batch_size": {"values": [16, 32, 64, 128, 256]}},
        "method": "random",
        "run_cap": finished + queued,
        "parallel": max(queued, 1),
        "budget": {"examples_per_trial": EXAMPLES},
    }


def make(data_dir: Path, name: str, *, finished: int, queued: int) -> None:
    """Create the database with one running study."""
    database = open_database(Settings(data_dir=data_dir))
    rng = random.Random(0)
    start = datetime.now(UTC) - timedelta(hours=1)
    spec = parse_study(document(name, finished, queued), load_catalogue(), BUILT_IN_WORKLOADS)
    with database.write() as session:
        study = studies.create(
            session,
            name=name,
            title="",
            document=spec.model_dump(mode="json"),
            batch_groups=stored(spec.batch_groups()),
            run_cap=spec.run_cap,
            parallel=spec.in_flight(),
            idempotency_key=None,
            now=start,
        )
        plan = Plans().of(study)
        studies.note_leases(session, served={study.id: 0.0}, now=start)
        worker = workers.register(
            session,
            worker_session="gone" * 8,
            name="gone",
            devices=[{"device": "cpu", "width": 32}],
            workloads=[{"name": "digits-mlp", "description": ""}],
            version="",
            now=start,
        )
        events.append(session, changes=[Change(study.id, "study.running")], now=start)
    for first in range(0, finished, PART):
        _finished(database, study.id, plan, worker, range(first, min(first + PART, finished)), rng, start)
    with database.write() as session:
        _create(session, study.id, plan, range(finished, finished + queued), rng, start)
    database.close()


def _create(
    session: Session, study_id: int, plan: Plan, numbers: range, rng: random.Random, now: datetime
) -> list[int]:
    if not numbers:
        return []
    assert studies.reserve_number(session, study_id=study_id, count=len(numbers)) == numbers.start
    families = ["sgd", "momentum", "nesterov", "adamw", "muon"]
    new = []
    for number in numbers:
        family, batch = families[number % 5], rng.choice([16, 32, 64, 128, 256])
        params = {"optimizer": family, "lr": 10 ** rng.uniform(-4, 0), "batch_size": batch, "schedule": "constant"}
        params |= {"momentum": 0.9, "weight_decay": 10 ** rng.uniform(-5, -1), "warmup": 0.0}
        steps = EXAMPLES // batch
        new.append(
            NewTrial(
                number=number,
                family=family,
                params=params,
                seed=0,
                state=TrialState.QUEUED,
                reason=None,
                asked_after=number,
                total_steps=steps,
                total_examples=steps * batch,
                origin=Origin.PROPOSED,
                family_index=number // 5,
                stack=plan.stack(batch),
            )
        )
    return trials.create_all(session, study_id=study_id, trials=new, now=now)


def _finished(
    database: Database, study_id: int, plan: Plan, worker: int, numbers: range, rng: random.Random, start: datetime
) -> None:
    """Trials with their attempts, curves and events, as a real run leaves them."""
    with database.write() as session:
        ids = _create(session, study_id, plan, numbers, rng, start)
        queued = [trial for _, trial in sorted(trials.by_ids(session, ids=ids).items())]
        now = start + timedelta(seconds=0.2 * numbers.stop)
        begun = [AttemptRecord(t.id, 1, worker, "cpu", now, now, f"token-{t.id}") for t in queued]
        attempts.begin(session, attempts=begun)
        running = [replace(t, state=TrialState.RUNNING, attempt=1, started_at=now) for t in queued]
        trials.start(session, trials=running)
        reports.add(session, rows=[row for trial in running for row in _curve(trial, rng)])
        ended = [_ended(trial, rng, start) for trial in running]
        trials.save(session, trials=ended)
        done = [
            replace(a, outcome="finished", program=PROGRAM, fingerprint="0123456789ab", ended_at=now, ticks=2000,
                    computed=2200.0)
            for a in begun
        ]  # fmt: skip
        attempts.save(session, attempts=done)
        changes = [Change(study_id, f"trial.{state}", t.number, {}) for t in ended for state in ("running", t.state)]
        events.append(session, changes=changes, now=now)


def _ended(trial: TrialRecord, rng: random.Random, start: datetime) -> TrialRecord:
    lr = float(trial.params["lr"])
    bad = lr > 0.6
    value = 0.05 + 0.1 * (math.log10(lr) + 2) ** 2 + 0.02 * rng.random()
    state = TrialState.INFEASIBLE if bad else TrialState.COMPLETED
    return replace(
        trial,
        state=state,
        value=None if bad else value,
        reason="diverged" if bad else None,
        step=trial.total_steps,
        examples=trial.total_examples,
        finished_at=start + timedelta(seconds=0.2 * trial.number),
    )


def _curve(trial: TrialRecord, rng: random.Random) -> Iterator[ReportRow]:
    for part in range(1, ROWS + 1):
        step = trial.total_steps * part // ROWS
        n = max(1, trial.total_steps // ROWS)
        s, q = n * (1.0 + 0.1 * rng.random()), n * (0.1 + 0.01 * rng.random())
        noise = Noise(n, s, q, s * s / n * 1.1, q * q / n * 1.1, s * q / n)
        metrics = {"valid_loss": 2.3 * math.exp(-3 * part / ROWS) + 0.05, "accuracy": 0.9, "train_loss": 0.1}
        yield ReportRow(trial.id, 1, step, step * int(trial.params["batch_size"]), 0.1 * part, metrics, noise)
