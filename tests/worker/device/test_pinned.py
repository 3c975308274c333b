"""A device builds the program that a reproducible study is pinned to, exactly, or gives its trials back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from worker_doubles import assignment

from tuner.engine import Stack
from tuner.probe.choice import Cell, Choice, Compiled, cpu, key, store
from tuner.study.program import fingerprint
from tuner.worker.channel import Json
from tuner.worker.device.runner import Runner
from tuner.worker.device.stack_choice import Given, rule_of


@pytest.fixture(autouse=True)
def one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield
    torch.set_num_threads(before)


class Watched:
    """A runner with its messages."""

    def __init__(self, width: int | None) -> None:
        self.messages: list[Json] = []
        self.runner = Runner(self.messages.append, "cpu", Given(width, 1))

    def run(self, *trials: int, **changes: Any) -> None:
        for trial in trials:
            one = assignment(trial, examples=16, **{"reproducible": True, "stack": "own", **changes})
            self.runner.assign(one.model_dump())
        while self.runner.busy:
            self.runner.step()

    def of(self, kind: str) -> list[Any]:
        return [message[kind] for message in self.messages if kind in message]

    def programs(self) -> list[Json]:
        return [message["program"] for message in self.messages if "started" in message]

    def ends(self) -> dict[int, tuple[str, str | None]]:
        return {e["trial"]: (e["outcome"], e["error"]) for e in self.of("ended")}


@pytest.fixture
def pinned() -> Json:
    """What the first attempt of a study ran, on a device of width 3."""
    first = Watched(3)
    first.run(1)
    return first.programs()[0]


def test_a_free_width_follows_the_study_and_others_keep_their_own(pinned: Json) -> None:
    store(key("digits-mlp", {}, 4, cpu()), Choice((Cell("eager", 5, 1e-3), Cell("eager", 64, 1.0))))
    watched = Watched(None)
    watched.run(2, program=pinned)
    watched.run(3, reproducible=False, stack="free")
    watched.run(4, program=pinned)
    assert [program["width"] for program in watched.programs()] == [3, 5, 3]
    assert [stacks for stacks in watched.of("stacks") if stacks] == [{"own": 3}, {"free": 5}, {"own": 3}]
    assert watched.programs()[0] == pinned == watched.programs()[2]
    assert set(watched.ends().values()) == {("finished", None)}


def test_a_width_that_the_user_fixed_declines_once_for_the_whole_study(pinned: Json) -> None:
    watched = Watched(2)
    for trial in (2, 3):
        watched.runner.assign(assignment(trial, reproducible=True, stack="own", program=pinned).model_dump())
    watched.run(4, study_id=2, stack="another", reproducible=False)
    why = f"does not run program {fingerprint(pinned)}, which needs width 3 (offered: 2)"
    assert watched.ends() == {2: ("displaced", why), 3: ("displaced", why), 4: ("finished", None)}
    assert watched.of("declined") == [fingerprint(pinned)]
    assert [message["started"][0] for message in watched.messages if "started" in message] == [4]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"threads": 2}, "threads 2 (offered: 1)"),
        ({"device": "cuda"}, "device cuda (offered: cpu)"),
        ({"torch": "1.0"}, "torch 1.0 (offered: "),
        ({"hardware": "Another CPU"}, "hardware Another CPU (offered: "),
        ({"path": "loop"}, ""),
        ({"data": "abc"}, "only one of the two has data"),
    ],
)
def test_whatever_differs_declines(pinned: Json, change: Json, why: str) -> None:
    """A path is built as asked, so it never differs here; a key that only one of the two has does."""
    watched = Watched(3)
    watched.run(2, program={**pinned, **change})
    outcome, error = watched.ends()[2]
    if not why:
        assert (outcome, watched.programs()[0]["path"]) == ("finished", "loop")
        return
    assert outcome == "displaced" and why in str(error) and watched.programs() == []
    watched.run(3, stack="next", reproducible=False)  # the device goes on with other studies
    assert watched.ends()[3] == ("finished", None)


def test_what_was_measured_and_compiled_does_not_decide_a_reproducible_studys_program() -> None:
    """Otherwise the same document on the same machine gave other bits on another day."""
    unknown = Watched(None)
    unknown.run(1, slots=6)
    rules = (rule_of({"optimizer": "sgd"}),)
    cells = Cell("loop", 1, 1e-9), Cell("eager", 4, 1e-1), Cell("compiled", 6, 1e-9)
    store(key("digits-mlp", {}, 4, cpu()), Choice(cells, (Compiled(6, 1, rules, 0.0),)))
    known = Watched(None)
    known.run(1, slots=6)
    assert known.programs() == unknown.programs()
    assert (known.programs()[0]["path"], known.programs()[0]["width"]) == ("eager", 6)


def test_a_narrowed_device_declines_what_it_ran_before(monkeypatch: pytest.MonkeyPatch, pinned: Json) -> None:
    """Out of memory: the trials in the stack go back, and the next one is declined for its width."""
    real = Stack.tick

    def hungry(stack: Stack) -> Any:
        if stack.width > 1:
            raise torch.OutOfMemoryError("no memory left")
        return real(stack)

    watched = Watched(3)
    monkeypatch.setattr(Stack, "tick", hungry)
    watched.run(1, 2, program=pinned)
    watched.run(3, program=pinned)
    ends = watched.ends()
    assert ends[1] == ends[2] == ("displaced", None)
    assert ends[3][0] == "displaced" and "width 3 (offered: 1)" in str(ends[3][1])
