"""A workload whose trials last until the test is done with them: digits, slowly as long as a file is there."""

import json
from pathlib import Path

SOURCE = '''
import dataclasses, pathlib, time
import tuner
from tuner.workloads import load


@tuner.workload("paced")
def paced() -> tuner.Task:
    """Handwritten digits, at leisure."""
    task = load("digits-mlp", {})

    def loss(output, target):
        if pathlib.Path(GATE).exists():
            time.sleep(TICK_S)
        return task.loss(output, target)

    return dataclasses.replace(task, loss=loss)
'''


class Pace:
    """The file that holds the trials of `paced` up, and the environment of a server whose workers know the workload."""

    def __init__(self, folder: Path, tick_s: float = 0.02) -> None:
        """`tick_s`: seconds that each tick takes longer as long as the file is there."""
        self._gate = folder / "slow"
        self._gate.touch()
        self.source = folder / "paced.py"
        self.source.write_text(f"GATE, TICK_S = {str(self._gate)!r}, {tick_s!r}\n{SOURCE}")
        self.environment = {"TUNER_WORKLOADS": json.dumps([str(self.source)])}

    def lift(self) -> None:
        """Let the trials run."""
        self._gate.unlink()
