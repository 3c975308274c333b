"""What no trial changes is held once per stack: frozen parameters and buffers that start the same for every seed.

Which ones those are is found by a dry run: two seeds have to give the same bits, and a pass of training and one of
evaluation must not write to them, whatever they write. Invariant: what is shared keeps its bits. A pass that writes to
it later, against what the dry run saw, gets an error that names it, and the bits come back from the model.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping
from functools import cached_property

import torch
from torch import Tensor, nn

from tuner.errors import Fault, InvalidInput

Tensors = dict[str, Tensor]
Attempt = Callable[[Tensors], Mapping[str, Tensor]]
"""A pass on these tensors, named as in the model; returns them, or what the model has left in their places."""

DIGITS = 16
"""Of a tensor's digest, hexadecimal."""


class Shared:
    """The shared tensors of one architecture, on its device and in its dtype."""

    def __init__(self, tensors: Tensors, again: Callable[[], nn.Module]) -> None:
        """`again` builds a model that has their bits."""
        self.tensors = tensors
        """Name -> [...]; never written to."""
        self._again = again
        self._versions = [tensor._version for tensor in tensors.values()]

    def repeated(self, width: int) -> Tensors:
        """Return them as [width, ...], for products that are to be computed slot by slot. No memory is taken."""
        return {name: tensor.detach().expand(width, *tensor.shape) for name, tensor in self.tensors.items()}

    def instead(self) -> dict[int, Tensor]:
        """Return what `copy.deepcopy` takes so as not to copy them."""
        return {id(tensor): tensor for tensor in self.tensors.values()}

    def check(self) -> None:
        """Raise `InvalidInput` if a pass has written to one of them in place; they have their bits again."""
        seen = [tensor._version for tensor in self.tensors.values()]
        if seen != self._versions:
            pairs = zip(self.tensors, seen, self._versions, strict=True)
            changed = [name for name, version, before in pairs if version != before]
            bits = held(self._again())
            with torch.no_grad():
                for name in changed:
                    self.tensors[name].copy_(bits[name])
            self._versions = [tensor._version for tensor in self.tensors.values()]
            raise changed_later(changed)

    @cached_property
    def digests(self) -> dict[str, str]:
        """Name -> digest of its bits, shape and type."""
        return {name: _digest(tensor) for name, tensor in self.tensors.items()}

    def compare(self, digests: Mapping[str, str], extras: Mapping[str, Tensor]) -> None:
        """Raise `InvalidInput` unless a trial that had these digests, or these tensors of its own, continues here."""
        for name, tensor in self.tensors.items():
            own = name in extras and same_bits(extras[name].to(tensor.device), tensor)
            if not own and digests.get(name) != self.digests[name]:
                raise InvalidInput([Fault("snapshot", f"the checkpoint was taken with another frozen {name!r}")])
        missing = sorted(digests.keys() - self.tensors.keys() - extras.keys())
        if missing:
            raise InvalidInput([Fault("snapshot", f"the checkpoint lacks {missing[0]!r}, which each trial has here")])


def held(module: nn.Module) -> Tensors:
    """Return the frozen parameters and the buffers of a module, under their first names."""
    frozen = {name: p for name, p in module.named_parameters() if not p.requires_grad}
    return {**frozen, **dict(module.named_buffers())}


def alike(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> set[str]:
    """Return the names whose tensors have the same bits in both."""
    return {name for name in one.keys() & other.keys() if same_bits(one[name], other[name])}


def unwritten(attempts: Collection[Attempt], tensors: Mapping[str, Tensor]) -> set[str]:
    """Return the names to whose tensors none of these passes writes; each gets copies of its own."""
    names = set(tensors)
    for attempt in attempts:
        if names:
            given = {name: tensors[name].detach().clone() for name in names}
            left = attempt(given)
            names = {name for name in names if left[name] is given[name] and given[name]._version == 0}
            names = {name for name in names if same_bits(given[name], tensors[name])}  # `.data` leaves no version
    return names


def changed_later(names: Collection[str]) -> InvalidInput:
    """Return the error of a pass that changed tensors which the dry run left alone."""
    told = "is changed by a pass, but not by the model's first passes: all trials share it; allowed is a buffer that"
    return InvalidInput([Fault(name, f"{told} every training pass writes, or none") for name in names])


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors agree in type, shape and every bit; NaN equals itself."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if one.is_floating_point() or one.is_complex():
        return torch.equal(_bytes(one), _bytes(other))
    return torch.equal(one, other)


def _bytes(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    tensor = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _digest(tensor: Tensor) -> str:
    digest = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}".encode())
    digest.update(_bytes(tensor).cpu().numpy().tobytes())
    return digest.hexdigest()[:DIGITS]
