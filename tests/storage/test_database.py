"""The database keeps its promises: exact caps, one live attempt, the effective curve, non-finite values."""

import math
import threading
from dataclasses import replace
from datetime import timedelta

import pytest
import stored_leases
from alembic import command
from sqlalchemy import inspect
from sqlalchemy.exc import IntegrityError
from stored_leases import NOW

from storage import attempts, events, reports, studies, trials, workers
from storage.database import Database, DatabaseUnusable
from storage.events import Change
from storage.migrate import VERSION_TABLE, alembic_config, upgrade
from storage.reports import Noise, ReportRow
from storage.studies import StudyRecord
from storage.trials import NewTrial
from tuner.errors import Conflict, InvalidTransition, NameTaken, NotFound
from tuner.study.states import StudyState, TrialState


def make_study(database: Database, *, run_cap: int = 100, name: str = "s") -> StudyRecord:
    with database.write() as session:
        return studies.create(
            session, name=name, title="", document={"workload": {"name": "w"}}, run_cap=run_cap, parallel=4,
            idempotency_key=None, now=NOW,
        )  # fmt: skip


def new_trial(number: int, state: TrialState = TrialState.QUEUED) -> NewTrial:
    return NewTrial(number, "sgd", {"lr": 0.1}, 0, state, None, 0, 10, 320, "k")


def running_trial(database: Database) -> tuple[int, int]:
    """A trial that runs as attempt 1; returns (trial id, worker id)."""
    study = make_study(database)
    with database.write() as session:
        studies.reserve_number(session, study_id=study.id)
        trial = trials.create(session, study_id=study.id, trial=new_trial(0), now=NOW)
        worker = workers.register(
            session, worker_session="x" * 16, name="w", devices=[], workloads=[], version="", now=NOW
        )
        stored_leases.grant(session, trial, worker)
    return trial, worker


def test_the_migrations_make_exactly_the_tables_of_the_code(database: Database) -> None:
    command.check(alembic_config(database))
    assert VERSION_TABLE in inspect(database.engine).get_table_names()
    assert "alembic_version" not in inspect(database.engine).get_table_names()
    upgrade(database)  # once more changes nothing


def test_forty_concurrent_writers_never_pass_the_cap(database: Database) -> None:
    study = make_study(database, run_cap=100)
    failures: list[BaseException] = []

    def create_many() -> None:
        try:
            for _ in range(10):
                with database.write() as session:
                    number = studies.reserve_number(session, study_id=study.id)
                    if number is not None:
                        trials.create(session, study_id=study.id, trial=new_trial(number), now=NOW)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=create_many) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    with database.read() as session:
        numbers = [trial.number for trial in trials.of_study(session, study_id=study.id)]
    assert numbers == list(range(100))


def test_a_trial_has_at_most_one_live_attempt(database: Database) -> None:
    trial, _ = running_trial(database)
    with pytest.raises(IntegrityError), database.write() as session:
        attempts.begin(session, attempts=[replace(stored_leases.live(session, trial), attempt=2)])


def test_starting_a_trial_twice_gives_it_to_the_first(database: Database) -> None:
    trial, worker = running_trial(database)
    with pytest.raises(Conflict, match="1 of 1 rows of trials"), database.write() as session:
        stored_leases.grant(session, trial, worker)


def test_the_first_terminal_state_wins(database: Database) -> None:
    trial, _ = running_trial(database)
    with database.write() as session:
        running = trials.by_ids(session, ids=[trial])[trial]
        ended = replace(running, state=TrialState.COMPLETED, value=0.5, finished_at=NOW)
        trials.save(session, trials=[ended])
    for late in (replace(ended, state=TrialState.FAILED, value=None, reason="late"), running):
        with pytest.raises(Conflict), database.write() as session:
            trials.save(session, trials=[late])
    with database.read() as session:
        assert trials.by_ids(session, ids=[trial])[trial] == ended


def test_what_is_saved_together_is_saved_whole_or_not_at_all(database: Database) -> None:
    """One of two trials has ended meanwhile: the other's progress is not stored either."""
    one, worker = running_trial(database)
    with database.write() as session:
        study_id = trials.by_ids(session, ids=[one])[one].study_id
        studies.reserve_number(session, study_id=study_id)
        other = trials.create(session, study_id=study_id, trial=new_trial(1), now=NOW)
        stored_leases.grant(session, other, worker)
        both = list(trials.by_ids(session, ids=[one, other]).values())
        stored_leases.take_back(session, other, "lost")
    with pytest.raises(Conflict, match="1 of 2 rows of trials"), database.write() as session:
        trials.save(session, trials=[replace(trial, step=7) for trial in both])
    with database.read() as session:
        assert {trial.step for trial in trials.by_ids(session, ids=[one, other]).values()} == {0}


def row(trial: int, attempt: int, step: int, **metrics: float) -> ReportRow:
    return ReportRow(trial, attempt, step, step * 32, 1.0, metrics, None)


def test_the_effective_curve_joins_attempts_where_the_later_one_resumed(database: Database) -> None:
    trial, worker = running_trial(database)
    with database.write() as session:
        for step in (10, 20, 30):
            reports.add(session, rows=[row(trial, 1, step, loss=1.0)])
        stored_leases.take_back(session, trial, "lost")
        stored_leases.grant(session, trial, worker, resumed_from=20)
        for step in (25, 30):
            reports.add(session, rows=[row(trial, 2, step, loss=2.0)])
    with database.read() as session:
        curve = reports.effective_rows(session, trial_ids=[trial])[trial]
    assert [(r.attempt, r.step) for r in curve] == [(1, 10), (1, 20), (2, 25), (2, 30)]


def test_an_attempt_that_started_over_hides_the_one_before(database: Database) -> None:
    trial, worker = running_trial(database)
    with database.write() as session:
        reports.add(session, rows=[row(trial, 1, 10, loss=1.0)])
        stored_leases.take_back(session, trial, "lost")
        stored_leases.grant(session, trial, worker)
        reports.add(session, rows=[row(trial, 2, 5, loss=2.0)])
    with database.read() as session:
        curve = reports.effective_rows(session, trial_ids=[trial])[trial]
    assert [(r.attempt, r.step) for r in curve] == [(2, 5)]


@pytest.mark.parametrize("together", [True, False])
def test_reports_of_one_step_merge_and_non_finite_values_survive(database: Database, together: bool) -> None:
    trial, _ = running_trial(database)
    noise = Noise(4, 1.0, 2.0, 3.0, 4.0, 5.0)
    broken = Noise(4, math.nan, 2.0, 3.0, 4.0, 5.0)
    with database.write() as session:
        first = ReportRow(trial, 1, 10, 320, 1.0, {"loss": math.nan, "up": math.inf}, noise)
        second = ReportRow(trial, 1, 10, 320, 1.0, {"accuracy": 0.5, "down": -math.inf}, None)
        third = ReportRow(trial, 1, 20, 640, 1.0, {}, broken)
        for batch in ([first, second, third],) if together else ([first], [second], [third]):
            reports.add(session, rows=batch)
    with database.read() as session:
        one, other = reports.effective_rows(session, trial_ids=[trial])[trial]
    assert math.isnan(one.metrics.pop("loss"))
    assert one.metrics == {"up": math.inf, "accuracy": 0.5, "down": -math.inf}
    assert one.noise == noise
    assert other.noise is None


def test_many_rows_of_many_attempts_are_stored_at_once_and_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More attempts than fit into one condition; the second time changes the rows and adds none."""
    monkeypatch.setattr(reports, "MOST_SPANS", 7)
    study = make_study(database)
    with database.write() as session:
        worker = workers.register(
            session, worker_session="x" * 16, name="w", devices=[], workloads=[], version="", now=NOW
        )
        ids = []
        for number in range(20):
            studies.reserve_number(session, study_id=study.id)
            ids.append(trials.create(session, study_id=study.id, trial=new_trial(number), now=NOW))
            stored_leases.grant(session, ids[-1], worker)
    for loss in (1.0, 0.5):
        with database.write() as session:
            reports.add(session, rows=[row(trial, 1, step, loss=loss) for trial in ids for step in (1, 2, 3)])
    with database.read() as session:
        curves = reports.effective_rows(session, trial_ids=ids)
    assert {tuple(r.metrics["loss"] for r in curve) for curve in curves.values()} == {(0.5, 0.5, 0.5)}
    assert len(curves) == 20


def test_events_are_numbered_by_their_study(database: Database) -> None:
    one, two = make_study(database, name="one"), make_study(database, name="two")
    with database.write() as session:
        events.append(session, changes=[Change(one.id, "a"), Change(two.id, "b"), Change(one.id, "c", 3)], now=NOW)
    with database.write() as session:
        events.append(session, changes=[Change(one.id, "d")], now=NOW)
    with database.read() as session:
        assert [(e.revision, e.kind) for e in events.after(session, study_id=one.id, revision=0)] == [
            (1, "a"),
            (2, "c"),
            (3, "d"),
        ]
        assert [e.kind for e in events.after(session, study_id=one.id, revision=2)] == ["d"]
        assert [(e.revision, e.kind) for e in events.after(session, study_id=two.id, revision=0)] == [(1, "b")]


def test_names_are_unique_and_transitions_legal(database: Database) -> None:
    study = make_study(database)
    with pytest.raises(NameTaken, match="'s'"):
        make_study(database)
    with database.write() as session:
        studies.set_state(
            session, study_id=study.id, old=StudyState.RUNNING, new=StudyState.COMPLETED, reason=None, now=NOW
        )
    with pytest.raises(InvalidTransition, match="completed"), database.write() as session:
        studies.set_state(
            session, study_id=study.id, old=StudyState.COMPLETED, new=StudyState.STOPPED, reason=None, now=NOW
        )
    with database.write() as session:
        studies.delete_study(session, study_id=study.id)
    with pytest.raises(NotFound, match="'s'"), database.read() as session:
        studies.get(session, "s")


def test_expired_leases_are_found_and_renewed_ones_are_not(database: Database) -> None:
    trial, worker = running_trial(database)
    later = NOW + timedelta(seconds=60)
    with database.write() as session:
        study_id = trials.by_ids(session, ids=[trial])[trial].study_id
        ((attempt, found),) = attempts.leases(session, study_ids=[study_id], expired_at=later, lock=True)
        assert (attempt.trial_id, found.id) == (trial, trial)
        assert attempts.leases(session, study_ids=[study_id + 1], expired_at=later) == []
        attempts.renew(session, worker_id=worker, lease_expires=later + timedelta(seconds=1))
        assert attempts.leases(session, study_ids=[study_id], expired_at=later) == []
        assert len(attempts.leases(session, worker_id=worker)) == 1


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_sqlite_needs_a_file(url: str) -> None:
    with pytest.raises(DatabaseUnusable, match="needs a file"):
        Database(url)


def test_a_file_that_is_no_database_is_named(tmp_path: object) -> None:
    path = f"{tmp_path}/broken.sqlite"
    with open(path, "w") as file:
        file.write("not a database" * 100)
    database = Database(f"sqlite:///{path}")
    with pytest.raises(DatabaseUnusable, match=r"broken\.sqlite"):
        upgrade(database)
    database.close()


def test_new_rows_are_stored_as_merged_ones_are(database: Database) -> None:
    trial, _ = running_trial(database)
    noise = Noise(4, 0.1, 1e-300, 3.0, 4.0, 5.0)
    given = [
        ReportRow(trial, 1, 1, 32, 0.25, {"loss": 0.1, "odd \u00e9\t\\": math.inf}, noise),
        ReportRow(trial, 1, 2, 64, 0.5, {"loss": math.nan}, noise._replace(ss=math.inf)),
        ReportRow(trial, 1, 3, 96, 1 / 3, {}, noise._replace(s=1e308, q=1e308)),
    ]
    with database.write() as session:
        reports.add_new(session, rows=given)
        new = reports.effective_rows(session, trial_ids=[trial])[trial]
        reports.add(session, rows=given)
        merged = reports.effective_rows(session, trial_ids=[trial])[trial]
    assert repr(new) == repr(merged) == repr([given[0], given[1]._replace(noise=None), given[2]])


def test_rows_that_break_a_constraint_leave_nothing_behind(database: Database) -> None:
    trial, _ = running_trial(database)
    row = ReportRow(trial, 1, 1, 32, 0.25, {"loss": 0.1}, None)
    for twice in ([row, row], [row, row._replace(trial_id=trial + 1)]):
        with pytest.raises(IntegrityError), database.write() as session:
            reports.add_new(session, rows=twice)
    with database.read() as session:
        assert reports.effective_rows(session, trial_ids=[trial]) == {}
