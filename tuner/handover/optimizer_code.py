"""The optimizer as Python source: plain `torch.optim` where torch has the same rule, or `tuner.optimizers.build`.

Treatments that torch has a word for are written in it: clipping as the functions of `torch.nn.utils` (see
`update_code.py`), decoupled weight decay as the class that has it, the warm-up of moments as a learning rate of 0.
Numbers are written with all their digits, so that the pasted value is exactly the one that was used in training.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tuner.handover import group_code
from tuner.study.hyperparameter import OptimizerInfo, Scalar
from tuner.study.parameter_groups import groups_of

Params = Mapping[str, Scalar]


@dataclass(frozen=True)
class OptimizerCode:
    """The lines that make `optimizer` for a `model`, and what belongs to it elsewhere in the code."""

    lines: list[str]
    clip_value: Scalar = 0.0
    clip_norm: Scalar = 0.0
    """Still to be written before the step; 0: nothing."""
    still: int = 0
    """First updates with a learning rate of 0, still to be written into the schedule."""


def built(info: OptimizerInfo, params: Params, roles: str = "") -> OptimizerCode:
    """Build the rule with `tuner.optimizers.build`; choices at their default are left out. `roles` is an argument."""
    told = [h for h in info.hyperparameters if not (h.fixes_program and params.get(h.name) == h.default)]
    chosen = [f"    {h.name}={params[h.name]!r}," for h in told if h.name in params]
    given = [f"    roles={roles},"] if roles else []
    given += group_code.argument(groups_of(params))
    return OptimizerCode(
        ["optimizer = tuner.optimizers.build(", f'    "{info.name}",', "    model,", *given, *chosen, ")"]
    )


def plain(info: OptimizerInfo, params: Params) -> OptimizerCode | str:
    """Build torch's optimizer that is the same rule, or say why there is none."""
    given = {h.name: params.get(h.name, h.default) for h in info.hyperparameters}
    if info.name not in TORCH:
        return _WHY.get(info.name, f"torch.optim has no {info.name}")
    if given.get("weight_decay_roles", "all") != "all":
        return "torch.optim knows no roles, which weight_decay_roles needs"
    own = next((h.default for h in info.hyperparameters if h.name == "weight_decay_mode"), None)
    mode = given.get("weight_decay_mode", own)
    made = TORCH[info.name](given)
    if made is not None and mode != own:
        made = _with_decay(made, str(mode))
    if made is None:
        unusual = [h.name for h in info.hyperparameters if h.fixes_program and given[h.name] != h.default]
        return f"torch.optim has {info.name}, but not with {', '.join(f'{name}={given[name]}' for name in unusual)}"
    name, arguments = made
    told = [f"    {key}={value!r}," for key, value in arguments.items()]
    before, parameters = group_code.plain(groups_of(params), arguments)
    return OptimizerCode(
        [*before, f"optimizer = torch.optim.{name}(", f"    {parameters},", *told, ")"],
        clip_value=given.get("clip_value", 0.0),
        clip_norm=given.get("clip_norm", 0.0),
        still=int(given.get("moment_warmup", 0)),
    )


Made = tuple[str, dict[str, object]] | None


def _with_decay(made: tuple[str, dict[str, object]], mode: str) -> Made:
    """Return the class whose weight decay is of another kind: Adam's differs by its class, NAdam's by a flag."""
    name, arguments = made
    if (name, mode) in (("Adam", "decoupled"), ("AdamW", "l2")):
        return {"Adam": "AdamW", "AdamW": "Adam"}[name], arguments
    if (name, mode) == ("NAdam", "decoupled"):
        return name, {**arguments, "decoupled_weight_decay": True}
    return None


def _only(given: Params, *names: str) -> dict[str, object]:
    return {name: given[name] for name in names}


def _adam(kind: str, **more: object) -> Callable[[Params], Made]:
    def make(given: Params) -> Made:
        if given.get("eps_placement", "outside") != "outside":
            return None
        betas = {"betas": (given["beta1"], given["beta2"])}
        own = _only(given, "momentum_decay") if kind == "NAdam" else {}
        return kind, {**_only(given, "lr"), **betas, **_only(given, "eps", "weight_decay"), **own, **more}

    return make


def _rmsprop(given: Params) -> Made:
    if given["eps_placement"] != "outside":
        return None
    centered = {"centered": True} if given["centered"] == "yes" else {}
    return "RMSprop", {**_only(given, "lr", "alpha", "eps", "weight_decay", "momentum"), **centered}


def _adafactor(given: Params) -> Made:
    eps = {"eps": (given["eps1"] or None, given["eps2"]), "d": given["clip_threshold"]}
    return "Adafactor", {**_only(given, "lr", "beta2_decay"), **eps, **_only(given, "weight_decay")}


def _lbfgs(given: Params) -> Made:
    if given["line_search"] != "fixed":
        return None
    counts = {"max_iter": "iterations", "max_eval": "max_evaluations", "history_size": "history"}
    tolerances = _only(given, "tolerance_grad", "tolerance_change")
    return "LBFGS", {"lr": given["lr"], **{key: given[name] for key, name in counts.items()}, **tolerances}


TORCH: dict[str, Callable[[Params], Made]] = {
    "sgd": lambda given: ("SGD", _only(given, "lr", "weight_decay")),
    "gd": lambda given: ("SGD", _only(given, "lr")),
    "momentum": lambda given: ("SGD", _only(given, "lr", "momentum", "dampening", "weight_decay")),
    "nesterov": lambda given: ("SGD", {**_only(given, "lr", "momentum", "weight_decay"), "nesterov": True}),
    "adagrad": lambda given: (
        "Adagrad",
        _only(given, "lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps"),
    ),
    "rmsprop": _rmsprop,
    "adam": _adam("Adam"),
    "amsgrad": _adam("Adam", amsgrad=True),
    "adamw": _adam("AdamW"),
    "nadam": _adam("NAdam"),
    "adafactor": _adafactor,
    "lbfgs": _lbfgs,
}
"""Our rules that torch has too, with the same steps; a test compares them."""

_WHY = {
    "muon": "torch.optim.Muon takes 2-D parameters only and rounds them to bfloat16, so it is another rule than muon",
}
