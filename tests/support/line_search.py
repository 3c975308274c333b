"""A rule that needs the loss again, for tests that register it: a backtracking line search on the step's own loss."""

import importlib
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from tuner.optimizers.rule import Evaluate, Role, Rule, State, Tensors, per_trial
from tuner.study.hyperparameter import Hyperparameter

SHRINK, SLOPE, TRIES = 0.5, 0.5, 7


class Backtracking(Rule):
    """Steepest descent from lr downwards until Armijo's condition holds; the slope of the gradient is minus |g|^2."""

    name = "backtracking"
    summary = "Steepest descent with Armijo's backtracking"
    formula = "p ← p - t g, t = lr, lr/2, ... until f(p - t g) <= f(p) - t |g|^2 / 2"
    reference = "Armijo 1966, https://doi.org/10.2140/pjm.1966.16.1"
    hyperparameters = (Hyperparameter(name="lr", default=1.0, description="first step tried", low=0.0),)
    elementwise = False
    needs_loss = True
    tries = TRIES

    @classmethod
    def buffers(cls, role: Role) -> tuple[str, ...]:
        return ()

    def update(
        self,
        grads: Tensors,
        params: Tensors,
        state: State,
        hp: Mapping[str, Tensor],
        evaluate: Evaluate | None = None,
    ) -> None:
        assert evaluate is not None
        state.step.add_(1)
        start, again = evaluate({name: p.clone() for name, p in params.items()})
        for name, grad in grads.items():  # the loss offered is the one whose gradient the step has
            torch.testing.assert_close(again[name], grad, rtol=1e-4, atol=1e-6, equal_nan=True)
        slope = sum((g.double() ** 2).flatten(1).sum(1) for g in grads.values())
        step, done = hp["lr"].clone(), torch.zeros_like(hp["lr"], dtype=torch.bool)
        for _ in range(self.tries):
            moved = {name: p - per_trial(step, p) * grads[name] for name, p in params.items()}
            losses, _ = evaluate(moved)
            done |= losses.double() <= start.double() - SLOPE * step * slope
            step = torch.where(done, step, step * SHRINK)
        for name, p in params.items():
            p.sub_(per_trial(step, p) * grads[name])


class FlatBacktracking(Backtracking):
    name = "flat-backtracking"
    elementwise = True  # its parameters come as one tensor


def register(monkeypatch: pytest.MonkeyPatch, *rules: type[Rule]) -> None:
    """Add rules to the catalogue as long as the patch lasts."""
    known: dict[str, type[Rule]] = vars(importlib.import_module("tuner.optimizers.catalogue"))["_RULES"]
    for rule in rules:
        monkeypatch.setitem(known, rule.name, rule)
