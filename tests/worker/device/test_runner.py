"""What a device process does with its assignments: order, stacks, stops, errors, memory."""

from pathlib import Path
from typing import Any

import pytest
import torch
from worker_doubles import assignment

from tuner.engine import Stack
from tuner.optimizers import catalogue
from tuner.probe.choice import Cell, Choice, cpu, key, store
from tuner.worker.channel import Json
from tuner.worker.device import stack_choice
from tuner.worker.device.runner import Runner
from tuner.worker.device.warming import Warming


class Watched:
    """A runner with its messages."""

    def __init__(self, width: int | None = 2) -> None:
        self.messages: list[Json] = []
        self.runner = Runner(self.messages.append, "cpu", width)

    def assign(self, trial: int, **changes: Any) -> None:
        self.runner.assign(assignment(trial, **changes).model_dump())

    def run(self) -> None:
        while self.runner.busy:
            self.runner.step()

    def of(self, kind: str) -> list[Any]:
        return [message[kind] for message in self.messages if kind in message]

    def ends(self) -> dict[int, tuple[str, str | None]]:
        return {e["trial"]: (e["outcome"], e["infeasible"]) for e in self.of("ended")}


@pytest.fixture(autouse=True)
def one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # what the user has probed is another matter


def test_free_slots_are_refilled_and_the_stack_is_announced() -> None:
    watched = Watched()
    for trial in range(4):
        watched.assign(trial, examples=160 if trial else 320)
    watched.run()
    assert watched.of("stack") == ["digits", None]
    assert [trial for trial, _ in watched.of("started")] == [0, 1, 2, 3]
    assert set(watched.ends().values()) == {("finished", None)}
    ended_first = watched.messages.index(next(m for m in watched.messages if "ended" in m))
    assert ended_first < next(i for i, m in enumerate(watched.messages) if m.get("started") == [2, 1])
    assert [row["step"] for row in watched.of("row") if row["trial"] == 0] == [5, 10, 15, 20]
    assert watched.of("row")[0]["noise"]["n"] == 5


def test_another_key_waits_for_the_stack_to_drain_and_is_not_overtaken() -> None:
    watched = Watched()
    watched.assign(1)
    watched.assign(2, stack="wider", workload_params={"hidden": 40}, examples=160)
    watched.assign(3, examples=160)
    watched.run()
    told = [m for m in watched.messages if m.keys() & {"started", "ended"}]
    assert [m["started"][0] if "started" in m else -m["ended"]["trial"] for m in told] == [1, -1, 2, -2, 3, -3]
    assert watched.of("stack") == ["digits", "wider", "digits", None]


def test_a_stopped_trial_says_nothing_more() -> None:
    watched = Watched(width=1)
    watched.assign(1)
    watched.assign(2)
    watched.assign(3, examples=160)
    watched.runner.step()
    watched.runner.stop((1, 1))
    watched.runner.stop((2, 1))
    watched.runner.stop((8, 1))
    watched.run()
    assert watched.ends() == {3: ("finished", None)}
    assert {trial for trial, _ in watched.of("started")} == {1, 3}


def test_an_error_ends_its_own_trial() -> None:
    watched = Watched()
    watched.assign(1, workload="no-such", stack="a")
    watched.assign(2, workload_params={"depth": 3}, stack="b")
    watched.assign(3, params={"optimizer": "sgd", "lr": -1.0, "batch_size": 16})
    watched.assign(4, examples=10)
    watched.assign(5, examples=160)
    watched.run()
    ends = watched.ends()
    assert ends == {
        1: ("displaced", None),
        2: ("error", None),
        3: ("error", None),
        4: ("finished", "batch_exceeds_budget"),
        5: ("finished", None),
    }
    errors = [str(e["error"]) for e in watched.of("ended")[:3]]
    assert "known are: " in errors[0] and "digits-autoencoder" in errors[0]
    assert "depth" in errors[1] and "lr is -1.0" in errors[2]


def test_out_of_memory_halves_the_stack_and_gives_its_trials_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """At width 1 the configuration itself cannot work."""
    real = Stack.tick

    def hungry(stack: Stack) -> Any:
        if stack.width > limit:
            raise torch.OutOfMemoryError("no memory left")
        return real(stack)

    monkeypatch.setattr(Stack, "tick", hungry)
    limit, watched = 2, Watched(width=4)
    watched.assign(1)
    watched.assign(2)
    watched.run()
    assert watched.of("width") == [2] and watched.ends() == {1: ("displaced", None), 2: ("displaced", None)}
    watched.assign(3, examples=160)
    watched.run()
    assert watched.ends()[3] == ("finished", None)
    limit, watched = 0, Watched(width=1)
    watched.assign(1)
    watched.run()
    assert watched.ends() == {1: ("finished", "oom")}


def remember(*cells: Cell) -> None:
    store(key("digits-mlp", {}, 4, cpu()), Choice(cells))


def test_the_probes_choice_decides_width_and_path() -> None:
    remember(Cell("loop", 1, 1e-3), Cell("eager", 1, 2e-3), Cell("loop", 4, 9e-3), Cell("eager", 4, 1e-3))
    for given, width, path in ((None, 4, "eager"), (1, 1, "loop"), (7, 7, "eager")):
        watched = Watched(given)
        watched.assign(1, examples=16)
        watched.run()
        program = next(m["program"] for m in watched.messages if "started" in m)
        assert (program["width"], program["path"]) == (width, path)
        assert watched.of("width") == ([4] if given is None else [])


def test_the_switch_to_the_compiled_program_never_happens_inside_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials that began eagerly end eagerly, later ones are compiled, none is lost and the stack is never idle long."""

    class Slow:
        polls = 0

        def __init__(self, wanted: Json) -> None:
            assert (wanted["workload"], wanted["width"], wanted["threads"]) == ("digits-mlp", 2, 1)
            assert wanted["optimizers"] == list(catalogue())

        def result(self) -> bool | None:
            Slow.polls += 1
            return True if Slow.polls > 30 else None

        def close(self) -> None:
            pass

    class Labelled(Stack):
        """Compiling takes long and is not the point here."""

        def __init__(self, *arguments: Any, path: str, **named: Any) -> None:
            super().__init__(*arguments, path="eager", **named)
            self._forward.path = "compiled" if path == "compiled" else self.path

    monkeypatch.setattr(stack_choice, "Warming", Slow)
    monkeypatch.setattr(stack_choice, "Stack", Labelled)
    remember(Cell("compiled", 2, 1e-4))
    watched = Watched(2)
    for trial in range(8):
        watched.assign(trial, examples=16 * (5 + 2 * trial % 3))
    stacks: dict[int, Stack] = {}
    while watched.runner.busy:
        watched.runner.step()
        for held in watched.runner._stack.keys() if watched.runner._stack else []:
            assert stacks.setdefault(held[0], watched.runner._stack) is watched.runner._stack  # type: ignore
    paths = [m["program"]["path"] for m in watched.messages if "started" in m]
    assert paths == sorted(paths, reverse=True) and set(paths) == {"eager", "compiled"}
    assert len(watched.ends()) == 8 and set(watched.ends().values()) == {("finished", None)}


def test_a_second_process_compiles() -> None:
    wanted = {"workload": "digits-mlp", "workload_params": {}, "micro_batch": 4, "width": 5}
    warming = Warming(wanted | {"optimizers": ["adamw", "muon"], "device": "cpu", "threads": 1, "workloads": []})
    assert warming.result() is None
    warming._process.wait()
    assert warming.result() is True
    warming.close()


def test_what_cannot_be_compiled_stays_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    remember(Cell("compiled", 2, 1e-4))
    watched = Watched(2)
    watched.assign(1, examples=16)
    watched.run()
    assert watched.runner._choice._warming is not None
    watched.runner._choice._warming._process.wait()
    for trial in (2, 3):
        watched.assign(trial, examples=16, stack=f"digits {trial}" if trial == 3 else "digits")
        watched.run()
    watched.runner.close()
    assert [m["program"]["path"] for m in watched.messages if "started" in m] == ["eager"] * 3
