"""Shampoo: gradients between inverse roots of their two Kronecker factors.

Reference: Gupta, Koren and Singer 2018, "Shampoo: preconditioned stochastic tensor optimization",
https://arxiv.org/abs/1802.09568, algorithm 1; averaged factors, grafting and blocks: Anil et al. 2020,
https://arxiv.org/abs/2002.09018; bias correction and the filtered gradient: Shi et al. 2023,
https://arxiv.org/abs/2309.06497. Fallback for all other parameters: AdamW (see adamw.py).

Matrices [m, k], heads, and convolutions flattened to [out, in · kh · kw], each cut into blocks of at most block_size:

    L ← beta2 · L + (1 - beta2) · g g',  R ← beta2 · R + (1 - beta2) · g' g      (accumulation sum: L + g g', R + g' g)
    m ← beta1 · m + (1 - beta1) · g,     m̂ = m / (1 - beta1^t)
    u = L̂^(-1/root) m̂ R̂^(-1/root),      L̂ = L / (1 - beta2^t), R̂ likewise          (sum: L̂ = L, R̂ = R)
    u ← u · ‖a‖ / ‖u‖                    per tensor, with the grafted step a: m̂ (sgd), m̂ / (√v̂ + graft_eps) (adam),
                                         m̂ / (√v + graft_eps) (rmsprop); none: u stays
    p ← p · (1 - lr · weight_decay) - lr · u

The roots are recomputed every `refresh` steps, from the first on; up to step `start` the grafted step itself is used.
beta2 = 0 accumulates nothing: with both sides and root 4, or one side and root 2, u is then U V' of g = U S V'.

Embeddings and vectors: AdamW with lr · fallback_lr_ratio, the same betas, graft_eps and weight_decay.

State per parameter: exp_avg m, of its shape; per block left L and left_root [rows, rows], right R and right_root
[columns, columns]; graft_sq v, of its shape, for adam and rmsprop. Others: exp_avg, exp_avg_sq. Zeros at the start.
Departures: the ridge is eps times the factor's Frobenius norm, so that scale does not matter (the papers add eps
itself); the grafted norms are those of the whole tensor, not of each block.
Used with: AdamW's learning rate when grafted to adam; beta2 from 0.975 to 0.998 in the winning AlgoPerf submission.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from tuner.optimizers.entries import (
    choice,
    decay_rate,
    fallback_lr_ratio,
    learning_rate,
    non_negative,
    weight_decay,
    whole_number,
)
from tuner.optimizers.maths.adam_moments import adamw_step, fallback_scalars
from tuner.optimizers.maths.matrix_product import aligned, multiply, norms
from tuner.optimizers.maths.matrix_root import inverse_root
from tuner.optimizers.maths.matrix_view import Blocks, matrix_shape, picked, rows_where, write_back
from tuner.optimizers.maths.power import power
from tuner.optimizers.rule import Evaluate, Role, Rule, Shapes, State, Tensors, per_trial

_ALGOPERF = "AlgoPerf, arXiv:2306.07179, Shampoo search space"
_FPO = "Wen et al. 2025, arXiv:2509.02046"


class Shampoo(Rule):
    """Kronecker-factored preconditioning of matrices, with grafting; AdamW for embeddings and vectors."""

    name = "shampoo"
    summary = "Gradients between inverse roots of their Kronecker factors, with another rule's step length"
    formula = "p ← p · (1 - lr · weight_decay) - lr · ‖a‖ / ‖u‖ · u,  u = L̂^(-1/root) m̂ R̂^(-1/root)"
    reference = "Gupta, Koren and Singer 2018, https://arxiv.org/abs/1802.09568"
    memory = "2 + 2 (m² + k²) / (m k) for matrices, blockwise; 2 for the rest"
    elementwise = False
    periodic = True
    decay = "decoupled"
    hyperparameters = (
        learning_rate(1e-3, 1e-4, 1e-2, f"{_ALGOPERF}: 1e-4-1e-2, log"),
        decay_rate("beta1", 0.9, "the averaged gradient", 0.85, 0.99, f"{_ALGOPERF}: 1 - beta1 in 0.01-0.15, log"),
        decay_rate(
            "beta2",
            0.99,
            "the factors and of the grafted second moment; 0 keeps only the last gradient",
            0.9,
            0.999,
            "includes 0.975-0.9981 of the winning AlgoPerf submission; bounds are ours",
        ),
        weight_decay(1e-2, 5e-3, 1.0, f"{_ALGOPERF}: 5e-3-1, log"),
        non_negative(
            "eps",
            1e-6,
            "ridge of each factor, as a fraction of its Frobenius norm",
            1e-6,
            1e-2,
            "1e-6 of the largest eigenvalue in Anil et al. 2020, arXiv:2002.09018; less is lost in float32",
        ),
        non_negative(
            "graft_eps", 1e-8, "added to the root of the second moment", 1e-10, 1e-6, f"{_FPO}: flat; bounds are ours"
        ),
        fallback_lr_ratio(1.0, "embeddings and vectors", 0.1, 3.0, "1 fits grafting to adam; bounds are ours"),
        choice("accumulation", "average", "factors are averaged with beta2, or summed as in AdaGrad", "sum"),
        choice("graft", "adam", "the rule whose step length is used", "sgd", "rmsprop", "none"),
        choice("sides", "both", "both factors, or only that of a block's shorter side", "shorter"),
        whole_number("root", 4, "each factor enters to the power -1 / root", 1, 2, 4),
        whole_number("block_size", 1024, "longest side of a block", 1, 128, 1024),
        whole_number("refresh", 10, "steps between recomputations of the roots", 1, 1, 100),
        whole_number("start", 0, "number of initial steps that use the grafted step itself", 0, 1, 100),
    )

    @classmethod
    def buffers(cls, role: Role) -> tuple[str, ...]:
        """One averaged gradient for preconditioned parameters, two moments for the rest."""
        return ("exp_avg",) if _preconditioned(role) else ("exp_avg", "exp_avg_sq")

    def pools(self, shapes: Shapes) -> dict[str, dict[str, tuple[int, ...]]]:
        """Factors and their roots per block, and the second moment of the grafted rule."""
        found: dict[str, dict[str, tuple[int, ...]]] = {}
        for name, shape in shapes.items():
            if not _preconditioned(self.roles.get(name, "vector")):
                continue
            blocks = self._blocks(shape)
            for side, size in self._sides(blocks).items():
                for pool in (side, f"{side}_root"):
                    found.setdefault(pool, {})[name] = (blocks.count, size, size)
            if self.structure["graft"] in ("adam", "rmsprop"):
                found.setdefault("graft_sq", {})[name] = tuple(shape)
        return found

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
        scalars = fallback_scalars(state.step, hp, beta1=hp["beta1"], eps=hp["graft_eps"])
        for name, param in params.items():
            if not _preconditioned(self.roles.get(name, "vector")):
                first, second = state.buffers["exp_avg"][name], state.buffers["exp_avg_sq"][name]
                adamw_step(grads[name], param, first, second, scalars)
                continue
            self._gather(name, grads[name], state, hp)
            direction = self._direction(name, grads[name], state, hp)
            param.mul_(per_trial(1 - hp["lr"] * hp["weight_decay"], param))
            param.sub_(direction.mul_(per_trial(hp["lr"], param)))

    def _gather(self, name: str, grad: Tensor, state: State, hp: Mapping[str, Tensor]) -> None:
        """Add the gradient [T, ...] to the factors, and recompute the roots of the trials that are due."""
        blocks, beta2 = self._blocks(grad.shape[1:]), hp["beta2"]
        cut = aligned(blocks.cut(grad.flatten(2)))
        period = self.structure["refresh"]
        due = [(count - 1) % period == 0 for count in state.counts]  # type: ignore[operator]
        correction = 1 - power(beta2[None], state.step)[0]
        for side, size in self._sides(blocks).items():
            factor, roots = state.pools[side][name], state.pools[f"{side}_root"][name]
            product = multiply(cut, cut.mT) if side == "left" else multiply(cut.mT, cut)
            fresh = product[:, :size, :size].reshape(factor.shape)
            if self.structure["accumulation"] == "average":
                factor.mul_(per_trial(beta2, factor)).add_(fresh * per_trial(1 - beta2, factor))
            else:
                factor.add_(fresh)
            if not any(due):
                continue
            rows = rows_where(due, grad.device)
            renewed = picked(factor, rows)
            if self.structure["accumulation"] == "average":
                renewed = renewed / per_trial(picked(correction, rows), renewed)
            ridge = picked(hp["eps"], rows).repeat_interleave(blocks.count)
            result = inverse_root(renewed.flatten(0, 1), int(self.structure["root"]), ridge)
            write_back(roots, rows, result.reshape(renewed.shape))

    def _direction(self, name: str, grad: Tensor, state: State, hp: Mapping[str, Tensor]) -> Tensor:
        """Return the step [T, ...] before lr; also advances the moments."""
        mean = state.buffers["exp_avg"][name]
        mean.mul_(per_trial(hp["beta1"], mean)).add_(grad * per_trial(1 - hp["beta1"], mean))
        mean = mean / per_trial(1 - power(hp["beta1"][None], state.step)[0], mean)
        grafted = self._grafted(name, grad, mean, state, hp)
        started = [count > self.structure["start"] for count in state.counts]  # type: ignore[operator]
        if not any(started):
            return grafted
        result = self._preconditioned(name, mean, state)
        if self.structure["graft"] != "none":
            own = norms(result)
            ratio = torch.where(own > 0, norms(grafted) / own, torch.zeros_like(own))
            result = result * per_trial(ratio, result)
        if not all(started):
            result = torch.where(per_trial(torch.tensor(started, device=grad.device), result).bool(), result, grafted)
        return result

    def _preconditioned(self, name: str, mean: Tensor, state: State) -> Tensor:
        blocks = self._blocks(mean.shape[1:])
        result = aligned(blocks.cut(mean.flatten(2)))
        sides = self._sides(blocks)
        if "left" in sides:
            result = multiply(aligned(state.pools["left_root"][name].flatten(0, 1)), result)
        if "right" in sides:
            result = multiply(result, aligned(state.pools["right_root"][name].flatten(0, 1)))
        return blocks.joined(result[:, : blocks.rows, : blocks.columns]).reshape(mean.shape)

    def _grafted(self, name: str, grad: Tensor, mean: Tensor, state: State, hp: Mapping[str, Tensor]) -> Tensor:
        """Return the step [T, ...] whose length is used, from the bias-corrected `mean` of gradients."""
        graft = self.structure["graft"]
        if graft in ("none", "sgd"):
            return mean
        square, beta2 = state.pools["graft_sq"][name], hp["beta2"]
        square.mul_(per_trial(beta2, square)).add_((grad * grad).mul_(per_trial(1 - beta2, square)))
        denominator = square.sqrt()
        if graft == "adam":
            denominator.div_(per_trial((1 - power(beta2[None], state.step)[0]).sqrt(), square))
        return mean / denominator.add_(per_trial(hp["graft_eps"], square))

    def _blocks(self, shape: torch.Size) -> Blocks:
        return Blocks.of(matrix_shape(shape), int(self.structure["block_size"]))

    def _sides(self, blocks: Blocks) -> dict[str, int]:
        """Return the sides that are preconditioned, with their length in a block."""
        sides = {"left": blocks.rows, "right": blocks.columns}
        if self.structure["sides"] == "shorter":
            del sides["right" if blocks.rows <= blocks.columns else "left"]
        return sides


def _preconditioned(role: Role) -> bool:
    return role in ("matrix", "convolution", "head")
