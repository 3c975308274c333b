"""A stack of trials that share one optimizer, stepped together: the smallest way to use an update rule.

Every tensor has a leading axis of T trials; every hyperparameter is a vector with one value per trial. No trial can see
another: permuting, adding, removing or poisoning one changes no bit of the rest.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tuner.errors import Fault, InvalidInput
from tuner.optimizers.catalogue import check_hyperparameters, defaults, rule_class
from tuner.optimizers.roles import check_roles, roles_of_shapes
from tuner.optimizers.rule import FLOAT_TYPES, Evaluate, Role, Tensors


class Stacked:
    """One optimizer over T trials, stepping `params` in place.

    Args:
        name: of the optimizer, see `tuner.optimizers.catalogue()`.
        params: name -> float32 or float64 tensor [T, ...], e.g. {"weight": (64, 256, 64)}.
        hp: name -> one number for all trials, or a vector [T]; those left out take their defaults.
        roles: name -> role for some or all parameters; the others' follow from their shapes (`roles_of_shapes`).

    Attributes:
        hp: every hyperparameter as float64 [T]; write into these vectors between steps to follow a schedule.
        state: what the rule remembers.

    Raises:
        InvalidInput: every unknown name, illegal value and wrong shape.
    """

    def __init__(
        self,
        name: str,
        params: dict[str, Tensor],
        hp: Mapping[str, Tensor | float],
        roles: Mapping[str, Role] | None = None,
    ) -> None:
        rule = rule_class(name)
        self.name = name
        self.params = params
        self.trials, device = _trials(params)
        shapes = {key: param.shape[1:] for key, param in params.items()}
        check_roles(roles or {}, shapes)
        self.hp = _vectors(name, hp, self.trials, device)
        self.rule = rule({**roles_of_shapes(shapes), **(roles or {})})
        with torch.no_grad():
            self.state = self.rule.init(params)

    def step(self, grads: Tensors, evaluate: Evaluate | None = None) -> None:
        """Apply one update to every trial.

        Args:
            grads: name -> gradient, shaped like the parameter; every parameter needs one. Left as they are.
            evaluate: loss [T] and gradients at other parameters, for rules that need the loss again.

        Raises:
            InvalidInput: a gradient is missing, unknown, or of another shape.
        """
        _check_tensors("grads", grads, self.params)
        with torch.no_grad():
            self.rule.update(grads, self.params, self.state, self.hp, evaluate)

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of everything but the parameters: {"name", "step", "hp", "buffers"}."""
        return {
            "name": self.name,
            "step": self.state.step.clone(),
            "hp": {key: value.clone() for key, value in self.hp.items()},
            "buffers": {
                buffer: {key: value.clone() for key, value in tensors.items()}
                for buffer, tensors in self.state.buffers.items()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, by copy: the next steps are the same bit for bit.

        Raises:
            InvalidInput: it belongs to another optimizer, or to other names or shapes.
        """
        if state["name"] != self.name:
            raise InvalidInput([Fault("name", f"the state is of {state['name']!r}, this is {self.name!r}")])
        own = {"step": {"step": self.state.step}, "hp": self.hp, **self.state.buffers}
        other = {"step": {"step": state["step"]}, "hp": state["hp"], **state["buffers"]}
        if own.keys() != other.keys():
            raise InvalidInput([Fault("buffers", f"they are {sorted(other)}; allowed is {sorted(own)}")])
        for key, tensors in own.items():
            _check_tensors(key, other[key], tensors)
        for key, tensors in own.items():
            for name, tensor in tensors.items():
                tensor.copy_(other[key][name])


def _trials(params: Mapping[str, Tensor]) -> tuple[int, torch.device]:
    """Return the number of trials and the device, or refuse parameters that do not form a stack."""
    if not params:
        raise InvalidInput([Fault("params", "there are none; a stack needs at least one parameter")])
    first = next(iter(params.values()))
    faults = []
    for name, param in params.items():
        if param.dtype not in FLOAT_TYPES:
            faults.append(Fault(f"params.{name}", f"its type is {param.dtype}; allowed are float32 and float64"))
        elif param.dim() == 0 or param.shape[0] != first.shape[0] or param.shape[0] == 0:
            faults.append(
                Fault(f"params.{name}", f"its shape is {tuple(param.shape)}; needed is [T, ...], one T for all")
            )
    if faults:
        raise InvalidInput(faults)
    return first.shape[0], first.device


def _vectors(optimizer: str, hp: Mapping[str, Tensor | float], trials: int, device: torch.device) -> dict[str, Tensor]:
    """Return every hyperparameter as float64 [T], checked value by value."""
    vectors: dict[str, Tensor] = {}
    for name, value in {**defaults(optimizer), **hp}.items():
        if isinstance(value, Tensor):
            if value.shape != (trials,):
                raise InvalidInput(
                    [Fault(name, f"its shape is {tuple(value.shape)}; allowed is ({trials},) or a number")]
                )
            for one in sorted(set(value.tolist()), key=str):
                check_hyperparameters(optimizer, {name: one})
            vectors[name] = value.detach().to(device=device, dtype=torch.float64, copy=True)
        else:
            check_hyperparameters(optimizer, {name: value})
            vectors[name] = torch.full((trials,), float(value), dtype=torch.float64, device=device)
    return vectors


def _check_tensors(what: str, tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> None:
    faults = [Fault(f"{what}.{name}", "no such parameter") for name in tensors.keys() - like.keys()]
    for name, expected in like.items():
        if name not in tensors:
            faults.append(Fault(f"{what}.{name}", "missing"))
        elif tensors[name].shape != expected.shape:
            seen, allowed = tuple(tensors[name].shape), tuple(expected.shape)
            faults.append(Fault(f"{what}.{name}", f"its shape is {seen}; allowed is {allowed}"))
    if faults:
        raise InvalidInput(faults)
