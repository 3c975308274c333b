"""An elementwise rule's step as one pass over memory: each number is read once and written once.

Run eagerly, AdamW passes over memory some fifteen times, and memory traffic is what a step costs. Where torch has a
fused kernel for the rule, that does it; else a compiled program, one per rule, type and device for tensors of every
size. Small tensors are joined first, so that a model's many vectors cost one call. Rounding differs from eager's
(square roots, fused kernels), so one optimizer never mixes the two for a tensor.
"""

import os
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import torch
from torch import Tensor

from tuner.optimizers.rule import ElementwiseRule
from tuner.optimizers.torch_kernels import DEVICES, Kernel

WORTHWHILE = 2**22
"""Number of elements from which compiling (seconds, once) soon pays off."""
SMALL = 2**15
"""Tensors up to this size are joined: copying them costs less than a call each."""

Program = Callable[..., None]


def has_compiler() -> bool:
    """Return whether the C++ compiler that Inductor would call exists: the one in CXX, or else g++."""
    return shutil.which(os.environ.get("CXX") or "g++") is not None


def kernel_of(rule: ElementwiseRule, device: torch.device) -> Kernel | None:
    """Return torch's kernel for the rule's tensors on a device, or None."""
    return rule.kernel() if device.type in DEVICES else None


def step_all(
    rule: ElementwiseRule,
    grads: Sequence[Tensor],
    params: Sequence[Tensor],
    buffers: Sequence[Sequence[Tensor]],
    step: float,
    hp: Mapping[str, float],
) -> None:
    """Step one trial's contiguous tensors in place; `grads` are not modified.

    Args:
        rule: without treatment.
        grads: one per parameter, of its shape.
        params: of any shape, all of one type and on one device.
        buffers: for each name in `rule.own_buffers("vector")`, one tensor per parameter.
        step: number of this update, 1 for the first.
        hp: the rule's own hyperparameters.
    """
    device = params[0].device
    kernel = kernel_of(rule, device)
    if kernel is not None:
        count = torch.full((), step, dtype=torch.float32, device=device)
        kernel(list(params), list(grads), [list(group) for group in buffers], [count] * len(params), hp)
        return
    one = {name: torch.full((1,), value, dtype=torch.float64, device=device) for name, value in hp.items()}
    found = rule.scalars(torch.full((1,), step, dtype=torch.float64, device=device), one)
    scalars = torch.stack(list(found.values()), 1).to(params[0].dtype)
    run = _program(type(rule), tuple(rule.structure.items()), tuple(found))
    small = [index for index, param in enumerate(params) if param.numel() <= SMALL]
    for index, param in enumerate(params):
        if param.numel() > SMALL:
            run(_row(grads[index]), _row(param), scalars, *(_row(buffer[index]) for buffer in buffers))
    if small:
        _step_joined(run, scalars, small, [grads, params, *buffers])


def _step_joined(run: Program, scalars: Tensor, members: list[int], tensors: Sequence[Sequence[Tensor]]) -> None:
    own = [[group[index].detach().view(-1) for index in members] for group in tensors]
    grad, *changing = [torch.cat(group).view(1, -1) for group in own]
    run(grad, changing[0], scalars, *changing[1:])
    sizes = [part.numel() for part in own[0]]
    for parts, joined in zip(own[1:], changing, strict=True):
        torch._foreach_copy_(parts, torch.split(joined.view(-1), sizes))


def _row(tensor: Tensor) -> Tensor:
    return tensor.detach().view(1, -1)


@cache
def _program(
    kind: type[ElementwiseRule], structure: tuple[tuple[str, object], ...], scalar_names: tuple[str, ...]
) -> Program:
    rule = kind({"": "vector"}, dict(structure))  # type: ignore[arg-type]
    names = rule.own_buffers("vector")

    def update(grad: Tensor, param: Tensor, scalars: Tensor, *buffers: Tensor) -> None:
        columns = dict(zip(scalar_names, scalars.unbind(1), strict=True))
        rule.step_elements(grad, param, dict(zip(names, buffers, strict=True)), columns)

    compiled: Program = torch.compile(update, fullgraph=True, dynamic=True)
    seen: set[tuple[torch.dtype, torch.device]] = set()

    def run(grad: Tensor, param: Tensor, *others: Tensor) -> None:
        kind = param.dtype, param.device
        if kind in seen:
            compiled(grad, param, *others)
            return
        with warnings.catch_warnings():  # the compiler itself uses deprecated functions
            warnings.simplefilter("ignore")
            compiled(grad, param, *others)
        seen.add(kind)

    return run
