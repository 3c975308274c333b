"""Weights of experts [E, in, out] as E matrices: what matrix rules see of a parameter of three dims with that role.

To a rule each of them is a parameter of its own, [out, in] as nn.Linear keeps its weight, because scales depend on
which side is which. They are views of the whole, so that steps in place change it. Rules that treat every element alone
or all parameters as one vector, and those that average, see the whole.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar

from tuner.optimizers.tensors import Role, Tensors

Told = TypeVar("Told")


def stacks_of(roles: Mapping[str, Role], shapes: Mapping[str, Sequence[int]]) -> list[str]:
    """Return the parameters that are stacks of matrices; `shapes` are without the trial axis."""
    return [name for name, role in roles.items() if role == "matrix" and len(shapes[name]) == 3]


def member(stack: str, number: int) -> str:
    """Name one matrix of a stack."""
    return f"{stack}[{number}]"


def apart(tensors: Tensors, stacks: Collection[str]) -> Tensors:
    """Return the tensors [T, ...] with each stack [T, E, in, out] as its E matrices, views [T, out, in]."""
    found: Tensors = {}
    for name, tensor in tensors.items():
        if name in stacks:
            found |= {member(name, number): one.mT for number, one in enumerate(tensor.unbind(1))}
        else:
            found[name] = tensor
    return found


def told_apart(told: Mapping[str, Told], stacks: Mapping[str, int]) -> dict[str, Told]:
    """Return what is told of parameters (roles, classes) for what `apart` returns."""
    found: dict[str, Told] = {}
    for name, one in told.items():
        names = [member(name, number) for number in range(stacks[name])] if name in stacks else [name]
        found |= dict.fromkeys(names, one)
    return found
