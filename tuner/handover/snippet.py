"""Python to paste: the tuned optimizer, its learning-rate schedule and one update. It runs as printed beside a `model`.

Where torch has the same rule, the snippet is plain `torch.optim` and needs no Tuner; otherwise it calls
`tuner.optimizers.build`. A schedule is a function of the number of updates, for `LambdaLR`.
"""

from collections.abc import Mapping

from tuner.errors import Fault, InvalidInput
from tuner.handover import schedule_code
from tuner.handover.optimizer_code import OptimizerCode, Params, built, plain
from tuner.handover.update_code import Program, update_code
from tuner.study.catalogue import load_catalogue
from tuner.study.hyperparameter import OptimizerInfo, Scalar

WORKLOAD = "workload."
"""What the names of a workload's own parameters begin with in a configuration."""

AVERAGE = (
    "# The result is an average: optimizer.eval() before evaluating or saving the model,",
    "# optimizer.train() before the next update.",
)


def snippet(params: Params, total_steps: int, program: Program | None = None, *, only_torch: bool = False) -> str:
    """Write the optimizer, the schedule and an update of a configuration that was trained for `total_steps` updates.

    `program` is that of the trial's attempt.

    Raises:
        InvalidInput: `only_torch`, and torch does not have this optimizer.
    """
    code = configuration_code(params, total_steps, program or {}, only_torch=only_torch)
    own = workload_params(params)
    told = [f"# workload: {', '.join(f'{name}={value!r}' for name, value in own.items())}"] if own else []
    averages = load_catalogue().optimizers[str(params["optimizer"])].averages
    after = ["", "", *AVERAGE] if averages else []
    return "\n".join([*imports(code), "", "# model: your network, in training mode", *told, *code, *after])


def configuration_code(
    params: Params, total_steps: int, program: Program, *, only_torch: bool = False, roles: str = ""
) -> list[str]:
    """Write all but the imports. `roles` is Python for the roles of the model's parameters."""
    info = load_catalogue().optimizers[str(params["optimizer"])]
    optimizer = _optimizer(info, params, only_torch, roles)
    factor = _factor(params, optimizer.still)
    lines = [
        f"batch_size = {params['batch_size']}",
        f"total_steps = {total_steps}  # updates of the whole run",
        *_rounding(program),
        *optimizer.lines,
    ]
    if factor:
        lines += ["", "", *factor, "", "", "scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_factor)"]
    return [*lines, "", "", *update_code(info, optimizer, program, params["batch_size"], bool(factor))]


def imports(code: list[str]) -> list[str]:
    """Import what the code uses, in the usual order: standard library, torch, Tuner."""
    text = "\n".join(code)
    ours = [f"import tuner.{package}" for package in ("optimizers", "schedules") if f"tuner.{package}." in text]
    standard = ["import math"] * ("math." in text) + ["from fnmatch import fnmatchcase"] * ("fnmatchcase(" in text)
    return [*standard, *[""] * bool(standard), "import torch", *[""] * bool(ours), *ours]


def workload_params(params: Params) -> Mapping[str, Scalar]:
    """Return a configuration's parameters of the workload."""
    return {name.removeprefix(WORKLOAD): value for name, value in params.items() if name.startswith(WORKLOAD)}


def _optimizer(info: OptimizerInfo, params: Params, only_torch: bool, roles: str) -> OptimizerCode:
    found = plain(info, params)
    if isinstance(found, OptimizerCode):
        return found
    if only_torch:
        raise InvalidInput([Fault("--torch", f"{found}; without it, tuner.optimizers.build makes the optimizer")])
    return built(info, params, roles)


def _factor(params: Params, still: int) -> list[str]:
    """Write `lr_factor`, or nothing where the learning rate is constant."""
    schedule = load_catalogue().schedules[str(params["schedule"])]
    numbers = {p.name: params.get(p.name, p.default) for p in schedule.parameters}
    return schedule_code.function(schedule.name, numbers, still)


def _rounding(program: Program) -> list[str]:
    if program.get("precision") != "tf32":
        return []
    return ["torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True"]
