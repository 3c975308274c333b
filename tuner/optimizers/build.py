"""Any optimizer of the catalogue as a torch.optim.Optimizer, for a user's own training loop.

It uses the update rules of the stacks on stacks of one trial: views [1, ...] of the parameters, stepped in place. Only
this file depends on torch's Optimizer class.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor, nn

from tuner.errors import Fault, InvalidInput
from tuner.optimizers.catalogue import check_hyperparameters, defaults, make_rule, rule_class, vector_names
from tuner.optimizers.closure import ClosureLoss, CurvedClosureLoss
from tuner.optimizers.group import NOT_HYPERPARAMETERS, Group, check_parameters
from tuner.optimizers.group_factors import with_factors
from tuner.optimizers.one_pass import WORTHWHILE, has_compiler, kernel_of, step_all
from tuner.optimizers.part import Part, kept, parts_of
from tuner.optimizers.roles import check_roles, roles_of_model, roles_of_shapes
from tuner.optimizers.rule import ElementwiseRule, Evaluate, Role, Rule
from tuner.optimizers.scalars import plain
from tuner.optimizers.treatment import clipped, global_norm
from tuner.study.hyperparameter import Scalar

Params = nn.Module | Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]]

_TRAINED = "trained"
"""The saved value of a parameter while it shows the average."""


def build(
    name: str,
    params: Params,
    *,
    roles: Mapping[str, str] | None = None,
    groups: Sequence[Mapping[str, Any]] = (),
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
            shapes. For a module the names may be patterns (`blocks.*.experts`), of which the last that matches counts.
        groups: parameters with factors of their own, for a module or named parameters. Each is a dict with `match`, a
            pattern of names (`head.*`; left out: all), and any of `lr_factor`, `weight_decay_factor` and
            `depth_decay`, which multiplies lr once for each layer above a parameter's (`tuner.study.layer_depth`).
            Factors of several that match multiply. There is a parameter group for each class of equal factors.
        compiled: whether rules that update every element alone do it in one pass over memory: by torch's fused kernel,
            or where it has none by a program as fast, which takes seconds to compile, once. None: by the kernel, or
            from 4 million elements on where a C++ compiler is at hand. Rounding differs in the last bits.
        hp: hyperparameters, also as scalars of NumPy or torch; those left out take their defaults. clip_norm bounds the
            norm over all groups.

    Raises:
        InvalidInput: an unknown optimizer, hyperparameter or role, an illegal value, a parameter of another type.
        TypeError, ValueError: torch's own checks of `params`, such as an empty list.
    """
    hp = {key: plain(value) for key, value in hp.items()}
    check_hyperparameters(name, hp)
    if isinstance(params, nn.Module):
        roles = roles_of_model(params, roles)
        params = list(params.named_parameters())
    values = {**defaults(name), **hp}
    if groups:
        params = with_factors(name, params, groups, values)
    return RuleOptimizer(name, params, cast(Mapping[str, Role], roles or {}), values, compiled)


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
        super().__init__(params, Group(hp))
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
        group = Group({key: value if isinstance(value, Tensor) else plain(value) for key, value in param_group.items()})
        own = {key: plain(value) for key, value in group.items() if key not in NOT_HYPERPARAMETERS}
        check_hyperparameters(self.name, own)
        if not isinstance(group["params"], set):
            group["params"] = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
            check_parameters(group["params"])
        super().add_param_group(group)
        shapes = {str(index): param.shape for index, param in enumerate(group["params"])}
        by_shape = roles_of_shapes(shapes)
        names = group.get("param_names") or [""] * len(by_shape)
        group["roles"] = [
            self._given_roles.get(name, role) for name, role in zip(names, by_shape.values(), strict=True)
        ]
        values = {key: plain(value) for key, value in {**self.defaults, **own}.items() if key in self._declared()}
        make_rule(self.name, by_shape, values).trial_state(shapes)  # refuses too many

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
            raise InvalidInput([Fault("closure", f"is None; {self.name} evaluates the loss again, so it needs one")])
        evaluate = None
        if closure is not None:
            searched = self.param_groups[0]["params"] if kind.needs_loss else []
            evaluate = (CurvedClosureLoss if kind.needs_curvature else ClosureLoss)(closure, searched)
            loss = evaluate.first()
        norm = self._clipping_norm()
        for group in self.param_groups:
            for part in parts_of(self.name, group, self.state, _has_gradient):
                self._update(group, part, evaluate, norm)
        return loss

    @torch.no_grad()
    def eval(self) -> None:
        """Put the result into the parameters, to evaluate or save it; `train()` restores the trained ones exactly.

        Does nothing for rules that do not average. Until `train()`, a state dict holds both, and steps are rejected.
        """
        if not rule_class(self.name).averages or self._in_eval():
            return
        for group in self.param_groups:
            for part in parts_of(self.name, group, self.state, self._has_begun):
                rule, hp = self._rule(group, part)
                state = part.state(rule, self.state)
                for key, result in rule.evaluation_params(part.params(rule), state, self._vectors(hp, part)).items():
                    param = part.members[int(key)]
                    self.state[param][_TRAINED] = param.detach().clone()
                    param.copy_(result[0])

    @torch.no_grad()
    def train(self) -> None:
        """Restore the trained parameters that `eval()` saved."""
        for param, remembered in self.state.items():
            if _TRAINED in remembered:
                param.copy_(remembered.pop(_TRAINED))

    def _in_eval(self) -> bool:
        return rule_class(self.name).averages and any(_TRAINED in remembered for remembered in self.state.values())

    def _has_begun(self, param: Tensor) -> bool:
        return any(name in self.state.get(param, {}) for name in rule_class(self.name).starts_at_parameter)

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

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.param_groups = [Group(group) for group in self.param_groups]

    def _declared(self) -> list[str]:
        """Return the names of the hyperparameters; torch adds its own keys to `self.defaults`."""
        return [h.name for h in rule_class(self.name).declared()]

    def _clipping_norm(self) -> Tensor | None:
        """Return the norm [1] over all groups' gradients, clipped by value, where any group clips by norm."""
        if not any(plain(group.get("clip_norm", 0.0)) > 0 for group in self.param_groups):
            return None
        found: list[Tensor] = []
        for group in self.param_groups:
            most = float(plain(group["clip_value"]))
            for param in group["params"]:
                if param.numel() and _has_gradient(param):
                    grad = param.grad.detach().unsqueeze(0)
                    found.append(clipped(grad, _vector(most, param.device)) if most > 0 else grad)
        return global_norm(found) if found else None

    def _update(self, group: Mapping[str, Any], part: Part, evaluate: Evaluate | None, norm: Tensor | None) -> None:
        rule, hp = self._rule(group, part)
        if isinstance(rule, ElementwiseRule) and self._in_one_pass(rule, part):
            own = part.members
            buffers = [[kept(self.state, param, name, rule) for param in own] for name in rule.own_buffers("vector")]
            grads = [param.grad for param in own]
            step_all(rule, grads, own, buffers, part.done + 1, rule.own(hp))  # type: ignore[arg-type]
        else:
            norm = None if norm is None else norm.to(part.device)
            vectors = self._vectors(hp, part)
            rule.step(part.grads(rule), part.params(rule), part.state(rule, self.state), vectors, evaluate, norm)
        part.count(self.state)

    def _rule(self, group: Mapping[str, Any], part: Part) -> tuple[Rule, dict[str, float]]:
        """Return a group's rule for a part of it, and its hyperparameters that do not fix the program."""
        values = {key: plain(group[key]) for key in self._declared()}
        rule = make_rule(self.name, part.named_roles(), values)
        rule.roles = part.roles_for(rule)
        rule.lone = True
        return rule, {key: float(values[key]) for key in vector_names(self.name)}

    def _vectors(self, hp: Mapping[str, float], part: Part) -> dict[str, Tensor]:
        return {key: _vector(value, part.device) for key, value in hp.items()}

    def _in_one_pass(self, rule: ElementwiseRule, part: Part) -> bool:
        """Whether these parameters are stepped in one pass over memory; decided by what does not change."""
        if rule.treatment is not None or self.compiled is False:
            return False
        if self.compiled is None and kernel_of(rule, part.device) is None:
            size = sum(param.numel() for param in part.members)
            if size < WORTHWHILE or not has_compiler():
                return False
        return all(param.is_contiguous() and param.grad.is_contiguous() for param in part.members)  # type: ignore[union-attr]


def _has_gradient(param: Tensor) -> bool:
    if param.grad is not None and param.grad.layout != torch.strided:
        raise InvalidInput([Fault("grad", f"its layout is {param.grad.layout}; allowed is a dense gradient")])
    return param.grad is not None


def _named(group: Mapping[str, Any]) -> Iterable[tuple[str, Tensor]]:
    return zip(group.get("param_names", ()), group["params"], strict=False)


def _vector(value: float, device: torch.device) -> Tensor:
    return torch.full((1,), value, dtype=torch.float64, device=device)
