"""Whatever gets lost, comes late, twice or in another order: no result is mixed up, and nothing waits for ever.

Random courses of events over the real sync code, the real holdings of two workers and doubles of their devices, of
which one holds several stacks at a time. Time is virtual. At the end the network is good again, and every study must
come to its end.
"""

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sync_world import LEASE_S, World

from storage.database import Database
from tuner.errors import Conflict, NotFound

NAME = st.sampled_from(["one", "two", "three"])
CAP, WHICH, BACK = st.integers(1, 6), st.integers(0, 1), st.integers(0, 4)


def submit(world: World, name: str, run_cap: int) -> None:
    world.submit(name, run_cap)
    world.conduct()


def replace(world: World, name: str, run_cap: int) -> None:
    """A study follows a deleted one of its name before any worker syncs."""
    give_up(world, name, True)
    submit(world, name, run_cap)


def give_up(world: World, name: str, delete: bool) -> None:
    try:
        world.commands.delete(name) if delete else world.commands.stop(name)
    except (NotFound, Conflict):
        pass


def sync(world: World, which: int) -> None:
    world.conduct()
    world.sync(world.workers[which])


def lose(world: World, which: int, arrives: bool) -> None:
    """A request, or only its reply, is lost."""
    world.sync(world.workers[which], arrives=arrives, answered=False)


def request_again(world: World, which: int, back: int) -> None:
    worker = world.workers[which]
    if worker.id is not None and len(worker.sent) > back:
        world.serve(worker, worker.sent[-1 - back])


def reply_again(world: World, which: int, back: int) -> None:
    worker = world.workers[which]
    if len(worker.heard) > back:
        world.obey(worker, worker.heard[-1 - back])


def end(world: World, which: int, fails: bool) -> None:
    worker = world.workers[which]
    if worker.device.running:
        world.end(worker, min(worker.device.running), "error" if fails else "finished")


def command(world: World, what: str, name: str) -> None:
    world.command(what, name)


def retry(world: World, name: str, number: int) -> None:
    world.retry(name, number)


def leave(world: World, which: int) -> None:
    world.leave(world.workers[which])


def crash(world: World, which: int) -> None:
    world.crash(world.workers[which])


def restart_worker(world: World, which: int) -> None:
    world.workers[which] = world.new_worker(several=world.workers[which].device.several)


def restart_server(world: World) -> None:
    world.start_server()


def wait(world: World, seconds: float) -> None:
    world.now += timedelta(seconds=seconds)
    world.conduct()


def step(act: Callable[..., None], *given: Any) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.tuples(st.just(act), *given)


SYNC = step(sync, WHICH)
END = step(end, WHICH, st.sampled_from([False, False, True]))
COURSE = st.lists(
    st.one_of(
        step(submit, NAME, CAP),
        step(replace, NAME, CAP),
        step(give_up, NAME, st.booleans()),
        step(command, st.sampled_from(["pause", "resume"]), st.sampled_from(["one", "two"])),
        step(retry, NAME, st.integers(0, 3)),
        step(leave, WHICH),
        SYNC,
        SYNC,  # twice: what is drawn most often
        step(lose, WHICH, st.booleans()),
        step(request_again, WHICH, BACK),
        step(reply_again, WHICH, BACK),
        END,
        END,
        step(crash, WHICH),
        step(restart_worker, WHICH),
        step(restart_server),
        step(wait, st.sampled_from([1.0, LEASE_S / 5, LEASE_S * 2])),
    ),
    min_size=25,
    max_size=40,
)
MANY = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def run(database: Database, store: Path, course: list[tuple[Any, ...]]) -> None:
    world = World(database, str(store))
    submit(world, "one", 6)
    for act, *how in course:
        act(world, *how)
        world.check()
    world.settle()


def test_on_sqlite(sqlite_template: Path, tmp_path: Path) -> None:
    @MANY
    @given(COURSE)
    def any_course(course: list[tuple[Any, ...]]) -> None:
        for old in tmp_path.glob("tuner.sqlite*"):
            old.unlink()
        shutil.copy(sqlite_template, tmp_path / "tuner.sqlite")
        database = Database(f"sqlite:///{tmp_path / 'tuner.sqlite'}")
        run(database, tmp_path / "store", course)
        database.close()

    any_course()


def test_on_postgresql(postgresql: Database, tmp_path: Path) -> None:
    @settings(MANY, max_examples=3)
    @given(COURSE)
    def any_course(course: list[tuple[Any, ...]]) -> None:
        with postgresql.write() as session:
            session.execute(text("truncate studies, workers cascade"))
        run(postgresql, tmp_path / "store", course)

    any_course()
