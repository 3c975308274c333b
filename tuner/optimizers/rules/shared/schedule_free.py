"""Shared by the schedule-free rules: three sequences instead of a schedule, and the weights of their average.

Reference: Defazio et al. 2024, "The road less scheduled", https://arxiv.org/abs/2405.15682, equations 3-5 and algorithm
1; conventions of the schedulefree package.

    z ← z - lr_t · u(y)                       the leading sequence
    x ← (1 - c) · x + c · z                   evaluated and kept: an average of the z
    y ← (1 - beta) · z + beta · x             where the gradient is taken: the trained parameters

with lr_t = lr · min(1, t / warmup_steps), weights w = t^r · (largest lr so far)^weight_lr_power and c = w / (sum of all
w). x is not stored: it is y + (1 - 1/beta) · (z - y), so beta must not be 0. The sum of the weights is kept as two
numbers of the parameters' type, because a single float32 would stop growing.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from tuner.optimizers.entries import below_one, non_negative, without_zero
from tuner.optimizers.maths.power import power
from tuner.optimizers.rule import State, Tensors, per_trial
from tuner.study.hyperparameter import Hyperparameter, Search

PAPER = "Defazio et al. 2024, arXiv:2405.15682"

AVERAGING = (
    Hyperparameter(
        name="warmup_steps",
        default=0.0,
        description="steps over which lr grows linearly; the average then gives early steps less weight",
        low=0.0,
        integer=True,
        search=Search(min=0.0, max=1000.0, swept=False, source=f"{PAPER}: 5 % of all steps; the bound is ours"),
    ),
    non_negative(
        "r",
        0.0,
        "step t has weight t^r in the average: a larger r forgets the beginning",
        0.0,
        2.0,
        "schedulefree package: 0; the bound is ours",
        scaling="linear",
    ),
    non_negative(
        "weight_lr_power",
        2.0,
        "a step has weight (largest lr so far)^weight_lr_power in the average",
        0.0,
        2.0,
        f"{PAPER}: 2",
        scaling="linear",
    ),
)


def interpolation(name: str) -> Hyperparameter:
    """Return the weight of the average in y, in (0, 1); each rule names it after the hyperparameter it replaces."""
    description = "where gradients are taken: 1 at the average, towards 0 at the leading sequence"
    source = f"{PAPER}: 0.9, 0.95 and 0.98; 0.8 is ours"
    return without_zero(below_one(name, 0.9, description, 0.8, 0.98, source, swept=True))


TRIAL_STATE: dict[str, tuple[int, ...]] = {"lr_max": (), "weight_sum": (2,)}
"""The largest lr so far, and the sum of all weights: rounded to the parameters' type, plus the remainder."""


class Averaging(NamedTuple):
    """One update's coefficients, each float64 [T]."""

    lr: Tensor
    """Including warm-up."""
    share: Tensor
    """c: the weight of z in the average."""


def averaging(state: State, hp: Mapping[str, Tensor]) -> Averaging:
    """Add update `state.step` to the trials' weights, in place; its weight is 0 as long as lr was 0."""
    step, warmup = state.step, hp["warmup_steps"]
    lr = hp["lr"] * torch.where(step < warmup, step / warmup.clamp(min=1.0), 1.0)
    largest = torch.maximum(lr, state.trial["lr_max"].double())
    weight = power(step[None], hp["r"])[0] * power(largest[None], hp["weight_lr_power"])[0]
    kept = state.trial["weight_sum"]
    weights = kept[:, 0].double() + kept[:, 1].double() + weight
    state.trial["lr_max"].copy_(largest)
    kept[:, 0].copy_(weights)
    kept[:, 1].copy_(weights - kept[:, 0].double())
    return Averaging(lr, torch.where(weights == 0, 0.0, weight / weights))


def start_leading(params: Tensors, leading: Tensors, state: State) -> None:
    """Set z ← y for trials without a step."""
    if 0 not in state.counts:
        return
    for name, param in params.items():
        z = leading[name]
        z.copy_(torch.where(per_trial(state.step, param) == 0, param, z))


def lead(param: Tensor, z: Tensor, direction: Tensor, beta: Tensor, now: Averaging) -> None:
    """Move y = `param` and z, both [T, ...], in place along `direction` [T, ...], which is overwritten."""
    param.add_((z - param).mul_(per_trial(now.share, param)))
    direction.mul_(per_trial(now.lr, param))
    z.sub_(direction)
    param.sub_(direction.mul_(per_trial(1 - beta * (1 - now.share), param)))


def averaged(params: Tensors, leading: Tensors, step: Tensor, beta: Tensor) -> Tensors:
    """Return x as new tensors [T, ...]; before the first step it is y."""
    outwards = torch.where(step > 0, 1 - 1 / beta, 0.0)
    return {
        name: (leading[name] - param).mul_(per_trial(outwards, param)).add_(param) for name, param in params.items()
    }
