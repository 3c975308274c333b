"""Proposals: every family's sequence goes on where its rows end, in bounded portions, whatever else a study holds."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import stored_leases
from sqlalchemy import select, update
from stored_leases import NOW
from study_documents import study_document

from api.conductor import proposals
from api.conductor.histories import Histories
from api.conductor.proposals import MOST, Outrun
from api.plans import Plan, Plans, stored
from storage import orders, studies, trials, workers
from storage import tables as t
from storage.database import Database
from storage.migrate import upgrade
from storage.studies import StudyRecord
from storage.trials import NewTrial
from tuner.search.methods import propose
from tuner.study.catalogue import load_catalogue
from tuner.study.check import parse_study
from tuner.study.spec import StudySpec
from tuner.study.states import OrderedBy, Origin, TrialState


class Scene:
    """One study in a database of its own; `round` does what the conductor does."""

    def __init__(self, database: Database, **changes: object) -> None:
        self.database = database
        spec: StudySpec = parse_study(study_document(**changes), load_catalogue(), ["digits-mlp"])
        with database.write() as session:
            self.id = studies.create(
                session, name=spec.name, title="", document=spec.model_dump(mode="json"),
                batch_groups=stored(spec.batch_groups()), run_cap=spec.run_cap, parallel=spec.in_flight(),
                idempotency_key=None, now=NOW,
            ).id  # fmt: skip
        self.plan: Plan = Plans().of(self.study)

    @property
    def study(self) -> StudyRecord:
        with self.database.read() as session:
            return studies.get(session, self.id)

    def wanted(self) -> proposals.Wanted | None:
        with self.database.read() as session:
            in_flight = trials.count_in_flight(session, study_id=self.id)
            return proposals.wanted(
                session, study=studies.get(session, self.id), plan=self.plan, in_flight=in_flight, histories=Histories()
            )

    def round(self) -> int:
        wanted = self.wanted()
        if wanted is None:
            return 0
        self.store(wanted)
        return len(wanted.turns)

    def store(self, wanted: proposals.Wanted) -> None:
        answers = {}
        for family, request in wanted.requests.items():  # without loading optuna
            answers[family] = propose(replace(request, search=replace(request.search, method="quasirandom")))
        with self.database.write() as session:
            proposals.store(session, study=self.study, plan=self.plan, wanted=wanted, answers=answers, now=NOW)

    def enqueue(self, family: str) -> None:
        with self.database.write() as session:
            number = studies.reserve_number(session, study_id=self.id, origin=Origin.ENQUEUED)
            assert number is not None
            trial = NewTrial(number, family, {"optimizer": family}, 0, TrialState.CANCELLED, None, 0, 1, 32, "k")
            trials.create(session, study_id=self.id, trial=trial, now=NOW)

    def proposed(self) -> list[tuple[str, int | None, dict[str, object]]]:
        with self.database.read() as session:
            found = trials.of_study(session, study_id=self.id)
        return [(trial.family, trial.family_index, trial.params) for trial in found if trial.origin == Origin.PROPOSED]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    found = Database(f"sqlite:///{tmp_path / 'test.sqlite'}")
    upgrade(found)
    yield found
    found.close()


FAMILIES = ["sgd", "adamw", "muon"]


def test_an_enqueued_trial_shifts_no_proposal(database: Database) -> None:
    plain = Scene(database, name="plain", optimizers=FAMILIES, run_cap=9, parallel=9)
    assert plain.round() == 9
    mixed = Scene(database, name="mixed", optimizers=FAMILIES, run_cap=10, parallel=4)
    mixed.round()
    mixed.enqueue("adamw")
    with database.write() as session:
        orders.cancel_waiting(session, study_id=mixed.id, why="to make room", by=OrderedBy.USER, now=NOW)
    mixed.round()
    with database.write() as session:
        orders.cancel_waiting(session, study_id=mixed.id, why="to make room", by=OrderedBy.USER, now=NOW)
    mixed.round()
    assert mixed.proposed() == plain.proposed()
    assert [(family, index) for family, index, _ in plain.proposed()] == [
        (family, index) for index in range(3) for family in FAMILIES
    ]
    assert (mixed.study.runs, mixed.study.trials_created) == (10, 10)


def test_a_wide_study_is_filled_in_portions_that_do_not_grow_with_it(database: Database) -> None:
    scene = Scene(database, run_cap=1_000_000, parallel=100_000)
    assert [scene.round() for _ in range(3)] == [MOST] * 3
    assert [index for _, index, _ in scene.proposed()] == [n // 2 for n in range(3 * MOST)]


def test_without_parallel_the_queue_follows_what_the_workers_take(database: Database) -> None:
    """Whatever their room is: there is always as much again waiting, and a finished trial is no round of its own."""
    scene = Scene(database, run_cap=5 * MOST, parallel=None)
    assert scene.study.parallel is None and [scene.round() for _ in range(2)] == [MOST, 0]

    def run(many: int) -> None:
        queued = t.Trial.state == TrialState.QUEUED
        with database.write() as session:
            ids = session.scalars(select(t.Trial.id).where(queued).order_by(t.Trial.number).limit(many)).all()
            session.execute(update(t.Trial).where(t.Trial.id.in_(ids)).values(state=TrialState.RUNNING))

    run(MOST // 2 - 1)
    assert scene.round() == 0
    run(1)
    assert scene.round() == MOST // 2
    run(MOST)
    assert [scene.round() for _ in range(2)] == [MOST, 0]
    run(MOST)
    assert [scene.round() for _ in range(3)] == [MOST, MOST, 0], "a thousand run, and most of as many wait"
    run(2 * MOST)
    assert [scene.round() for _ in range(2)] == [MOST // 2, 0], "the cap is what it was"
    assert scene.study.runs == 5 * MOST


def test_a_given_parallel_is_final_and_a_method_that_learns_has_a_number(database: Database) -> None:
    assert Scene(database, name="given", run_cap=50, parallel=7).round() == 7
    assert Scene(database, name="learns", run_cap=80, parallel=None, method="tpe").study.parallel == 10


def test_two_servers_that_ask_at_once_make_each_proposal_once(database: Database) -> None:
    scene = Scene(database, run_cap=8, parallel=4)
    one, other = scene.wanted(), scene.wanted()
    assert one is not None and other is not None
    scene.store(one)
    with pytest.raises(Outrun):
        scene.store(other)
    assert len(scene.proposed()) == scene.study.runs == 4


def test_nothing_is_stored_once_the_cap_was_taken_meanwhile(database: Database) -> None:
    scene = Scene(database, run_cap=4, parallel=4)
    wanted = scene.wanted()
    assert wanted is not None
    scene.enqueue("sgd")
    with pytest.raises(Outrun):
        scene.store(wanted)
    assert scene.round() == 3
    assert scene.wanted() is None


def test_nothing_is_stored_that_was_asked_before_another_trial_was_created(database: Database) -> None:
    """What an adaptive proposal was shown must follow from the trials with smaller numbers."""
    scene = Scene(database, run_cap=8, parallel=4)
    wanted = scene.wanted()
    assert wanted is not None
    scene.enqueue("sgd")
    with pytest.raises(Outrun):
        scene.store(wanted)
    assert scene.round() == 4 and scene.study.trials_created == 5


def test_a_sampler_sees_configurations_that_fail_by_themselves_and_no_infrastructure(database: Database) -> None:
    scene = Scene(database, method="tpe", optimizers=["sgd"], run_cap=20, parallel=5)
    scene.round()
    with database.write() as session:
        worker = workers.register(
            session, worker_session="x" * 16, name="w", devices=[], workloads=[], version="", now=NOW
        )
        found = trials.of_study(session, study_id=scene.id)
        fate = [("error", "ValueError: lr"), ("lost", None), ("crashed", "signal 9"), ("error", "KeyError: 1")]
        for trial, (outcome, error) in zip(found, fate, strict=False):
            for _ in range(2):
                stored_leases.grant(session, trial.id, worker)
                stored_leases.take_back(session, trial.id, outcome, error)
            if outcome == "error" and error == "KeyError: 1":
                stored_leases.grant(session, trial.id, worker)
                stored_leases.take_back(session, trial.id, "lost")
            session.execute(update(t.Trial).where(t.Trial.id == trial.id).values(state=TrialState.FAILED))
    wanted = scene.wanted()
    assert wanted is not None
    seen = wanted.requests["sgd"].history
    assert [(o.params, o.feasible, o.pending) for o in seen.values()] == [
        (found[0].params, False, False),
        (found[4].params, True, True),
    ]
