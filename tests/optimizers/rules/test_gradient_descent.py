"""Gradient descent with fixed and searched steps, and coordinate descent: their closed forms on quadratics."""

import itertools

import pytest
import torch
from objectives import Objective, WithoutCurvature, bowls, rosenbrock, starts

from tuner.errors import InvalidInput
from tuner.optimizers import Stacked
from tuner.optimizers.rules.coordinate_descent import scrambled

CLOSE = {"rtol": 1e-11, "atol": 1e-12}


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def run(name, start, objective, steps, **hp):
    """Return the iterates [T, n], the start first."""
    stack = Stacked(name, {"p": start.clone()}, hp)
    iterates = [start]
    for _ in range(steps):
        stack.step(objective(stack.params)[1], objective)
        iterates.append(stack.params["p"].clone())
    return iterates


def test_gd_contracts_every_eigenmode_by_1_minus_lr_times_its_curvature():
    matrix, _, _ = bowls(3, 5)
    curvature, modes = torch.linalg.eigh(matrix)
    objective = Objective(lambda p: (p * (matrix @ p[:, :, None])[:, :, 0]).sum(1) / 2)
    lrs = vector(0.02, 0.1, 0.3)
    start = starts(3, 5)
    last = run("gd", start, objective, 25, lr=lrs)[-1]
    amplitudes = (modes.mT @ start[:, :, None])[:, :, 0] * (1 - lrs[:, None] * curvature) ** 25
    torch.testing.assert_close(last, (modes @ amplitudes[:, :, None])[:, :, 0], rtol=1e-8, atol=1e-8)


def test_gd_diverges_exactly_where_lr_is_above_2_over_the_largest_curvature():
    curvature = vector(1.0, 4.0, 10.0)
    objective = Objective(lambda p: (curvature * p * p).sum(1) / 2)
    lrs = vector(0.199, 0.2, 0.201)
    sizes = run("gd", torch.ones(3, 3, dtype=torch.float64), objective, 3000, lr=lrs)[-1].abs().amax(1)
    assert sizes[0] < 1e-8 and 0.9 < sizes[1] < 1.1 and sizes[2] > 1e10


@pytest.mark.parametrize("curved", [True, False])
def test_exact_steps_are_orthogonal_to_the_next_gradient(curved):
    objective = bowls(3, 5)[2]
    offered = objective if curved else WithoutCurvature(objective)
    iterates = run("gd_exact", starts(3, 5), offered, 6, tolerance=1e-10, max_evaluations=40)
    for here, there in itertools.pairwise(iterates):
        slope, before = (
            (there - here) * objective({"p": there})[1]["p"],
            (there - here) * objective({"p": here})[1]["p"],
        )
        assert (slope.sum(1).abs() <= 1e-9 * before.sum(1).abs()).all()


def test_the_closed_form_needs_one_evaluation_beside_the_start():
    objective = bowls(3, 5)[2]
    stack = Stacked("gd_exact", {"p": starts(3, 5)}, {})
    gradient = objective(stack.params)[1]
    objective.calls = 0
    stack.step(gradient, objective)
    assert objective.calls == 2


def test_the_closed_form_is_only_a_first_try_where_the_function_is_no_quadratic():
    objective = Objective(rosenbrock)
    start = vector([-1.2, 1.0], [2.0, -1.0])
    iterates = run("gd_exact", start, objective, 20, tolerance=1e-8, max_evaluations=60)
    values = [rosenbrock(p) for p in iterates]
    assert all((later < earlier).all() for earlier, later in itertools.pairwise(values))


def test_a_relaxed_exact_step_is_lr_times_as_long():
    objective, start = bowls(3, 5)[2], starts(3, 5)
    lrs = vector(0.25, 1.0, 1.75)
    whole, part = (run("gd_exact", start, objective, 1, lr=lr)[1] - start for lr in (1.0, lrs))
    torch.testing.assert_close(part, whole * lrs[:, None], **CLOSE)


def test_wolfe_steps_satisfy_both_conditions():
    objective = Objective(rosenbrock)
    iterates = run("gd_wolfe", vector([-1.2, 1.0], [2.0, -1.0]), objective, 15, c1=1e-3, c2=0.3, max_evaluations=60)
    for here, there in itertools.pairwise(iterates):
        (f0, g0), (f1, g1) = objective({"p": here}), objective({"p": there})
        before, after = (((there - here) * g["p"]).sum(1) for g in (g0, g1))
        assert (f1 <= f0 + 1e-3 * before).all() and (after.abs() <= -0.3 * before * (1 + 1e-9)).all()


@pytest.mark.parametrize(("start", "tries"), [("lr", [4, 4, 4]), ("keep", [4, 1, 1]), ("increase", [4, 2, 2])])
def test_armijo_starts_as_it_is_told(start, tries):
    """On p²/2 with c1 = 0.4, steps up to 1.2 are accepted: from 8 by halves, 1 is the fourth."""
    objective = Objective(lambda p: (p * p).sum(1) / 2 + 1e-3 * p.sum(1))
    stack = Stacked("gd_armijo", {"p": vector([50.0])}, {"lr": 8.0, "c1": 0.4, "start": start})
    made = []
    for _ in range(3):
        stack.params["p"].fill_(50.0)
        gradient = objective(stack.params)[1]
        objective.calls = 0
        stack.step(gradient, objective)
        made.append(objective.calls - 1)
    assert made == tries


def test_armijo_goes_on_after_a_failed_search_until_its_steps_move_nothing():
    objective = Objective(lambda p: (p * p).sum(1) / 2)
    stack = Stacked("gd_armijo", {"p": vector([1.0])}, {"lr": 0.5, "start": "keep"})
    stack.step(objective(stack.params)[1], objective)
    assert stack.state.trial["factor"].tolist() == [1.0]
    found = []
    for _ in range(3):
        stack.step({"p": vector([1.0])}, Objective(lambda p: p.sum(1) * 0))
        found += stack.state.trial["factor"].tolist()
    assert found == [2**-25, 2**-50, 0.0]  # p is 0.5: a step of 2^-76 is lost in it


def gauss_seidel(matrix, linear, p, sweeps, relaxation=1.0):
    p = p.clone()
    for _ in range(sweeps):
        for i in range(len(p)):
            rest = linear[i] - sum(matrix[i, j] * p[j] for j in range(len(p)) if j != i)
            p[i] = (1 - relaxation) * p[i] + relaxation * rest / matrix[i, i]
    return p


@pytest.mark.parametrize("curved", [True, False])
def test_cyclic_coordinate_descent_is_gauss_seidel(curved):
    """With lr as the factor of successive over-relaxation; without a Hessian as exact as the search."""
    matrix, linear, objective = bowls(3, 5)
    start, lrs = starts(3, 5), vector(1.0, 0.6, 1.5)
    last = run("coordinate_descent", start, objective if curved else WithoutCurvature(objective), 15, lr=lrs)[-1]
    expected = [gauss_seidel(*of, 3, float(lr)) for *of, lr in zip(matrix, linear, start, lrs, strict=True)]
    torch.testing.assert_close(last, torch.stack(expected), **(CLOSE if curved else {"rtol": 1e-6, "atol": 1e-6}))


@pytest.mark.parametrize(("size", "blocks"), [(2, [[0, 1], [2, 3], [4]]), (7, [[0, 1, 2, 3, 4]])])
def test_a_step_leaves_no_gradient_in_its_block_and_no_move_outside(size, blocks):
    objective, start = bowls(3, 5)[2], starts(3, 5)
    iterates = run("coordinate_descent", start, objective, len(blocks) + 1, block_size=size)
    for number, (here, there) in enumerate(itertools.pairwise(iterates)):
        block = blocks[number % len(blocks)]
        assert objective({"p": there})[1]["p"][:, block].abs().max() < 1e-10
        assert {i for i in range(5) if not torch.equal(here[:, i], there[:, i])} <= set(block)


def test_gauss_southwell_takes_the_block_of_the_largest_gradient():
    objective, start = bowls(4, 6)[2], starts(4, 6)
    iterates = run("coordinate_descent", start, objective, 8, block_size=2, order="gauss_southwell")
    for here, there in itertools.pairwise(iterates):
        norms = objective({"p": here})[1]["p"].reshape(4, 3, 2).norm(dim=2)
        moved = (here != there).reshape(4, 3, 2).any(2)
        assert torch.equal(moved.int().argmax(1), norms.argmax(1)) and (moved.sum(1) == 1).all()


def test_a_random_order_is_the_seeds_own_and_even():
    objective, size = Objective(lambda p: (p * p).sum(1) / 2 + p.sum(1)), 8
    start = torch.zeros(3, size, dtype=torch.float64)
    stack = Stacked("coordinate_descent", {"p": start.clone()}, {"order": "random", "seed": vector(5.0, 6.0, 5.0)})
    chosen = []
    for _ in range(240):
        stack.params["p"].zero_()
        stack.step(objective(stack.params)[1], objective)
        chosen.append((stack.params["p"] != 0).int().argmax(1))
    orders = torch.stack(chosen, 1)
    assert torch.equal(orders[0], orders[2]) and (orders[0] == orders[1]).double().mean() < 0.25
    assert torch.bincount(orders[0], minlength=size).sub(30).abs().max() < 20  # 30 each, deviation 5


def test_the_hash_is_lowbias32():
    """Values of the C function, worked out with Python's whole numbers."""

    def reference(x):
        x = ((x ^ (x >> 16)) * 0x7FEB352D) % 2**32
        x = ((x ^ (x >> 15)) * 0x846CA68B) % 2**32
        return x ^ (x >> 16)

    numbers = [0, 1, 2, 12345, 2**31 - 1, 2**32 - 1]
    assert scrambled(torch.tensor(numbers)).tolist() == [reference(x) for x in numbers]


def test_an_order_that_does_not_exist_is_refused():
    with pytest.raises(InvalidInput, match="one of cyclic, random, gauss_southwell"):
        Stacked("coordinate_descent", {"p": torch.zeros(1, 2)}, {"order": "alphabetical"})
