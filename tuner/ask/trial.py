"""A trial as the body of a user's own loop sees it."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, Protocol

from pydantic import ValidationError

from tuner.ask import folder
from tuner.ask.curve import Row, Sums
from tuner.ask.params import Params
from tuner.ask.session import Session
from tuner.ask.stay import Stay
from tuner.errors import Conflict, Fault, InvalidInput
from tuner.study.hyperparameter import Scalar
from tuner.wire.sync import Stop

log = logging.getLogger(__name__)

MOST_METRICS = 64
MOST_COUNT = 2**53
"""The largest step: every database and JavaScript represent it exactly."""


class Measured(Protocol):
    """What a report takes noise from: `tuner.noise.Meter`."""

    micro_batch: int
    dataset_size: float | None

    def take(self) -> Any:
        """Return the sums of the steps since the last call (`tuner.noise.NoiseSums`)."""


class Trial:
    """One attempt of a trial. It belongs to the process that asked for it, and cannot be pickled.

    params: the configuration, a mapping whose names are attributes too; number: the trial's in its study; seed: for
    initial weights and the order of data; attempt: 1, or more where earlier ones were lost.
    """

    def __init__(self, session: Session, stay: Stay, root: Path) -> None:
        assignment = stay.assignment
        self.params = Params(assignment.params)
        self.number: int = assignment.number
        self.seed: int = assignment.seed
        self.study: str = assignment.study
        self.attempt: int = assignment.attempt
        self._metric = assignment.metric or ""
        self._session = session
        self._stay = stay
        self._kept: object = None
        self._told: Stop | None = None
        """What the body has seen: it may be left because of a pause that was taken back."""
        self._folder = folder.folder_of(root, session.database, assignment.study, assignment.study_id, self.number)

    @property
    def should_stop(self) -> bool:
        """Whether the body should be left soon: the trial was stopped, pruned, paused, or given to another worker."""
        self._told = self._stay.stop or self._told
        return self._stay.stop is not None

    @property
    def stop_reason(self) -> str | None:
        """Why it should stop, e.g. `pause: by a user`; None while it may go on."""
        stop = self._stay.stop
        return None if stop is None else f"{stop.order}: {stop.why}"

    @property
    def ended(self) -> bool:
        """Whether `finish` or `fail` was called."""
        return self._stay.over

    @property
    def checkpoint_dir(self) -> Path:
        """A folder on this machine that the trial's next attempt finds as it is; made when it is first asked for."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder

    def report(
        self,
        step: int | None = None,
        examples: int | None = None,
        *,
        noise: Measured | None = None,
        **metrics: Any,
    ) -> None:
        """Report metrics at a step. It never waits for the server.

        `step`: updates so far, one more than at the last report if left out; `examples`: examples seen so far, by
        default `step` times the configuration's `batch_size`, or 0 where it has none. `noise`: a `tuner.noise.Meter`,
        of which the steps since the last report are sent. Metrics are numbers, or arrays and tensors of one number.

        Raises:
            InvalidInput: a metric is no number, a count is negative, or nothing is reported.
            Conflict: the trial has finished here.
        """
        self._session.check_here()
        if self._stay.over:
            raise Conflict(f"trial {self.number} has ended here; it takes no more reports")
        last = self._stay.curve.last
        step = (0 if last is None else last.step) + 1 if step is None else _count("step", step)
        if examples is None:
            size = self.params.get("batch_size")
            examples = step * size if isinstance(size, int) else 0
        values = {name: _number(name, value) for name, value in metrics.items()}
        if len(values) > MOST_METRICS or not (values or noise is not None):
            told = f"has {len(values)} metrics; allowed are 1 to {MOST_METRICS}"
            raise InvalidInput([Fault("report", told)])
        sums, told_of = _measured(noise)
        elapsed_s = time.monotonic() - self._stay.began_s
        row = Row(step, _count("examples", examples), elapsed_s, values, sums)
        self._change(lambda: self._add(row, told_of))

    def finish(self, value: float | None = None) -> None:
        """End the trial with its value of the study's metric; None: as reported.

        A value that is not finite makes the trial infeasible: it diverged. The first of `finish` and `fail` counts.

        Raises:
            InvalidInput: the value is no number, or is None and the metric was never reported.
        """
        self._session.check_here()
        if value is None and self._metric not in self._stay.curve.seen:
            seen = ", ".join(sorted(self._stay.curve.seen)) or "nothing"
            told = f"trial {self.number} has no value: it reported {seen}"
            raise InvalidInput([Fault(self._metric, f"{told}; report it, or call finish(value)")])
        if self._stay.stop is not None and self._stay.stop.order in ("fenced", "deleted"):
            log.warning(
                "the result of trial %d does not count: %s",
                self.number,
                self._stay.stop.why,
                extra={"action": "fenced", "study": self.study, "trial": self.number},
            )
        number = None if value is None else _number(self._metric, value)
        diverged = number is not None and not math.isfinite(number)
        word = {"infeasible": "diverged"} if diverged else {"value": number}
        self._end("finished", **word)

    def fail(self, why: str) -> None:
        """End the trial as failed, with a reason; it is not tried again."""
        self._session.check_here()
        self._end("error", error=str(why) or "no reason given", final=True)

    def leave(self, *, gives_back: bool) -> None:
        """End the trial as its body was left: as told, or with what was reported, unless its last word was said.

        `gives_back`: without its metric it goes back to the queue; otherwise that is an error.
        """
        if self._stay.over:
            return
        told = self._stay.stop or self._told
        if told is not None:
            self._obey(told.order)
        elif gives_back and self._metric not in self._stay.curve.seen:
            self.give_back()
        else:
            self.finish()

    def keep(self, loop: object) -> None:
        """Keep alive what the trial was taken from by `next`, as long as the trial is in use."""
        self._kept = loop

    def give_back(self) -> None:
        """Return the trial to the queue, uncharged."""
        self._end("drained")

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"trial {self.number} cannot be pickled: it belongs to this process; pass `dict(trial.params)`")

    def __repr__(self) -> str:
        return f"<Trial {self.number} of {self.study}: {dict(self.params)}>"

    def _obey(self, order: str) -> None:
        if order == "pause":
            self._end("paused")
            return

        def obey() -> None:
            self._stay.curve.close()
            self._stay.obeyed = True

        self._change(obey)

    def _end(self, outcome: str, **word: Any) -> None:
        if not self._stay.over:
            self._change(lambda: self._stay.end(outcome, **word))

    def _add(self, row: Row, program: Mapping[str, Scalar | None]) -> None:
        self._stay.curve.add(row)
        if program and not self._stay.measured:
            self._stay.program |= program
            self._stay.measured = True

    def _change(self, change: Callable[[], None]) -> None:
        self._session.update(self._stay, change)


def _measured(noise: Measured | None) -> tuple[Sums | None, dict[str, Scalar | None]]:
    """Return the sums of a meter, and what the server should know of it."""
    if noise is None:
        return None, {}
    sums = noise.take()
    size = None if noise.dataset_size is None else int(noise.dataset_size)
    told: dict[str, Scalar | None] = {"micro_batch": noise.micro_batch, "train_examples": size}
    return (tuple(sums.values) if sums.n else None), told


def _number(name: str, value: Any) -> float:
    """Return a metric as a number; tensors and arrays of one number are taken."""
    try:
        return float(value)
    except (TypeError, ValueError, ValidationError, RuntimeError) as error:
        raise InvalidInput([Fault(name, f"is {str(value)[:60]!r}; allowed is a number ({error})")]) from error


def _count(name: str, value: Any) -> int:
    try:
        whole = not isinstance(value, bool | str) and int(value) == value and 0 <= value <= MOST_COUNT
    except (TypeError, ValueError, OverflowError, RuntimeError):
        whole = False
    if not whole:
        raise InvalidInput([Fault(name, f"is {value!r}; allowed is a whole number from 0 to {MOST_COUNT}")])
    return int(value)
