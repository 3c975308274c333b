"""Two transactions on one study at the same time, as PostgreSQL allows them: neither fails, and no trial is left over.

The first one is held before its last statement until the second waits for one of its locks, or has passed it by.
"""

import functools
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from postgresql import administrator
from sqlalchemy import text
from sync_world import LEASE_S, World
from worker_doubles import eventually

from storage import events, studies, trials
from storage.database import Database
from tuner.errors import Conflict, NotFound
from tuner.study.states import TERMINAL, Order, StudyState, TrialState

WAITING = text("select count(*) from pg_locks where not granted")


def propose(world: World) -> None:
    world.proposing.fill(1)


def lease(world: World) -> None:
    world.sync(world.workers[1])


def expire(world: World) -> None:
    for _ in range(int(LEASE_S) + 1):  # the server must be up for a lease
        world.now += timedelta(seconds=1)
        world.expiry.round([1])


def ending(outcome: str) -> Callable[[World], None]:
    def end(world: World) -> None:
        worker = world.workers[0]
        world.end(worker, min(worker.device.running), outcome)
        world.sync(worker)

    end.__name__ = outcome
    return end


def stop(world: World) -> None:
    world.commands.stop("one")


def delete(world: World) -> None:
    world.commands.delete("one")


def pause(world: World) -> None:
    world.commands.pause("one")


def enqueue(world: World) -> None:
    world.commands.enqueue("one", {"optimizer": "sgd", "batch_size": 16})


def edit(world: World) -> None:
    world.commands.edit("one", {"run_cap": 7, "priority": 2.0})


def retry(world: World) -> None:
    """Try the first trial again; it is completed, so that is refused, but only once its row is locked."""
    world.commands.retry_trial("one", 0)


ACTS = [propose, lease, expire, ending("finished"), ending("drained")]
OVERS = [stop, delete, pause]
PAIRS = [pair for act in ACTS for over in OVERS for pair in ((act, over), (over, act))]
PAIRS += [(stop, delete), (pause, stop), (stop, pause), (pause, delete)]
PAIRS += [pair for act in (enqueue, edit) for other in (propose, lease, pause) for pair in ((act, other), (other, act))]
PAIRS += [(ending("finished"), retry), (enqueue, enqueue), (enqueue, edit)]


@pytest.fixture
def world(emptied_postgresql: str, tmp_path: Path) -> Iterator[World]:
    """One completed trial, three on the first worker, two queued ones, and room for another."""
    found = World(Database(emptied_postgresql), str(tmp_path))
    found.submit("one", 8)
    found.conduct()
    for _ in range(2):  # the first opens a stack, the second fills it
        found.sync(found.workers[0])
    ending("finished")(found)
    with found.database.read() as session:
        counts = studies.progress(session, study_ids=[1])[1].counts
    try:
        assert counts == {"completed": 1, "running": 3, "queued": 2}
        yield found
    finally:
        found.database.close()


def hold_first(monkeypatch: pytest.MonkeyPatch, url: str, over: threading.Event) -> threading.Event:
    """Let the next transaction that reaches its last statement wait before it; return what is set then."""
    held = threading.Event()

    def wait(original: Callable[..., Any], session: Any, **values: Any) -> Any:
        if not held.is_set():
            held.set()
            with administrator(url) as own:
                eventually(lambda: over.is_set() or own.execute(WAITING).scalar_one())
        return original(session, **values)

    for place, name in ((events, "append"), (studies, "delete_study")):
        monkeypatch.setattr(place, name, functools.partial(wait, getattr(place, name)))
    return held


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=lambda act: act.__name__)
def test_nothing_fails_and_nothing_is_left(
    world: World,
    emptied_postgresql: str,
    first: Callable[[World], None],
    second: Callable[[World], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failures: list[Exception] = []
    over = threading.Event()
    held = hold_first(monkeypatch, emptied_postgresql, over)

    def run(act: Callable[[World], None], done: threading.Event) -> None:
        try:
            act(world)
        except (NotFound, Conflict):
            pass  # the study is gone, or has ended: an answer
        except Exception as error:
            failures.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=run, args=(first, threading.Event()))
    thread.start()
    assert held.wait(30)
    run(second, over)
    thread.join()
    assert not failures
    with world.database.read() as session:
        found = studies.by_ids(session, ids=[1])
        left = trials.of_study(session, study_id=1)
    if not found:
        assert not left
        return
    assert [trial.number for trial in left] == list(range(found[1].trials_created))
    assert found[1].runs == len(left) <= found[1].run_cap
    names = {act.__name__ for act in (first, second)}
    expected = StudyState.STOPPED if "stop" in names else StudyState.PAUSED if "pause" in names else StudyState.RUNNING
    assert found[1].state == expected
    if expected is StudyState.STOPPED:
        assert all(trial.state in TERMINAL or trial.order is Order.STOP for trial in left)
        assert TrialState.QUEUED not in {trial.state for trial in left}
    if expected is StudyState.PAUSED:
        assert all(trial.order is Order.PAUSE for trial in left if trial.state is TrialState.RUNNING)
