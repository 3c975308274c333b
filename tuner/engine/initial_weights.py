"""The initial weights of a trial, without building a new model each time.

Building a small model costs more than a tick of its slot, mostly for Python objects. If calling every layer's
`reset_parameters()` in order is found to give exactly the bits of a new model, one model is kept and reset. Invariant:
the weights for a seed are those of `Task.build_model`, bit for bit; a model whose construction does anything else is
rebuilt for each trial. Tensors that all trials share are left out: they are on the device `meta`.
"""

from collections.abc import Mapping

import torch
from torch import nn

from tuner.workloads import Task

TRIED_SEEDS = (1, 2)


class InitialWeights:
    """Models with the initial weights for a seed, float32 on the CPU; each is valid until the next is requested."""

    def __init__(self, task: Task, shared: Mapping[str, torch.Tensor] | None = None) -> None:
        """`shared` are the tensors that the models need not have: no trial has its own."""
        self._task = task
        self._absent = {name: _absent(tensor) for name, tensor in (shared or {}).items()}
        self._kept: nn.Module | None = task.build_model(0, self._absent)
        self._parts = [part for part in self._kept.modules() if callable(getattr(part, "reset_parameters", None))]
        if not all(self._resets_to(seed) for seed in TRIED_SEEDS):
            self._kept = None

    def model(self, seed: int) -> nn.Module:
        """Return a model whose weights depend only on `seed` (64 bits). Exceptions of the workload's code propagate."""
        if self._kept is None:
            return self._task.build_model(seed, self._absent)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            for part in self._parts:
                part.reset_parameters()  # type: ignore[operator]
        return self._kept

    def _resets_to(self, seed: int) -> bool:
        """Return whether the kept model, after a reset, equals a new one in every tensor."""
        try:
            kept, built = self.model(seed), self._task.build_model(seed, self._absent)
        except Exception:  # a layer may need arguments, or not be meant to be reset
            return False
        tensors, expected = (
            {name: tensor for name, tensor in _tensors(each).items() if name not in self._absent}
            for each in (kept, built)
        )
        return tensors.keys() == expected.keys() and all(
            torch.equal(tensors[name], value) and tensors[name].dtype == value.dtype for name, value in expected.items()
        )


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _absent(tensor: torch.Tensor) -> torch.Tensor:
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty
