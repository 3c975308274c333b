"""Prodigy's hyperparameters: defaults of the prodigyopt package, and where they come from."""

from tuner.optimizers.entries import choice, decay_rate, learning_rate, non_negative, weight_decay, without_zero
from tuner.study.hyperparameter import Hyperparameter, Search

_PAPER = "Mishchenko and Defazio 2024, arXiv:2306.06101"

HYPERPARAMETERS = (
    learning_rate(
        1.0,
        0.3,
        3.0,
        f"{_PAPER}: 1; the ends are ours",
        description="factor of the estimated learning rate; 0 moves nothing",
    ),
    without_zero(
        non_negative(
            "d_coef",
            1.0,
            "factor of the estimate itself: the package's preferred way to tune",
            0.1,
            10.0,
            "prodigyopt package: 0.5 and 2 work too; ends are ours",
            swept=True,
        )
    ),
    decay_rate("beta1", 0.9, "the first moment", 0.8, 0.95, f"{_PAPER}: 0.9; ends are ours"),
    decay_rate("beta2", 0.999, "the second moment", 0.9, 0.999, f"{_PAPER}: 0.999, 0.99 on VAEs"),
    decay_rate(
        "beta3", 0.0, "the sums behind the estimate; 0 stands for √beta2", 0.9, 0.9999, f"{_PAPER}: √beta2; ends ours"
    ),
    without_zero(
        non_negative(
            "eps",
            1e-8,
            "added to the root of the second moment, times d",
            1e-10,
            1e-6,
            f"{_PAPER}: 1e-8; ends are ours",
        )
    ),
    weight_decay(
        0.0,
        1e-3,
        0.1,
        f"{_PAPER}: 0, 0.01 and 0.1; 1e-3 is ours",
        description="decay; decoupled it shrinks the parameter by the factor 1 - d · lr · weight_decay",
        swept=False,
    ),
    choice("weight_decay_mode", "decoupled", "decoupled, or l2: weight_decay · p joins the gradient", "l2"),
    without_zero(
        non_negative(
            "d0",
            1e-6,
            "first estimate: below any learning rate that could do harm",
            1e-8,
            1e-4,
            f"{_PAPER}: 1e-6; ends are ours",
        )
    ),
    Hyperparameter(
        name="growth_rate",
        default=1e30,
        description="largest factor by which the estimate grows in a step; the default bounds nothing",
        low=1.0,
        search=Search(min=1.01, max=2.0, swept=False, source="prodigyopt package: 1.02 acts as a warm-up; ends ours"),
    ),
    choice(
        "safeguard_warmup",
        "off",
        "on: lr is left out of |s|₁, so that a warm-up of lr does not inflate the estimate",
        "on",
    ),
    choice("bias_correction", "off", "on: Adam's bias correction as a factor of lr", "on"),
)
