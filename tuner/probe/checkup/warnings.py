"""What is no fault and yet worth knowing before a study, one function per kind: each returns sentences, or none.

Every sentence says what was seen, what follows from it, and what helps.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn

from tuner.optimizers.rule import Role
from tuner.probe.checkup.plain_pass import PlainPass
from tuner.probe.checkup.report import RuleTried
from tuner.workloads import Task

GIB = 2**30
NAMED = 4
"""Most names in a sentence."""
LARGE_SHARE = 0.5
"""Share of the free memory from which on data counts as large."""
SUM_TOLERANCE = 0.05


def of_loss(seen: PlainPass) -> list[str]:
    """A sum instead of a mean, a loss that is not finite, tensors that nobody trains, parameters without gradient."""
    found = []
    if abs(seen.doubled - 2) < SUM_TOLERANCE:
        found.append(
            "The loss is a sum: a batch with every example twice has twice the loss. Learning rates then depend on the "
            "batch size, and noise scales are wrong. Return the mean over the examples of the batch."
        )
    if not math.isfinite(seen.loss):
        found.append(f"The loss at the initial weights is {seen.loss}: every trial would end as diverged.")
    if seen.foreign:
        shapes = _some([str(list(shape)) for shape in seen.foreign])
        found.append(
            f"Parameters that the model does not hold take part in the loss ({shapes}): nobody trains them. Make them "
            "part of the model, as parameters or in a submodule (not in a plain list), or turn requires_grad off."
        )
    if seen.unused:
        found.append(
            f"No gradient reaches {_some(seen.unused)}: the loss does not depend on them. Use them in forward, remove "
            "them, or set requires_grad to False."
        )
    return found


def of_random_layers(seen: PlainPass, why_not_stacked: str | None) -> list[str]:
    """Layers, or a loss, that draw random numbers of their own, where these are the reason for the loop."""
    if why_not_stacked is None or "random" not in why_not_stacked:
        return []
    layers = [f"{name or 'the model itself'} ({kind})" for name, kind in seen.seen.drawing.items()]
    return [
        f"Random numbers drawn in {_some(layers or ['the loss'])} force trials to run one after another. What runs in "
        "the stack: nn.Dropout (also 1d, 2d, 3d) instead of F.dropout, tuner.draws.normal_like(x) instead of "
        "torch.randn_like(x), and uniform_like, bernoulli_like and integers_like in the same way."
    ]


def of_rules(tried: Sequence[RuleTried]) -> list[str]:
    """Families that cannot train the model."""
    return [
        f"{one.optimizer}, which stands for the family '{one.family}', cannot train this model: {one.error}. Leave "
        "such optimizers out of its studies."
        for one in tried
        if one.error is not None
    ]


def of_roles(model: nn.Module, roles: Mapping[str, Role], given: Iterable[str], last_linear: str | None) -> list[str]:
    """Parameters that matrix rules would take for hidden matrices by their shape alone, and heads that are not last.

    `given` are the patterns of names that the task speaks of itself; `last_linear` is the linear layer that ran last.
    """
    patterns, found = list(given), []
    told = {name for name in roles if any(name == one or fnmatchcase(name, one) for one in patterns)}
    owners = _owners(model)
    recurrent: list[str] = []
    bare: list[str] = []
    for name, role in roles.items():
        owner = owners.get(name)
        if role != "matrix" or name in told or isinstance(owner, nn.Linear | nn.MultiheadAttention):
            continue
        (recurrent if isinstance(owner, nn.RNNBase | nn.RNNCellBase) else bare).append(name)
    if recurrent:
        found.append(
            f"Matrix rules (muon, shampoo, ...) take the recurrent weights {_some(recurrent)} for hidden matrices: the "
            f"gates stand in one matrix. {_say(recurrent[0], 'vector')} leaves them to AdamW."
        )
    if bare:
        found.append(
            f"Only by their shape do matrix rules (muon, shampoo, ...) take {_some(bare)} for hidden matrices: no "
            f"layer says what they are. If one is an embedding, a head or a table of positions, say so: "
            f"{_say(bare[0], _likely(bare[0]))}; if it is a matrix, say that."
        )
    shapes = {name: param.shape for name, param in model.named_parameters()}
    experts = [n for n, role in roles.items() if role == "vector" and n not in told and _may_be_experts(shapes[n])]
    if experts:
        found.append(
            f"Matrix rules (muon, shampoo, ...) leave {_some(experts)} to AdamW: no layer says what they are. If they "
            f"are weights of experts [E, in, out], say so: {_say(experts[0], 'matrix')} makes each expert's a matrix."
        )
    head = next((name for name, role in roles.items() if role == "head" and name not in told), None)
    last = f"{last_linear}.weight"
    if head is not None and last != head and roles.get(last) == "matrix" and last not in told:
        found.append(
            f"Matrix rules (muon, shampoo, ...) take {last} for a hidden matrix and {head} for the head, which is "
            f"registered last; but {last} runs last. "
            f'Say so: Task(roles={{"{last}": "head", "{head}": "matrix"}}).'
        )
    return found


def of_data(task: Task, free: int | None) -> list[str]:
    """Data that would not fit, and data that other machines need a copy of; `free` bytes are left on the device."""
    given = [*task.training.given, *task.validation.given]
    found = []
    parts = [part for part in given if isinstance(part, Tensor)]
    held = sum(part.nbytes for part in parts)
    if free is not None and held > LARGE_SHARE * free:
        found.append(
            f"The data takes {held / GIB:.3g} GiB of {free / GIB:.3g} GiB that are free, and each process of a worker "
            "holds a copy. Give training data as a numpy.memmap or another object that reads it (see 'Data' in "
            "docs/workloads.md)."
        )
    files = sorted({str(name) for part in given if (name := getattr(part, "filename", None)) is not None})
    if files:
        found.append(f"Data is read from {_some(files)}: every worker needs these files at the same path.")
    devices = sorted({str(part.device) for part in parts if part.device.type != "cpu"})
    if devices:
        found.append(
            f"Data lies on {_some(devices)} already, where each process of a worker would hold it. Return it on the "
            "CPU: a stack copies what it needs."
        )
    return found


def _may_be_experts(shape: Sequence[int]) -> bool:
    """Whether a shape is that of several matrices; [1, n, d] is a table of positions, [1, 1, d] a token."""
    return len(shape) == 3 and min(shape) > 1


def _owners(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layer of each parameter; that of a parametrized one is the layer whose tensor it makes."""
    found = {}
    for name, _ in model.named_parameters():
        path = f".{name}"
        layer = path.partition(".parametrizations.")[0] if ".parametrizations." in path else path.rpartition(".")[0]
        found[name] = model.get_submodule(layer.removeprefix("."))
    return found


def _likely(name: str) -> str:
    return "head" if "head" in name.lower() else "embedding"


def _say(name: str, role: str) -> str:
    return f'Task(roles={{"{name}": "{role}"}})'


def _some(names: Sequence[str]) -> str:
    """Join names, at most `NAMED` of them."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
