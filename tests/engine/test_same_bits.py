"""In float32 a trial has the same bits whatever its slot, its neighbours, and what comes and goes meanwhile."""

import itertools
from dataclasses import replace

import pytest
import torch
from engine_cases import run_until_idle, small_task, spec

from tuner.engine import Row, Stack, TrialSpec
from tuner.workloads import Task, load

WIDTH = 5
WATCHED = {
    "sgd": spec(100, "sgd", lr=0.1, batch_size=8, examples=480, rungs=(200,), report_every=80),
    "momentum": spec(100, "momentum", lr=0.02, batch_size=12, examples=480, report_every=80),
    "nesterov": spec(100, "nesterov", lr=0.02, batch_size=4, examples=480, schedule="cosine", report_every=80),
    "adamw": spec(100, "adamw", lr=3e-3, batch_size=8, examples=480, schedule="wsd", report_every=80),
    "muon": spec(100, "muon", lr=1e-2, batch_size=8, examples=480, report_every=80),
}
NEIGHBOURS = [
    spec(0, "muon", lr=2e-2, batch_size=4, examples=200, seed=1),
    spec(1, "adamw", lr=1e-2, batch_size=8, examples=120, seed=2),
    spec(2, "sgd", lr=1e39, batch_size=4, examples=400, seed=3, divergence_factor=1e30),
    spec(3, "momentum", lr=0.1, batch_size=16, examples=320, seed=4),
    spec(4, "nesterov", lr=0.1, batch_size=4, examples=80, seed=5),
    spec(5, "muon", lr=1e-2, batch_size=8, examples=240, seed=6),
]


def rows_of(rows: list[Row]) -> list[tuple[object, ...]]:
    return [(row.step, row.examples, dict(row.metrics), row.noise) for row in rows]


def alone(task: Task, watched: TrialSpec, width: int = WIDTH) -> list[tuple[object, ...]]:
    rows, _ = run_until_idle(Stack(task, width=width, micro_batch=4, path="eager"), [watched])
    return rows_of(rows[watched.key])


@pytest.mark.parametrize("name", WATCHED)
def test_slot_and_neighbours_change_no_bit(name: str) -> None:
    """First, among and last of its neighbours: every rule, one that overflows to NaN, admissions and ends around it."""
    task, watched = small_task(), WATCHED[name]
    expected = alone(task, watched)
    assert len(expected) >= 6
    for place in (0, 3, 5):
        rows, ends = run_until_idle(
            Stack(task, width=WIDTH, micro_batch=4, path="eager"), [*NEIGHBOURS[:place], watched, *NEIGHBOURS[place:]]
        )
        assert ends[2].infeasible == "diverged"
        assert rows_of(rows[100]) == expected


@pytest.mark.parametrize("name", ["adamw", "lion"])
def test_who_else_is_due_changes_no_bit(name: str) -> None:
    """Where all rows are due a rule works in place, else on copies or row by row."""
    watched = spec(100, name, lr=3e-3, batch_size=8, examples=240, schedule="cosine", report_every=16)
    sick = spec(0, name, lr=1e39, batch_size=8, examples=800, divergence_factor=1e30)
    apart = spec(1, name, lr=1e-3, batch_size=12, examples=1200)
    crowds = [[watched], [sick, watched, replace(sick, key=2)], [apart, watched, sick]]
    found = []
    for crowd in crowds:
        stack = Stack(small_task(), width=3, micro_batch=4, path="eager")
        found.append(rows_of(run_until_idle(stack, crowd, until=100)[0][100]))
    assert len(found[0]) == 15 and found[0] == found[1] == found[2]


@pytest.mark.parametrize(("threads", "width", "examples"), [(1, 9, 320), (2, 13, 32)])
def test_digits_keep_their_bits_beside_any_neighbour(threads: int, width: int, examples: int) -> None:
    task = load("digits-mlp", {})
    torch.set_num_threads(threads)
    for name in ("adamw", "muon"):
        watched = spec(100, name, lr=0.01, batch_size=8, examples=examples, report_every=8)
        expected = alone(task, watched, width)
        for place in (0, 5):
            crowd = [*NEIGHBOURS[:place], watched, *NEIGHBOURS[place:]]
            rows, _ = run_until_idle(Stack(task, width=width, micro_batch=4), crowd, until=100)
            assert rows_of(rows[100]) == expected


def test_evicting_and_admitting_beside_a_trial_changes_no_bit() -> None:
    task, watched = small_task(), WATCHED["adamw"]
    expected = alone(task, watched)
    stack = Stack(task, width=WIDTH, micro_batch=4, path="eager")
    stack.admit(NEIGHBOURS[0])
    stack.admit(watched)
    found: list[Row] = []
    for tick in itertools.count():
        found += [event for event in stack.tick() if isinstance(event, Row) and event.key == 100]
        if stack.slot_of(100) is None:
            break
        if tick % 7 == 3:
            stack.admit(TrialSpec(1000 + tick, {"optimizer": "sgd", "lr": 0.1, "batch_size": 8}, tick, 4000))
        if tick % 7 == 6:
            slot = stack.slot_of(1000 + tick - 3)
            assert slot is not None
            stack.evict(slot)
    assert rows_of(found) == expected


@pytest.mark.parametrize("name", WATCHED)
def test_what_a_slot_held_before_leaves_no_trace(name: str) -> None:
    """A slot that was evicted in the middle of a step, another that overflowed, and both idle for a while."""
    task, watched = small_task(), WATCHED[name]
    expected = alone(task, watched)
    stack = Stack(task, width=WIDTH, micro_batch=4, path="eager")
    evicted = stack.admit(spec(1, "adamw", lr=0.1, batch_size=16, seed=9))
    assert evicted == 0
    for _ in range(30):
        stack.tick()
    stack.evict(evicted)
    stack.admit(spec(2, "sgd", lr=1e39, batch_size=4, divergence_factor=1e30))
    stack.admit(spec(3, "sgd", lr=0.1, batch_size=8, examples=4000))
    for _ in range(21):
        stack.tick()
    assert stack.keys() == [3]
    assert stack.admit(watched) == 0
    stack.admit(TrialSpec(101, watched.params, watched.seed, watched.examples, watched.rungs, watched.report_every))
    rows, _ = run_until_idle(stack, [], until=100)
    assert rows_of(rows[100]) == expected
    assert rows_of(rows[101]) == expected[: len(rows[101])] != []


@pytest.mark.parametrize("name", WATCHED)
@pytest.mark.parametrize("ticks", [33, 70])
def test_snapshot_continues_bit_for_bit_in_another_slot(name: str, ticks: int) -> None:
    """Also in the middle of a step, and in another stack that has other neighbours."""
    task, watched = small_task(), WATCHED[name]
    expected = alone(task, watched)
    first = Stack(task, width=WIDTH, micro_batch=4, path="eager")
    slot = first.admit(watched)
    assert slot is not None
    found = [event for _ in range(ticks) for event in first.tick() if isinstance(event, Row)]
    snapshot = first.snapshot(slot)
    found += [event for event in first.tick() if isinstance(event, Row) and event.step <= snapshot.step]
    second = Stack(task, width=WIDTH, micro_batch=4, path="eager")
    for neighbour in NEIGHBOURS[:3]:
        second.admit(neighbour)
    second.tick()
    second.restore(4, snapshot)
    rows, ends = run_until_idle(second, [])
    assert ends[100].outcome == "finished"
    assert rows_of(found + rows[100]) == expected


def test_snapshot_of_a_model_with_buffers_continues_bit_for_bit() -> None:
    task = small_task()
    inner = task.build_model
    normed = Task(
        model=lambda: torch.nn.Sequential(inner(0)[0], torch.nn.BatchNorm1d(9), torch.nn.ReLU(), torch.nn.Linear(9, 5)),  # type: ignore[index]
        loss=task.loss,
        train=task.train,
        valid=task.valid,
    )
    watched = spec(100, "adamw", lr=1e-2, batch_size=8, examples=320)
    expected = rows_of(run_until_idle(Stack(normed, width=2, micro_batch=4), [watched])[0][100])
    first, second = (Stack(normed, width=2, micro_batch=4) for _ in range(2))
    slot = first.admit(watched)
    assert slot is not None
    for _ in range(31):
        first.tick()
    second.restore(1, first.snapshot(slot))
    assert rows_of(run_until_idle(second, [])[0][100]) == expected
