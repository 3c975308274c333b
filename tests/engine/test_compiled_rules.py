"""Rules that are more than one pass over elements are compiled too: the same numbers, isolated and resumable."""

from typing import Any

import pytest
import torch
from engine_cases import run_until_idle, small_task, spec

from tuner.engine import Row, Stack, TrialSpec
from tuner.engine.checkpoint import decode, encode
from tuner.optimizers.catalogue import rule_class
from tuner.study.hyperparameter import Scalar

RULES: dict[str, dict[str, Scalar]] = {
    "muon": {},
    "adafactor": {},  # state of other shapes
    "schedule_free_adamw": {},  # its first step is another, and its result an average
    "adamw": {"clip_norm": 0.5},  # treated
}


def watched(name: str) -> TrialSpec:
    return spec(9, name, lr=0.01, batch_size=8, examples=320, report_every=80, rungs=(160,), **RULES[name])


def numbers(rows: list[Row]) -> list[tuple[int, dict[str, float]]]:
    return [(row.step, dict(row.metrics)) for row in rows]


@pytest.mark.parametrize("name", RULES)
def test_a_compiled_rule_is_the_rule(name: str) -> None:
    """Against the eager stack in float64; nine trials take two passes of the program."""
    found = {}
    for path in ("eager", "compiled"):
        stack = Stack(small_task(), width=9, micro_batch=4, per_tick=2, path=path, dtype=torch.float64)
        stack.admit(watched(name))
        assert (stack._updates._groups[0].compiled is not None) == (path == "compiled")
        others = [spec(n, name, lr=0.02, batch_size=8, examples=320, seed=n, **RULES[name]) for n in range(8)]
        found[path], ends = run_until_idle(stack, others)
        assert all(end.outcome == "finished" for end in ends.values())
    for number in (*range(8), 9):
        for (step, one), (same, other) in zip(
            numbers(found["eager"][number]), numbers(found["compiled"][number]), strict=True
        ):
            assert step == same
            assert other == pytest.approx(one, rel=1e-9)


@pytest.mark.parametrize("name", ["muon", "schedule_free_adamw"])
def test_slot_neighbours_and_a_snapshot_change_no_bit(name: str) -> None:
    trial = watched(name)
    alone = Stack(small_task(), width=9, micro_batch=4, per_tick=2, path="compiled")
    rows, _ = run_until_idle(alone, [trial])
    crowd = Stack(small_task(), width=9, micro_batch=4, per_tick=2, path="compiled")
    for number in range(5):
        crowd.admit(spec(number, name, lr=0.1 * 10**number, batch_size=8, examples=10**6, seed=number, **RULES[name]))
    slot = crowd.admit(trial)
    assert slot == 5
    got = [event for _ in range(20) for event in crowd.tick() if isinstance(event, Row) and event.key == 9]
    content = encode(crowd.snapshot(slot))
    crowd.evict(slot)
    crowd.evict(1)
    crowd.restore(1, decode(content, trial))
    more, _ = run_until_idle(crowd, [], until=trial.key)
    keys = {key for rows_of in more.values() for row in rows_of for key in [row.key]} - {0, 2, 3, 4}
    resumed = [row for key in keys for row in more[key]]
    assert numbers([*got, *resumed]) == numbers(rows[9])


def test_a_pass_that_fails_is_repeated_alone_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten trials take two passes: those of the first have made their step when the second one raises."""
    stacks = [Stack(small_task(), width=10, micro_batch=4, per_tick=2, path="compiled") for _ in range(2)]
    for stack in stacks:
        for number in range(10):
            stack.admit(spec(number, "adamw", lr=0.01, batch_size=8, seed=number, **RULES["adamw"]))
        stack.tick()
    program = stacks[1]._updates._groups[0].compiled
    assert program is not None
    real, calls = program.run, iter(range(100))

    def broken(*args: Any) -> None:
        if next(calls) == 1:
            raise RuntimeError("once")
        real(*args)

    monkeypatch.setattr(program, "run", broken)
    for stack in stacks:
        stack.tick()
    assert len(stacks[1].keys()) == 10
    for slot in range(10):
        for one, other in zip(*(stack.parameters(slot).values() for stack in stacks), strict=True):
            assert torch.equal(one, other)


def test_periodic_rules_are_not_compiled() -> None:
    """They look at the count of steps, which a program does not see."""
    for name in ("shampoo", "soap", "psgd_kron"):
        assert rule_class(name).periodic
        stack = Stack(small_task(), width=2, micro_batch=4, path="compiled")
        stack.admit(spec(0, name, lr=0.01, batch_size=8))
        assert stack._updates._groups[0].compiled is None
