"""The engine's promise of bits, for every built-in workload and a sample of rules: who stands beside changes nothing.

Whatever its slot and its neighbours, NaN slots and evicted ones included, and wherever its checkpoint has been, a trial
reports the same numbers to the last bit: losses, metrics and noise sums, dropout masks included. The sample of rules
follows the catalogue (`sampled_rules`): it has a rule of every kind that the engine treats in its own way.
"""

from collections import deque
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from functools import cache
from itertools import count
from typing import Any

import pytest
import torch
from built_in_tasks import CASES, DROPPING, rate, run, sampled_rules, signature, sort, task_of
from line_search import Backtracking, register

from tuner.engine import Ended, Row, Stack, TrialSpec
from tuner.engine.checkpoint import decode, encode
from tuner.workloads import Task

WIDTH, MICRO_BATCH, STEPS = 5, 4, 4
PATHS = ("eager", "loop")
RULES = sampled_rules()
MIDDLE = 5
"""Ticks after which every watched trial is in the middle of a step."""
ROUNDING = 1e-4
"""Relative."""
PASSING_TICKS = 2
"""After so many ticks a neighbour is evicted, in the middle of a step."""


@pytest.fixture(autouse=True, scope="module")
def one_thread_and_a_line_search() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as monkeypatch:
        register(monkeypatch, Backtracking)
        monkeypatch.setattr(Backtracking, "tries", 2)  # what a search is worth is not the point here
        yield
    torch.set_num_threads(before)


def watched(case: str) -> list[TrialSpec]:
    """One trial of every sampled rule; their steps take 2 or 3 ticks."""
    specs = []
    for number, optimizer in enumerate(RULES.values()):
        size = MICRO_BATCH * (2 + number % 2)
        params: dict[str, Any] = {"optimizer": optimizer, "batch_size": size, "schedule": "cosine"}
        if (lr := rate(case, optimizer)) is not None:
            params["lr"] = lr
        specs.append(TrialSpec(100 + number, params, 3 + number, STEPS * size, (3 * size,), 10**9, 1e9))
    return specs


def passer(case: str, number: int) -> TrialSpec:
    """A neighbour that trains without end: every other one meets NaN in its first step."""
    optimizer = ("sgd", "muon", "momentum", "adamw", Backtracking.name)[number % 5]
    lr = 1e30 if number % 2 else rate(case, optimizer)
    params = {"optimizer": optimizer, "lr": lr, "batch_size": MICRO_BATCH * (1 + number % 4)}
    return TrialSpec(number, params, number, 10**9, report_every=10**9, divergence_factor=1e300)


@cache
def alone(case: str, path: str) -> dict[Any, list[tuple[Any, ...]]]:
    """What each watched trial reports with the stack to itself."""
    stack = Stack(task_of(case), width=WIDTH, micro_batch=MICRO_BATCH, path=path)
    assert stack.path == path
    found = {}
    for spec in watched(case):
        rows, ends = run(stack, [spec])
        assert ends[spec.key].outcome == "finished", ends[spec.key].error
        found[spec.key] = [signature(row) for row in rows[spec.key]]
    return found


def in_a_crowd(case: str, stack: Stack, waiting: list[TrialSpec]) -> dict[Any, list[tuple[Any, ...]]]:
    """Train in slots that others have left, a tick or two ago; neighbours are evicted and replaced all the time."""
    rows: dict[Any, list[Row]] = {}
    ends: dict[Any, Ended] = {}
    queue, names, since = deque(waiting), count(), dict[Any, int]()
    wanted = {spec.key for spec in waiting}
    for tick in count():
        while stack.free and tick % 2 == 0:
            spec = queue.popleft() if queue and tick else passer(case, next(names))
            stack.admit(spec)
            since[spec.key] = tick
        sort(stack.tick(), rows, ends)
        for key in [key for key in stack.keys() if key not in wanted and tick - since[key] == PASSING_TICKS]:
            slot = stack.slot_of(key)
            if slot is not None:
                stack.evict(slot)
        if wanted <= ends.keys():
            return {key: [signature(row) for row in rows[key]] for key in wanted}
    raise AssertionError


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("case", CASES)
def test_slot_and_neighbours_change_no_bit(case: str, path: str) -> None:
    expected = alone(case, path)
    assert all(
        ["valid_loss" in row[2] and row[3] is not None for row in rows] == 2 * [True] for rows in expected.values()
    )
    trials = watched(case)
    turn = 2 if path == "eager" else 1
    stack = Stack(task_of(case), width=WIDTH, micro_batch=MICRO_BATCH, path=path)
    assert in_a_crowd(case, stack, [*trials[turn:], *trials[:turn]]) == expected


def moved(case: str, path: str, snapshot: Any, spec: TrialSpec) -> tuple[list[Row | Ended], Any]:
    """Carry a trial through bytes into the last slot of a narrower stack; return what it says there, and the next copy.

    Where the width does not change the program it trains on there for some ticks.
    """
    content = encode(snapshot)
    stack = Stack(task_of(case), width=2, micro_batch=MICRO_BATCH, path=path)
    stack.admit(passer(case, 0))
    stack.tick()
    stack.restore(1, decode(content, spec))
    assert encode_without_clock(stack.snapshot(1)) == encode_without_clock(snapshot)
    events = [event for _ in range(2) for event in stack.tick()] if path == "loop" else []
    events += stack.say()
    slot = stack.slot_of(spec.key)
    assert slot == 1
    return events, decode(encode(stack.snapshot(slot)), spec)


def encode_without_clock(snapshot: Any) -> bytes:
    return encode(replace(snapshot, elapsed_s=0.0))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_moved_between_widths_in_the_middle_of_a_step_leaves_no_trace(case: str, path: str) -> None:
    """From width 5 to width 2, and back beside other neighbours; eager stacks of other widths are other programs."""
    stack, back = (Stack(task_of(case), width=WIDTH, micro_batch=MICRO_BATCH, path=path) for _ in range(2))
    trials = watched(case)
    stack.admit(passer(case, 1))
    slots = [stack.admit(spec) for spec in trials]
    rows: dict[Any, list[Row]] = {}
    for _ in range(MIDDLE):
        sort(stack.tick(), rows, {})
    sort(stack.say(), rows, {})
    back.admit(passer(case, 2))
    for spec, slot in zip(reversed(trials), reversed(slots), strict=True):
        assert slot is not None
        said, snapshot = moved(case, path, stack.snapshot(slot), spec)
        sort([event for event in said if event.key == spec.key], rows, {})
        back.resume(snapshot)
    ends: dict[Any, Ended] = {}
    while not {spec.key for spec in trials} <= ends.keys():
        sort(back.tick(), rows, ends)
    found = {spec.key: [signature(row) for row in rows[spec.key]] for spec in trials}
    assert found == alone(case, path)


@pytest.mark.parametrize("case", CASES)
def test_programs_agree_in_float32_far_within_the_spread_of_the_seeds(case: str) -> None:
    """Eager, loop and another width: after these few steps, all they report agrees to `ROUNDING`."""
    narrow = Stack(task_of(case), width=2, micro_batch=MICRO_BATCH, path="eager")
    for spec in watched(case):
        rows = [signature(row) for row in run(narrow, [spec])[0][spec.key]]
        for other in (alone(case, "eager")[spec.key], alone(case, "loop")[spec.key]):
            for mine, theirs in zip(numbers(rows), numbers(other), strict=True):
                assert mine == pytest.approx(theirs, rel=ROUNDING, abs=1e-7), spec.params


def numbers(rows: list[tuple[Any, ...]]) -> list[float]:
    """Return losses and other metrics, but shares of examples, which jump."""
    return [float(v) for row in rows for name, v in row[2].items() if not name.endswith("accuracy")]


def test_dropout_belongs_to_the_seed() -> None:
    """Another seed draws other masks; the same one, in the same data's order, the same ones in every repetition."""
    spec = watched(DROPPING)[0]
    task = replace(task_of(DROPPING), train=tuple(part[:1] for part in task_of(DROPPING).train))
    losses = []
    for seed in (3, 3, 4):
        still = replace(spec, seed=seed, report_every=spec.batch_size, params={**spec.params, "lr": 0.0})
        rows, _ = run(Stack(one_model(task), width=2, micro_batch=MICRO_BATCH), [still])
        losses.append([row.metrics["train_loss"] for row in rows[spec.key]])
    assert losses[0] == losses[1] and len(set(losses[0])) == STEPS
    assert not set(losses[0]) & set(losses[2])


def one_model(task: Task) -> Task:
    """The same task with weights that no seed changes."""
    model = task.build_model(0)
    return replace(task, model=lambda: deepcopy(model))
