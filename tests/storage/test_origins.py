"""Why trials exist: proposals are made once, the cap counts runs alone, and what is derived has a parent."""

import pytest
from stored_leases import NOW

from storage import studies, trials
from storage.database import Database
from storage.trials import NewTrial
from tuner.errors import Conflict
from tuner.study.states import Origin, TrialState


@pytest.fixture
def study(database: Database) -> int:
    """A study that may have five runs."""
    with database.write() as session:
        return studies.create(
            session, name="s", title="", document={}, run_cap=5, parallel=4, idempotency_key=None, now=NOW
        ).id


def new(number: int, origin: Origin, index: int | None = None, parent: int | None = None) -> NewTrial:
    return NewTrial(number, "sgd", {}, 0, TrialState.QUEUED, None, 0, 10, 320, "k", origin, index, parent)


def test_the_cap_counts_proposed_and_enqueued_trials_and_no_others(database: Database, study: int) -> None:
    with database.write() as session:
        taken = [
            studies.reserve_number(session, study_id=study, count=3, origin=Origin.PROPOSED),
            studies.reserve_number(session, study_id=study, count=4, origin=Origin.REPLICATE),
            studies.reserve_number(session, study_id=study, origin=Origin.ENQUEUED),
            studies.reserve_number(session, study_id=study, count=2, origin=Origin.PROPOSED),
            studies.reserve_number(session, study_id=study, origin=Origin.PROPOSED),
            studies.reserve_number(session, study_id=study, origin=Origin.ENQUEUED),
            studies.reserve_number(session, study_id=study, origin=Origin.BRANCH),
        ]
        found = studies.get(session, study)
    assert taken == [0, 3, 7, None, 8, None, 9]
    assert (found.trials_created, found.runs) == (10, 5)


def test_a_proposal_is_stored_once(database: Database, study: int) -> None:
    with database.write() as session:
        trials.create(session, study_id=study, trial=new(0, Origin.PROPOSED, index=0), now=NOW)
    with pytest.raises(Conflict, match="trials 1 to 2"), database.write() as session:
        again = [new(1, Origin.PROPOSED, index=1), new(2, Origin.PROPOSED, index=0)]
        trials.create_all(session, study_id=study, trials=again, now=NOW)
    with database.read() as session:
        assert [trial.number for trial in trials.of_study(session, study_id=study)] == [0]


def test_trials_that_are_not_proposed_leave_the_sequence_alone(database: Database, study: int) -> None:
    others = [new(1, Origin.ENQUEUED), new(2, Origin.REPLICATE, parent=0), new(3, Origin.BRANCH, parent=2)]
    with database.write() as session:
        trials.create_all(session, study_id=study, trials=[new(0, Origin.PROPOSED, index=0), *others], now=NOW)
        assert trials.next_indexes(session, study_id=study, families=["sgd", "adamw"]) == [1, 0]
        assert trials.get(session, study_id=study, number=3).parent == 2


@pytest.mark.parametrize(
    "wrong",
    [
        new(0, Origin.PROPOSED),
        new(0, Origin.ENQUEUED, index=3),
        new(0, Origin.REPLICATE),
        new(0, Origin.ENQUEUED, parent=0),
        new(0, Origin.BRANCH, parent=7),
    ],
)
def test_a_trial_whose_origin_contradicts_its_place_is_refused(database: Database, study: int, wrong: NewTrial) -> None:
    with pytest.raises(Conflict), database.write() as session:
        trials.create(session, study_id=study, trial=wrong, now=NOW)
