"""Trials of one rule with other choices, which keep other state, share a stack: each is torch's own run of it."""

from collections.abc import Callable
from typing import Any

import torch
from engine_cases import batches, small_task, solo_model, spec
from torch import nn, optim

from tuner.engine import Stack, TrialSpec
from tuner.workloads import Task

STEPS = 20
CENTERED = {"lr": 2e-3, "momentum": 0.7, "centered": "yes", "eps": 1e-3}
Solo = Callable[[Any], optim.Optimizer]
CASES: list[tuple[dict[str, Any], Solo]] = [
    ({"optimizer": "rmsprop", "lr": 2e-3}, lambda p: optim.RMSprop(p, lr=2e-3)),
    (
        {"optimizer": "rmsprop", **CENTERED},
        lambda p: optim.RMSprop(p, lr=2e-3, momentum=0.7, centered=True, eps=1e-3),
    ),
    ({"optimizer": "signum", "lr": 1e-3, "momentum": 0.0}, lambda p: SignDescent(p, 1e-3)),
    (
        {"optimizer": "amsgrad", "lr": 2e-3, "weight_decay": 0.1, "weight_decay_mode": "decoupled"},
        lambda p: optim.AdamW(p, lr=2e-3, weight_decay=0.1, amsgrad=True),
    ),
    (
        {"optimizer": "momentum", "lr": 0.02, "dampening": 0.5},
        lambda p: optim.SGD(p, lr=0.02, momentum=0.9, dampening=0.5),
    ),
    ({"optimizer": "momentum", "lr": 0.02}, lambda p: optim.SGD(p, lr=0.02, momentum=0.9)),
    ({"optimizer": "nadam", "lr": 1e-3}, lambda p: optim.NAdam(p, lr=1e-3)),
]


class SignDescent(optim.Optimizer):
    """p ← p - lr · sign(g)."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(group["lr"] * p.grad.sign())


def trial(key: int, examples: int) -> TrialSpec:
    return spec(key, examples=examples, seed=key, batch_size=8, report_every=10**9, **CASES[key][0])


def alone(task: Task, key: int) -> nn.Module:
    """Steps have float64 as the default type, in which NAdam of torch keeps its product of momenta."""
    model = solo_model(task, key, torch.float64)
    optimizer = CASES[key][1](model.parameters())
    torch.set_default_dtype(torch.float64)
    try:
        for x, y in batches(task, key, 8, torch.float64, STEPS):
            optimizer.zero_grad()
            task.loss(model(x), y).backward()
            optimizer.step()
    finally:
        torch.set_default_dtype(torch.float32)
    return model


def test_each_is_its_own_run_with_torch_in_slots_that_change_hands() -> None:
    task, width = small_task(), 2
    stack = Stack(task, width=width, micro_batch=8, dtype=torch.float64, path="eager")
    queue = [trial(key, examples=8 * (STEPS + 1)) for key in range(len(CASES))]
    steps, checked = dict.fromkeys(range(len(CASES)), 0), []
    while queue or stack.busy:
        while queue and stack.free:
            stack.admit(queue.pop(0))
        keys = [key for key in stack.keys() if isinstance(key, int)]
        stack.tick()
        for key in keys:
            steps[key] += 1
            slot = stack.slot_of(key)
            if steps[key] == STEPS and slot is not None:
                expected = dict(alone(task, key).named_parameters())
                for name, value in stack.parameters(slot).items():
                    torch.testing.assert_close(
                        value, expected[name].detach(), rtol=1e-12, atol=1e-12, msg=f"{key} {name}"
                    )
                checked.append(key)
    assert sorted(checked) == list(range(len(CASES)))


def test_state_that_a_choice_does_not_need_takes_no_memory() -> None:
    stack = Stack(small_task(), width=2, micro_batch=8, path="eager")
    assert len(stack.snapshot(stack.admit(trial(0, examples=80))).slabs) == 2
    assert len(stack.snapshot(stack.admit(trial(1, examples=80))).slabs) == 3
