"""Checkpoints of a device process: told after their rows, resumed without a trace, and never at a trial's expense."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from worker_doubles import assignment, eventually

from tuner.engine import Stack
from tuner.engine.checkpoint import decode_tensors
from tuner.errors import InvalidInput
from tuner.store import FolderStore, path_of
from tuner.worker.channel import Json
from tuner.worker.device import checkpoints as module
from tuner.worker.device.checkpoints import Checkpoints
from tuner.worker.device.runner import Runner
from tuner.worker.device.stack_choice import Given

LONG = {"examples": 640, "params": {"optimizer": "adamw", "lr": 0.01, "batch_size": 16}}


class Watched:
    """A runner with checkpoints as often as they can be taken, and its messages."""

    def __init__(self, root: Path | None, width: int = 2, answers: bool = True, own_disk: bool = False) -> None:
        self.messages: list[Json] = []
        self.checkpoints = Checkpoints(root, 0.0, own_disk) if root is not None else None
        self.runner = Runner(self.messages.append, "cpu", Given(width, 1), self.checkpoints)
        self._answers = answers

    def assign(self, trial: int, attempt: int = 1, **changes: Any) -> None:
        self.runner.assign(assignment(trial, attempt, **{**LONG, **changes}).model_dump())

    def run(self, until: int | None = None) -> None:
        """Run to the end, or until so many checkpoints were told; the server knows of each at once."""
        told = 0
        while self.runner.busy and (until is None or len(self.of("checkpointed")) < until):
            self.runner.step()
            if until is not None and self.checkpoints is not None:
                eventually(lambda: self.checkpoints._done.qsize() == self.checkpoints._pending)  # type: ignore
            for word in self.of("checkpointed")[told:]:
                told += 1
                if self._answers:
                    self.runner.kept((word["trial"], word["attempt"]))

    def of(self, kind: str) -> list[Any]:
        return [message[kind] for message in self.messages if kind in message]

    def rows(self, trial: int, attempt: int, up_to: int = 10**9) -> list[Json]:
        found = [r for r in self.of("row") if (r["trial"], r["attempt"]) == (trial, attempt) and r["step"] <= up_to]
        return [
            {k: v for k, v in row.items() if k not in ("elapsed_s", "ticks", "computed", "attempt")} for row in found
        ]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(module, "SHARE", 1.0)
    monkeypatch.setattr(module, "LOOK_S", 0.0)


@pytest.fixture(scope="module")
def straight() -> list[Json]:
    torch.set_num_threads(1)
    watched = Watched(None)
    watched.assign(1)
    watched.run()
    return watched.rows(1, 1)


def resume_of(word: Json) -> Json:
    return {**{k: word[k] for k in ("path", "digest", "bytes", "step")}, "examples": 16 * word["step"]}


def test_a_resumed_trial_goes_on_as_if_nothing_had_happened(tmp_path: Path, straight: list[Json]) -> None:
    first = Watched(tmp_path)
    first.assign(1)
    first.run(until=4)
    word = first.of("checkpointed")[-1]
    assert word["step"] > 0 and word["path"].startswith("s/1/1-") and word["scope"] == "shared"
    before = first.messages[: [m.get("checkpointed") for m in first.messages].index(word)]
    reported = [m["row"]["step"] for m in before if "row" in m]
    assert reported == [s for s in (5, 10, *range(15, 41, 5)) if s <= word["step"]]
    second = Watched(tmp_path, width=5)
    second.assign(8, seed=3)
    second.assign(1, 2, resume=resume_of(word))
    second.run()
    assert second.of("restarted") == []
    assert first.rows(1, 1, word["step"]) + second.rows(1, 2) == straight
    assert {e["trial"]: e["outcome"] for e in second.of("ended")} == {1: "finished", 8: "finished"}


@pytest.mark.parametrize("fault", ["damaged", "missing", "another step", "another trial", "no store", "a foreign path"])
def test_a_checkpoint_that_cannot_be_used_costs_only_time(tmp_path: Path, straight: list[Json], fault: str) -> None:
    first = Watched(tmp_path)
    first.assign(1, **({"seed": 9} if fault == "another trial" else {}))
    first.run(until=2)
    resume = resume_of(first.of("checkpointed")[-1])
    file = tmp_path / resume["path"]
    if fault == "damaged":
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    elif fault == "missing":
        file.unlink()
    elif fault == "another step":
        resume["step"] += 1
    resumed = {**assignment(1, 2, resume=resume, **LONG).model_dump()}
    if fault == "a foreign path":
        resumed["resume"]["path"] = "../../etc/passwd"
    second = Watched(None if fault == "no store" else tmp_path)
    second.runner.assign(resumed)
    second.run()
    (word,) = second.of("restarted")
    assert (word["trial"], word["attempt"]) == (1, 2) and word["why"]
    kinds = [next(iter(message)) for message in second.messages]
    assert kinds.index("restarted") < kinds.index("row")
    assert second.rows(1, 2) == straight


def test_weights_come_with_the_last_word_and_nothing_else_does_after_it(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    watched.assign(1)
    watched.assign(2, params={**LONG["params"], "lr": 1e30})
    watched.run()
    ends = {ended["trial"]: ended for ended in watched.of("ended")}
    weights = ends[1]["weights"]
    content = FolderStore(tmp_path).read(weights["path"], weights["digest"])
    assert {name: list(t.shape) for name, t in decode_tensors(content).items()} == {
        "0.weight": [32, 64],
        "0.bias": [32],
        "2.weight": [10, 32],
        "2.bias": [10],
    }
    assert ends[2]["infeasible"] == "diverged" and not ends[2].get("weights")
    assert not watched.runner.busy


def test_no_further_checkpoint_before_the_server_knows_of_the_last(tmp_path: Path) -> None:
    watched = Watched(tmp_path, answers=False)
    watched.assign(1)
    watched.assign(2)
    watched.run()
    assert sorted(word["trial"] for word in watched.of("checkpointed")) == [1, 2]


def test_a_store_that_fails_costs_the_checkpoint_and_one_line_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, straight: list[Json], caplog: pytest.LogCaptureFixture
) -> None:
    tries = []

    def full(store: FolderStore, path: str, content: bytes) -> None:
        tries.append(path)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FolderStore, "write", full)
    watched = Watched(tmp_path)
    watched.assign(1)
    watched.run()
    assert watched.rows(1, 1) == straight
    assert watched.of("checkpointed") == [] and watched.of("ended")[0]["weights"] is None
    said = "a checkpoint cannot be written: OSError: [Errno 28] No space left on device"
    assert len(tries) > 1 and [(r.getMessage(), r.exc_info) for r in caplog.records] == [(said, None)]


def test_a_lack_of_memory_costs_the_checkpoint_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, straight: list[Json]
) -> None:
    """A snapshot is a copy; when there is room again, the next one is taken."""
    real, refused = Stack.snapshot, []

    def hungry(stack: Stack, slot: int) -> Any:
        if len(refused) < 3:
            refused.append(slot)
            raise torch.OutOfMemoryError("no memory left")
        return real(stack, slot)

    monkeypatch.setattr(Stack, "snapshot", hungry)
    watched = Watched(tmp_path)
    watched.assign(1)
    watched.run()
    assert watched.rows(1, 1) == straight and watched.of("width") == []
    assert len(refused) == 3 and watched.of("checkpointed")


def test_a_drain_checkpoints_every_trial_where_it_stands(tmp_path: Path, straight: list[Json]) -> None:
    first = Watched(tmp_path, width=4)
    assert first.checkpoints is not None
    first.checkpoints._every_s = 1e9
    for trial in (1, 2, 3):
        first.assign(trial, seed=0 if trial == 1 else trial)
    for _ in range(4 * 33 + 2):  # in the middle of a step
        first.runner.step()
    first.runner.drain(30.0)
    words = {word["trial"]: word for word in first.of("checkpointed")}
    assert {trial: word["step"] for trial, word in words.items()} == {1: 33, 2: 33, 3: 33}
    second = Watched(tmp_path)
    second.assign(1, 2, resume=resume_of(words[1]))
    second.run()
    assert first.rows(1, 1) + second.rows(1, 2) == straight


def test_checkpoints_earn_their_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After one that cost 0.1 s of the tick loop, the next waits for 0.1 s / SHARE, however often they are due."""
    monkeypatch.setattr(module, "SHARE", 0.01)
    watched = Watched(tmp_path)
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    real = Stack.snapshot

    def slow(stack: Stack, slot: int) -> Any:
        clock[0] += 0.1
        return real(stack, slot)

    monkeypatch.setattr(Stack, "snapshot", slow)
    taken = []
    watched.assign(1, examples=10**6)
    for _ in range(400):
        clock[0] += 0.25
        watched.runner.step()
        for word in watched.of("checkpointed")[len(taken) :]:
            taken.append(clock[0])
            watched.runner.kept((word["trial"], word["attempt"]))
        while watched.checkpoints is not None and watched.checkpoints._jobs.qsize():
            pass  # the writer is on its way
    assert 5 <= len(taken) <= 400 * 0.25 / 10 + 2


def test_a_worker_with_its_own_disk_keeps_it_tidy(tmp_path: Path, straight: list[Json]) -> None:
    """The newest state stays while the trial is under way, also across processes; none when it has finished."""

    def states() -> list[str]:
        return sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("*/*/*"))

    first = Watched(tmp_path, own_disk=True)
    assert first.checkpoints is not None and first.checkpoints.scope.startswith("worker:")
    first.assign(1)
    first.run(until=3)
    words = first.of("checkpointed")
    assert {word["scope"] for word in words} == {first.checkpoints.scope} and words[-1]["path"] in states()
    assert words[0]["path"] not in states() and words[1]["path"] not in states()
    second = Watched(tmp_path, own_disk=True)
    assert second.checkpoints is not None and second.checkpoints.scope == first.checkpoints.scope
    second.assign(1, 2, resume=resume_of(words[-1]))
    second.run(until=1)
    assert words[-1]["path"] not in states()
    second.run()
    assert first.rows(1, 1, words[-1]["step"]) + second.rows(1, 2) == straight
    assert second.of("ended")[0].get("weights") is None
    assert [path for path in states() if "/1/2-" in path] == []
    old = tmp_path / path_of("gone", 7, 1, 5, "0123abcd")
    old.parent.mkdir(parents=True)
    old.write_bytes(b"left behind")
    os.utime(old, (1e9, 1e9))
    Watched(tmp_path, own_disk=True)
    assert not old.exists()
    with pytest.raises(InvalidInput, match="a directory, not a URL"):
        Checkpoints("memory://own", 0.0, own_disk=True)
