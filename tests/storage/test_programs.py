"""Pinned programs and slot utilisation in the database, on SQLite and PostgreSQL."""

import threading
from dataclasses import replace
from typing import Any

import pytest
import stored_leases
from stored_leases import NOW

from storage import attempts, programs, reports, studies, trials, workers
from storage.database import Database
from storage.reports import ReportRow
from storage.trials import NewTrial
from tuner.errors import Conflict
from tuner.study.program import fingerprint
from tuner.study.states import TrialState

WIDE: dict[str, Any] = {"device": "cpu", "width": 8}


class Scene:
    """A reproducible study with six queued trials, and two workers."""

    def __init__(self, database: Database) -> None:
        self.database = database
        document = {"workload": {"name": "w"}, "reproducible": True}
        with database.write() as session:
            self.study = studies.create(
                session, name="s", title="", document=document, run_cap=9, parallel=4, idempotency_key=None,
                now=NOW,
            ).id  # fmt: skip
            self.trials = []
            for number in range(6):
                studies.reserve_number(session, study_id=self.study)
                trial = NewTrial(number, "sgd", {}, 0, TrialState.QUEUED, None, 0, 10, 320, "k")
                self.trials.append(trials.create(session, study_id=self.study, trial=trial, now=NOW))
            self.one, self.other = (
                workers.register(session, worker_session=name * 16, name=name, devices=[], workloads=[], version="",
                                 now=NOW)
                for name in "ab"
            )  # fmt: skip

    def lease(self, index: int, worker: int, device: str = "cpu") -> None:
        with self.database.write() as session:
            stored_leases.grant(session, self.trials[index], worker, device=device)

    def started(self, index: int, program: dict[str, Any]) -> None:
        with self.database.write() as session:
            stored_leases.note(session, self.trials[index], program)
            programs.pin(session, study_id=self.study, program=program)

    def end(self, index: int, outcome: str, error: str | None = None) -> None:
        with self.database.write() as session:
            stored_leases.take_back(session, self.trials[index], outcome, error)

    def most(self, worker: int, device: str = "cpu", declines: tuple[str, ...] = ()) -> int | None:
        with self.database.write() as session:
            found = programs.on_trial(session, worker_id=worker, device=device, declines=declines)
        return found.get(self.study)

    def unpin(self) -> bool:
        with self.database.write() as session:
            return programs.unpin(session, study_id=self.study)


@pytest.fixture
def scene(database: Database) -> Scene:
    return Scene(database)


def test_each_device_gets_one_lease_until_it_has_shown_its_program(scene: Scene) -> None:
    assert (scene.most(scene.one), scene.most(scene.other)) == (1, 1)
    scene.lease(0, scene.one)
    assert (scene.most(scene.one), scene.most(scene.other)) == (0, 0)
    scene.started(0, WIDE)
    assert (scene.most(scene.one), scene.most(scene.one, "cuda:1"), scene.most(scene.other)) == (None, 1, 1)
    assert scene.most(scene.other, declines=(fingerprint(WIDE),)) == 0
    assert scene.most(scene.other, declines=("another",)) == 1
    scene.lease(1, scene.other)
    assert scene.most(scene.other) == 0
    scene.end(1, "displaced", "width 8 is needed")
    assert scene.most(scene.other) == 1
    with scene.database.read() as session:
        assert programs.last_decline(session, study_id=scene.study) == ("b", "width 8 is needed")
    scene.end(0, "lost")
    assert scene.most(scene.one) is None  # it has shown it, whatever became of the trial


def test_a_program_is_pinned_once_and_given_up_only_while_nothing_was_learnt(scene: Scene) -> None:
    assert not scene.unpin()
    scene.lease(0, scene.one)
    scene.started(0, WIDE)
    with scene.database.write() as session:
        assert not programs.pin(session, study_id=scene.study, program={"width": 1})
        assert studies.get(session, scene.study).program == WIDE
    assert not scene.unpin()  # it runs
    scene.end(0, "displaced")
    assert scene.unpin() and not scene.unpin()
    scene.lease(1, scene.one)
    scene.started(1, WIDE)
    with scene.database.write() as session:
        reports.add(session, rows=[ReportRow(scene.trials[1], 1, 5, 160, 1.0, {}, None)])
    scene.end(1, "displaced")
    assert not scene.unpin()


def test_an_attempt_that_has_ended_is_not_changed(scene: Scene) -> None:
    scene.lease(0, scene.one)
    scene.end(0, "lost")
    with pytest.raises(Conflict, match="1 of 1 rows of attempts"), scene.database.write() as session:
        stored_leases.note(session, scene.trials[0], WIDE)
    with scene.database.read() as session:
        (found,) = attempts.of_trial(session, trial_id=scene.trials[0])
    assert (found.outcome, found.program, found.fingerprint) == ("lost", None, None)


def test_two_workers_that_ask_at_once_get_one_lease_of_an_unpinned_study(scene: Scene) -> None:
    """On PostgreSQL their transactions run side by side."""
    ready, granted = threading.Barrier(2), []

    def ask(worker: int) -> None:
        ready.wait()
        with scene.database.write() as session:
            if programs.on_trial(session, worker_id=worker, device="cpu")[scene.study] < 1:
                return
            (trial,) = trials.queued(session, queue=(scene.study, "k"), limit=1)
            stored_leases.grant(session, trial.id, worker)
        granted.append(worker)

    threads = [threading.Thread(target=ask, args=(worker,)) for worker in (scene.one, scene.other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(granted) == 1


def test_slot_utilisation_is_what_attempts_used_of_what_was_computed_for_them(scene: Scene) -> None:
    def utilisation() -> float | None:
        with scene.database.read() as session:
            return studies.progress(session, study_ids=[scene.study])[scene.study].slot_utilisation

    scene.lease(0, scene.one)
    scene.lease(1, scene.other)
    assert utilisation() is None
    for index, ticks, computed in ((0, 30, 40.0), (1, 10, 40.0)):
        with scene.database.write() as session:
            used = replace(stored_leases.live(session, scene.trials[index]), ticks=ticks, computed=computed)
            attempts.save(session, attempts=[used])
    assert utilisation() == 0.5
    scene.end(0, "lost")
    assert utilisation() == 0.5
