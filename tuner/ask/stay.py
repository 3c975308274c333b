"""One attempt of a trial in this process, from its lease until the server has acknowledged its end."""

import platform
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import tuner
from tuner.ask.curve import Curve, Row
from tuner.study.hyperparameter import Scalar
from tuner.wire.sync import Assignment, Finish, NoiseRow, Report, Started, Stop

Key = tuple[int, int]
"""(trial id, attempt)."""
MOST_ERROR_TEXT = 20_000
"""Characters of a traceback that are sent: its end, which names the cause."""


def program(**more: Scalar | None) -> dict[str, Scalar | None]:
    """Return what is known of a program that is the user's own."""
    return {"path": "own code", "python": platform.python_version(), "tuner": tuner.__version__, **more}


@dataclass
class Stay:
    """What the session holds of an attempt. Not thread-safe: the session locks."""

    assignment: Assignment
    curve: Curve = field(default_factory=Curve)
    began_s: float = field(default_factory=time.monotonic)
    program: dict[str, Scalar | None] = field(default_factory=program)
    measured: bool = False
    """Whether the loop has reported noise, so that the program says all that it ever will."""
    started: bool = False
    """Whether the server has been told the program."""
    finish: Finish | None = None
    stop: Stop | None = None
    """What the server wants of it: null while it may go on."""
    obeyed: bool = False
    """Whether the body was left because of that: the attempt is held no more, and no last word is due."""

    @property
    def key(self) -> Key:
        """(trial id, attempt)."""
        return self.assignment.trial, self.assignment.attempt

    @property
    def over(self) -> bool:
        """Whether the body has been left, or has said its last word."""
        return self.finish is not None or self.obeyed

    def reports(self, rows: Iterable[Row]) -> list[Report]:
        """Write rows as reports."""
        trial, attempt = self.key
        return [
            Report(
                trial=trial,
                attempt=attempt,
                step=row.step,
                examples=row.examples,
                elapsed_s=row.elapsed_s,
                metrics=row.metrics,
                noise=None if row.noise is None else _noise(row.noise),
            )
            for row in rows
        ]

    def start(self) -> list[Started]:
        """Return the word on its program, once that is known and unless it was told."""
        trial, attempt = self.key
        due = not self.started and self.measured
        return [Started(trial=trial, attempt=attempt, program=self.program)] if due else []

    def end(self, outcome: Any, **word: Any) -> None:
        """Have the last word on it, which is never changed again."""
        self.curve.close()
        trial, attempt = self.key
        last = self.curve.last
        error = word.pop("error", None)
        self.finish = Finish(
            trial=trial,
            attempt=attempt,
            token=self.assignment.token,
            outcome=outcome,
            step=last.step if last else 0,
            examples=last.examples if last else 0,
            error=error[-MOST_ERROR_TEXT:] if error else None,
            program=self.program,
            **word,
        )


def _noise(sums: tuple[float, ...]) -> NoiseRow:
    n, s, q, ss, qq, sq = sums
    return NoiseRow(n=int(n), s=s, q=q, ss=ss, qq=qq, sq=sq)
