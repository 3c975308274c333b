"""BFGS, L-BFGS and Newton-CG: finite termination on quadratics, the secant condition, two loops against a matrix."""

import pytest
import torch
from objectives import Objective, WithoutCurvature, bowls, rosenbrock, starts

from tuner.errors import InvalidInput
from tuner.optimizers import Stacked, build
from tuner.optimizers.maths.conjugate_gradient import descent_direction
from tuner.optimizers.maths.rows import dot
from tuner.optimizers.maths.two_loop import descent, remember
from tuner.optimizers.rules.bfgs import MOST_PARAMETERS, updated_inverse

EXACT = {"c1": 1e-12, "c2": 1e-11, "max_evaluations": 60}


def run(name, start, objective, steps, **hp):
    stack = Stacked(name, {"p": start.clone()}, hp)
    for _ in range(steps):
        stack.step(objective(stack.params)[1], objective)
    return stack


def curved_pairs(trials, size, count, seed=0):
    """Steps s [count, T, n] and changes A s of a quadratic's gradient, so that s'y > 0."""
    matrix, _, _ = bowls(trials, size, seed)
    steps = torch.randn(count, trials, size, generator=torch.Generator().manual_seed(seed + 5), dtype=torch.float64)
    return steps, torch.einsum("tij,ctj->cti", matrix, steps)


def test_bfgs_with_exact_search_ends_on_a_quadratic_in_n_steps_and_knows_its_inverse():
    matrix, linear, objective = bowls(3, 6)
    stack = run("bfgs", starts(3, 6), objective, 6, **EXACT)
    minimum = torch.linalg.solve(matrix, linear)
    torch.testing.assert_close(stack.params["p"], minimum, rtol=1e-8, atol=1e-8)
    inverse = stack.state.trial["inverse_hessian"]
    torch.testing.assert_close(inverse, torch.linalg.inv(matrix), rtol=1e-6, atol=1e-6)


def test_lbfgs_with_exact_search_ends_in_n_steps_too_even_with_a_short_memory():
    matrix, linear, objective = bowls(3, 6)
    tight = {**EXACT, "tolerance_grad": 0.0, "tolerance_change": 0.0}
    for history in (3, 10):
        stack = run("lbfgs", starts(3, 6), objective, 7, history=history, **tight)
        minimum = torch.linalg.solve(matrix, linear)
        torch.testing.assert_close(stack.params["p"], minimum, rtol=1e-7, atol=1e-7)


def test_the_update_keeps_h_symmetric_and_positive_and_maps_y_to_s():
    steps, changes = curved_pairs(4, 7, 5)
    inverse = torch.eye(7, dtype=torch.float64).repeat(4, 1, 1)
    for s, y in zip(steps, changes, strict=True):
        inverse = updated_inverse(inverse, s, y, dot(s, y))
        torch.testing.assert_close((inverse @ y[:, :, None])[:, :, 0], s, rtol=1e-10, atol=1e-12)
        assert torch.equal(inverse, inverse.mT)
        assert (torch.linalg.eigvalsh(inverse) > 0).all()


def memory_of(steps, changes, history):
    """What L-BFGS remembers after these pairs; the gradient is the running sum of its changes."""
    _, trials, size = steps.shape
    trial = {name: torch.zeros(trials, history, size, dtype=torch.float64) for name in ("steps", "changes")}
    trial |= {name: torch.zeros(trials, size, dtype=torch.float64) for name in ("previous_gradient", "previous_step")}
    trial |= {"inverse_products": torch.zeros(trials, history, dtype=torch.float64)}
    trial |= {name: torch.zeros(trials, dtype=torch.float64) for name in ("pairs", "scale")}
    for s, y in zip(steps, changes, strict=True):
        trial["previous_step"].copy_(s)
        gradient = trial["previous_gradient"] + y
        remember(trial, gradient, torch.ones(trials, dtype=torch.bool))
        trial["previous_gradient"].copy_(gradient)
    return trial


@pytest.mark.parametrize("history", [3, 5, 9])
def test_two_loops_are_the_product_with_the_bfgs_matrix(history):
    """From H0 = γ I: with room for all pairs these are BFGS's matrices, else those of the last pairs."""
    steps, changes = curved_pairs(4, 7, 5)
    trial, gradient = memory_of(steps, changes, history), starts(4, 7)
    s, y = steps[-1], changes[-1]
    scale = (s * y).sum(1) / (y * y).sum(1)
    dense = scale[:, None, None] * torch.eye(7, dtype=torch.float64)
    for s, y in list(zip(steps, changes, strict=True))[-history:]:
        dense = updated_inverse(dense, s, y, dot(s, y))
    expected = -(dense @ gradient[:, :, None])[:, :, 0]
    torch.testing.assert_close(descent(trial, gradient, history), expected, rtol=1e-11, atol=1e-12)


def test_a_pair_without_curvature_is_not_remembered():
    """One trial's y's is negative, one's tiny: their memory and scale stay, their neighbour's do not."""
    steps, changes = curved_pairs(3, 4, 2)
    trial = memory_of(steps[:1], changes[:1], 5)
    before = {name: value.clone() for name, value in trial.items()}
    trial["previous_step"].copy_(steps[1])
    change = changes[1] * torch.tensor([-1.0, 1.0, 1e-14], dtype=torch.float64)[:, None]
    remember(trial, trial["previous_gradient"] + change, torch.ones(3, dtype=torch.bool))
    assert trial["pairs"].tolist() == [1, 2, 1]
    for name in ("steps", "changes", "inverse_products", "scale"):
        assert torch.equal(trial[name][[0, 2]], before[name][[0, 2]])
        assert not torch.equal(trial[name][1], before[name][1])


def test_bfgs_skips_an_update_without_curvature():
    """On p^4 - p² the curvature between -0.1 and 0.1 is negative; a fixed step stays there."""
    objective = Objective(lambda p: (p**4 - p**2).sum(1))
    start = torch.tensor([[0.01], [0.9]], dtype=torch.float64)
    stack = run("bfgs", start, objective, 1, line_search="fixed", lr=0.01)
    assert stack.state.trial["updates"].tolist() == [0, 1]
    assert stack.state.trial["inverse_hessian"][0] == 1 and stack.state.trial["inverse_hessian"][1] != 1


@pytest.mark.parametrize(
    ("name", "hp"),
    [
        ("bfgs", {}),
        ("bfgs", {"line_search": "armijo"}),
        ("lbfgs", {"tolerance_change": 0.0}),
        ("lbfgs", {"iterations": 5, "history": 4, "tolerance_change": 0.0}),
        ("newton_cg", {}),
        ("newton_cg", {"line_search": "armijo", "forcing": 0.1}),
    ],
)
def test_the_bottom_of_rosenbrocks_valley_is_found(name, hp):
    start = torch.tensor([[-1.2, 1.0], [2.0, -1.0], [0.0, 0.0]], dtype=torch.float64)
    steps = 20 if "iterations" in hp else 75
    stack = run(name, start, Objective(rosenbrock), steps, **hp)
    assert (rosenbrock(stack.params["p"]) < 1e-12).all()


def test_a_failed_search_begins_anew():
    """No step along a direction that history deceived: the next is steepest descent again."""
    objective = bowls(2, 3)[2]
    for name, what in (("bfgs", "updates"), ("lbfgs", "pairs")):
        stack = run(name, starts(2, 3), objective, 3)
        assert (stack.state.trial[what] > 0).all()
        blind = Objective(lambda p: (p * 0).sum(1))
        gradient = objective(stack.params)[1]
        before = stack.params["p"].clone()
        stack.step(gradient, blind)
        assert torch.equal(stack.params["p"], before) and (stack.state.trial[what] == 0).all()


def test_newton_cg_steps_to_the_minimum_of_a_quadratic_at_once():
    matrix, linear, objective = bowls(3, 6)
    stack = run("newton_cg", starts(3, 6), objective, 1, forcing=0.0)
    torch.testing.assert_close(stack.params["p"], torch.linalg.solve(matrix, linear), rtol=1e-10, atol=1e-10)


def test_truncated_cg_stops_at_negative_curvature_with_a_direction_of_descent():
    """H = diag(1, -1): from g = (1, 0) the minimum of the convex part, from (0.1, 1) steepest descent."""
    curvature = torch.tensor([1.0, -1.0], dtype=torch.float64)
    gradient = torch.tensor([[1.0, 0.0], [0.1, 1.0], [2.0, 1.0]], dtype=torch.float64)
    found = descent_direction(lambda v: v * curvature, gradient, torch.full((3,), 1e-12, dtype=torch.float64), 10)
    assert found[0].tolist() == [-1.0, 0.0]
    torch.testing.assert_close(found[1], -gradient[1])
    torch.testing.assert_close(found[2], -gradient[2] * 5 / 3)  # one step of CG: |g|² / g'H g = 5 / 3
    assert ((found * gradient).sum(1) < 0).all()


def test_newton_cg_leaves_a_saddle():
    objective = Objective(lambda p: p[:, 0] ** 2 / 2 + p[:, 1] ** 4 / 4 - p[:, 1] ** 2 / 2)
    stack = run("newton_cg", torch.tensor([[1.0, 1e-3], [1.0, -1e-3]], dtype=torch.float64), objective, 15)
    expected = torch.tensor([[0.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
    torch.testing.assert_close(stack.params["p"], expected, rtol=1e-6, atol=1e-6)


def test_newton_cg_without_a_second_derivative_is_refused():
    objective = WithoutCurvature(Objective(rosenbrock))
    stack = Stacked("newton_cg", {"p": starts(2, 3)}, {})
    with pytest.raises(InvalidInput, match="newton_cg needs the second derivative"):
        stack.step(objective(stack.params)[1], objective)


def test_bfgs_refuses_too_many_parameters_at_construction():
    many = MOST_PARAMETERS // 4 + 1
    with pytest.raises(InvalidInput, match=f"{4 * many} elements; bfgs takes at most {MOST_PARAMETERS}, lbfgs"):
        Stacked("bfgs", {"p": torch.zeros(1, 4, many)}, {})
    with pytest.raises(InvalidInput, match="lbfgs any number"):
        build("bfgs", [torch.nn.Parameter(torch.zeros(4, many))])
