"""Each study is driven by one server at a time: its shard's lock is on one line, and goes with it."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from sqlalchemy import text

from api.servers import shards as module
from api.servers.ownership import NotOwned
from api.servers.shards import Shards, _spread
from storage import line as lines
from storage.database import Database, DatabaseUnusable
from storage.line import SHARDS, Line

EVERYTHING = range(SHARDS)
Open = Callable[[], Line]


@pytest.fixture
def opened(postgresql: Database) -> Iterator[Open]:
    """Lines, closed after the test."""
    with ExitStack() as stack:

        def make() -> Line:
            found = Line(postgresql)
            stack.callback(found.close)
            return found

        yield make


def owned(shards: Shards, *, for_s: float = 0.0) -> set[int]:
    with shards.acting(EVERYTHING, for_s=for_s) as mine:
        return set(mine)


def kill(database: Database, line: Line) -> None:
    """End a line's session, as PostgreSQL does when its server is gone."""
    with database.write() as session:
        session.execute(text("select pg_terminate_backend(:pid, 5000)"), {"pid": line.backend})


def close(line: Line, witness: Line) -> None:
    """Close a line, and wait until PostgreSQL has noticed."""
    before = witness.held().servers
    line.close()
    until = time.monotonic() + 10
    while witness.held().servers == before:
        assert time.monotonic() < until


def test_servers_share_alike_and_who_is_left_takes_everything(opened: Open) -> None:
    first, second, third = (Shards() for _ in range(3))
    lines = [opened(), opened()]
    assert first.tick(lines[0]) and len(owned(first)) == SHARDS // 2, "two are there"
    assert second.tick(lines[1]) and len(owned(second)) == SHARDS // 2
    assert not first.tick(lines[0]) and not second.tick(lines[1]), "nothing moves while nobody comes or goes"
    assert owned(first).isdisjoint(owned(second))
    lines.append(opened())
    assert not third.tick(lines[2]), "nothing is free yet"
    for _ in range(2):
        first.tick(lines[0])
        second.tick(lines[1])
        third.tick(lines[2])
    assert [shards.count for shards in (first, second, third)] == [22, 22, 20]
    assert owned(first) | owned(second) | owned(third) == set(EVERYTHING)
    close(lines[1], witness=lines[0])
    close(lines[2], witness=lines[0])
    assert first.tick(lines[0]) and owned(first) == set(EVERYTHING)


def test_a_shard_is_given_up_when_nobody_acts_on_it_any_more(opened: Open) -> None:
    first, second = Shards(), Shards()
    line = opened()
    first.tick(line)
    other = opened()
    with first.acting([SHARDS + 5, SHARDS + 6]) as mine:
        assert mine == [SHARDS + 5, SHARDS + 6]
        first.tick(line)
        second.tick(other)
        assert not owned(second) & {5, 6} and len(owned(second)) >= SHARDS // 2 - 2
    first.tick(line)
    second.tick(other)
    first.tick(line)
    assert first.count == second.count == SHARDS // 2


def test_who_lost_its_line_writes_nothing_from_that_moment_on(postgresql: Database, opened: Open) -> None:
    first, second = Shards(), Shards()
    line = opened()
    first.tick(line)
    with postgresql.write() as session:
        first.confirm(session, [1, 2, 3])
    kill(postgresql, line)
    assert second.tick(opened()) and owned(second) == set(EVERYTHING), "its successor has them at once"
    assert owned(first) == set(EVERYTHING), "it has not noticed"
    with pytest.raises(NotOwned), postgresql.write() as session:
        first.confirm(session, [1, 2, 3])
    with pytest.raises(DatabaseUnusable):
        first.tick(line)
    first.lost()
    assert owned(first) == set() and first.count == 0


def test_who_cannot_see_its_line_stops_before_anybody_else_may_begin(opened: Open) -> None:
    now = [100.0]
    shards = Shards(lambda: now[0])
    shards.tick(opened())
    now[0] += module.FRESH_S
    assert owned(shards) == set(EVERYTHING)
    now[0] += 0.001
    assert owned(shards) == set()
    assert module.FRESH_S < lines.SILENCE_S


def test_what_was_just_taken_is_not_had_for_long(opened: Open) -> None:
    now = [100.0]
    shards, line = Shards(lambda: now[0]), opened()
    shards.tick(line)
    now[0] += 1.0
    shards.tick(line)
    assert owned(shards, for_s=1.0) == set(EVERYTHING) and owned(shards, for_s=1.1) == set()


def test_a_server_that_says_nothing_loses_its_locks(
    postgresql: Database, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(lines.LIVENESS, "idle_session_timeout", "200ms")
    stopped, shards = opened(), Shards()
    assert len(stopped.take([7])) == 1
    monkeypatch.setitem(lines.LIVENESS, "idle_session_timeout", "0")
    watcher, until = opened(), time.monotonic() + 10
    while watcher.held().servers > 1 and time.monotonic() < until:
        watcher.hear(0.05)
    assert shards.tick(watcher) and owned(shards) == set(EVERYTHING)
    with pytest.raises(DatabaseUnusable):
        stopped.held()


def test_what_is_given_up_lies_apart() -> None:
    assert _spread([0, 1, 2, 3, 4, 5], 3) == [1, 3, 5]
    assert _spread(list(range(10)), 1) == [5]
    for count in range(65):
        assert len(set(_spread(list(range(64)), count))) == count
