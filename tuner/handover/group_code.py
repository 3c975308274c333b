"""Parameter groups as Python source: an argument of `tuner.optimizers.build`, or torch's own groups made by name."""

import inspect
import json
from collections.abc import Mapping, Sequence

from tuner.study.layer_depth import layer_depths
from tuner.study.parameter_groups import EVERYTHING, ParameterGroup


def argument(groups: Sequence[ParameterGroup]) -> list[str]:
    """Write the argument `groups` of `build`; nothing where there are none."""
    if not groups:
        return []
    each = []
    for group in groups:
        given: dict[str, object] = {"match": group.match}
        given |= {"lr_factor": group.lr_factor} if group.lr_factor != 1 else {}
        given |= {"weight_decay_factor": group.weight_decay_factor} if group.weight_decay_factor != 1 else {}
        given |= {"depth_decay": group.depth_decay} if group.depth_decay is not None else {}
        each.append(f"        {json.dumps(given, ensure_ascii=False)},")
    return ["    groups=[", *each, "    ],"]


def plain(groups: Sequence[ParameterGroup], arguments: Mapping[str, object]) -> tuple[list[str], str]:
    """Write what makes `groups`, torch's parameter groups of a `model`, and the optimizer's first argument.

    `arguments` are the optimizer's `lr` and, if it has one, its `weight_decay`, which the factors multiply.
    """
    if not groups:
        return [], "model.parameters()"
    deep = any(group.depth_decay is not None for group in groups)
    code = [*_depths(), "", ""] if deep else []
    decays = "weight_decay" in arguments
    code += [
        "def factors(name):",
        '    """Return what multiplies the learning rate and weight decay of a parameter."""',
        "    lr_factor = weight_decay_factor = 1.0",
        *(f"    {line}" for group in groups for line in _applied(group)),
        "    return lr_factor, weight_decay_factor",
        "",
        "",
        *(["depths = layer_depths([name for name, _ in model.named_parameters()])"] if deep else []),
        "members = {}",
        "for name, parameter in model.named_parameters():",
        "    members.setdefault(factors(name), []).append(parameter)",
        "groups = [",
        "    {",
        '        "params": parameters,',
        f'        "lr": {arguments["lr"]!r} * lr_factor,',
        *([f'        "weight_decay": {arguments["weight_decay"]!r} * weight_decay_factor,'] if decays else []),
        "    }",
        "    for (lr_factor, weight_decay_factor), parameters in members.items()",
        "]",
    ]
    return ["", "", *code], "groups"


def _applied(group: ParameterGroup) -> list[str]:
    """Write the lines that multiply a group's factors, in the order in which `Partition.factors` multiplies them."""
    lines = [f"lr_factor *= {group.lr_factor!r}"] if group.lr_factor != 1 else []
    if group.depth_decay is not None:
        lines.append(f"lr_factor *= {group.depth_decay!r} ** depths[name]")
    if group.weight_decay_factor != 1:
        lines.append(f"weight_decay_factor *= {group.weight_decay_factor!r}")
    if group.match == EVERYTHING or not lines:
        return lines
    return [f"if fnmatchcase(name, {json.dumps(group.match, ensure_ascii=False)}):", *(f"    {line}" for line in lines)]


def _depths() -> list[str]:
    return inspect.getsource(layer_depths).rstrip().splitlines()
