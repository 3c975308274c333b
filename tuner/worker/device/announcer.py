"""What a device process reports: the stacks that it holds, rows of curves, and final messages on trials.

Invariants: with the final message of a trial everything that was watched for it is dropped. One that comes with
weights, or of a trial that pauses, waits until these or its state are stored; `left` reports meanwhile that the slot is
free.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import cast

from torch import Tensor

from tuner.engine import Ended, Event, Stack
from tuner.worker.channel import Json
from tuner.worker.device.checkpoints import Checkpoints

Key = tuple[int, int]
"""(trial, attempt)."""


class Announcer:
    """Turns what happens on a device into the messages `stacks`, `row`, `left` and `ended`."""

    def __init__(self, send: Callable[[Json], None], checkpoints: Checkpoints | None) -> None:
        """`checkpoints` is told when trials leave."""
        self._send = send
        self._checkpoints = checkpoints
        self._announced: Json = {}

    def stacks(self, widths: Mapping[str, int], opens: bool) -> None:
        """Report which stacks are held and whether one more may come, if that has changed."""
        message: Json = {"stacks": dict(widths), "opens": opens}
        if message != self._announced:
            self._announced = message
            self._send(message)

    def tell(self, events: Sequence[Event]) -> None:
        """Pass on the stack's events in order; the keys of its trials are (trial, attempt)."""
        for event in events:
            trial, attempt = cast(Key, event.key)
            if isinstance(event, Ended):
                self.end(
                    (trial, attempt),
                    event.outcome,
                    event.infeasible,
                    event.step,
                    event.examples,
                    event.error,
                    event.weights,
                )
                continue
            row = {name: getattr(event, name) for name in ("step", "examples", "elapsed_s", "ticks", "computed")}
            noise = None if event.noise is None else asdict(event.noise)
            metrics = dict(event.metrics)
            self._send({"row": {"trial": trial, "attempt": attempt, **row, "metrics": metrics, "noise": noise}})

    def end(
        self,
        key: Key,
        outcome: str,
        infeasible: str | None = None,
        step: int = 0,
        examples: int = 0,
        error: str | None = None,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Send the final message on a trial, or leave it with its weights to the writer of checkpoints."""
        message = {"trial": key[0], "attempt": key[1], "outcome": outcome, "infeasible": infeasible}
        ended = {**message, "step": step, "examples": examples, "error": error}
        if self._checkpoints is not None and weights is not None and self._checkpoints.watches(key):
            self._send({"left": list(key)})
            self._checkpoints.keep_weights(key, ended, weights)
        else:
            self._send({"ended": ended})
        self.forget(key, done=outcome == "finished")

    def pause(self, key: Key, stack: Stack, slot: int) -> None:
        """Say that a trial leaves its slot; its final message follows once its state is stored, or cannot be."""
        self._send({"left": list(key)})
        message = {"trial": key[0], "attempt": key[1], "outcome": "paused", "infeasible": None}
        ended = {**message, "step": 0, "examples": 0, "error": None}
        if self._checkpoints is None or not self._checkpoints.take(stack, key, slot, then={"ended": ended}):
            self._send({"ended": ended})
        self.forget(key)

    def forget(self, key: Key, done: bool = False) -> None:
        """Drop what was watched for a trial; `done`: it has finished and will not come again."""
        if self._checkpoints is not None:
            self._checkpoints.forget(key, done=done)
