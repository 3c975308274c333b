"""What a device process does with its assignments: order, stacks, stops, errors, memory."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from worker_doubles import assignment

from tuner import workloads
from tuner.engine import Stack
from tuner.probe.choice import Cell, Choice, Compiled, cpu, key, learn, store, stored
from tuner.worker.channel import Json
from tuner.worker.device import placing, stack_choice
from tuner.worker.device.loading import shapes_of
from tuner.worker.device.runner import Runner
from tuner.worker.device.stack_choice import Given
from tuner.worker.device.warming import NOT_COMPILED, Warming

SHAPES = shapes_of(workloads.load("digits-mlp", {}))


class Watched:
    """A runner with its messages."""

    def __init__(self, width: int | None = 2) -> None:
        self.messages: list[Json] = []
        self.runner = Runner(self.messages.append, "cpu", Given(width, 1))

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
    assert watched.of("stacks") == [{}, {"digits": 2}, {}]
    assert [held.busy for held in watched.runner._stacks] == [False], "it stays, in case more of its trials come"
    assert [trial for trial, _ in watched.of("started")] == [0, 1, 2, 3]
    assert set(watched.ends().values()) == {("finished", None)}
    ended_first = watched.messages.index(next(m for m in watched.messages if "ended" in m))
    assert ended_first < next(i for i, m in enumerate(watched.messages) if m.get("started") == [2, 1])
    assert [row["step"] for row in watched.of("row") if row["trial"] == 0] == [5, 10, 15, 20]
    assert watched.of("row")[0]["noise"]["n"] == 5


def test_another_key_trains_beside_the_first_and_ends_before_it() -> None:
    """Nobody waits behind somebody else's sweep, however many trials that has queued."""
    watched = Watched()
    for trial in range(1, 5):
        watched.assign(trial, examples=3200)
    watched.assign(9, stack="wider", workload_params={"hidden": 40}, examples=160, study_id=2)
    watched.run()
    assert {"digits": 2, "wider": 2} in watched.of("stacks")
    assert next(end["trial"] for end in watched.of("ended")) == 9 and len(watched.ends()) == 5


def test_a_stopped_trial_says_nothing_more() -> None:
    watched = Watched(width=1)
    watched.assign(1)
    watched.assign(2)
    watched.assign(3, examples=160)
    for _ in range(2):  # the first loads the workload
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


def hungry_above(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """Let ticks of wider stacks run out of memory."""
    real = Stack.tick

    def hungry(stack: Stack) -> Any:
        if stack.width > limit:
            raise torch.OutOfMemoryError("no memory left")
        return real(stack)

    monkeypatch.setattr(Stack, "tick", hungry)


def test_out_of_memory_halves_the_stack_and_gives_its_trials_back(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(width=4)
    watched.assign(1)
    watched.assign(2)
    watched.runner.step()  # loads
    watched.runner.step()
    hungry_above(monkeypatch, 2)
    watched.run()
    assert watched.of("stacks")[-1] == {} and watched.ends() == {1: ("displaced", None), 2: ("displaced", None)}
    watched.assign(3, examples=160)
    watched.run()
    assert watched.of("stacks")[-2:] == [{"digits": 2}, {}] and watched.ends()[3] == ("finished", None)


def test_what_does_not_fit_at_width_one_is_infeasible(monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration itself cannot work."""
    hungry_above(monkeypatch, 0)
    watched = Watched(width=1)
    watched.assign(1)
    watched.run()
    assert watched.ends() == {1: ("finished", "oom")}


def test_a_stack_that_does_not_fit_beside_another_trains_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not made narrower for the sake of its neighbour."""
    real, watched = Stack.tick, Watched(width=2)
    watched.assign(1, examples=640)
    for _ in range(4):
        watched.runner.step()
    watched.assign(2, stack="big", workload_params={"hidden": 40}, examples=160, study_id=2)
    monkeypatch.setattr(Stack, "tick", crowded(watched, real))
    watched.run()
    assert watched.ends()[2] == ("displaced", None) and watched.ends()[1] == ("finished", None)
    watched.assign(3, stack="big", workload_params={"hidden": 40}, examples=160, study_id=2)
    watched.run()
    assert watched.ends()[3] == ("finished", None)
    assert watched.of("stacks")[-2] == {"big": 2}


def crowded(watched: Watched, real: Any) -> Any:
    """Trial 2 does not fit while another stack trains."""

    def tick(stack: Stack) -> Any:
        if stack.slot_of((2, 1)) is not None and sum(held.busy for held in watched.runner._stacks) > 1:
            raise torch.OutOfMemoryError("no memory left")
        return real(stack)

    return tick


def remember(*cells: Cell) -> None:
    store(key("digits-mlp", {}, 4, cpu()), Choice(cells))


def test_what_was_measured_decides_width_and_path() -> None:
    """The width is the user's where it is given, and never more than the study's trials can fill."""
    eager = [Cell("eager", width, tick_s) for width, tick_s in ((1, 2e-3), (4, 1e-3), (16, 1e-1))]
    remember(Cell("loop", 1, 1e-3), Cell("loop", 4, 9e-3), *eager)
    remembered = [(None, 8, 4, "eager"), (None, 3, 3, "eager"), (1, 8, 1, "loop"), (4, 9, 4, "eager")]
    for given, slots, width, path in remembered:
        watched = Watched(given)
        watched.assign(1, examples=16, slots=slots)
        watched.run()
        program = next(m["program"] for m in watched.messages if "started" in m)
        assert (program["width"], program["path"]) == (width, path)
        assert watched.of("stacks")[-2] == {"digits": width}


def test_an_unknown_workload_is_measured_for_a_moment_and_remembered() -> None:
    watched = Watched(None)
    watched.assign(1, examples=16, slots=6)
    watched.run()
    known = stored(key("digits-mlp", {}, 4, cpu()))
    assert known is not None and [cell.width for cell in known.cells][:2] == [1, 4]
    program = next(m["program"] for m in watched.messages if "started" in m)
    assert (program["path"], program["width"]) == ("eager", 6)  # small models gain by every further slot


class Labelled(Stack):
    """Compiling takes long and is not the point here."""

    def __init__(self, *arguments: Any, path: str, **named: Any) -> None:
        super().__init__(*arguments, path="eager", **named)
        self._forward.path = "compiled" if path == "compiled" else self.path


def test_the_switch_to_the_compiled_program_never_happens_inside_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials that began eagerly end eagerly, later ones are compiled, none is lost, and an unknown rule stays out."""
    asked: list[Json] = []

    class Slow:
        """It is done once some trials have started."""

        def __init__(self, wanted: Json) -> None:
            asked.append(wanted)

        @property
        def running(self) -> bool:
            if len(watched.of("started")) < 4:
                return True
            rules = tuple(asked[0]["rules"])
            learn(name, Cell("compiled", 2, 1e-6), model=SHAPES, compiled=Compiled(2, 1, rules, 0.0))
            return False

        def close(self) -> None:
            pass

    name = key("digits-mlp", {}, 4, cpu())
    monkeypatch.setattr(stack_choice, "Warming", Slow)
    monkeypatch.setattr(stack_choice, "Stack", Labelled)
    monkeypatch.setattr(stack_choice, "PAYS_S", 0.0)
    monkeypatch.setattr(placing, "NEWS_S", 0.0)
    remember(Cell("loop", 1, 1e-1), Cell("eager", 2, 1e-1))
    watched = Watched(2)
    for trial in range(10):
        watched.assign(trial, examples=16 * (5 + 2 * trial % 3), remaining=1000)
    watched.assign(10, examples=80, params={"optimizer": "muon", "lr": 0.01, "batch_size": 16})
    stacks: dict[object, object] = {}
    while watched.runner.busy:
        watched.runner.step()
        for held in watched.runner._stacks:
            for trial_key in held.stack.keys():
                assert stacks.setdefault(trial_key, held.stack) is held.stack
    assert {key: asked[0][key] for key in ("workload", "width", "threads")} == {
        "workload": "digits-mlp",
        "width": 2,
        "threads": 1,
    }
    assert len(asked[0]["rules"]) == 2  # of the trials that wait, not of the whole catalogue
    paths = {m["started"][0]: m["program"]["path"] for m in watched.messages if "started" in m}
    assert [paths[trial] for trial in range(10)] == sorted((paths[t] for t in range(10)), reverse=True)
    assert set(paths.values()) == {"eager", "compiled"}
    assert len(watched.ends()) == 11 and set(watched.ends().values()) == {("finished", None)}


def test_a_second_process_compiles_what_it_can_and_tells_all_others() -> None:
    wanted = {
        "workload": "digits-mlp",
        "workload_params": {},
        "workload_values": [],
        "micro_batch": 4,
        "per_tick": 2,
        "batch": None,
        "width": 5,
        "nice": 0,
    }
    rules = {"a": {"optimizer": "adamw"}, "no": {"optimizer": "no such rule"}, "m": {"optimizer": "muon"}}
    place = {
        "device": "cpu",
        "threads": 1,
        "workloads": [],
        "parent": os.getpid(),
        "model": SHAPES,
        "base": ["loop", 1],
    }
    warming = Warming({**wanted, **place, "rules": rules})
    assert warming.running
    warming._process.wait()
    assert not warming.running
    known = stored(key("digits-mlp", {}, 4, cpu(), 2))
    assert known is not None and [(c.width, c.threads, c.rules) for c in known.compiled] == [(5, 1, ("a", "m"))]
    assert [(cell.path, cell.width) for cell in known.cells] == [("compiled", 5), ("loop", 1)], "measured side by side"
    warming.close()


def test_compiling_ends_with_the_process_that_asked_for_it() -> None:
    """Also with one that was killed and could not stop it."""
    wanted = {
        "workload": "digits-mlp",
        "workload_params": {},
        "workload_values": [],
        "micro_batch": 4,
        "per_tick": 2,
        "batch": None,
        "width": 5,
        "nice": 0,
    }
    place = {
        "device": "cpu",
        "threads": 1,
        "workloads": [],
        "parent": 1,
        "model": SHAPES,
        "rules": {"a": {"optimizer": "adamw"}},
    }
    warming = Warming({**wanted, **place})
    assert warming._process.wait() == NOT_COMPILED and stored(key("digits-mlp", {}, 4, cpu())) is None


def test_without_a_compiler_nothing_is_asked_to_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(stack_choice, "PAYS_S", 0.0)
    monkeypatch.setattr(placing, "NEWS_S", 0.0)
    watched = Watched(2)
    watched.assign(1, examples=160)
    watched.run()
    watched.runner.prepare()
    assert watched.runner._placing.choice._warming is None and watched.ends() == {1: ("finished", None)}


def test_what_fails_to_compile_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Json] = []

    class Failing:
        running = False

        def __init__(self, wanted: Json) -> None:
            asked.append(wanted)

        def close(self) -> None:
            pass

    monkeypatch.setattr(stack_choice, "Warming", Failing)
    monkeypatch.setattr(stack_choice, "PAYS_S", 0.0)
    monkeypatch.setattr(placing, "NEWS_S", 0.0)
    remember(Cell("loop", 1, 1e-3), Cell("eager", 2, 1e-3))
    watched = Watched(2)
    for trial in (1, 2, 3):
        watched.assign(trial, examples=160)
    watched.run()
    watched.runner.prepare()
    assert len(asked) == 1 and {m["program"]["path"] for m in watched.messages if "started" in m} == {"eager"}


def test_without_work_the_program_that_was_compiled_is_built_for_the_next_trials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stack_choice, "Stack", Labelled)
    remember(Cell("loop", 1, 1e-1), Cell("eager", 2, 1e-1))
    watched = Watched(2)
    watched.assign(1, examples=16)
    watched.run()
    assert watched.runner.patience_s is None, "nothing is being compiled"
    rule = stack_choice.rule_of({"optimizer": "sgd"})
    learn(
        key("digits-mlp", {}, 4, cpu()), Cell("compiled", 2, 1e-6), model=SHAPES, compiled=Compiled(2, 1, (rule,), 0.0)
    )
    watched.runner.prepare()
    (held,) = watched.runner._stacks
    assert held.stack.path == "compiled" and not held.busy
    watched.assign(2, examples=16)
    watched.run()
    assert [m["program"]["path"] for m in watched.messages if "started" in m] == ["eager", "compiled"]
    assert [held.stack for held in watched.runner._stacks] == [held.stack]


def test_what_was_learned_with_another_model_is_forgotten() -> None:
    """The user has changed the workload: its name is the same, its speed is not."""
    name = key("digits-mlp", {}, 4, cpu())
    learn(name, Cell("loop", 1, 1e-9), Cell("eager", 4, 1.0), model="another")
    watched = Watched(None)
    watched.assign(1, examples=16, slots=4)
    watched.run()
    assert next(m["program"]["path"] for m in watched.messages if "started" in m) == "eager"
    known = stored(name)
    assert known is not None and known.model == SHAPES and min(cell.tick_s for cell in known.cells) > 1e-9


def test_a_rule_that_is_not_compiled_trains_beside_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its trials do not wait until nothing else comes."""
    monkeypatch.setattr(stack_choice, "Stack", Labelled)
    remember(Cell("loop", 1, 1e-1), Cell("eager", 2, 1e-1))
    one = Compiled(2, 1, (stack_choice.rule_of({"optimizer": "sgd"}),), 0.0)
    learn(key("digits-mlp", {}, 4, cpu()), Cell("compiled", 2, 1e-6), model=SHAPES, compiled=one)
    watched = Watched(2)
    for trial in range(6):
        watched.assign(trial, remaining=1000)
    watched.assign(9, params={"optimizer": "muon", "lr": 0.01, "batch_size": 16}, examples=160)
    watched.run()
    paths = {m["started"][0]: m["program"]["path"] for m in watched.messages if "started" in m}
    assert (paths[0], paths[1], paths[9]) == ("compiled", "compiled", "eager")
    assert next(end["trial"] for end in watched.of("ended")) == 9


def test_a_compiled_stack_that_cannot_be_built_ahead_costs_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    remember(Cell("loop", 1, 1e-1), Cell("eager", 2, 1e-1))
    watched = Watched(2)
    watched.assign(1, examples=16)
    watched.run()
    one = Compiled(2, 1, (stack_choice.rule_of({"optimizer": "sgd"}),), 0.0)
    learn(key("digits-mlp", {}, 4, cpu()), Cell("compiled", 2, 1e-6), model=SHAPES, compiled=one)

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("the model's file has gone")

    with monkeypatch.context() as patch:
        patch.setattr(stack_choice, "Stack", broken)
        watched.runner.prepare()
    watched.assign(2, examples=16)
    watched.run()
    assert set(watched.ends().values()) == {("finished", None)}


def test_a_trial_that_ended_in_between_takes_nobody_along_when_it_is_stopped() -> None:
    """Its slot may be another's by the time the order comes."""
    watched = Watched(2)
    watched.assign(1, params={"optimizer": "sgd", "lr": 1e30, "batch_size": 16}, examples=640)
    watched.assign(2, examples=640)
    for _ in range(14):
        watched.runner.step()
    (held,) = watched.runner._stacks
    watched.assign(3, examples=160)
    held.stack._read_ledger()  # as checkpoints and other stops do: the first has diverged, which nobody was told yet
    watched.runner._refill()
    assert held.stack.slot_of((1, 1)) is None and held.stack.slot_of((3, 1)) is not None
    watched.runner.stop((1, 1))
    watched.run()
    assert watched.ends()[3] == watched.ends()[2] == ("finished", None)
