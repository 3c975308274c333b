"""Prodigy's hyperparameters: defaults of the prodigyopt package, and where they come from."""

from tuner.study.hyperparameter import Hyperparameter, Search

_PAPER = "Mishchenko and Defazio 2024, arXiv:2306.06101"

HYPERPARAMETERS = (
    Hyperparameter(
        name="lr",
        default=1.0,
        description="factor of the estimated learning rate; 0 moves nothing",
        low=0.0,
        search=Search(min=0.3, max=3.0, scaling="log", source=f"{_PAPER}: 1; the ends are ours"),
    ),
    Hyperparameter(
        name="d_coef",
        default=1.0,
        description="factor of the estimate itself: the package's preferred way to tune",
        low=0.0,
        low_open=True,
        search=Search(min=0.1, max=10.0, scaling="log", source="prodigyopt package: 0.5 and 2 work too; ends are ours"),
    ),
    Hyperparameter(
        name="beta1",
        default=0.9,
        description="decay of the first moment",
        low=0.0,
        high=1.0,
        high_open=True,
        search=Search(min=0.8, max=0.95, scaling="reverse_log", swept=False, source=f"{_PAPER}: 0.9; ends are ours"),
    ),
    Hyperparameter(
        name="beta2",
        default=0.999,
        description="decay of the second moment",
        low=0.0,
        high=1.0,
        high_open=True,
        search=Search(min=0.9, max=0.999, scaling="reverse_log", swept=False, source=f"{_PAPER}: 0.999, 0.99 on VAEs"),
    ),
    Hyperparameter(
        name="beta3",
        default=0.0,
        description="decay of the sums behind the estimate; 0 stands for √beta2",
        low=0.0,
        high=1.0,
        high_open=True,
        search=Search(min=0.9, max=0.9999, scaling="reverse_log", swept=False, source=f"{_PAPER}: √beta2; ends ours"),
    ),
    Hyperparameter(
        name="eps",
        default=1e-8,
        description="added to the root of the second moment, times d",
        low=0.0,
        low_open=True,
        search=Search(min=1e-10, max=1e-6, scaling="log", swept=False, source=f"{_PAPER}: 1e-8; ends are ours"),
    ),
    Hyperparameter(
        name="weight_decay",
        default=0.0,
        description="decay; decoupled it shrinks the parameter by the factor 1 - d · lr · weight_decay",
        low=0.0,
        search=Search(min=1e-3, max=0.1, scaling="log", swept=False, source=f"{_PAPER}: 0, 0.01 and 0.1; 1e-3 is ours"),
    ),
    Hyperparameter(
        name="weight_decay_mode",
        default="decoupled",
        description="decoupled, or l2: weight_decay · p joins the gradient",
        choices=("decoupled", "l2"),
    ),
    Hyperparameter(
        name="d0",
        default=1e-6,
        description="first estimate: below any learning rate that could do harm",
        low=0.0,
        low_open=True,
        search=Search(min=1e-8, max=1e-4, scaling="log", swept=False, source=f"{_PAPER}: 1e-6; ends are ours"),
    ),
    Hyperparameter(
        name="growth_rate",
        default=1e30,
        description="largest factor by which the estimate grows in a step; the default bounds nothing",
        low=1.0,
        search=Search(min=1.01, max=2.0, swept=False, source="prodigyopt package: 1.02 acts as a warm-up; ends ours"),
    ),
    Hyperparameter(
        name="safeguard_warmup",
        default="off",
        description="on: lr is left out of |s|₁, so that a warm-up of lr does not inflate the estimate",
        choices=("off", "on"),
    ),
    Hyperparameter(
        name="bias_correction",
        default="off",
        description="on: Adam's bias correction as a factor of lr",
        choices=("off", "on"),
    ),
)
