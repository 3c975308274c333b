"""Python to paste: the tuned optimizer and its learning-rate schedule, which run as printed beside a `model`.

Where torch has the same rule, the snippet is plain `torch.optim` and needs no Tuner; otherwise it calls
`tuner.optimizers.build`. A schedule is a function of the number of updates, for `LambdaLR`. Numbers are written with
all their digits, so that the pasted value is exactly the one that was used in training.
"""

from collections.abc import Callable, Mapping

from api.results import schedule_code
from tuner.study.catalogue import load_catalogue
from tuner.study.hyperparameter import OptimizerInfo, Scalar

Params = Mapping[str, Scalar]


def snippet(params: Params, total_steps: int) -> str:
    """Write the optimizer and the schedule of a configuration that was trained for `total_steps` updates."""
    catalogue = load_catalogue()
    info, schedule = catalogue.optimizers[str(params["optimizer"])], catalogue.schedules[str(params["schedule"])]
    optimizer = _torch(info, params) or _tuner(info, params)
    numbers = {p.name: params.get(p.name, p.default) for p in schedule.parameters}
    factor = schedule_code.function(schedule.name, numbers)
    step = "optimizer.step(closure)" if info.needs_loss else "optimizer.step()"
    lines = [
        *_imports("\n".join([*optimizer, *factor])),
        "",
        f"# model: your network. For every batch: {step}" + (", then scheduler.step()." if factor else "."),
        f"batch_size = {params['batch_size']}",
        f"total_steps = {total_steps}  # updates of the whole run",
        *optimizer,
    ]
    if factor:
        lines += ["", "", *factor, "", "", "scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_factor)"]
    return "\n".join(lines)


def _imports(code: str) -> list[str]:
    """Import what the code uses, in the usual order: standard library, torch, Tuner."""
    ours = [f"import tuner.{package}" for package in ("optimizers", "schedules") if f"tuner.{package}." in code]
    return ["import math", ""] * ("math." in code) + ["import torch"] + [""] * bool(ours) + ours


def _tuner(info: OptimizerInfo, params: Params) -> list[str]:
    """Build the rule with `tuner.optimizers.build`; choices at their default are left out."""
    told = [h for h in info.hyperparameters if not (h.fixes_program and params.get(h.name) == h.default)]
    chosen = [f"    {h.name}={params[h.name]!r}," for h in told if h.name in params]
    return ["optimizer = tuner.optimizers.build(", f'    "{info.name}",', "    model,", *chosen, ")"]


def _torch(info: OptimizerInfo, params: Params) -> list[str] | None:
    """Build torch's optimizer that is the same rule, or return None if there is none."""
    given = {h.name: params.get(h.name, h.default) for h in info.hyperparameters}
    treated = any(h.treatment and given[h.name] != h.default for h in info.hyperparameters)
    make = None if treated else TORCH.get(info.name)
    found = make(given) if make is not None else None
    if found is None:
        return None
    name, arguments = found
    told = [f"    {key}={value!r}," for key, value in arguments.items()]
    return [f"optimizer = torch.optim.{name}(", "    model.parameters(),", *told, ")"]


Made = tuple[str, dict[str, object]] | None


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
