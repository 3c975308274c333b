"""Muon: momentum whose matrices are orthogonalised before each step.

Reference: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks",
https://kellerjordan.github.io/posts/muon/; conventions of torch.optim.Muon with its default "original" scale.
Fallback for all other parameters: AdamW (see adamw.py).

Matrices [m, k] and convolutions, flattened to [out, in · kh · kw]:

    b ← momentum · b + (1 - momentum) · g
    u ← (1 - momentum) · g + momentum · b
    p ← p · (1 - lr · weight_decay)
    p ← p - lr · scale · NewtonSchulz(u)

scale: original sqrt(max(1, m / k)); match_rms_adamw 0.2 · sqrt(max(m, k)), whose steps have about the root mean square
of AdamW's (Liu et al. 2025, https://arxiv.org/abs/2502.16982); spectral sqrt(m / k), which takes inputs of root mean
square 1 to outputs of at most lr (Bernstein 2025, https://jeremybernste.in/writing/deriving-muon).

Heads, embeddings and vectors: AdamW with lr · fallback_lr_ratio, and the same weight_decay.

State per parameter: matrix, convolution: momentum_buffer b; others: exp_avg, exp_avg_sq; of the parameter's shape,
zeros at the start.
Departures: Newton-Schulz runs in the parameters' own type unless `precision` is bfloat16. The scale uses the flattened
shape of a convolution (several libraries use the first two dims, so that steps are up to hundreds of times too long or
too short).
Coefficient sets: see newton_schulz.py; `custom` uses ns_a, ns_b, ns_c.
Used with: lr from one or two times AdamW's (Wen et al. 2025) to ten times (the author's 0.02); sensitive to lr,
insensitive to eps and beta1.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from tuner.optimizers.entries import (
    choice,
    decay_rate,
    fallback_lr_ratio,
    fixed_number,
    learning_rate,
    non_negative,
    weight_decay,
    whole_number,
)
from tuner.optimizers.maths.adam_moments import adamw_step, fallback_scalars
from tuner.optimizers.maths.matrix_view import equal_shapes, joined, matrix_shape
from tuner.optimizers.maths.newton_schulz import COEFFICIENTS, ORIGINAL, STEPS, Triple, newton_schulz
from tuner.optimizers.rule import Evaluate, Role, Rule, State, Tensors, per_trial

_FPO = "Wen et al. 2025, arXiv:2509.02046"
_NANOGPT = "modded-nanogpt optimisation track"

SCALES: dict[str, Callable[[int, int], float]] = {
    "original": lambda m, k: math.sqrt(max(1.0, m / k)),
    "match_rms_adamw": lambda m, k: 0.2 * math.sqrt(max(m, k)),
    "spectral": lambda m, k: math.sqrt(m / k),
}
"""The factor of an orthogonal step, from the flattened shape."""


class Muon(Rule):
    """Orthogonalised momentum for matrices and convolutions, AdamW for the rest."""

    name = "muon"
    summary = "Momentum orthogonalised by Newton-Schulz for hidden matrices; AdamW for head, embeddings and vectors"
    formula = "p ← p · (1 - lr · weight_decay) - lr · scale · NewtonSchulz(nesterov momentum)"
    reference = "Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/"
    elementwise = False
    decay = "decoupled"
    hyperparameters = (
        learning_rate(
            0.02,
            2e-3,
            0.1,
            f"includes the author's 0.02, the best of {_FPO} (4e-3-1.6e-2) and of the {_NANOGPT} (0.025-0.035)",
            description="learning rate of the matrices: about the spectral norm of each step; 0 means no update",
        ),
        decay_rate(
            "momentum",
            0.95,
            "the averaged gradient of the matrices",
            0.9,
            0.98,
            f"{_FPO}: best 0.95-0.98, 0.8 is worse",
        ),
        weight_decay(0.1, 5e-3, 0.3, f"includes 0.1 ({_FPO}) and 0.025-0.05 ({_NANOGPT}); bounds are ours"),
        fallback_lr_ratio(0.3, "head, embeddings and vectors", 0.05, 1.0, f"{_FPO}: best 0.2-0.3; bounds are ours"),
        decay_rate("beta1", 0.9, "AdamW's first moment in the fallback", 0.8, 0.95, f"{_FPO}: flat around 0.9"),
        decay_rate(
            "beta2", 0.95, "AdamW's second moment in the fallback", 0.9, 0.999, "0.95 is the author's; bounds are ours"
        ),
        non_negative(
            "eps",
            1e-8,
            "added to the root of AdamW's second moment in the fallback",
            1e-10,
            1e-6,
            f"{_FPO}: flat; bounds are ours",
        ),
        choice("coefficients", "original", "polynomials of Newton-Schulz", *[*list(COEFFICIENTS)[1:4], "custom"]),
        whole_number("ns_steps", STEPS, "steps of Newton-Schulz", 1, 4, 10),
        fixed_number("ns_a", ORIGINAL[0], "custom coefficient of x"),
        fixed_number("ns_b", ORIGINAL[1], "custom coefficient of x³"),
        fixed_number("ns_c", ORIGINAL[2], "custom coefficient of x⁵"),
        choice("precision", "own", "type of Newton-Schulz's products: the parameters' own, or bfloat16", "bfloat16"),
        choice("scale", "original", "factor of an orthogonal step", *list(SCALES)[1:]),
    )

    @classmethod
    def buffers(cls, role: Role) -> tuple[str, ...]:
        """One averaged gradient for matrices and convolutions, two moments for the rest."""
        return ("momentum_buffer",) if _orthogonalised(role) else ("exp_avg", "exp_avg_sq")

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
        matrices = [name for name in params if _orthogonalised(self.roles.get(name, "vector"))]
        for group in equal_shapes(matrices, params):
            self._orthogonal_step(group, grads, params, state.buffers["momentum_buffer"], hp)
        rest = [name for name in params if name not in set(matrices)]
        if rest:
            self._fallback_step(rest, grads, params, state, hp)

    def _orthogonal_step(
        self, names: list[str], grads: Tensors, params: Tensors, buffers: Tensors, hp: Mapping[str, Tensor]
    ) -> None:
        """Step matrices of one flattened shape [T, m, k] together: one batch costs less."""
        momentum, rest, shrink = hp["momentum"], 1 - hp["momentum"], 1 - hp["lr"] * hp["weight_decay"]
        ahead = []
        for name in names:
            buffer, fresh = buffers[name], grads[name] * per_trial(rest, grads[name])
            buffer.mul_(per_trial(momentum, buffer)).add_(fresh)
            ahead.append(fresh.add_(buffer * per_trial(momentum, buffer)).flatten(2))
        dtype = torch.bfloat16 if self.structure["precision"] == "bfloat16" else None
        steps = int(self.structure["ns_steps"])
        directions = newton_schulz(joined(ahead), self._coefficients(), steps, dtype, together=self.lone)
        scale = SCALES[str(self.structure["scale"])](*matrix_shape(params[names[0]].shape[1:]))
        for name, direction in zip(names, torch.split(directions, len(momentum)), strict=True):
            param = params[name]
            param.mul_(per_trial(shrink, param))
            param.sub_(direction.reshape(param.shape).mul_(per_trial(hp["lr"] * scale, param)))

    def _coefficients(self) -> str | Triple:
        chosen = str(self.structure["coefficients"])
        a, b, c = (float(self.structure[name]) for name in ("ns_a", "ns_b", "ns_c"))
        return (a, b, c) if chosen == "custom" else chosen

    def _fallback_step(
        self, names: list[str], grads: Tensors, params: Tensors, state: State, hp: Mapping[str, Tensor]
    ) -> None:
        scalars = fallback_scalars(state.step, hp, beta1=hp["beta1"], eps=hp["eps"])
        for name in names:
            first, second = state.buffers["exp_avg"][name], state.buffers["exp_avg_sq"][name]
            adamw_step(grads[name], params[name], first, second, scalars)


def _orthogonalised(role: Role) -> bool:
    return role in ("matrix", "convolution")
