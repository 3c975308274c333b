"""Whether what a database holds fits together: `tuner db check`.

Keys and constraints hold what they can; here is the rest, and what a damaged file or a change by hand may have broken.
"""

from collections.abc import Iterator

from pydantic import ValidationError
from sqlalchemy import func, select, text
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import Session

from storage import tables as t
from storage.database import Database, DatabaseUnusable, cause
from storage.migrate import head, schema_of
from tuner.study.spec import StudySpec
from tuner.study.states import TERMINAL, Origin, TrialState

RUNS = [origin for origin in Origin if origin.is_run]
MOST_NAMED = 5
"""Things named of each kind."""


def faults(database: Database) -> list[str]:
    """Return a line for everything that is wrong, none if all is well.

    Raises:
        DatabaseUnusable: the database cannot be read.
    """
    found, newest = schema_of(database), head(database)
    if found != newest:
        return [f"the schema is {found or 'missing'}, not {newest}; run tuner db upgrade"]
    damage: list[str] = []
    try:
        with database.read() as session:
            damage += _damage(session)
            if not damage:
                return [*_studies(session), *_attempts(session), *_trials(session)]
    except DatabaseUnusable:
        if not damage:
            raise
    return damage  # what else could be read means nothing


def _damage(session: Session) -> Iterator[str]:
    """What SQLite finds in its own file; PostgreSQL checks its pages and keys all the time."""
    if session.get_bind().dialect.name != "sqlite":
        return
    try:
        said = list(session.scalars(text("pragma integrity_check(10)")))
        broken = session.execute(text("pragma foreign_key_check")).all()
    except DatabaseError as error:
        yield f"the file is damaged: {cause(error)}"
        return
    yield from (f"the file is damaged: {line}" for line in said if line != "ok")
    for table in sorted({row[0] for row in broken}):
        yield f"{sum(row[0] == table for row in broken)} rows of {table} refer to rows that are not there"


def _studies(session: Session) -> Iterator[str]:
    of_study = select(
        t.Trial.study_id,
        func.count().label("trials"),
        func.max(t.Trial.number).label("last"),
        func.count().filter(t.Trial.origin.in_(RUNS)).label("runs"),
    ).group_by(t.Trial.study_id)
    found = {row.study_id: row for row in session.execute(of_study)}
    of_events = select(t.Event.study_id, func.max(t.Event.revision)).group_by(t.Event.study_id)
    last_event = {study_id: revision for study_id, revision in session.execute(of_events)}
    columns = (t.Study.id, t.Study.name, t.Study.trials_created, t.Study.runs, t.Study.revision, t.Study.document)
    for study_id, name, created, runs, revision, document in session.execute(select(*columns).order_by(t.Study.id)):
        row = found.get(study_id)
        trials, last, counted = (row.trials, row.last, row.runs) if row is not None else (0, -1, 0)
        if trials != created or last != created - 1:
            yield f"study {name}: {created} trials were created, {trials} are there, the last is number {last}"
        if counted != runs:
            yield f"study {name}: {runs} runs are counted, {counted} trials are runs"
        if last_event.get(study_id, 0) > revision:
            yield f"study {name}: its revision is {revision}, its last event has {last_event[study_id]}"
        try:
            StudySpec.model_validate(document)
        except ValidationError as error:
            first = error.errors()[0]
            yield f"study {name}: its document cannot be read: {'.'.join(map(str, first['loc']))}: {first['msg']}"


def _attempts(session: Session) -> Iterator[str]:
    """A trial runs while, and only while, one attempt of it has not ended: the one that it names."""
    live = (t.Attempt.trial_id == t.Trial.id) & t.Attempt.outcome.is_(None)
    joined = select(t.Trial.study_id, t.Trial.number, t.Trial.state, t.Trial.attempt, t.Attempt.attempt)
    query = joined.outerjoin(t.Attempt, live).where(
        (t.Trial.state == TrialState.RUNNING) | t.Attempt.attempt.is_not(None)
    )
    wrong = []
    for study, number, state, named, attempt in session.execute(query.order_by(t.Trial.id)):
        if state != TrialState.RUNNING or attempt is None:
            has = f"attempt {attempt} has not ended" if attempt is not None else "no attempt of it has begun"
            wrong.append(f"trial {number} of study {study} is {state}, and {has}")
        elif named != attempt:
            wrong.append(f"trial {number} of study {study} names attempt {named}, and attempt {attempt} has not ended")
    yield from _some(wrong)


def _trials(session: Session) -> Iterator[str]:
    ended = t.Trial.state.in_(TERMINAL)
    query = select(t.Trial.study_id, t.Trial.number, t.Trial.state).where(ended != t.Trial.finished_at.is_not(None))
    found = session.execute(query.order_by(t.Trial.id)).all()
    yield from _some(
        [f"trial {number} of study {study} is {state}, and its end says otherwise" for study, number, state in found]
    )


def _some(lines: list[str]) -> list[str]:
    more = len(lines) - MOST_NAMED
    return lines[:MOST_NAMED] + ([f"and {more} more like the last one"] if more > 0 else [])
