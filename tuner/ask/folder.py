"""Where a trial keeps its checkpoints on this machine: a folder of the (database, study, trial).

A trial that is tried again on this machine finds the folder as its last attempt left it. Nothing here deletes it.
"""

import os
from collections.abc import Mapping
from pathlib import Path

HOME = "TUNER_HOME"
WITHOUT_HOME = "tuner-checkpoints"


def root(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of all trials: `$TUNER_HOME/checkpoints`, or `./tuner-checkpoints`."""
    home = environment.get(HOME)
    return Path(home).expanduser().absolute() / "checkpoints" if home else Path.cwd() / WITHOUT_HOME


def folder_of(root: Path, database: str, study: str, study_id: int, number: int) -> Path:
    """Return a trial's folder. The study's id tells studies apart that had one name after the other."""
    return root / database[:16] / f"{study}-{study_id}" / str(number)
