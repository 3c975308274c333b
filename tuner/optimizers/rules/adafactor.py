"""Adafactor: Adam's second moment kept as row and column sums, steps relative to the size of the parameter.

Reference: Shazeer and Stern 2018, "Adafactor: adaptive learning rates with sublinear memory cost",
https://arxiv.org/abs/1804.04235, algorithms 4 and 5; conventions of torch.optim.Adafactor.

    rest ← t^beta2_decay
    p ← p · (1 - lr · weight_decay)
    r ← r + rest · (mean of g² over columns - r);  c ← c + rest · (mean of g² over rows - c)
    v ← r cᵀ / max(mean of r, eps1)              (vectors: v ← v + rest · (g² - v))
    u ← g / max(√v, eps1)
    p ← p - max(eps2, RMS(p)) · min(lr, 1/√t) · u / max(1, RMS(u) / clip_threshold)

RMS(p) is taken before the decay. The last two dims of each trial's parameter are factored, never the trial axis: a
convolution [o, i, h, w] has o · i pairs of factors.

State per parameter of two or more dims [..., m, k]: row_var r [..., m] and col_var c [..., k]; of others: variance v of
the parameter's shape; zeros at the start.
Departures: as torch, not as the paper, lr is a cap and not a factor of 1/√t; the decay comes before the step and is
multiplied by lr; no first moment. eps1 = 0 means the machine epsilon of the parameters' type (torch's None).
Used with: lr about 1e-2: steps are relative, so it is the fraction of the parameter's size that one step may change.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from tuner.optimizers.entries import learning_rate, non_negative, weight_decay
from tuner.optimizers.maths.power import power
from tuner.optimizers.rule import Evaluate, Role, Rule, Shapes, State, Tensors, per_trial
from tuner.optimizers.sums import along, column_squares, row_squares, total_square
from tuner.optimizers.treatment import MOMENT_WARMUP
from tuner.study.hyperparameter import Hyperparameter, Search

_PAPER = "Shazeer and Stern 2018, arXiv:1804.04235"


class Adafactor(Rule):
    """Factored second moment, relative step size, clipped update."""

    name = "adafactor"
    summary = "Second moment kept as row and column sums; steps relative to the parameter's size"
    formula = "p ← p · (1 - lr · weight_decay) - max(eps2, RMS(p)) · min(lr, 1/√t) · u / max(1, RMS(u)/clip_threshold)"
    reference = "Shazeer and Stern 2018, https://arxiv.org/abs/1804.04235"
    elementwise = False
    decay = "decoupled"
    memory = "(m + k) / (m k); 1 for vectors"
    hyperparameters = (
        learning_rate(
            1e-2,
            1e-4,
            0.1,
            "AlgoPerf, arXiv:2306.07179: 1e-4-1e-2, log; raised by us, as torch's default 1e-2 was its upper bound",
            description="cap of the relative step: a step changes a parameter by about lr of its size; 0 means no step",
        ),
        Hyperparameter(
            name="beta2_decay",
            default=-0.8,
            description="the weight of the new squared gradient at step t is t^beta2_decay",
            high=0.0,
            search=Search(
                min=-1.0, max=-0.5, swept=False, source=f"{_PAPER}, section 7.2: 0.5 to 1 tried, 0.8 recommended"
            ),
        ),
        non_negative(
            "eps1",
            0.0,
            "smallest root of the second moment; 0 means the machine epsilon of the parameters' type",
            1e-15,
            1e-7,
            f"{_PAPER}: √1e-30; upper bound ours",
        ),
        non_negative(
            "eps2",
            1e-3,
            "smallest parameter size for which steps are relative: lets zeros grow",
            1e-4,
            1e-2,
            f"{_PAPER}: 1e-3; bounds are ours",
        ),
        Hyperparameter(
            name="clip_threshold",
            default=1.0,
            description="largest root mean square of the update before it is scaled to the step size",
            low=1.0,
            search=Search(min=1.0, max=2.0, swept=False, source=f"{_PAPER}, section 6: 1 recommended, 2 tried"),
        ),
        weight_decay(0.0, 1e-3, 1.0, "AlgoPerf, arXiv:2306.07179, log", swept=False),
    )

    @classmethod
    def declared(cls) -> tuple[Hyperparameter, ...]:
        """Also offer moment warm-up: the moments are in pools, where the base class does not look for them."""
        return (*super().declared(), MOMENT_WARMUP)

    @classmethod
    def buffers(cls, role: Role) -> tuple[str, ...]:
        """None: the state has other shapes."""
        return ()

    def pools(self, shapes: Shapes) -> dict[str, dict[str, tuple[int, ...]]]:
        """Row and column means of squares for two or more dims, the squares themselves for fewer."""
        matrices = {name: shape for name, shape in shapes.items() if len(shape) > 1}
        return {
            "row_var": {name: tuple(shape[:-1]) for name, shape in matrices.items()},
            "col_var": {name: (*shape[:-2], shape[-1]) for name, shape in matrices.items()},
            "variance": {name: tuple(shape) for name, shape in shapes.items() if name not in matrices},
        }

    def update(
        self,
        grads: Tensors,
        params: Tensors,
        state: State,
        hp: Mapping[str, Tensor],
        evaluate: Evaluate | None = None,
    ) -> None:
        """Apply one step in place; `grads` and `params` hold [T, ...] tensors, e.g. (64, 256, 64)."""
        state.advance()
        rest, eps1 = power(state.step[None], hp["beta2_decay"])[0], _machine_eps(hp["eps1"], params)
        step_size, shrink = torch.minimum(hp["lr"], 1 / state.step.sqrt()), 1 - hp["lr"] * hp["weight_decay"]
        for name, param in params.items():
            if param.dim() > 2:
                row, col = state.pools["row_var"][name], state.pools["col_var"][name]
                direction = _factored(grads[name], row, col, rest, eps1)
            else:
                direction = _plain(grads[name], state.pools["variance"][name], rest, eps1)
            root = param[0].numel() ** 0.5
            size = torch.maximum(hp["eps2"], total_square(param).sqrt_().div_(root)) * step_size
            excess = total_square(direction).sqrt_().div_(root).div_(hp["clip_threshold"]).clamp_(min=1.0)
            param.mul_(per_trial(shrink, param)).sub_(direction.mul_(per_trial(size / excess, param)))


def _machine_eps(eps1: Tensor, params: Tensors) -> Tensor:
    return torch.where(eps1 > 0, eps1, torch.finfo(next(iter(params.values())).dtype).eps)


def _factored(grad: Tensor, row_var: Tensor, col_var: Tensor, rest: Tensor, eps1: Tensor) -> Tensor:
    """Return grad / √v for v of rank one per matrix; `grad` [T, ..., m, k], both factors updated in place."""
    rows, columns = grad.shape[-2:]
    _approach(row_var, row_squares(grad).div_(columns), rest)
    _approach(col_var, column_squares(grad).div_(rows), rest)
    mean = along(row_var.clone(), -1).div_(rows).unsqueeze(-1)
    left = row_var / torch.maximum(mean, per_trial(eps1, mean))
    return _rooted(left.unsqueeze(-1) * col_var.unsqueeze(-2), eps1, grad)


def _plain(grad: Tensor, variance: Tensor, rest: Tensor, eps1: Tensor) -> Tensor:
    _approach(variance, grad * grad, rest)
    return _rooted(variance.clone(), eps1, grad)


def _approach(average: Tensor, fresh: Tensor, rest: Tensor) -> None:
    """Set average ← average + rest · (fresh - average); `fresh` is overwritten."""
    average.add_(fresh.sub_(average).mul_(per_trial(rest, average)))


def _rooted(variance: Tensor, eps1: Tensor, grad: Tensor) -> Tensor:
    """Return grad / max(√variance, eps1); `variance` is overwritten."""
    root = variance.sqrt_()
    torch.maximum(root, per_trial(eps1, root), out=root)  # on the root: the square of a small eps1 would underflow
    return torch.div(grad, root, out=root)
