"""Parameters that miss a gradient for a step, or from some step on, in a torch optimizer of every rule.

Three promises. A rule that treats every parameter by itself lets it wait, as if each had an optimizer of its own. Rules
that see a trial as one do what their packages do. Searches take no gradient for a gradient of zero.
"""

import contextlib
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rule_oracles import Curved, Quadratic
from torch import Tensor

from tuner.optimizers import build, catalogue
from tuner.optimizers.catalogue import rule_class
from tuner.optimizers.part import one_trial

RULES = list(catalogue())
SHAPES = {"first": (3, 2), "second": (4,), "third": (2, 3)}
Masks = list[tuple[bool, bool, bool]]

masks = st.lists(st.tuples(*[st.booleans()] * 3), min_size=4, max_size=8)
from_some_step_on = [(True, True, True)] * 2 + [(False, True, False)] * 3
now_and_then = [
    (False, True, True),
    (True, False, True),
    (False, False, False),
    (True, True, False),
    (True, True, True),
]


def start() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in SHAPES.items()}


def run(make: Callable[[dict[str, Tensor]], list[Any]], wanted: Masks) -> dict[str, Tensor]:
    """Train with noisy gradients that fall towards 1; those that a step's mask leaves out are None."""
    leaves, generator = start(), torch.Generator().manual_seed(6)
    optimizers = make(leaves)
    for mask in wanted:
        for (_, leaf), here in zip(leaves.items(), mask, strict=True):
            noise = torch.randn(leaf.shape, generator=generator, dtype=torch.float64)
            leaf.grad = leaf.detach() - 1 + noise / 2 if here else None
        for optimizer in optimizers:
            optimizer.step()
    return leaves


def assert_equal(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(actual[name].detach(), value.detach(), rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize("name", [name for name in RULES if not one_trial(name)])
@settings(max_examples=2, derandomize=True)
@given(wanted=masks)
@example(wanted=from_some_step_on)
@example(wanted=now_and_then)
def test_a_parameter_that_waits_is_as_with_an_optimizer_of_its_own(name: str, wanted: Masks) -> None:
    together = run(lambda leaves: [build(name, leaves.items(), lr=0.1)], wanted)
    assert_equal(together, run(lambda leaves: [build(name, [item], lr=0.1) for item in leaves.items()], wanted))


def schedule_free_sgd(leaves: dict[str, Tensor]) -> list[Any]:
    import schedulefree

    optimizer = schedulefree.SGDScheduleFree(leaves.values(), lr=0.1, momentum=0.9, warmup_steps=3, foreach=False)
    optimizer.train()
    return [optimizer]


def schedule_free_adamw(leaves: dict[str, Tensor]) -> list[Any]:
    import schedulefree

    optimizer = schedulefree.AdamWScheduleFree(leaves.values(), lr=0.1, weight_decay=0.1, foreach=False)
    optimizer.train()
    return [optimizer]


def prodigy(leaves: dict[str, Tensor]) -> list[Any]:
    import prodigyopt

    with contextlib.redirect_stdout(io.StringIO()):
        return [prodigyopt.Prodigy(leaves.values(), d0=1e-3, weight_decay=0.1)]


PACKAGES: dict[str, tuple[dict[str, Any], Callable[[dict[str, Tensor]], list[Any]]]] = {
    "schedule_free_sgd": ({"lr": 0.1, "momentum": 0.9, "warmup_steps": 3}, schedule_free_sgd),
    "schedule_free_adamw": ({"lr": 0.1, "weight_decay": 0.1}, schedule_free_adamw),
    "prodigy": ({"d0": 1e-3, "weight_decay": 0.1}, prodigy),
}


def test_every_rule_that_sees_a_trial_as_one_has_a_package_or_searches() -> None:
    assert set(PACKAGES) == {name for name in RULES if one_trial(name) and not rule_class(name).needs_loss}


@pytest.mark.parametrize("name", PACKAGES)
@settings(max_examples=12, derandomize=True)
@given(wanted=masks)
@example(wanted=from_some_step_on)
@example(wanted=now_and_then)
def test_rules_that_see_a_trial_as_one_do_as_their_packages(name: str, wanted: Masks) -> None:
    hp, package = PACKAGES[name]
    ours = run(lambda leaves: [build(name, leaves.items(), **hp)], wanted)
    assert_equal(ours, run(package, wanted))


@pytest.mark.parametrize("name", PACKAGES)
def test_the_result_of_a_parameter_that_joined_late_is_its_packages(name: str) -> None:
    hp, package = PACKAGES[name]
    kept: list[Any] = []

    def showing(make: Callable[[dict[str, Tensor]], list[Any]]) -> Callable[[dict[str, Tensor]], list[Any]]:
        return lambda leaves: kept.append(make(leaves)) or kept[-1]

    found = [run(showing(make), now_and_then) for make in (lambda leaves: [build(name, leaves.items(), **hp)], package)]
    for (optimizer,) in kept:
        if hasattr(optimizer, "eval"):
            optimizer.eval()
    assert_equal(*found)


@pytest.mark.parametrize("name", [name for name in RULES if rule_class(name).needs_loss])
def test_in_a_search_a_missing_gradient_is_zero(name: str) -> None:
    problem = Quadratic(torch.float64)
    begin = {key: value[0] for key, value in problem.start(1).items()}
    found = []
    for missing in (None, 0.0):
        leaves = {key: value.clone().requires_grad_(rule_class(name).needs_curvature) for key, value in begin.items()}
        optimizer = build(name, leaves.items(), lr=1.0)
        for step in range(4):

            def closure(step: int = step, leaves: Any = leaves, missing: float | None = missing) -> Tensor:
                gone = ("tall", "bias") if step in (1, 2) else ()
                curved: Curved = problem.at(step)
                here = {key: (leaf.detach() if key in gone else leaf)[None] for key, leaf in leaves.items()}
                loss, grads = curved(here)
                if rule_class(name).needs_curvature:
                    return loss[0] if missing is None else loss[0] + sum(0 * leaves[key].sum() for key in leaves)
                for key, gradient in grads.items():
                    leaves[key].grad = gradient[0].clone() if key not in gone else None
                    if missing is not None and key in gone:
                        leaves[key].grad = torch.zeros_like(leaves[key])
                return loss[0]

            optimizer.step(closure)
        found.append(leaves)
    assert_equal(found[0], found[1])
    assert all(not torch.equal(value, begin[key]) for key, value in found[0].items()) or name == "coordinate_descent"
