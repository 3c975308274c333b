"""Any optimizer of the catalogue as a torch.optim.Optimizer, for a user's own training loop.

It uses the update rules of the stacks on stacks of one trial: views [1, ...] of the parameters, stepped in place. Only
this file depends on torch's Optimizer class.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from tuner.errors import Fault, InvalidInput
from tuner.optimizers.catalogue import check_hyperparameters, defaults, make_rule, rule_class, vector_names
from tuner.optimizers.closure import ClosureLoss, CurvedClosureLoss
from tuner.optimizers.one_pass import WORTHWHILE, has_compiler, step_all
from tuner.optimizers.roles import check_roles, infer_roles, roles_of_shapes
from tuner.optimizers.rule import FLOAT_TYPES, ElementwiseRule, Evaluate, Role, Rule, State, Tensors
from tuner.study.hyperparameter import Scalar

Params = nn.Module | Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]]

_NOT_HYPERPARAMETERS = frozenset(
    # Entries that torch and its learning-rate schedulers keep in a group besides the optimizer's own options.
    {"params", "param_names", "roles", "initial_lr", "max_lr", "min_lr", "swa_lr", "base_momentum", "max_momentum"}
)

_TRAINED = "trained"
"""The saved value of a parameter while it shows the average."""


def build(
    name: str,
    params: Params,
    *,
    roles: Mapping[str, Role] | None = None,
    compiled: bool | None = None,
    **hp: Scalar,
) -> "RuleOptimizer":
    """Return optimizer `name` over `params`: groups, closures, state dicts and learning-rate schedulers as in torch.

    Optimizers whose result is an average (schedule_free_...) need `eval()` before evaluating or saving the model and
    `train()` before the next step; for all others both do nothing.

    Args:
        name: the optimizer's, see `tuner.optimizers.catalogue()`.
        params: a module (roles are inferred from its layers), named parameters, tensors, or dicts with "params" and
            their own hyperparameters. float32 or float64.
        roles: name -> role for some or all named parameters; the others' follow from the module, or else from their
            shapes.
        compiled: whether elementwise rules run as one compiled pass over memory, as fast as torch's fused kernels;
            compiling takes seconds, once. None: from 4 million elements on, if a C++ compiler is available. Rounding
            differs in the last bit.
        hp: hyperparameters; those left out take their defaults.

    Raises:
        InvalidInput: an unknown optimizer, hyperparameter or role, an illegal value, a parameter of another type.
        TypeError, ValueError: torch's own checks of `params`, such as an empty list.
    """
    check_hyperparameters(name, hp)
    if isinstance(params, nn.Module):
        roles = {**infer_roles(params), **(roles or {})}
        params = list(params.named_parameters())
    return RuleOptimizer(name, params, roles or {}, {**defaults(name), **hp}, compiled)


class RuleOptimizer(torch.optim.Optimizer):
    """An update rule behind torch's interface; made by `build`."""

    def __init__(
        self,
        name: str,
        params: Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]],
        roles: Mapping[str, Role],
        hp: Mapping[str, Scalar],
        compiled: bool | None = None,
    ) -> None:
        self.name = name
        self.compiled = compiled
        self._given_roles = dict(roles)
        super().__init__(params, dict(hp))
        shapes = {key: param.shape for group in self.param_groups for key, param in _named(group)}
        check_roles(roles, shapes)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with their own hyperparameters; those left out take the optimizer's.

        Raises:
            InvalidInput: an unknown or illegal hyperparameter, a parameter of another type or given twice, or a second
                group if the rule searches along one direction of all parameters.
        """
        kind = rule_class(self.name)
        if kind.needs_loss and self.param_groups:
            raise InvalidInput([Fault("params", f"{self.name} searches with all parameters at once, in one group")])
        own = {key: value for key, value in param_group.items() if key not in _NOT_HYPERPARAMETERS}
        check_hyperparameters(self.name, {key: _number(value) for key, value in own.items()})
        group = dict(param_group)
        if not isinstance(group["params"], Tensor | set):
            group["params"] = list(group["params"])
            _check_parameters(group["params"])
        super().add_param_group(group)
        by_shape = roles_of_shapes({str(index): param.shape for index, param in enumerate(group["params"])})
        names = group.get("param_names") or [""] * len(by_shape)
        group["roles"] = [
            self._given_roles.get(name, role) for name, role in zip(names, by_shape.values(), strict=True)
        ]
        shapes = {str(index): param.shape for index, param in enumerate(group["params"])}
        values = {key: _number(value) for key, value in {**self.defaults, **own}.items() if key in self._declared()}
        make_rule(self.name, by_shape, values).trial_state(shapes)  # type: ignore[arg-type]  # rejects too many

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Apply one update to every parameter that has a gradient.

        Args:
            closure: zeroes the gradients, recomputes them and returns the loss. It is called before the update, and
                again by optimizers that need the loss at other parameters, which require it. For those that need second
                derivatives (newton_cg) it returns the loss without calling backward: they do that.

        Returns:
            The closure's first loss, or None.

        Raises:
            InvalidInput: a gradient is sparse, a required closure is missing or cannot be differentiated twice where
                that is needed, or `eval()` is in effect.
        """
        if self._in_eval():
            raise InvalidInput([Fault("eval", f"{self.name} shows its average; call train() before the next step")])
        kind, loss = rule_class(self.name), None
        if closure is None and kind.needs_loss:
            raise InvalidInput([Fault("closure", f"is None; {self.name} re-evaluates the loss, so it needs one")])
        offered = CurvedClosureLoss if kind.needs_curvature else ClosureLoss
        if closure is not None:
            loss = offered(closure, [param for group in self.param_groups for param in group["params"]]).first()
        for group in self.param_groups:
            parts = self._by_progress(group, _has_gradient)
            if kind.needs_loss and len(parts) > 1:
                raise InvalidInput(
                    [Fault("params", f"{self.name} needs one device and gradients from the first step on")]
                )
            for at, members in parts.items():
                evaluate = None if closure is None else offered(closure, [param for param, _ in members])
                self._update(group, at, members, evaluate)
        return loss

    @torch.no_grad()
    def eval(self) -> None:
        """Put the result into the parameters, to evaluate or save it; `train()` restores the trained ones exactly.

        Does nothing for rules that do not average. Until `train()`, a state dict holds both, and steps are rejected.
        """
        if not rule_class(self.name).averages or self._in_eval():
            return
        for group in self.param_groups:
            for at, members in self._by_progress(group, self._has_stepped).items():
                rule, hp = self._rule(group, members, at[1])
                params, state = self._stacked(rule, at, members)
                for key, result in rule.evaluation_params(params, state, hp).items():
                    param = members[int(key)][0]
                    self.state[param][_TRAINED] = param.detach().clone()
                    param.copy_(result[0])

    @torch.no_grad()
    def train(self) -> None:
        """Restore the trained parameters that `eval()` saved."""
        for param, remembered in self.state.items():
            if _TRAINED in remembered:
                param.copy_(remembered.pop(_TRAINED))

    def _in_eval(self) -> bool:
        return any(_TRAINED in remembered for remembered in self.state.values())

    def _has_stepped(self, param: Tensor) -> bool:
        return "step" in self.state.get(param, {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a copy of what `state_dict` returned.

        Raises:
            InvalidInput: its groups lack hyperparameters of this optimizer.
            ValueError: torch's own checks: other groups, or groups of other sizes.
        """
        missing = sorted({key for group in state_dict["param_groups"] for key in self._declared() if key not in group})
        if missing:
            raise InvalidInput([Fault("param_groups", f"they lack {', '.join(missing)}: not a state of {self.name}")])
        super().load_state_dict(deepcopy(state_dict))

    def __getstate__(self) -> dict[str, Any]:
        own = {"name": self.name, "compiled": self.compiled, "_given_roles": self._given_roles}
        return {**super().__getstate__(), **own}

    def _declared(self) -> list[str]:
        """Return the names of the hyperparameters; torch adds its own keys to `self.defaults`."""
        return [h.name for h in rule_class(self.name).declared()]

    def _by_progress(
        self, group: Mapping[str, Any], wanted: Callable[[Tensor], bool]
    ) -> dict[tuple[float, torch.device], list[tuple[Tensor, Role]]]:
        """Group parameters by updates done and device: a rule has one step count for all parameters it is given."""
        found: dict[tuple[float, torch.device], list[tuple[Tensor, Role]]] = {}
        for param, role in zip(group["params"], group["roles"], strict=True):
            if not wanted(param):
                continue
            steps_done = float(self.state[param].get("step", 0.0))
            found.setdefault((steps_done, param.device), []).append((param, role))
        return found

    def _update(
        self,
        group: Mapping[str, Any],
        at: tuple[float, torch.device],
        members: list[tuple[Tensor, Role]],
        evaluate: Evaluate | None,
    ) -> None:
        rule, hp = self._rule(group, members, at[1])
        done = torch.tensor(at[0] + 1, dtype=torch.float64)
        if isinstance(rule, ElementwiseRule) and self._in_one_pass(rule, members):
            own = [param for param, _ in members]
            kept = [[self._kept(param, name, param.shape, param) for param in own] for name in rule.buffers("vector")]
            grads = [param.grad.detach() for param in own]  # type: ignore[union-attr]
            step_all(rule, grads, [param.detach() for param in own], kept, done.reshape(1).to(at[1]), rule.own(hp))
        else:
            grads_of = {str(index): param.grad.detach().unsqueeze(0) for index, (param, _) in enumerate(members)}  # type: ignore[union-attr]
            params, state = self._stacked(rule, at, members)
            rule.step(grads_of, params, state, hp, evaluate)
        for param, _ in members:
            self.state[param]["step"] = done

    def _rule(
        self, group: Mapping[str, Any], members: list[tuple[Tensor, Role]], device: torch.device
    ) -> tuple[Rule, dict[str, Tensor]]:
        """Return a group's rule for some of its members, and its hyperparameters as vectors [1]."""
        values = {key: _number(group[key]) for key in self._declared()}
        rule = make_rule(self.name, {str(index): role for index, (_, role) in enumerate(members)}, values)  # type: ignore[arg-type]
        return rule, {key: _vector(float(values[key]), device) for key in vector_names(self.name)}  # type: ignore[arg-type]

    def _stacked(
        self, rule: Rule, at: tuple[float, torch.device], members: list[tuple[Tensor, Role]]
    ) -> tuple[Tensors, State]:
        """Return parameters and their state as a stack of one trial: views [1, ...]."""
        params = {str(index): param.detach().unsqueeze(0) for index, (param, _) in enumerate(members)}
        return params, self._state(rule, [param for param, _ in members], _vector(*at))

    def _in_one_pass(self, rule: ElementwiseRule, members: list[tuple[Tensor, Role]]) -> bool:
        """Return whether the compiled program steps these parameters; depends only on properties that do not change."""
        if rule.treatment is not None or self.compiled is False:
            return False
        dense = all(param.is_contiguous() and param.grad.is_contiguous() for param, _ in members)  # type: ignore[union-attr]
        if self.compiled is None and not (has_compiler() and sum(p.numel() for p, _ in members) >= WORTHWHILE):
            return False
        return dense and len({param.dtype for param, _ in members}) == 1

    def _state(self, rule: Rule, members: list[Tensor], step: Tensor) -> State:
        """Return views [1, ...] of the state; a trial's own state is kept with its first parameter."""
        state = State(step, (int(step.item()),))
        shapes = {str(index): param.shape for index, param in enumerate(members)}
        for index, param in enumerate(members):
            for buffer in rule.own_buffers(rule.roles[str(index)]):
                kept = self._kept(param, buffer, param.shape, param)
                state.buffers.setdefault(buffer, {})[str(index)] = kept.unsqueeze(0)
        for pool, wanted in rule.pools(shapes).items():
            state.pools[pool] = {
                key: self._kept(members[int(key)], pool, shape).unsqueeze(0) for key, shape in wanted.items()
            }
        for name, shape in rule.trial_state(shapes).items():
            state.trial[name] = self._kept(members[0], f"trial_{name}", shape).unsqueeze(0)
        return state

    def _kept(self, param: Tensor, name: str, shape: Sequence[int], like: Tensor | None = None) -> Tensor:
        remembered = self.state[param]
        if name not in remembered:
            remembered[name] = param.new_zeros(shape) if like is None else torch.zeros_like(like)
        if remembered[name].shape != torch.Size(shape):
            raise InvalidInput([Fault("params", f"{self.name} needs the same parameters with gradients in every step")])
        kept: Tensor = remembered[name]
        return kept


def _has_gradient(param: Tensor) -> bool:
    if param.grad is not None and param.grad.layout != torch.strided:
        raise InvalidInput([Fault("grad", f"its layout is {param.grad.layout}; allowed is a dense gradient")])
    return param.grad is not None


def _named(group: Mapping[str, Any]) -> Iterable[tuple[str, Tensor]]:
    return zip(group.get("param_names", ()), group["params"], strict=False)


def _number(value: object) -> object:
    """Convert a tensor of one element, which torch's schedulers may put into a group, to a number."""
    return value.detach().item() if isinstance(value, Tensor) and value.numel() == 1 else value


def _vector(value: float, device: torch.device) -> Tensor:
    return torch.full((1,), value, dtype=torch.float64, device=device)


def _check_parameters(entries: Iterable[Any]) -> None:
    """Reject types that the rules do not support, and parameters given twice."""
    faults, seen = [], set()
    for index, entry in enumerate(entries):
        param = entry[1] if isinstance(entry, tuple) else entry
        if not isinstance(param, Tensor):
            continue  # torch rejects it with its own message
        if param.dtype not in FLOAT_TYPES:
            faults.append(Fault(f"params[{index}]", f"its type is {param.dtype}; allowed are float32 and float64"))
        if id(param) in seen:
            faults.append(Fault(f"params[{index}]", "the parameter is given twice"))
        seen.add(id(param))
    if faults:
        raise InvalidInput(faults)
