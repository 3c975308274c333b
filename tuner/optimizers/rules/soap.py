"""SOAP: Adam in the eigenbasis of Shampoo's factors.

Reference: Vyas et al. 2024, "SOAP: improving and stabilizing Shampoo using Adam", https://arxiv.org/abs/2409.11321,
algorithm 3; conventions of the authors' implementation.

Matrices [m, k], heads, and convolutions flattened to [out, in · kh · kw]:

    ĝ ← Q_L' g Q_R
    m ← beta1 · m + (1 - beta1) · ĝ,     v ← beta2 · v + (1 - beta2) · ĝ²
    p ← p - lr · sqrt(1 - beta2^s) / (1 - beta1^s) · Q_L (m / (√v + eps)) Q_R',     s = t - 1
    p ← p · (1 - lr · weight_decay)
    L ← shampoo_beta · L + (1 - shampoo_beta) · g g',  R ← shampoo_beta · R + (1 - shampoo_beta) · g' g

Every `refresh` steps Q_L and Q_R take one step of orthogonal iteration (see eigenbasis.py); m is rotated into the new
basis, rows and columns of v are put in the order of the new basis. The first step changes no parameter: its gradient
initialises L, R and, by their eigenvectors, Q_L and Q_R. A side longer than max_dim keeps its own axes. Embeddings and
vectors: the same without Q, that is, Adam.

State per parameter: exp_avg m (in the basis) and exp_avg_sq v, of its shape; left L, left_basis Q_L [m, m]; right R,
right_basis Q_R [k, k]; zeros at the start.
Departures: as the authors' code, not as the paper, eps is added to √v before its bias correction (so it counts 1 /
sqrt(1 - beta2^s) times as much), and the decay comes after the step. The initial basis comes from factors with a small
ramp on the diagonal, because otherwise rounding would determine most of it.
Used with: lr 4e-3 to 8e-3 where AdamW takes the same (Wen et al. 2025); sensitive to refresh.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from tuner.optimizers.entries import decay_rate, learning_rate, non_negative, weight_decay, whole_number
from tuner.optimizers.maths.eigenbasis import eigenbasis, followed
from tuner.optimizers.maths.matrix_product import aligned, multiply
from tuner.optimizers.maths.matrix_view import matrix_shape, picked, picked_all, rows_where, write_back
from tuner.optimizers.maths.power import power
from tuner.optimizers.rule import Evaluate, Role, Rule, Shapes, State, Tensors, per_trial

_FPO = "Wen et al. 2025, arXiv:2509.02046"


class SOAP(Rule):
    """Adam in a slowly rotating eigenbasis for matrices, plain Adam for embeddings and vectors."""

    name = "soap"
    summary = "Adam in the eigenbasis of Shampoo's factors"
    formula = "p ← (p - lr · Q_L (m̂ / (√v̂ + eps)) Q_R') · (1 - lr · weight_decay),  moments of Q_L' g Q_R"
    reference = "Vyas et al. 2024, https://arxiv.org/abs/2409.11321"
    memory = "2 + 2 (m² + k²) / (m k) for matrices, 2 for the rest"
    elementwise = False
    periodic = True
    decay = "decoupled"
    hyperparameters = (
        learning_rate(3e-3, 3e-4, 3e-2, f"includes the authors' 3e-3 and the best of {_FPO}: 4e-3-8e-3; bounds ours"),
        decay_rate("beta1", 0.95, "the first moment", 0.85, 0.98, f"{_FPO}: best 0.95; bounds are ours"),
        decay_rate("beta2", 0.95, "the second moment", 0.9, 0.999, f"{_FPO}: best 0.99, authors' 0.95; bounds ours"),
        decay_rate("shampoo_beta", 0.95, "the factors", 0.9, 0.99, f"{_FPO}: best 0.9-0.95; upper bound ours"),
        non_negative(
            "eps", 1e-8, "added to the root of the second moment", 1e-10, 1e-6, f"{_FPO}: flat; bounds are ours"
        ),
        weight_decay(1e-2, 5e-3, 0.5, f"includes the authors' 0.01 and the best of {_FPO}: 0.1; bounds are ours"),
        whole_number("refresh", 10, "steps between updates of the basis", 1, 1, 100),
        whole_number("max_dim", 10000, "longest side that gets a basis", 0, 512, 10000),
    )

    @classmethod
    def buffers(cls, role: Role) -> tuple[str, ...]:
        """Two moments, for every role."""
        return ("exp_avg", "exp_avg_sq")

    def pools(self, shapes: Shapes) -> dict[str, dict[str, tuple[int, ...]]]:
        """Factors and bases of both sides."""
        found: dict[str, dict[str, tuple[int, ...]]] = {}
        for name, shape in shapes.items():
            for side, size in self._sides(name, shape).items():
                for pool in (side, f"{side}_basis"):
                    found.setdefault(pool, {})[name] = (size, size)
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
        starting = [count == 1 for count in state.counts]
        period = int(self.structure["refresh"])
        due = [count > 1 and (count - 1) % period == 0 for count in state.counts]
        for name, param in params.items():
            sides = self._sides(name, param.shape[1:])
            if not all(starting):
                rows = rows_where([not start for start in starting], param.device)
                self._move(name, sides, rows, grads, params, state, hp)
            self._gather(name, sides, grads[name], state, hp["shampoo_beta"])
            if any(starting):
                state.buffers["exp_avg"][name].add_(grads[name] * 0)  # what is not finite shows in the next step
                rows = rows_where(starting, param.device)
                for side in sides:
                    basis = eigenbasis(picked(state.pools[side][name], rows))
                    write_back(state.pools[f"{side}_basis"][name], rows, basis)
            if sides and any(due):
                self._turn(name, sides, rows_where(due, param.device), state)

    def _gather(self, name: str, sides: Mapping[str, int], grad: Tensor, state: State, beta: Tensor) -> None:
        """Add the gradient [T, ...] to the factors."""
        if not sides:
            return
        flat = aligned(grad.flatten(2))
        for side, size in sides.items():
            factor = state.pools[side][name]
            product = multiply(flat, flat.mT) if side == "left" else multiply(flat.mT, flat)
            factor.mul_(per_trial(beta, factor)).add_(product[:, :size, :size] * per_trial(1 - beta, factor))

    def _move(
        self,
        name: str,
        sides: Mapping[str, int],
        rows: Tensor | None,
        grads: Tensors,
        params: Tensors,
        state: State,
        hp: Mapping[str, Tensor],
    ) -> None:
        """Step the trials in `rows`: moments and step in the basis, decay after it."""
        own, done = picked_all(dict(hp), rows), picked(state.step, rows) - 1
        grad, param = picked(grads[name], rows), picked(params[name], rows)
        first, second = (picked(state.buffers[key][name], rows) for key in ("exp_avg", "exp_avg_sq"))
        bases = {side: aligned(picked(state.pools[f"{side}_basis"][name], rows)) for side in sides}
        turned = _between(bases, grad, inward=True)
        first.mul_(per_trial(own["beta1"], first)).add_(turned * per_trial(1 - own["beta1"], first))
        second.mul_(per_trial(own["beta2"], second)).add_((turned * turned).mul_(per_trial(1 - own["beta2"], second)))
        direction = _between(bases, first / second.sqrt().add_(per_trial(own["eps"], second)), inward=False)
        bias = 1 - power(torch.stack([own["beta1"], own["beta2"]]), done)
        param.sub_(direction * per_trial(own["lr"] * bias[1].sqrt() / bias[0], param))
        param.mul_(per_trial(1 - own["lr"] * own["weight_decay"], param))
        for whole, part in ((params, param), (state.buffers["exp_avg"], first), (state.buffers["exp_avg_sq"], second)):
            write_back(whole[name], rows, part)

    def _turn(self, name: str, sides: Mapping[str, int], rows: Tensor | None, state: State) -> None:
        """Update the bases of the trials in `rows` to follow their factors, and rotate both moments accordingly."""
        first, second = (picked(state.buffers[key][name], rows) for key in ("exp_avg", "exp_avg_sq"))
        mean, square = first.flatten(2), second.flatten(2)
        rotations = {}
        for side in sides:
            basis = state.pools[f"{side}_basis"][name]
            old = picked(basis, rows)
            new, order = followed(picked(state.pools[side][name], rows), old)
            rotations[side] = multiply(aligned(old).mT, aligned(new))
            write_back(basis, rows, new)
            index = order[:, :, None] if side == "left" else order[:, None, :]
            square = square.gather(1 if side == "left" else 2, index.expand(square.shape))
        write_back(state.buffers["exp_avg"][name], rows, _between(rotations, mean, inward=True).reshape(first.shape))
        write_back(state.buffers["exp_avg_sq"][name], rows, square.reshape(second.shape))

    def _sides(self, name: str, shape: torch.Size) -> dict[str, int]:
        """Return the sides that have a basis, with their length."""
        if self.roles.get(name, "vector") not in ("matrix", "convolution", "head"):
            return {}
        lengths = dict(zip(("left", "right"), matrix_shape(shape), strict=True))
        return {side: length for side, length in lengths.items() if length <= float(self.structure["max_dim"])}


def _between(bases: Mapping[str, Tensor], tensor: Tensor, inward: bool) -> Tensor:
    """Return Q_L' x Q_R of x [n, m, ...] for aligned bases, or Q_L x Q_R' for the way back."""
    if not bases:
        return tensor
    flat = tensor.flatten(2)
    result = aligned(flat)
    if "left" in bases:
        result = multiply(bases["left"].mT if inward else bases["left"], result)
    if "right" in bases:
        result = multiply(result, bases["right"] if inward else bases["right"].mT)
    return result[:, : flat.shape[1], : flat.shape[2]].reshape(tensor.shape)
