"""Steepest descent under a norm for each role of parameter, or under the modular norm of the whole model.

Reference: Bernstein and Newhouse 2024, "Old optimizer, new norm: an anthology", https://arxiv.org/abs/2409.20325;
modular norm: Large et al. 2024, https://arxiv.org/abs/2405.14813. Norms and duality maps d: see duality.py.

    b ← momentum · b + (1 - momentum) · g
    p ← p · (1 - lr · weight_decay)
    p ← p - lr · mass · factor · d(b)

with factor = 1 (dual_factor none), ‖b‖* of the parameter's own norm (layer), or the sum over all the trial's
parameters of mass · ‖b‖* (modular: steepest descent under max over layers of ‖W‖ / mass). Matrices and convolutions,
the latter flattened to [out, in · kh · kw], take `hidden_norm` and mass 1; head, embeddings and vectors have their own
norm and mass. A vector [k] is the matrix [1, k].

State per parameter: momentum_buffer b, of its shape, zeros at the start.
Departures: the momentum is an average (1 - momentum) · g, as in Muon, so that lr means the same at every momentum;
masses are not divided by their sum, which lr absorbs.
Used with: lr about the size of a step in the norm: 1e-3 to 0.1 without the factor. With it, steps shrink with the
gradient, and lr is as problem-dependent as plain gradient descent's.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from tuner.optimizers.entries import choice, decay_rate, learning_rate, non_negative, weight_decay
from tuner.optimizers.maths.duality import NORMS, pairing
from tuner.optimizers.rule import Evaluate, Role, Rule, State, Tensors, per_trial


class Steepest(Rule):
    """Steepest descent under norms chosen by role."""

    name = "steepest"
    summary = "Steepest descent under a norm for each role, with or without the dual norm as a factor"
    formula = "p ← p · (1 - lr · weight_decay) - lr · mass · factor · d(momentum)"
    reference = "Bernstein and Newhouse 2024, https://arxiv.org/abs/2409.20325"
    elementwise = False
    decay = "decoupled"
    hyperparameters = (
        learning_rate(
            0.01, 1e-3, 0.1, "includes the best of Scion in Wen et al. 2025, arXiv:2509.02046: 8e-3-1.6e-2; bounds ours"
        ),
        decay_rate(
            "momentum", 0.9, "the averaged gradient", 0.8, 0.98, "Wen et al. 2025, arXiv:2509.02046, Scion: 0.9-0.98"
        ),
        weight_decay(0.0, 5e-3, 0.3, "Muon's range"),
        non_negative("head_mass", 1.0, "factor of the head's step", 0.1, 10.0, "Large et al. 2024; bounds are ours"),
        non_negative("embedding_mass", 1.0, "factor of an embedding's step", 0.1, 10.0, "as head_mass; bounds ours"),
        non_negative("vector_mass", 1.0, "factor of a vector's step", 0.1, 10.0, "as head_mass; bounds are ours"),
        choice(
            "hidden_norm",
            "rms_to_rms",
            "norm of matrices and convolutions",
            *[name for name in NORMS if name != "rms_to_rms"],
        ),
        choice("head_norm", "rms_to_rms", "norm of the head", *[name for name in NORMS if name != "rms_to_rms"]),
        choice("embedding_norm", "embedding", "norm of embeddings", *[name for name in NORMS if name != "embedding"]),
        choice("vector_norm", "row_rms", "norm of vectors", *[name for name in NORMS if name != "row_rms"]),
        choice("dual_factor", "none", "dual norm that multiplies the step", "layer", "modular"),
    )

    @classmethod
    def buffers(cls, role: Role) -> tuple[str, ...]:
        """One averaged gradient, for every role."""
        return ("momentum_buffer",)

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
        directions, lengths, masses = {}, {}, {}
        for name in params:
            buffer = state.buffers["momentum_buffer"][name]
            buffer.mul_(per_trial(hp["momentum"], buffer))
            buffer.add_(grads[name] * per_trial(1 - hp["momentum"], buffer))
            role = self._role(name)
            mean = buffer.flatten(2) if buffer.dim() > 2 and role != "vector" else buffer.reshape(len(buffer), 1, -1)
            masses[name] = torch.ones_like(hp["lr"]) if role == "hidden" else hp[f"{role}_mass"]
            directions[name] = NORMS[str(self.structure[f"{role}_norm"])].dual_map(mean)
            if self.structure["dual_factor"] != "none":
                lengths[name] = pairing(mean, directions[name]).to(torch.float64)
        total = sum(lengths[name] * masses[name] for name in lengths)
        for name, param in params.items():
            size = hp["lr"] * masses[name]
            if self.structure["dual_factor"] != "none":
                size = size * (total if self.structure["dual_factor"] == "modular" else lengths[name])
            param.mul_(per_trial(1 - hp["lr"] * hp["weight_decay"], param))
            param.sub_(directions[name].reshape(param.shape) * per_trial(size, param))

    def _role(self, name: str) -> str:
        role = self.roles.get(name, "vector")
        return "hidden" if role in ("matrix", "convolution") else role
