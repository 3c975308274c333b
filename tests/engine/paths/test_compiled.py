"""The compiled path keeps the stack's promises: one program, the same bits in any slot; eager where it cannot be."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_cases import run_until_idle, small_task, spec
from line_search import Backtracking, register
from test_same_bits import NEIGHBOURS, WATCHED, rows_of

from tuner.engine import Stack, elementwise
from tuner.workloads import Task, load

WIDTH = 5
"""Whoever compiles `digits-mlp` or `small_task` takes this width and micro-batches of 4: what is there is shared."""
CROWDS = {"odd": NEIGHBOURS, "digits": [NEIGHBOURS[i] for i in (0, 1, 2, 5)]}
CASES = [*(("odd", name) for name in WATCHED), ("digits", "adamw"), ("digits", "muon")]


@pytest.fixture(scope="module")
def digits() -> Iterator[Stack]:
    """One stack for all tests: it compiles once, and every trial before is one more that must leave no trace."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Stack(load("digits-mlp", {}), width=WIDTH, micro_batch=4, path="compiled")
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def odd() -> Stack:
    """Sizes that are no multiples of a vector's length."""
    return Stack(small_task(), width=WIDTH, micro_batch=4, path="compiled")


def empty(stack: Stack) -> None:
    for key in stack.keys():
        slot = stack.slot_of(key)
        assert slot is not None
        stack.evict(slot)
    stack.tick()


@pytest.mark.parametrize(("problem", "name"), CASES)
def test_slot_and_neighbours_change_no_bit(problem: str, name: str, request: pytest.FixtureRequest) -> None:
    """In every place of a crowd of all rules, one of which overflows to NaN."""
    stack: Stack = request.getfixturevalue(problem)
    assert stack.program["path"] == "compiled"
    watched, crowd = WATCHED[name], CROWDS[problem]
    expected = rows_of(run_until_idle(stack, [watched])[0][100])
    assert len(expected) >= 6
    for place in range(1, len(crowd), 2):
        rows, ends = run_until_idle(stack, [*crowd[:place], watched, *crowd[place:]], until=100)
        assert rows_of(rows[100]) == expected
        assert ends.get(2) is None or ends[2].infeasible == "diverged"
        empty(stack)


def test_a_line_search_keeps_its_bits_in_a_compiled_stack(odd: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its evaluations run beside the compiled program; the rule compares their gradients with those of its step."""
    register(monkeypatch, Backtracking)
    watched = spec(100, Backtracking.name, lr=4.0, batch_size=8, examples=96, report_every=16, divergence_factor=1e9)
    found = []
    for crowd in ([watched], [*NEIGHBOURS[:3], watched], [NEIGHBOURS[2], watched, NEIGHBOURS[5]]):
        rows, _ = run_until_idle(odd, crowd, until=100)
        found.append(rows_of(rows[100]))
        empty(odd)
    assert found[0] == found[1] == found[2] and len(found[0]) == 6


def test_masked_and_single_updates_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which of them runs depends on how many neighbours are due, so no trial may be able to tell."""
    crowd = [
        spec(i, name, lr=3e-3, batch_size=size, examples=480, schedule="cosine", report_every=16, weight_decay=1e-2)
        for i, (name, size) in enumerate([("adamw", 4), ("nesterov", 8), ("adamw", 12), ("nesterov", 4), ("adamw", 8)])
    ]
    found = []
    monkeypatch.setattr(elementwise, "MASKED_BYTES", 0)
    stack = Stack(small_task(), width=WIDTH, micro_batch=4, path="compiled")
    assert stack.path == "compiled"
    for share in (WIDTH, 0):
        monkeypatch.setattr(elementwise, "MASKED_SHARE", share)
        rows, _ = run_until_idle(stack, crowd)
        found.append({key: rows_of(values) for key, values in rows.items()})
    assert found[0] == found[1] and len(found[0][0]) >= 30


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_snapshot_continues_bit_for_bit_in_another_slot(digits: Stack, name: str) -> None:
    watched = WATCHED[name]
    expected = rows_of(run_until_idle(digits, [watched])[0][100])
    digits.admit(watched)
    found: list[Any] = [event for _ in range(33) for event in digits.tick()]
    snapshot = digits.snapshot(0)
    empty(digits)
    digits.admit(NEIGHBOURS[1])
    digits.restore(3, snapshot)
    rows, _ = run_until_idle(digits, [], until=100)
    assert rows_of(found + rows[100]) == expected
    empty(digits)


def test_without_a_compiler_the_stack_is_eager(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with caplog.at_level(logging.WARNING):
        stack = Stack(small_task(), width=2, micro_batch=4, path="compiled")
    assert stack.program["path"] == "eager"
    assert [record.message for record in caplog.records] == ["the stack is not compiled and runs eagerly"]
    assert "C++ compiler" in str(caplog.records[0].__dict__["reason"])
    assert run_until_idle(stack, [spec(1, "sgd", lr=0.1)])[1][1].outcome == "finished"


def test_what_cannot_be_compiled_is_eager(caplog: pytest.LogCaptureFixture) -> None:
    base = small_task()

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        torch._dynamo.graph_break()
        return base.loss(output, target)

    with caplog.at_level(logging.WARNING):
        stack = Stack(Task(base.model, loss, base.train, base.valid), width=2, micro_batch=4, path="compiled")
    assert stack.path == "eager" and "not compiled" in caplog.text
