"""The role of each parameter, so that matrix rules know their matrices.

Roles follow from the type of module that holds a parameter, never from its name: name patterns break on the next model.
Every parameter has exactly one role; a tied one appears once, under the first name it was registered with.
"""

from collections.abc import Mapping, Sequence
from typing import get_args

from torch import nn

from tuner.errors import Fault, InvalidInput
from tuner.optimizers.tensors import Role

_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


def infer_roles(model: nn.Module) -> dict[str, Role]:
    """Return the role of every parameter, by the names of `model.named_parameters()`.

    Embedding weights are embeddings; convolution weights are convolutions; weights of nn.Linear are matrices, except
    that the last one in registration order is the head; other 2-D parameters are matrices; everything else is a vector.
    A head tied to an embedding is an embedding, and no other matrix becomes the head instead.
    """
    kept = dict(model.named_parameters())
    roles: dict[str, Role] = {name: "matrix" if param.dim() == 2 else "vector" for name, param in kept.items()}
    names = {id(param): name for name, param in kept.items()}
    last_linear: str | None = None
    for module in model.modules():
        weight = getattr(module, "weight", None)
        name = names.get(id(weight))
        if name is None:
            continue
        if isinstance(module, _EMBEDDINGS):
            roles[name] = "embedding"
        elif isinstance(module, _CONVOLUTIONS):
            roles[name] = "convolution"
        elif isinstance(module, nn.Linear):
            last_linear = name
    if last_linear is not None and roles[last_linear] == "matrix":
        roles[last_linear] = "head"
    return roles


def roles_of_shapes(shapes: Mapping[str, Sequence[int]]) -> dict[str, Role]:
    """Return roles of plain tensors by shape (without the trial axis): 2-D matrix, 4-D convolution, or vector."""
    by_dims: dict[int, Role] = {2: "matrix", 4: "convolution"}
    return {name: by_dims.get(len(shape), "vector") for name, shape in shapes.items()}


def check_roles(roles: Mapping[str, str], shapes: Mapping[str, Sequence[int]]) -> None:
    """Reject roles for unknown parameters, unknown roles, and matrices or convolutions with fewer than two dims.

    Raises:
        InvalidInput: one fault per parameter; `shapes` are without the trial axis.
    """
    faults = []
    for name, role in roles.items():
        if name not in shapes:
            faults.append(Fault(f"roles.{name}", f"no such parameter; known are {', '.join(shapes) or 'none'}"))
        elif role not in get_args(Role):
            faults.append(Fault(f"roles.{name}", f"{role!r} is not a role; allowed are {', '.join(get_args(Role))}"))
        elif role in ("matrix", "convolution") and len(shapes[name]) < 2:
            faults.append(Fault(f"roles.{name}", f"a {role} needs two dims; the shape is {tuple(shapes[name])}"))
    if faults:
        raise InvalidInput(faults)
