"""What trials are told: which order goes before which, who may take it back, and what the schema refuses."""

import pytest
import stored_leases
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from stored_leases import NOW

from storage import orders, studies, trials, workers
from storage.database import Database
from storage.trials import NewTrial, TrialRecord
from tuner.errors import Conflict
from tuner.study.states import Order, OrderedBy, Origin, StudyState, TrialState

STUDY, USER = OrderedBy.STUDY, OrderedBy.USER


@pytest.fixture
def database_of_four(database: Database) -> Database:
    """A study with trials 0 and 1 running, 2 and 3 queued."""
    with database.write() as session:
        study = studies.create(
            session, name="s", title="", document={"workload": {"name": "w"}}, run_cap=9, parallel=4,
            idempotency_key=None, now=NOW,
        )  # fmt: skip
        assert study.id == 1 or not database.is_sqlite
        studies.reserve_number(session, study_id=study.id, count=4, origin=Origin.ENQUEUED)
        new = [NewTrial(number, "sgd", {"lr": 0.1}, 0, TrialState.QUEUED, None, 0, 10, 320, "k") for number in range(4)]
        ids = trials.create_all(session, study_id=study.id, trials=new, now=NOW)
        worker = workers.register(
            session, worker_session="x" * 16, name="w", devices=[], workloads=[], version="", now=NOW
        )
        for trial_id in ids[:2]:
            stored_leases.grant(session, trial_id, worker)
    return database


def study_id(database: Database) -> int:
    with database.read() as session:
        return studies.get(session, "s").id


def stored(database: Database) -> list[TrialRecord]:
    with database.read() as session:
        return trials.of_study(session, study_id=studies.get(session, "s").id)


def give(database: Database, order: Order, by: OrderedBy, number: int | None = None) -> list[int]:
    with database.write() as session:
        return orders.give(session, study_id=study_id(database), order=order, why=f"{order}", by=by, number=number)


def test_what_ends_a_trial_goes_before_a_pause_and_is_not_replaced(database_of_four: Database) -> None:
    assert give(database_of_four, Order.PAUSE, STUDY) == [0, 1], "only running trials have orders"
    assert give(database_of_four, Order.PAUSE, STUDY) == []
    assert give(database_of_four, Order.STOP, USER, 0) == [0]
    assert give(database_of_four, Order.PRUNE, STUDY) == [1]
    assert give(database_of_four, Order.PAUSE, STUDY) == give(database_of_four, Order.STOP, STUDY) == []
    told = [(trial.order, trial.order_why, trial.ordered_by) for trial in stored(database_of_four)]
    assert told == [("stop", "stop", "user"), ("prune", "prune", "study"), (None, None, None), (None, None, None)]


def test_only_a_studys_own_order_is_withdrawn(database_of_four: Database) -> None:
    give(database_of_four, Order.STOP, USER, 0)
    give(database_of_four, Order.PAUSE, STUDY)
    with database_of_four.write() as session:
        assert orders.withdraw(session, study_id=study_id(database_of_four), order=Order.PAUSE) == [1]
    assert [trial.order for trial in stored(database_of_four)] == ["stop", None, None, None]


def test_what_waits_is_cancelled_and_remembers_by_whom(database_of_four: Database) -> None:
    key = study_id(database_of_four)
    with database_of_four.write() as session:
        own = orders.cancel_waiting(session, study_id=key, why="u", by=USER, now=NOW, number=2)
        rest = orders.cancel_waiting(session, study_id=key, why="s", by=STUDY, now=NOW)
        assert (own, rest) == ([2], [3])
        assert [trial.number for trial in orders.cancelled_with_study(session, study_id=key)] == [3]


def test_a_trial_that_is_not_where_it_was_is_not_queued_again(database_of_four: Database) -> None:
    waiting = stored(database_of_four)[2]
    with pytest.raises(Conflict), database_of_four.write() as session:
        orders.queue_again(session, trials=[waiting], old=TrialState.CANCELLED)


def test_no_trial_of_a_paused_study_is_started(database_of_four: Database) -> None:
    """Whoever leases may have read that the study runs, before it was paused."""
    key, waiting = study_id(database_of_four), stored(database_of_four)[2]
    with database_of_four.write() as session:
        studies.set_state(session, study_id=key, old=StudyState.RUNNING, new=StudyState.PAUSED, reason=None, now=NOW)
    with pytest.raises(Conflict), database_of_four.write() as session:
        stored_leases.grant(session, waiting.id, 1)


@pytest.mark.parametrize(
    "change",
    [
        "\"order\" = 'pause' where number = 2",
        "\"order\" = 'leave' where number = 0",
        "ordered_by = 'me' where number = 0",
    ],
)
def test_the_schema_refuses_other_orders_and_orders_of_what_does_not_run(
    database_of_four: Database, change: str
) -> None:
    with pytest.raises(IntegrityError), database_of_four.write() as session:
        session.execute(text(f"update trials set {change}"))


def test_enqueued_trials_come_first_where_that_is_asked(database_of_four: Database) -> None:
    key = study_id(database_of_four)
    with database_of_four.write() as session:
        session.execute(text("update trials set origin = 'proposed', family_index = 0 where number = 2"))
        plain = trials.queued(session, queue=(key, "k"), limit=9)
        first = trials.queued(session, queue=(key, "k"), limit=9, enqueued_first=True)
        one = trials.queued(session, queue=(key, "k"), limit=1, enqueued_first=True)
        assert trials.waiting(session, queues=[(key, "k"), (key, "other")]) == {(key, "k"): True}
    assert [[trial.number for trial in found] for found in (plain, first, one)] == [[2, 3], [3, 2], [3]]
