"""Independent optimizers with line searches: torch's L-BFGS and its strong Wolfe search, else slow literal references.

Each runs one trial, a vector of NumPy doubles, on the harness's problem.
"""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.lbfgs import _strong_wolfe

Params = dict[str, Tensor]
Vector = NDArray[np.float64]


class Vectors:
    """One trial's parameters as a vector, and the problem's loss, gradient and Hessian there."""

    def __init__(self, params: Params, problem: Any) -> None:
        self.shapes = {name: param.shape for name, param in params.items()}
        self.problem = problem
        self.step = 0

    def named(self, x: Vector) -> Params:
        found, start = {}, 0
        for name, shape in self.shapes.items():
            found[name] = torch.tensor(x[start : start + shape.numel()]).reshape(1, *shape)
            start += shape.numel()
        return found

    def vector(self, params: Params) -> Vector:
        return np.concatenate([params[name].numpy().ravel() for name in self.shapes])

    def __call__(self, x: Vector) -> tuple[float, Vector]:
        loss, gradient = self.problem.at(self.step)(self.named(x))
        return float(loss), self.vector(gradient)

    def product(self, vector: Vector) -> Vector:
        params = self.named(vector)
        return self.vector(self.problem.at(self.step).hessian_vector(params, params))


Step = Callable[[Vectors, Vector], Vector]


def _run(step: Step, params: Params, problem: Any, steps: int) -> Params:
    problem = Vectors(params, problem)
    x = problem.vector(params)
    for number in range(steps):
        problem.step = number
        x = step(problem, x)
    assert np.isfinite(x).all()
    return {name: value[0] for name, value in problem.named(x).items()}


def wolfe_by_torch(f: Vectors, x: Vector, d: Vector, t: float, c1: float, c2: float, rounds: int) -> float:
    """torch.optim.LBFGS's own search, one trial at a time."""

    def at(x: Tensor, t: float, d: Tensor) -> tuple[float, Tensor]:
        loss, gradient = f((x + t * d).numpy())
        return loss, torch.from_numpy(gradient)

    loss, gradient = f(x)
    start, direction, g = (torch.from_numpy(v) for v in (x, d, gradient))
    return float(_strong_wolfe(at, start, t, direction, loss, g, g.dot(direction), c1, c2, 1e-9, rounds - 1)[2])


def backtracking(f: Vectors, x: Vector, d: Vector, t: float, c1: float, shrink: float) -> float:
    loss, gradient = f(x)
    for _ in range(25):
        if f(x + t * d)[0] <= loss + c1 * t * (gradient @ d):
            return t
        t *= shrink
    raise AssertionError("the test's problem is too hard")


def _gd(hp: Mapping[str, Any]) -> Step:
    return lambda f, x: x - hp["lr"] * f(x)[1]


def _gd_exact(hp: Mapping[str, Any]) -> Step:
    def step(f: Vectors, x: Vector) -> Vector:
        g = f(x)[1]
        return x - hp["lr"] * (g @ g) / (g @ f.product(g)) * g

    return step


def _gd_armijo(hp: Mapping[str, Any]) -> Step:
    factor = [1.0 * hp["shrink"]]

    def step(f: Vectors, x: Vector) -> Vector:
        g = f(x)[1]
        t = backtracking(f, x, -g, hp["lr"] * (factor[0] / hp["shrink"]), hp["c1"], hp["shrink"])
        factor[0] = t / hp["lr"]
        return x - t * g

    return step


def _gd_wolfe(hp: Mapping[str, Any]) -> Step:
    def step(f: Vectors, x: Vector) -> Vector:
        g = f(x)[1]
        return x - wolfe_by_torch(f, x, -g, hp["lr"], hp["c1"], hp["c2"], 25) * g

    return step


def _coordinate_descent(hp: Mapping[str, Any]) -> Step:
    def step(f: Vectors, x: Vector) -> Vector:
        here = np.eye(len(x))[f.step % len(x)]
        return x - hp["lr"] * (f(x)[1] @ here) / (here @ f.product(here)) * here

    return step


def _bfgs(hp: Mapping[str, Any]) -> Step:
    memory: dict[str, Any] = {}

    def step(f: Vectors, x: Vector) -> Vector:
        g, unit = f(x)[1], np.eye(len(x))
        inverse = memory.get("H", unit)
        d = -inverse @ g
        first = 1.0 if "H" in memory else min(1.0, 1 / np.abs(g).sum())
        t = wolfe_by_torch(f, x, d, first * hp["lr"], hp["c1"], hp["c2"], 25)
        s, y = t * d, f(x + t * d)[1] - g
        assert y @ s > 0
        inverse = memory.get("H", y @ s / (y @ y) * unit)
        left = unit - np.outer(s, y) / (y @ s)
        memory["H"] = left @ inverse @ left.T + np.outer(s, s) / (y @ s)
        return x + s

    return step


def _newton_cg(hp: Mapping[str, Any]) -> Step:
    def step(f: Vectors, x: Vector) -> Vector:
        g = f(x)[1]
        norm = np.linalg.norm(g)
        d, r, p = np.zeros_like(g), g.copy(), -g
        for _ in range(50):
            bent = f.product(p)
            alpha = (r @ r) / (p @ bent)
            d, fresh = d + alpha * p, r + alpha * bent
            if np.linalg.norm(fresh) <= min(hp["forcing"], np.sqrt(norm)) * norm:
                break
            p, r = (fresh @ fresh) / (r @ r) * p - fresh, fresh
        return x + wolfe_by_torch(f, x, d, hp["lr"], hp["c1"], hp["c2"], 25) * d

    return step


def _lbfgs(params: Params, hp: Mapping[str, Any], problem: Any, steps: int) -> Params:
    """torch's, whose max_iter is our iterations, 1; its search has the trial's c1 and c2 in place of its own."""
    leaves = {name: param.clone() for name, param in params.items()}
    options = {"history_size": 10, **{name: hp[name] for name in ("tolerance_grad", "tolerance_change")}}
    optimizer = torch.optim.LBFGS(
        leaves.values(),
        lr=hp["lr"],
        max_iter=1,
        max_eval=25,
        line_search_fn="strong_wolfe",
        **options,
    )
    search = partial(_strong_wolfe, c1=hp["c1"], c2=hp["c2"])
    for step in range(steps):

        def closure(step: int = step) -> float:
            loss, gradients = problem.at(step)({name: leaf[None] for name, leaf in leaves.items()})
            for name, gradient in gradients.items():
                leaves[name].grad = gradient[0]
            return float(loss)

        with mock.patch.object(sys.modules["torch.optim.lbfgs"], "_strong_wolfe", search):
            optimizer.step(closure)
    return leaves


def _whole(make: Callable[[Mapping[str, Any]], Step]) -> Callable[..., Params]:
    return lambda params, hp, problem, steps: _run(make(hp), params, problem, steps)


RUNS = {
    "gd": _whole(_gd),
    "gd_exact": _whole(_gd_exact),
    "gd_armijo": _whole(_gd_armijo),
    "gd_wolfe": _whole(_gd_wolfe),
    "coordinate_descent": _whole(_coordinate_descent),
    "bfgs": _whole(_bfgs),
    "newton_cg": _whole(_newton_cg),
    "lbfgs": _lbfgs,
}
ORACLES: dict[str, Any] = {}
TOLERANCE: dict[str, float] = {"bfgs": 1e-10, "newton_cg": 1e-10, "lbfgs": 1e-10, "coordinate_descent": 1e-9}
"""A cubic through two losses sees their difference alone, and an inverse Hessian returns rounding errors multiplied by
its condition. A closure has no Hessian to show: there, coordinate descent finds its minima by interpolation."""

STEPS = {name: 50 for name in RUNS} | {"gd": 200, "bfgs": 30, "lbfgs": 20}
"""Each step is several evaluations, and these rules are through with a problem long before 200 steps."""
