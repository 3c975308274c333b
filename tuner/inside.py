"""Inside a script that `tuner worker --command` runs: the trial that it is run for, and reports.

    import tuner

    trial = tuner.trial()
    lr = trial.params.lr if trial else 0.1
    for step in range(1000):
        tuner.report(step=step, loss=train(lr))

The same script runs by itself too: outside a trial `trial` is None, and `report` does nothing, and says so once.
"""

import json
import os
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tuner.ask.params import Params
from tuner.errors import Fault, InvalidInput

TRIAL, REPORTS = "TUNER_TRIAL", "TUNER_REPORTS"


@dataclass(frozen=True)
class ScriptTrial:
    """The trial of this script. `checkpoint_dir` is a folder that its next attempt finds as it is."""

    study: str
    number: int
    attempt: int
    seed: int
    metric: str
    params: Params
    checkpoint_dir: Path


@cache
def trial() -> ScriptTrial | None:
    """Return the trial that this script is run for; None where it is run by itself."""
    place = os.environ.get(TRIAL)
    if place is None:
        return None
    told = json.loads(Path(place).read_text("utf-8"))
    folder = Path(told.pop("checkpoint_dir"))
    return ScriptTrial(**{**told, "params": Params(told["params"]), "checkpoint_dir": folder})


def report(step: int | None = None, examples: int | None = None, *, noise: Any = None, **metrics: Any) -> None:
    """Report metrics at a step, as `Trial.report` of a loop does; it takes some ten microseconds.

    Raises `InvalidInput` for a metric that is no number.
    """
    told: dict[str, Any] = {name: _number(name, value) for name, value in metrics.items()}
    told |= {name: int(count) for name, count in (("step", step), ("examples", examples)) if count is not None}
    if noise is not None and (sums := noise.take()).n:
        told["noise"] = dict(zip(("n", "s", "q", "ss", "qq", "sq"), sums.values, strict=True))
        told["noise"] |= {"micro_batch": noise.micro_batch, "train_examples": noise.dataset_size}
    target = _target(os.environ.get(REPORTS))
    if target is not None:
        os.write(target, json.dumps(told).encode() + b"\n")


@cache
def _target(place: str | None) -> int | None:
    """Open the file of reports; each line is appended whole, also by several processes."""
    if place is None:
        sys.stderr.write("tuner.report: this script is not run by 'tuner worker --command'; nothing is reported\n")
        return None
    return os.open(place, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInput([Fault(name, f"is {str(value)[:60]!r}; allowed is a number ({error})")]) from error
