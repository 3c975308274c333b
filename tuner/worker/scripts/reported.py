"""The file in which a script reports: a JSON object per line, `{"step": 3, "examples": 96, "loss": 0.5}`.

Any language can append to it, and several processes of a script may: short lines are appended whole. What cannot be
read is said once in the trial's output, and left out.
"""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tuner.ask.curve import Curve, Row

COUNTS = ("step", "examples")
SUMS = ("n", "s", "q", "ss", "qq", "sq")
LONGEST_LINE = 65_536


class Reported:
    """Follows the file of one run. `complain` is called with what cannot be read."""

    def __init__(self, path: Path, curve: Curve, batch_size: int | None, complain: Callable[[str], None]) -> None:
        path.touch()
        self._file = path.open("rb")
        self._rest = b""
        self._curve = curve
        self._batch_size = batch_size
        self._complain = complain
        self._complained = False
        self._began_s = time.monotonic()
        self.program: dict[str, Any] = {}
        """What the script has told of its noise."""

    def read(self) -> list[Row]:
        """Return the rows that were reported since the last call."""
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            self._rest = b""
        for line in lines:
            if line.strip():
                self._take(line)
        rows = self._curve.ready(len(self._curve))
        self._curve.acknowledge(rows)
        return rows

    def close(self) -> list[Row]:
        """Return the last rows, and close the file."""
        self._rest += b"\n"
        rows = self.read()
        self._curve.close()
        last = self._curve.ready(len(self._curve))
        self._curve.acknowledge(last)
        self._file.close()
        return rows + last

    def _take(self, line: bytes) -> None:
        try:
            self._curve.add(self._row(json.loads(line)))
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            if not self._complained:
                seen = line[:200].decode("utf-8", "replace")
                self._complain(f"tuner: this report cannot be read ({error}): {seen}\n")
            self._complained = True

    def _row(self, told: dict[str, Any]) -> Row:
        last = self._curve.last
        step = int(told.get("step", (last.step if last else 0) + 1))
        examples = int(told.get("examples", step * (self._batch_size or 0)))
        metrics = {name: float(value) for name, value in told.items() if name not in COUNTS and name != "noise"}
        noise = told.get("noise")
        sums = tuple(float(noise[name]) for name in SUMS) if noise else None
        if step < 0 or examples < 0 or not (metrics or sums) or not all(map(math.isfinite, sums or ())):
            raise ValueError("a step and a metric are needed, and counts are not negative")
        if noise:
            self.program = {name: noise[name] for name in ("micro_batch", "train_examples") if noise.get(name)}
        return Row(step, examples, time.monotonic() - self._began_s, metrics, sums)
