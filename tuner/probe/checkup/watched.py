"""Hooks on every layer of a model: which one runs, which draw random numbers, and which linear layer runs last.

Invariant: the model computes what it would compute without them, and has no hooks afterwards.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class _Entered:
    name: str
    kind: str
    generator: Tensor
    """The state of torch's generator when the layer was entered."""
    explained: bool = False
    """Whether a layer within has drawn already."""


@dataclass
class Watched:
    """What one forward pass on a CPU showed."""

    drawing: dict[str, str] = field(default_factory=dict)
    """Layers that drew from torch's generator themselves: name -> type."""
    last_linear: str | None = None
    """The `nn.Linear` that was called last."""
    _entered: list[_Entered] = field(default_factory=list)

    @property
    def place(self) -> str | None:
        """The layer that was entered and not left, as after an exception within it; None outside of all layers."""
        if not self._entered:
            return None
        last = self._entered[-1]
        return f"{last.name} ({last.kind})" if last.name else f"the model itself ({last.kind})"

    def enter(self, name: str, module: nn.Module) -> None:
        """Note that a layer is called."""
        self._entered.append(_Entered(name, type(module).__name__, torch.get_rng_state()))

    def leave(self, module: nn.Module) -> None:
        """Note that its call has returned."""
        left = self._entered.pop()
        drew = left.explained or not torch.equal(left.generator, torch.get_rng_state())
        if drew and not left.explained:
            self.drawing[left.name] = left.kind
        if drew and self._entered:
            self._entered[-1].explained = True
        if isinstance(module, nn.Linear):
            self.last_linear = left.name


@contextmanager
def watched(model: nn.Module) -> Iterator[Watched]:
    """Watch what runs within."""
    seen, handles = Watched(), []

    def watch(name: str, module: nn.Module) -> None:
        def enter(module: nn.Module, inputs: Any) -> None:
            seen.enter(name, module)

        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            seen.leave(module)

        handles.append(module.register_forward_pre_hook(enter))
        handles.append(module.register_forward_hook(leave))

    for name, module in model.named_modules():
        watch(name, module)
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
