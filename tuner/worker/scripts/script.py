"""One run of the command for one trial: started, watched, told to end, and cleared away.

Its process group is its own: whatever it starts ends with it. It has a folder for the trial's JSON file and for its
reports, which goes with it; its checkpoints lie elsewhere, and stay.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tuner.ask.curve import Curve, Row
from tuner.worker.agent.tail import Tail
from tuner.worker.channel import Json
from tuner.worker.scripts.command import environment_of, filled
from tuner.worker.scripts.keeper import SIGNALLED
from tuner.worker.scripts.reported import Reported

LAST_LINES = 20
"""Of its output, that say why a script failed."""
AFTER_S = 2.0
"""How long what a script started may keep its output open."""


class Script:
    """A run that has begun. Raises `InvalidInput` for a command that names what the trial does not have."""

    def __init__(
        self,
        words: Sequence[str],
        assigned: Json,
        checkpoints: Path,
        output: Tail,
        *,
        gpu: str | None,
        grace_s: float,
        base: Mapping[str, str] = os.environ,
    ) -> None:
        """`checkpoints` is the trial's own folder; `output` takes what is printed."""
        self.grace_s = grace_s
        self.began_s = time.monotonic()
        self.output = output
        params = assigned["params"]
        about = {name: assigned[name] for name in ("study", "number", "attempt", "seed", "metric")}
        about |= {"params": params, "checkpoint_dir": str(checkpoints)}
        own = {"trial": assigned["number"], "checkpoint_dir": str(checkpoints)}
        command = filled(list(words), {**{n: about[n] for n in ("study", "seed", "attempt")}, **own, **params})
        self._folder = Path(tempfile.mkdtemp(prefix="tuner-trial-"))
        checkpoints.mkdir(parents=True, exist_ok=True)
        trial, reports = self._folder / "trial.json", self._folder / "reports.jsonl"
        trial.write_text(json.dumps(about), "utf-8")
        best = {"minimize": "min", "maximize": "max"}[assigned["goal"]] if assigned["at"] == "best" else None
        size = params.get("batch_size")
        curve = Curve(assigned["metric"], best)
        self.reported = Reported(reports, curve, size if isinstance(size, int) else None, self._say)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tuner.worker.scripts.keeper", str(grace_s), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment_of(params, base, trial=trial, reports=reports, gpu=gpu),
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._reader = output.follow(os.dup(self._process.stdout.fileno()))
        self._process.stdout.close()

    def ended(self) -> bool:
        """Whether the command has ended."""
        return self._process.poll() is not None

    def stop(self) -> None:
        """Tell it to end: SIGTERM to its group now, SIGKILL after the grace."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def kill(self) -> None:
        """End it and all that it started at once."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def clear(self) -> list[Row]:
        """End what it left running, read the rest of what it said, and remove its folder; return the last rows."""
        self.kill()
        self._process.wait()
        self.stop()
        self._reader.join(AFTER_S)
        rows = self.reported.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        return rows

    def outcome(self) -> dict[str, Any]:
        """Return how it ended, as a final message has it, with its last lines if it failed."""
        status = self._process.returncode
        if status == 0:
            return {"outcome": "finished", "error": None}
        number = -status if status < 0 else status - SIGNALLED
        if number > 0:
            return {"outcome": "crashed", "error": self._why(f"ended with signal {number}")}
        return {"outcome": "error", "error": self._why(f"ended with exit status {status}")}

    def _why(self, how: str) -> str:
        lines = self.output.text().splitlines()[-LAST_LINES:]
        return "\n".join([*lines, f"the script {how}"])

    def overdue(self, seconds: float) -> dict[str, Any]:
        """Return the final message of a script that was ended for taking too long."""
        return {"outcome": "error", "error": self._why(f"was ended: it ran longer than {seconds:g} s (--timeout)")}

    def _say(self, text: str) -> None:
        self.output.add(text.encode())
