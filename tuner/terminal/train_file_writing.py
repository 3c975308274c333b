"""Writing the file that trains a trial again: which workload it belongs to, and where that comes from."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tuner.errors import Fault, InvalidInput
from tuner.handover import Trained, train_file
from tuner.study.catalogue import BUILT_IN_WORKLOADS, EXTERNAL
from tuner.wire.views import TrialView

EXTERNAL_TRIAL = "your own code trained the study's trials; run it with what 'tuner best' shows"


def write(
    output: Path, trial: TrialView, document: dict[str, Any], sources: Sequence[str], *, only_torch: bool = False
) -> None:
    """Write the file of a trial of the study with this document; `sources` register its workload, if it is the user's.

    Raises:
        InvalidInput: the workload is the user's own and `sources` is empty, or as `snippet` does.
    """
    reference = document["workload"]
    name, params = (reference, {}) if isinstance(reference, str) else (reference["name"], reference.get("params") or {})
    if name == EXTERNAL or trial.total_steps is None:
        raise InvalidInput([Fault("--output", EXTERNAL_TRIAL)])
    if not sources and not _is_known(name):
        fault = f"is missing; the workload {name!r} is your own, so name the file or module that registers it"
        raise InvalidInput([Fault("--workloads", fault)])
    trained = Trained(
        study=trial.study,
        number=trial.number,
        params=trial.params,
        seed=trial.seed,
        total_steps=trial.total_steps,
        workload=name,
        workload_params=params,
        program=trial.program or {},
        sources=[_from(output, source) for source in sources],
    )
    output.write_text(train_file(trained, only_torch=only_torch), "utf-8")


def _is_known(name: str) -> bool:
    """Whether Tuner or an installed package has this workload."""
    if name in BUILT_IN_WORKLOADS:
        return True
    from tuner.workloads.installed import installed

    return name in installed()


def _from(output: Path, source: str) -> str:
    """Return a file's path as seen from the directory of the output; a module's name stays."""
    if not source.endswith(".py"):
        return source
    if not Path(source).is_file():
        raise InvalidInput([Fault("--workloads", f"is {source!r}; there is no such file")])
    return Path(os.path.relpath(Path(source).resolve(), output.resolve().parent)).as_posix()
