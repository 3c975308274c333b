"""Whatever a batch is made of: the stack trains as a plain loop does, no neighbour changes a bit, snapshots go on."""

from typing import Any

import pytest
import torch
from engine_cases import run_until_idle, solo_model, spec
from input_kinds import KINDS, VALID, Plain, task_of, tensors
from torch import Tensor, nn

from tuner.engine import Stack, TrialSpec
from tuner.engine.data_order import DataOrder
from tuner.workloads import Task

STEPS, BATCH, LR = 25, 8, 0.05
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def plain_loop(task: Task, loss: Plain, seed: int, dtype: torch.dtype) -> nn.Module:
    """Train the model on the tensors themselves, example by example number, with torch's own optimizer."""
    model = solo_model(task, seed, dtype).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
    order = DataOrder(seed, task.examples).take(0, STEPS * BATCH)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss(model, batch_of(torch.from_numpy(order[step * BATCH : (step + 1) * BATCH]), dtype)).backward()
        optimizer.step()
    return model


def batch_of(numbers: Any, dtype: torch.dtype) -> dict[str, Tensor]:
    data = {name: item[numbers] for name, item in tensors().items()}
    return {name: item.to(dtype) if item.is_floating_point() else item for name, item in data.items()}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("path", ["eager", "loop"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_stack_trains_as_a_plain_loop_does(kind: str, path: str, dtype: torch.dtype) -> None:
    """Micro-batches of half a batch; the same weights, and the same validation loss."""
    task, loss = task_of(kind), KINDS[kind]
    stack = Stack(task, width=2, micro_batch=BATCH // 2, dtype=dtype, path=path)
    assert stack.path == path
    slots = [
        stack.admit(spec(seed, "momentum", lr=LR, momentum=0.9, batch_size=BATCH, seed=seed, examples=10**6))
        for seed in range(2)
    ]
    for _ in range(2 * STEPS):
        stack.tick()
    for seed, slot in enumerate(slots):
        expected = plain_loop(task, loss, seed, dtype)
        found = stack.parameters(slot)
        for name, value in expected.named_parameters():
            tolerance = TOLERANCE[dtype]
            torch.testing.assert_close(
                found[name], value.detach(), rtol=tolerance, atol=tolerance, msg=f"{kind} {name}"
            )
        with torch.no_grad():
            valid = float(loss(expected.eval(), batch_of(slice(VALID), dtype)))
        assert stack.evaluate([slot])[0]["valid_loss"] == pytest.approx(valid, rel=10 * TOLERANCE[dtype])
    stack.close()


WATCHED = spec(100, "adamw", lr=3e-3, batch_size=8, examples=96, rungs=(40,), report_every=8)


def course(stack: Stack, trials: list[TrialSpec]) -> list[Any]:
    rows, _ = run_until_idle(stack, trials)
    stack.close()
    return [(row.step, row.metrics, row.noise) for row in rows[100]]


@pytest.mark.parametrize("kind", KINDS)
def test_no_slot_and_no_neighbour_changes_a_bit(kind: str) -> None:
    """The neighbours include one that overflows to NaN at once."""
    task = task_of(kind)
    expected = course(Stack(task, width=4, micro_batch=4), [WATCHED])
    others = [
        spec(1, "sgd", lr=1e39, batch_size=4, examples=400, seed=3, divergence_factor=1e30),
        spec(2, "muon", lr=1e-2, batch_size=4, examples=40, seed=1),
    ]
    assert course(Stack(task, width=4, micro_batch=4), [*others, WATCHED]) == expected
    assert len(expected) == 12


@pytest.mark.parametrize("kind", KINDS)
def test_a_snapshot_goes_on_bit_for_bit(kind: str) -> None:
    task = task_of(kind)
    expected = course(Stack(task, width=2, micro_batch=4), [WATCHED])
    first, second = (Stack(task, width=2, micro_batch=4) for _ in range(2))
    slot = first.admit(WATCHED)
    assert slot is not None
    for _ in range(13):
        first.tick()
    second.admit(spec(1, "sgd", lr=0.1, seed=5, examples=32))
    second.tick()
    second.restore(1, first.snapshot(slot))
    first.close()
    assert course(second, [])[-2:] == expected[-2:]
