"""Gradients from 1e-14 to 1e14: float32 does what float64 does, on the path of CPUs and on that of GPUs."""

import pytest
import torch
from rule_oracles import ROLES, SHAPES

from tuner.optimizers import Stacked, catalogue, devices
from tuner.optimizers.catalogue import rule_class

SCALES = torch.tensor([1e-14, 1e-10, 1e-5, 1.0, 1e5, 1e10, 1e14], dtype=torch.float64)
STEPS = 8
CHOICES = [
    *[(name, {}) for name in catalogue() if not rule_class(name).needs_loss],
    *[("shampoo", {"graft": graft, "accumulation": kind}) for graft, kind in (("none", "sum"), ("sgd", "average"))],
    ("shampoo", {"sides": "shorter", "root": 2, "graft": "none"}),
    ("soap", {"refresh": 1}),
    ("psgd_kron", {"max_dim": 6}),
    ("muon", {"coefficients": "polar_express", "ns_steps": 5}),
    *[("steepest", {"hidden_norm": n, "head_norm": n, "embedding_norm": n}) for n in ("spectral", "sign", "frobenius")],
    ("steepest", {"dual_factor": "modular", "hidden_norm": "row_rms", "head_norm": "column_rms"}),
]
OWN_EPS = {"adafactor": {"eps1": 1e-7}, "shampoo": {"eps": 1e-3}}
"""Where the default follows the type, or leaves factors with a condition that takes the last digits of float32."""


def trained(name, choices, dtype, start):
    """Train one or more trials per scale on noise of that size around a mean; return how far each has come."""
    generator = torch.Generator().manual_seed(11)
    params = {key: value.to(dtype) for key, value in start.items()}
    before = {key: value.clone() for key, value in params.items()}
    stack = Stacked(name, params, {**OWN_EPS.get(name, {}), **choices}, roles=ROLES)
    for _ in range(STEPS):
        grads = {}
        for key, value in params.items():
            once = 1 + torch.randn(value.shape[1:], generator=generator, dtype=torch.float64)
            scales = SCALES.repeat(len(value) // len(SCALES))
            grads[key] = (once * scales.reshape(-1, *[1] * once.dim())).to(dtype)
        stack.step(grads)
    return {key: value.double() - before[key].double() for key, value in stack.evaluation_params().items()}


@pytest.mark.parametrize(("name", "choices"), CHOICES, ids=lambda value: value if isinstance(value, str) else None)
@pytest.mark.parametrize("path", ["cpu", "gpu"])
def test_float32_follows_float64_at_every_scale(name, choices, path, monkeypatch):
    if path == "gpu":  # let the rule believe that it is on one: products in place of LAPACK, sums by folding
        monkeypatch.setattr(devices, "is_cpu", lambda tensor: False)
    generator, sizes = torch.Generator().manual_seed(12), torch.tensor([0.0, 1.0]).repeat_interleave(len(SCALES))
    start = {}  # from 0, no step is lost in the rounding of the parameters
    for key, shape in SHAPES.items():
        drawn = torch.randn(2 * len(SCALES), *shape, generator=generator, dtype=torch.float64)
        start[key] = drawn * sizes.reshape(-1, *[1] * len(shape))
    found, expected = (trained(name, choices, dtype, start) for dtype in (torch.float32, torch.float64))
    for key, move in expected.items():
        length, difference = (value.flatten(1).norm(dim=1) for value in (move, found[key] - move))
        rounding = STEPS * 2e-7 * sizes * move[0].numel() ** 0.5
        assert (difference <= 5e-3 * length + rounding).all(), (key, difference / length)
        assert (length > 0).all()


@pytest.mark.parametrize("norm", ["spectral", "sign", "frobenius", "row_rms", "column_rms", "rms_to_rms", "embedding"])
def test_a_step_of_steepest_descent_is_as_long_at_every_scale(norm):
    start = {key: torch.zeros(len(SCALES), *shape) for key, shape in SHAPES.items()}
    choices = {f"{role}_norm": norm for role in ("hidden", "head", "embedding", "vector")}
    for move in trained("steepest", choices, torch.float32, start).values():
        torch.testing.assert_close(move, move[3:4].expand_as(move), rtol=2e-3, atol=2e-5)


class Bowl:
    """A quadratic of condition 5 times each trial's scale; losses in the parameters' type."""

    def __init__(self, scales):
        self.curvature = scales[:, None] * torch.logspace(-0.7, 0, 6, dtype=torch.float64)

    def __call__(self, params):
        p = params["p"]
        curvature = self.curvature.to(p.dtype)
        return (curvature * p * p).sum(1) / 2, {"p": curvature * p}


class CurvedBowl(Bowl):
    def hessian_vector(self, params, vectors):
        return {"p": self.curvature.to(vectors["p"].dtype) * vectors["p"]}


class Fenced(CurvedBowl):
    """Defined within 2 alone, as where an exponential overflows beyond."""

    def __call__(self, params):
        loss, grads = super().__call__(params)
        return torch.where((params["p"].abs() > 2).any(1), torch.inf, loss), grads


SEARCHES = {name: {} for name in catalogue() if rule_class(name).needs_loss}
SEARCHES["lbfgs"] = {"tolerance_grad": 0.0, "tolerance_change": 0.0}


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("loss", [Bowl, CurvedBowl, Fenced])
def test_a_search_finds_its_way_at_every_scale(name, loss):
    """With the default lr, in float32, whose largest loss is 3e38: a first step of 1e14 gradients is far beyond it.

    From 1e-5 on: a step of 1e-10 gradients would be lost in the rounding of the parameters.
    """
    if rule_class(name).needs_curvature and loss is Bowl:
        loss = CurvedBowl
    objective = loss(SCALES[2:])
    stack = Stacked(name, {"p": torch.ones(len(SCALES[2:]), 6)}, SEARCHES[name])
    before = objective(stack.params)[0]
    for _ in range(22):
        stack.step(objective(stack.params)[1], objective)
    assert (objective(stack.params)[0] < 0.1 * before).all()


@pytest.mark.parametrize("start", ["lr", "keep", "increase"])
def test_backtracking_goes_on_where_a_search_failed(start):
    """On 1e14 p²/2 from 1: 25 halvings end at 3e-8, and only steps below 2e-14 go down."""
    objective = Bowl(torch.ones(1, dtype=torch.float64))
    objective.curvature = torch.full((1, 1), 1e14, dtype=torch.float64)
    stack = Stacked("gd_armijo", {"p": torch.ones(1, 1, dtype=torch.float64)}, {"start": start})
    places = [1.0]
    for _ in range(3):
        stack.step(objective(stack.params)[1], objective)
        places.append(float(stack.params["p"]))
    assert places[1] == 1.0 and abs(places[2]) < 1
    if start == "lr":
        assert places[3] == places[2]  # a search that succeeded is followed by one from lr
    else:
        assert abs(places[3]) < abs(places[2])


def test_backtracking_begins_anew_once_its_steps_move_nothing():
    """In a minimum to rounding, then on another loss: steps are not lost for ever."""
    stack = Stacked("gd_armijo", {"p": torch.ones(1, 1)}, {})

    def flat(params):
        return torch.zeros(1), {"p": torch.ones(1, 1)}

    for _ in range(2):
        stack.step(flat(stack.params)[1], flat)
    assert (stack.params["p"] == 1).all()
    objective = Bowl(torch.ones(1, dtype=torch.float64))
    objective.curvature = torch.ones(1, 1, dtype=torch.float64)
    stack.step(objective(stack.params)[1], objective)
    assert (stack.params["p"] == 0).all()  # lr 1 is the minimum
