"""A trial as a file of Python that trains it again: the trial's budget, seed, initial weights and order of examples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tuner.handover.snippet import configuration_code, imports, workload_params
from tuner.handover.update_code import Program
from tuner.study.catalogue import load_catalogue
from tuner.study.hyperparameter import Scalar


@dataclass(frozen=True)
class Trained:
    """What was trained: a trial of a study, and the workload that it belongs to."""

    study: str
    number: int
    params: Mapping[str, Scalar]
    """The configuration."""
    seed: int
    total_steps: int
    """Updates."""
    workload: str
    workload_params: Mapping[str, Scalar]
    program: Program
    """That of the trial's attempt."""
    sources: Sequence[str] = ()
    """Modules, and files (`.py`) by their path from where this one is written, that register the workload; none for one
    that Tuner or a package knows."""


def train_file(trained: Trained, *, only_torch: bool = False) -> str:
    """Write the file. Raises `InvalidInput` as `snippet` does."""
    given = {**trained.workload_params, **workload_params(trained.params)}
    roles = "task.roles"
    code = configuration_code(trained.params, trained.total_steps, trained.program, only_torch=only_torch, roles=roles)
    averages = load_catalogue().optimizers[str(trained.params["optimizer"])].averages
    head = [
        *[line for source in trained.sources for line in _importing(source)],
        f"task = workloads.load({trained.workload!r}, {given!r})",
        f"seed = {trained.seed}  # of the initial weights and of the order of examples",
        'device = "cuda" if torch.cuda.is_available() else "cpu"',
        *_exactness(trained.program),
        "model = solo.model_of(task, seed).to(device)",
    ]
    tail = [
        "",
        "",
        "for batch in solo.batches(task, seed, batch_size, total_steps, device):",
        "    update(lambda part: solo.loss_of(task, model, part), batch)",
        *["optimizer.eval()", f"solo.recalibrate(task, model, {_shared(trained)})"] * averages,
        "for name, value in solo.evaluate(task, model, seed, total_steps * batch_size).items():",
        '    print(f"{name} {value:.9g}")',
    ]
    files = any(source.endswith(".py") for source in trained.sources)
    return "\n".join([*_header(trained), *_imports(code, files), "", *head, *code, *tail]) + "\n"


def _header(trained: Trained) -> list[str]:
    own = f"trial {trained.number} of study {trained.study}: {trained.params['optimizer']} on {trained.workload}"
    return [
        f'"""Trains {own}.',
        "",
        "The budget, the seed, the initial weights, the examples and their order are the trial's. Rounding and dropout",
        "masks are not, so the result lies within the spread over seeds. Needs PyTorch and Tuner.",
        '"""',
        "",
    ]


def _imports(code: list[str], files: bool) -> list[str]:
    """Import what the code uses, standard library first; `files`: the user's are found by their path."""
    own = [line for line in imports(code) if line]
    standard = ["import math"] * ("import math" in own) + ["import sys"] * files
    standard += ["from fnmatch import fnmatchcase"] * ("from fnmatch import fnmatchcase" in own)
    standard += ["from pathlib import Path"] * files
    ours = [line for line in own if line.startswith("import tuner.")]
    ours += ["from tuner import workloads", "from tuner.engine import solo"]
    return [*standard, *[""] * bool(standard), "import torch", "", *ours]


def _importing(source: str) -> list[str]:
    """Import a source of workloads; other files beside the user's are found too."""
    if not source.endswith(".py"):
        return [f"workloads.import_user_workloads({source!r})"]
    return [
        f"source = Path(__file__).resolve().parent / {source!r}",
        "sys.path.insert(0, str(source.parent))",
        "workloads.import_user_workloads(str(source))",
    ]


def _exactness(program: Program) -> list[str]:
    """Keep a GPU from rounding the products of a float32 trial, which torch does in convolutions by itself."""
    if program.get("precision") == "tf32":
        return []
    return ["torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False"]


def _shared(trained: Trained) -> str:
    """Name the examples that share statistics."""
    size = trained.program.get("micro_batch")
    return str(size) if isinstance(size, int) else "batch_size"
