"""The role of each parameter, so that matrix rules know their matrices.

Roles follow from the module that owns a parameter, never from a name in the model: name patterns break on the next
model. Whoever knows the model may correct them by patterns of its own names. Every parameter has exactly one role; a
tied one appears once, under the first name it was registered with.
"""

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import cast, get_args

from torch import nn
from torch.nn.utils import parametrize

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
_NORMALISATIONS = (
    nn.LayerNorm,
    nn.RMSNorm,
    nn.GroupNorm,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
)


def infer_roles(model: nn.Module) -> dict[str, Role]:
    """Return the role of every parameter, by the names of `model.named_parameters()`.

    Kernels of embeddings are embeddings, of convolutions convolutions, of nn.Linear matrices, but the last one in
    registration order is the head; all that normalisation layers own are vectors; elsewhere 2-D parameters are matrices
    and all others vectors. The kernel is the weight, or under a parametrization (`weight_norm`, `spectral_norm`) the
    part that has its size; the other parts are vectors. A head tied to an embedding is an embedding, and no other
    matrix becomes the head in its stead.
    """
    names = {id(param): name for name, param in model.named_parameters()}
    roles: dict[str, Role] = {}
    head: str | None = None
    for module in model.modules():
        if isinstance(module, parametrize.ParametrizationList):
            continue  # seen with the module whose tensors it makes
        for param, role in _owned(module):
            roles.setdefault(names[id(param)], role)
        kernel = _kernel(module)
        if kernel is None:
            continue
        if isinstance(module, nn.Linear):
            head = names[id(kernel)]
        else:
            roles[names[id(kernel)]] = "embedding" if isinstance(module, _EMBEDDINGS) else "convolution"
    if head is not None and roles[head] == "matrix":
        roles[head] = "head"
    return {name: roles[name] for name in names.values()}


def roles_of_model(model: nn.Module, given: Mapping[str, str] | None = None) -> dict[str, Role]:
    """Return the role of every parameter: what `given` says of it, or else what `infer_roles` does.

    `given` maps patterns of names (`fnmatch`, e.g. `blocks.*.experts`) to roles; of several that match the last counts.

    Raises:
        InvalidInput: a fault for each pattern that matches no parameter, unknown role, and role that a shape excludes.
    """
    roles, shapes = infer_roles(model), {name: param.shape for name, param in model.named_parameters()}
    faults = []
    for pattern, role in (given or {}).items():
        matched = [name for name in shapes if name == pattern or fnmatchcase(name, pattern)]
        faults += role_faults(dict.fromkeys(matched or [pattern], role), shapes)
        roles |= dict.fromkeys(matched, cast(Role, role))
    if faults:
        raise InvalidInput(faults)
    return roles


def _owned(module: nn.Module) -> Iterator[tuple[nn.Parameter, Role]]:
    """Give a module's own parameters with the roles that they have if they are no kernel of a known kind."""
    kernel, own = _kernel(module), dict(module.named_parameters(recurse=False))
    plain = isinstance(module, _NORMALISATIONS)
    computed = kernel is not None and "weight" not in own
    for param in own.values():
        yield param, "vector" if plain or (computed and param is not kernel) or param.dim() != 2 else "matrix"
    for parts in _parametrized(module).values():
        for part in parts:
            yield part, "vector" if plain or part is not _largest(parts) or part.dim() != 2 else "matrix"


def _kernel(module: nn.Module) -> nn.Parameter | None:
    """Return what the weight of an embedding, convolution or linear layer is, or is computed from."""
    if not isinstance(module, (*_EMBEDDINGS, *_CONVOLUTIONS, nn.Linear)):
        return None
    own = dict(module.named_parameters(recurse=False))
    own.pop("bias", None)
    if "weight" in own:
        return own["weight"]
    return _largest(_parametrized(module).get("weight") or list(own.values()))


def _parametrized(module: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Return, for each tensor that a parametrization computes, the parameters that it is computed from."""
    found = getattr(module, "parametrizations", None)
    if not isinstance(found, nn.ModuleDict):
        return {}
    return {name: [part for _, part in parts.named_parameters(recurse=False)] for name, parts in found.items()}


def _largest(parts: Sequence[nn.Parameter]) -> nn.Parameter | None:
    """Return the largest part, the last of equals: `weight_norm` keeps length and direction in this order."""
    return max(reversed(parts), key=nn.Parameter.numel, default=None)


def roles_of_shapes(shapes: Mapping[str, Sequence[int]]) -> dict[str, Role]:
    """Return roles of plain tensors by shape (without the trial axis): 2-D matrix, 4-D convolution, or vector."""
    by_dims: dict[int, Role] = {2: "matrix", 4: "convolution"}
    return {name: by_dims.get(len(shape), "vector") for name, shape in shapes.items()}


def check_roles(roles: Mapping[str, str], shapes: Mapping[str, Sequence[int]]) -> None:
    """Refuse roles of unknown parameters, unknown roles, and all but vectors of fewer than two dims.

    Raises:
        InvalidInput: one fault per parameter; `shapes` are without the trial axis.
    """
    faults = role_faults(roles, shapes)
    if faults:
        raise InvalidInput(faults)


def role_faults(roles: Mapping[str, str], shapes: Mapping[str, Sequence[int]]) -> list[Fault]:
    """Return what `check_roles` refuses."""
    faults = []
    for name, role in roles.items():
        if name not in shapes:
            faults.append(Fault(f"roles.{name}", f"no such parameter; known are {', '.join(shapes) or 'none'}"))
        elif role not in get_args(Role):
            faults.append(Fault(f"roles.{name}", f"{role!r} is not a role; allowed are {', '.join(get_args(Role))}"))
        elif role != "vector" and len(shapes[name]) < 2:
            faults.append(Fault(f"roles.{name}", f"a {role} needs two dims; the shape is {tuple(shapes[name])}"))
    return faults
