"""A stack of trials that share one optimizer, stepped together: the simplest way to use an update rule.

Every tensor has a leading axis of T trials; every hyperparameter is a vector with one value per trial. Trials are
independent of each other: permuting, adding, removing or poisoning one changes no bit of the rest.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tuner.errors import Fault, InvalidInput
from tuner.optimizers.by_class import Classes, of_trial
from tuner.optimizers.catalogue import check_hyperparameters, defaults, make_rule, vector_names
from tuner.optimizers.members import apart, stacks_of, told_apart
from tuner.optimizers.roles import check_roles, roles_of_shapes
from tuner.optimizers.rule import FLOAT_TYPES, Evaluate, Role, Tensors
from tuner.optimizers.scalars import plain
from tuner.study.hyperparameter import Scalar
from tuner.study.parameter_groups import ParameterGroup, Partition, read_groups, refuse


class Stacked:
    """One optimizer over T trials, stepping `params` in place.

    Args:
        name: of the optimizer, see `tuner.optimizers.catalogue()`.
        params: name -> tensor [T, ...], e.g. {"weight": (64, 256, 64)}; all float32 or all float64, on one device.
        hp: name -> one number for all trials, or a vector [T], of torch or NumPy; those left out take their defaults.
            Choices and numbers that fix the program (`Hyperparameter.fixes_program`) are one value for all.
        roles: name -> role for some or all parameters; the others' follow from their shapes (`roles_of_shapes`).
        groups: parameters with factors of their own, each a dict with `match`, a pattern of names, and any of
            `lr_factor`, `weight_decay_factor` and `depth_decay`, one number for all trials or a vector [T].

    Attributes:
        hp: every hyperparameter that does not fix the program as float64 [T]; write into these vectors between steps
            to follow a schedule. With groups also the factors of each class of parameters.
        state: the rule's state.

    Raises:
        InvalidInput: every unknown name, illegal value and wrong shape.
    """

    def __init__(
        self,
        name: str,
        params: dict[str, Tensor],
        hp: Mapping[str, Tensor | Scalar],
        roles: Mapping[str, Role] | None = None,
        groups: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.name = name
        self.params = params
        self.trials, device = _trials(params)
        shapes = {key: param.shape[1:] for key, param in params.items()}
        check_roles(roles or {}, shapes)
        self.hp = _vectors(name, hp, self.trials, device)
        largest = {key: float(value.max()) for key, value in self.hp.items()}
        fixed = {key: plain(value) for key, value in hp.items() if key not in self.hp}
        self.rule = make_rule(name, {**roles_of_shapes(shapes), **(roles or {})}, {**largest, **fixed})
        stacks = stacks_of(self.rule.roles, shapes) if self.rule.sees_matrices else []
        self._stacks = {key: shapes[key][0] for key in stacks}
        self.rule.roles = told_apart(self.rule.roles, self._stacks)
        self._classes = self._divide(groups) if groups else None
        with torch.no_grad():
            seen = apart(params, self._stacks)
            own_shapes = {key: param.shape[1:] for key, param in seen.items()}
            whole = None if self._classes is None else self._classes.trial_state(self.rule, own_shapes)
            self.state = self.rule.init(seen, whole)

    def _divide(self, groups: Sequence[Mapping[str, Any]]) -> Classes:
        """Return the classes of the parameters, and add their factors to `hp`."""
        each = [_of_trial(groups, trial, self.trials) for trial in range(self.trials)]
        refuse(self.rule.info(), (group for own in each for group in own))
        partition = Partition(each[0], list(self.params))
        classes = Classes.of_partition(partition, self._stacks)
        table = torch.tensor([of_trial(partition, own) for own in each], dtype=torch.float64)
        device = next(iter(self.params.values())).device
        self.hp |= dict(zip(classes.columns(), table.to(device).unbind(1), strict=True))
        return classes

    def step(self, grads: Tensors, evaluate: Evaluate | None = None) -> None:
        """Apply one update to every trial.

        Args:
            grads: name -> gradient, shaped like the parameter; every parameter needs one. Not modified.
            evaluate: loss [T] and gradients at other parameters, for rules that need the loss again.

        Raises:
            InvalidInput: a gradient is missing, unknown, of another shape or type, or not a dense tensor.
        """
        _check_tensors("grads", grads, self.params)
        with torch.no_grad():
            own = apart(grads, self._stacks), apart(self.params, self._stacks)
            if self._classes is None:
                self.rule.step(*own, self.state, self.hp, evaluate)
            else:
                self._classes.step(self.rule, *own, self.state, self.hp)

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of everything but the parameters: {"name", "structure", "step", "hp", "state"}."""
        return {
            "name": self.name,
            "structure": dict(self.rule.structure),
            "step": self.state.step.clone(),
            "hp": {key: value.clone() for key, value in self.hp.items()},
            "state": {key: value.clone() for key, value in self.state.tensors().items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a copy of what `state_dict` returned: the next steps are the same bit for bit.

        Raises:
            InvalidInput: it belongs to another optimizer, or to other names or shapes.
        """
        for what, own in (("name", self.name), ("structure", self.rule.structure)):
            if state[what] != own:
                raise InvalidInput([Fault(what, f"the state belongs to {state[what]!r}, this is {own!r}")])
        own_groups = {"step": {"step": self.state.step}, "hp": self.hp, "state": self.state.tensors()}
        other = {"step": {"step": state["step"]}, "hp": state["hp"], "state": state["state"]}
        for key, tensors in own_groups.items():
            _check_tensors(key, other[key], tensors)
        for key, tensors in own_groups.items():
            for name, tensor in tensors.items():
                tensor.copy_(other[key][name])
        self.state.counts = tuple(int(step) for step in self.state.step.tolist())

    def evaluation_params(self) -> Tensors:
        """Return the parameters [T, ...] to evaluate: `params` themselves unless the rule averages its iterates."""
        with torch.no_grad():
            return self.rule.evaluation_params(self.params, self.state, self.hp)


def _trials(params: Mapping[str, Tensor]) -> tuple[int, torch.device]:
    """Return the number of trials and the device, or reject parameters that do not form a stack."""
    if not params:
        raise InvalidInput([Fault("params", "there are none; a stack needs at least one parameter")])
    (name_of_first, first), faults = next(iter(params.items())), []
    for name, param in params.items():
        if param.dtype not in FLOAT_TYPES:
            faults.append(Fault(f"params.{name}", f"its type is {param.dtype}; allowed are float32 and float64"))
        elif param.dim() == 0 or param.shape[0] != first.shape[0] or param.shape[0] == 0:
            faults.append(
                Fault(f"params.{name}", f"its shape is {tuple(param.shape)}; expected [T, ...], one T for all")
            )
        for what, own, other in (("type", param.dtype, first.dtype), ("device", param.device, first.device)):
            if own != other:
                message = f"its {what} is {own}; that of {name_of_first} is {other}, and needed is one for all"
                faults.append(Fault(f"params.{name}", message))
    if not faults and not any(param.numel() for param in params.values()):
        faults.append(Fault("params", "they have no elements; a stack needs at least one"))
    if faults:
        raise InvalidInput(faults)
    return first.shape[0], first.device


def _vectors(optimizer: str, hp: Mapping[str, Tensor | Scalar], trials: int, device: torch.device) -> dict[str, Tensor]:
    """Return every hyperparameter that does not fix the program as float64 [T]; all are checked, value by value."""
    vectors: dict[str, Tensor] = {}
    known, per_trial = defaults(optimizer), vector_names(optimizer)
    for name, value in {**known, **hp}.items():
        value = _one_or_many(value)
        if not isinstance(value, Tensor):
            check_hyperparameters(optimizer, {name: value})
            if name in per_trial:
                vectors[name] = torch.full((trials,), float(value), dtype=torch.float64, device=device)
            continue
        if name not in known:
            check_hyperparameters(optimizer, {name: value})  # rejects it
        allowed = f"({trials},) or a number" if name in per_trial else "one value for all trials"
        if value.shape != (trials,) or name not in per_trial:
            raise InvalidInput([Fault(name, f"its shape is {tuple(value.shape)}; allowed is {allowed}")])
        for one in sorted(set(value.tolist()), key=str):
            check_hyperparameters(optimizer, {name: one})
        vectors[name] = value.detach().to(device=device, dtype=torch.float64, copy=True)
    return vectors


def _of_trial(groups: Sequence[Mapping[str, Any]], trial: int, trials: int) -> tuple[ParameterGroup, ...]:
    """Return the groups of one trial."""

    def own(path: str, value: Any) -> Any:
        value = _one_or_many(value)
        if isinstance(value, Tensor) and value.shape != (trials,):
            raise InvalidInput([Fault(path, f"its shape is {tuple(value.shape)}; allowed is ({trials},) or a number")])
        return value[trial].item() if isinstance(value, Tensor) else value

    paths = {f"groups[{i}]": group for i, group in enumerate(groups)}
    return read_groups({path: {k: own(f"{path}.{k}", v) for k, v in group.items()} for path, group in paths.items()})


def _one_or_many(value: Any) -> Any:
    """Return a number or a choice as Python's own, and an array of several numbers as a tensor."""
    value = plain(value)
    return torch.as_tensor(value) if getattr(value, "ndim", 0) else value


def _check_tensors(what: str, tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> None:
    faults = [Fault(f"{what}.{name}", "no such parameter") for name in tensors.keys() - like.keys()]
    for name, expected in like.items():
        if tensors.get(name) is None:
            faults.append(Fault(f"{what}.{name}", "missing"))
        elif not isinstance(tensors[name], Tensor) or tensors[name].layout != expected.layout:
            seen_kind = getattr(tensors[name], "layout", type(tensors[name]).__name__)
            faults.append(Fault(f"{what}.{name}", f"is {seen_kind}; allowed is a dense tensor"))
        elif tensors[name].dtype != expected.dtype:
            faults.append(Fault(f"{what}.{name}", f"its type is {tensors[name].dtype}; allowed is {expected.dtype}"))
        elif tensors[name].shape != expected.shape:
            seen, allowed = tuple(tensors[name].shape), tuple(expected.shape)
            faults.append(Fault(f"{what}.{name}", f"its shape is {seen}; allowed is {allowed}"))
    if faults:
        raise InvalidInput(faults)
