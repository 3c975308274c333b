"""A device is told to pause trials: they leave with their state stored, after their step, and go on bit for bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from test_taking_checkpoints import LONG, Watched, resume_of, straight
from worker_doubles import FakeDevice, assignment, eventually

from tuner.store import FolderStore
from tuner.wire.sync import Stop, SyncReply
from tuner.worker.agent.holdings import Holdings
from tuner.worker.channel import Json
from tuner.worker.device.device import tell

__all__ = ["straight"]
KEY = [1, 1]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def paused(watched: Watched, ticks: int, trials: int = 1) -> list[Json]:
    """Train for so many ticks, pause every trial, and let the writer finish; return the checkpoints."""
    for trial in range(1, trials + 1):
        watched.assign(trial, seed=0 if trial == 1 else trial)
    for _ in range(ticks):
        watched.runner.step()
    for trial in range(1, trials + 1):
        tell(watched.runner, {"pause": [trial, 1]})
    until(watched, lambda: len(watched.of("ended")) == trials)
    return watched.of("checkpointed")


def until(watched: Watched, condition: Any) -> None:
    def once() -> bool:
        watched.runner.step()
        return bool(condition())

    eventually(once)


def watched_in(tmp_path: Path | None, width: int = 2) -> Watched:
    found = Watched(tmp_path, width)
    if found.checkpoints is not None:
        found.checkpoints._every_s = 1e9
    return found


def test_a_paused_trial_leaves_after_its_step_and_goes_on_bit_for_bit(tmp_path: Path, straight: list[Json]) -> None:
    first = watched_in(tmp_path)
    (word,) = paused(first, ticks=4 * 13 + 2)
    assert word["step"] == 14, "it was amid its 14th step"
    assert [(e["outcome"], e["infeasible"], e["error"]) for e in first.of("ended")] == [("paused", None, None)]
    kinds = [next(iter(message)) for message in first.messages]
    order = ["row", "left", "checkpointed", "ended"]
    assert [max(i for i, k in enumerate(kinds) if k == kind) for kind in order] == sorted(
        max(i for i, k in enumerate(kinds) if k == kind) for kind in order
    )
    assert not first.runner.busy and first.messages[-1].get("stacks", {}) == {}
    second = watched_in(tmp_path, width=5)
    second.assign(1, 2, resume=resume_of(word))
    second.run()
    assert first.rows(1, 1) + second.rows(1, 2) == straight


def test_many_trials_leave_one_after_the_other_while_others_train(tmp_path: Path) -> None:
    watched = watched_in(tmp_path, width=8)
    watched.assign(20, seed=7)
    words = paused(watched, ticks=30, trials=6)
    assert sorted(word["trial"] for word in words) == [1, 2, 3, 4, 5, 6]
    assert {ended["outcome"] for ended in watched.of("ended")} == {"paused"}
    watched.run()
    assert watched.of("ended")[-1]["trial"] == 20 and watched.of("ended")[-1]["outcome"] == "finished"


def test_a_trial_that_waits_leaves_at_once(tmp_path: Path) -> None:
    watched = watched_in(tmp_path)
    watched.assign(1)
    tell(watched.runner, {"pause": KEY})
    assert [(e["trial"], e["outcome"]) for e in watched.of("ended")] == [(1, "paused")]
    assert not watched.runner.busy


def test_who_may_go_on_goes_on(straight: list[Json]) -> None:
    watched = watched_in(None)
    watched.assign(1)
    for _ in range(2):
        watched.runner.step()
    for words in ("pause", "pause", "go_on", "go_on"):
        tell(watched.runner, {words: KEY})
    watched.run()
    assert watched.of("ended")[0]["outcome"] == "finished" and watched.rows(1, 1) == straight


def test_a_trial_that_ends_first_has_finished(tmp_path: Path, straight: list[Json]) -> None:
    watched = watched_in(tmp_path)
    watched.assign(1)
    while len(watched.rows(1, 1)) < len(straight) - 1 or not watched.runner._stacks.busy:
        watched.runner.step()
    held, slot = watched.runner._stacks.with_trial((1, 1)) or (None, None)
    assert held is not None and slot is not None
    while held.stack._slots.step[slot] < 39:
        watched.runner.step()
    watched.runner.step()
    tell(watched.runner, {"pause": KEY})
    watched.run()
    assert [ended["outcome"] for ended in watched.of("ended")] == ["finished"]


def test_a_stop_overtakes_a_pause(tmp_path: Path) -> None:
    watched = watched_in(tmp_path)
    watched.assign(1)
    for _ in range(2):
        watched.runner.step()
    tell(watched.runner, {"pause": KEY})
    tell(watched.runner, {"stop": KEY})
    watched.run()
    assert watched.of("ended") == [] and not watched.runner.busy
    tell(watched.runner, {"pause": KEY})  # it is not here any more
    assert not watched.runner.busy


@pytest.mark.parametrize("lacks", ["no store", "a full disk", "no memory"])
def test_a_trial_whose_state_cannot_be_stored_leaves_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    watched = watched_in(None if lacks == "no store" else tmp_path)

    def full(store: FolderStore, path: str, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    def hungry(*_: Any) -> None:
        raise torch.OutOfMemoryError("no memory left")

    if lacks == "a full disk":
        monkeypatch.setattr(FolderStore, "write", full)
    if lacks == "no memory":
        monkeypatch.setattr("tuner.engine.Stack.snapshot", hungry)
    assert paused(watched, ticks=10) == []
    assert [ended["outcome"] for ended in watched.of("ended")] == ["paused"] and not watched.runner.busy


def test_the_agent_passes_an_order_on_once_and_takes_it_back_once() -> None:
    device = FakeDevice()
    holdings = Holdings([device])
    device.keep_running(holdings.listen)  # type: ignore[arg-type]
    holdings.take(assignment(1, **LONG))
    order = Stop(trial=1, attempt=1, order="pause", why="the study was paused")

    def obey(*stops: Stop) -> None:
        assert not holdings.obey(SyncReply(stop=list(stops), lease_s=1.0, next_sync_s=1.0))

    for stops in ([order], [order], [], [], [order]):
        obey(*stops)
    assert [message for message in device.sent if "assign" not in message] == [
        {"pause": KEY}, {"go_on": KEY}, {"pause": KEY},
    ]  # fmt: skip
    device.row(1, step=4)
    device.end(1, outcome="paused", step=0, examples=0)
    (finish,) = holdings.outbox.parcel().finished
    assert (finish.outcome, finish.step, finish.examples) == ("paused", 4, 64)
    assert holdings.held([finish]) == []
