"""Line searches: what they accept satisfies its conditions, whatever else happens the loss never rises."""

import math

import pytest
import torch
from objectives import Objective, bowls, rosenbrock, starts
from torch.optim.lbfgs import _strong_wolfe

from tuner.errors import InvalidInput
from tuner.optimizers import Stacked, catalogue
from tuner.optimizers.maths.line_search import Line, backtrack, relaxed
from tuner.optimizers.maths.rows import Objective as Rows
from tuner.optimizers.maths.rows import dot, matrix_vector
from tuner.optimizers.maths.wolfe import exact_search, strong_wolfe

SEARCHING = [name for name, info in catalogue().items() if info.needs_loss]
SHAPES = {
    "quadratic": lambda t: (t - 3) ** 2 + 1,
    "quartic": lambda t: (t - 1) ** 4 - t,
    "wavy": lambda t: t**2 / 50 - torch.sin(2 * t),
    "logarithmic": lambda t: -(t + 0.1).log() + t,
    "steep": lambda t: torch.exp(-4 * t) + torch.exp(t - 2),
    "rippled": lambda t: -0.49678827 * t + 0.27412015 * torch.cos(3.91482242 * t + 0.4) + 0.002 * t**2,
    "shallow": lambda t: -t / (t**2 + 2) + 1e-3 * t**2,
}
"""Functions of the step with negative slope at 0 and a minimum; from 7 the rippled one meets a
third point that is higher than the second, and steep."""
FIRSTS = (1e-6, 1e-3, 0.1, 1.0, 7.0, 30.0)


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def line_of(function, origin, direction=None):
    """A line for each row of `origin` [T, n], along the negative gradient unless a direction is given."""
    evaluate = Objective(function)
    rows = Rows("test", evaluate, {"p": origin})
    loss, gradient = rows(origin)
    return Line(rows, origin, -gradient if direction is None else direction, gradient, loss), evaluate


def scalar_line(function, trials):
    """The lines of a function of the step itself, which is the parameter."""
    zero = torch.zeros(trials, 1, dtype=torch.float64)
    return line_of(lambda p: function(p[:, 0]), zero, torch.ones_like(zero))[0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("c1", "c2"), [(1e-4, 0.9), (0.1, 0.2), (1e-3, 1e-3)])
def test_an_accepted_step_satisfies_the_strong_wolfe_conditions(shape, c1, c2):
    line = scalar_line(SHAPES[shape], len(FIRSTS))
    like = torch.ones(len(FIRSTS), dtype=torch.float64)
    found, met, _ = strong_wolfe(line, vector(*FIRSTS), c1 * like, c2 * like, 100 * like)
    assert met.all() or (
        shape in ("wavy", "rippled") and met.sum() >= len(FIRSTS) - 1
    )  # torch's search fails there too
    for t in found.step[met].tolist():
        leaf = torch.tensor([0.0, t], dtype=torch.float64, requires_grad=True)
        value = SHAPES[shape](leaf)
        slope = torch.autograd.grad(value.sum(), leaf)[0]
        assert value[1] <= value[0] + c1 * t * slope[0] + 1e-14 and abs(slope[1]) <= -c2 * slope[0]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_wolfe_search_goes_the_way_of_torchs(shape):
    """All first steps at once against torch's search of one at a time, with few and with many rounds."""
    for rounds in (1, 2, 3, 5, 24):
        line = scalar_line(SHAPES[shape], len(FIRSTS))
        like = torch.ones(len(FIRSTS), dtype=torch.float64)
        found, _, made = strong_wolfe(line, vector(*FIRSTS), 1e-4 * like, 0.1 * like, rounds * like)
        for trial, first in enumerate(FIRSTS):

            def at(x, t, d):
                leaf = (x + t * d).requires_grad_()
                value = SHAPES[shape](leaf)
                return float(value.detach()), torch.autograd.grad(value.sum(), leaf)[0]

            x, d = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
            loss, g = at(x, 0.0, d)
            expected = _strong_wolfe(at, x, first, d, loss, g, g.dot(d), 1e-4, 0.1, 1e-9, rounds)
            assert float(found.step[trial]) == pytest.approx(float(expected[2]), rel=1e-9, abs=1e-15)
            assert int(made[trial]) == expected[3]


def test_backtracking_takes_the_first_step_of_its_series_that_decreases_enough():
    c1, shrink, first = vector(1e-4, 0.3, 0.3), vector(0.5, 0.8, 0.5), vector(64.0, 3.0, 1e-3)
    origin = vector([-1.2, 1.0], [0.3, 2.0], [0.0, 0.0])
    line, evaluate = line_of(rosenbrock, origin)
    found, met, _ = backtrack(line, first, c1, shrink, 60)
    assert met.all() and evaluate.calls > 2
    for trial in range(3):
        tries = [float(first[trial])]
        while not armijo(line, trial, tries[-1], float(c1[trial])):
            tries.append(tries[-1] * float(shrink[trial]))
        assert float(found.step[trial]) == tries[-1] and tries == sorted(tries, reverse=True)
    assert found.step[2] == first[2]


def test_backtracking_that_runs_out_of_rounds_takes_the_best_point_seen():
    """On p² from 1 with c1 0.49, steps 0.9 and 0.81 lower the loss, to 0.64 and 0.38, and not by enough."""
    line = line_of(lambda p: (p**2).sum(1), vector([1.0], [1.0]))[0]
    for rounds, expected in ((1, 0.9), (2, 0.81)):
        found, met, _ = backtrack(line, vector(0.9, 0.9), vector(0.49, 0.49), vector(0.9, 0.9), rounds)
        assert not met.any() and found.step.tolist() == pytest.approx([expected] * 2)


def armijo(line, trial, t, c1):
    moved = line.origin[trial] + t * line.direction[trial]
    start, slope = float(line.start.loss[trial]), float(line.start.slope[trial])
    return float(rosenbrock(moved[None])) <= start + c1 * t * slope


def test_an_exact_search_leaves_no_slope_along_the_line():
    matrix, linear, _ = bowls(4, 6)
    origin = starts(4, 6)
    line = line_of(lambda p: (p * (matrix @ p[:, :, None])[:, :, 0]).sum(1) / 2 - (linear * p).sum(1), origin)[0]
    found = exact_search(line, vector(1e-3, 1.0, 10.0, 0.1), torch.full((4,), 1e-10, dtype=torch.float64), 40)
    gradient = (matrix @ line.rows(found.step)[:, :, None])[:, :, 0] - linear
    assert ((gradient * line.direction).sum(1).abs() <= 1e-10 * line.start.slope.abs()).all()


def never_above(function, origin, direction, first=1.0):
    """Run every search from the same place; each must end no higher than it began, at a finite place."""
    for rounds in (1, 2, 4, 25):
        line = line_of(function, origin, direction)[0]
        like = torch.full((len(origin),), first, dtype=torch.float64)
        c1, c2, shrink, left = 1e-4 + 0 * like, 0.9 + 0 * like, 0.5 + 0 * like, rounds - 1 + 0 * like
        ends = [
            backtrack(line, like, c1, shrink, rounds)[0],
            strong_wolfe(line, like, c1, c2, left)[0],
            exact_search(line, like, c1, rounds),
        ]
        for end in [*ends, relaxed(line, ends[-1], 1.9 * torch.ones_like(like))]:
            moved = line.rows(end.step)
            assert moved.isfinite().all() and (function(moved) <= function(origin)).all()
            yield rounds, end.step


def test_nan_beyond_a_wall_counts_as_too_far():
    """log(1 - p) is NaN beyond 1 and infinite at 1: the first step lands far beyond."""
    origin = vector([0.0], [0.9])
    found = list(never_above(lambda p: -torch.log(1 - p[:, 0]) - 3 * p[:, 0], origin, torch.ones_like(origin), 100.0))
    assert all((step > 0)[0] for rounds, step in found if rounds == 25)


def test_a_flat_function_and_an_ascending_direction_move_nothing():
    origin = vector([0.4], [-2.0])
    for function, direction in [
        (lambda p: 0 * p[:, 0] + 1, torch.ones_like(origin)),
        (lambda p: p[:, 0], torch.ones_like(origin)),
        (lambda p: p[:, 0] ** 2, torch.zeros_like(origin)),
    ]:
        assert all((step == 0).all() for _, step in never_above(function, origin, direction))


def test_a_deceiving_slope_and_an_endless_fall_end_no_higher():
    origin = vector([0.0], [0.0])
    fall = list(never_above(lambda p: -p[:, 0], origin, torch.ones_like(origin)))
    assert all((step > 0).all() for _, step in fall)
    cliff = never_above(lambda p: (p[:, 0] != 0).double() - p[:, 0] * 1e-9, origin, torch.ones_like(origin))
    assert all((step == 0).all() for _, step in cliff)


@pytest.mark.parametrize("name", SEARCHING)
def test_a_rule_never_raises_its_loss_where_much_of_the_space_is_not_a_number(name):
    """A pit with walls of NaN: steps of any length come back from them, down to a slope of nearly 0."""

    def pit(p):
        return (p**2 / 2 - torch.log(4 - p**2) * 5 + 0.3 * p).sum(1)

    objective = Objective(pit)
    stack = Stacked(name, {"p": vector([1.9, -1.5], [0.1, 1.99], [5.0, 0.0])}, {"lr": 2.0})
    before, _ = objective(stack.params)
    for _ in range(25):
        stack.step(objective(stack.params)[1], objective)
        after, gradient = objective(stack.params)
        assert (after[:2] <= before[:2]).all()
        before = after
    assert stack.params["p"][2].tolist() == [5.0, 0.0]
    assert gradient["p"][:2].abs().max() < 1e-3


def test_neighbours_that_need_more_rounds_change_no_bit():
    origin = vector([-1.2, 1.0], [1.0, 1.000001], [0.0, 3.0])
    like, firsts = torch.ones(3, dtype=torch.float64), vector(50.0, 1e-3, 1e-9)
    line = line_of(rosenbrock, origin)[0]
    together = strong_wolfe(line, firsts, 1e-4 * like, 0.05 * like, 30 * like)[0].step
    for trial in range(3):
        one = slice(trial, trial + 1)
        alone = line_of(rosenbrock, origin[one])[0]
        step = strong_wolfe(alone, firsts[one], 1e-4 * like[one], 0.05 * like[one], 30 * like[one])[0].step
        assert torch.equal(step, together[one])


def test_inner_products_are_exact_for_whole_numbers_of_any_length():
    for length in (1, 2, 3, 7, 64, 1001):
        x = torch.arange(2 * length, dtype=torch.float32).reshape(2, length)
        assert dot(x, x).tolist() == (x.double() ** 2).sum(1).tolist()
    matrices = torch.arange(18.0).reshape(2, 3, 3)
    vectors = torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.0, 1.0]])
    assert torch.equal(matrix_vector(matrices, vectors), (matrices @ vectors[:, :, None])[:, :, 0])


def test_a_rule_without_the_loss_is_refused():
    stack = Stacked("gd_wolfe", {"p": torch.ones(2, 3)}, {})
    with pytest.raises(InvalidInput, match="gd_wolfe needs the loss at other parameters"):
        stack.step({"p": torch.ones(2, 3)})


def test_a_relaxed_step_that_would_rise_is_not_taken():
    line = line_of(lambda p: (p**2).sum(1) + torch.where(p[:, 0] < 0, math.inf, 0.0), vector([1.0], [1.0]))[0]
    found = exact_search(line, vector(0.4, 0.4), vector(1e-6, 1e-6), 20)
    ends = relaxed(line, found, vector(0.5, 1.9)).step
    assert ends[0] == 0.5 * found.step[0] and ends[1] == found.step[1]
