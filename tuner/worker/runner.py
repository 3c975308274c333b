"""What a device process does: keep a backlog of assignments, train them in one stack at a time, say what happens.

Trials share a stack when their assignments carry the same stack key. Assignments are taken in the order of arrival: the
first one with another key waits until the present stack has drained, and so does everything behind it, so no key can
starve another. What a workload's code raises ends its own trial with outcome `error`, never the process.

Messages out (each a JSON object with one of these keys):

    started   [trial, attempt] and `program`: the trial is about to enter the stack
    row       a row of its curve
    ended     the last word on it
    stack     the key of the stack that runs now, null when there is none
    width     slots of the stack, after running out of memory made it narrower
    restarted    a trial whose checkpoint could not be used begins from zero; told before anything else of it
    checkpointed  where a trial's state lies now
"""

import logging
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import cast

import torch
from torch import Tensor

from tuner import workloads
from tuner.engine import Ended, Event, Stack, TrialSpec
from tuner.errors import InvalidInput
from tuner.store import Damaged
from tuner.worker.channel import Json
from tuner.worker.checkpoints import Checkpoints
from tuner.workloads import Task

log = logging.getLogger(__name__)

Key = tuple[int, int]
"""(trial, attempt)."""

PAUSE_S = 0.05
"""How long an idle step waits for the writer of checkpoints."""


class Runner:
    """Trains assignments on one device; `send` takes the messages out."""

    def __init__(
        self, send: Callable[[Json], None], device: str, width: int, checkpoints: Checkpoints | None = None
    ) -> None:
        self._send = send
        self._checkpoints = checkpoints
        self._device = device
        self._width = width
        self._backlog: deque[Json] = deque()
        self._stack: Stack | None = None
        self._stack_key: str | None = None
        self._announced: str | None = None
        self._tasks: dict[tuple[str, str], Task] = {}

    @property
    def busy(self) -> bool:
        """Whether `step` has something to do."""
        training = bool(self._backlog) or (self._stack is not None and self._stack.busy)
        return training or (self._checkpoints is not None and self._checkpoints.pending)

    def assign(self, assignment: Json) -> None:
        """Queue an assignment (the fields of the wire's `Assignment`)."""
        self._backlog.append(assignment)

    def stop(self, key: Key) -> None:
        """Drop a trial, wherever it is, without a last word."""
        self._backlog = deque(item for item in self._backlog if _key(item) != key)
        slot = self._stack.slot_of(key) if self._stack is not None else None
        if self._stack is not None and slot is not None:
            self._stack.evict(slot)
        if self._checkpoints is not None:
            self._checkpoints.forget(key)

    def kept(self, key: Key) -> None:
        """Note that the server knows of a trial's latest checkpoint."""
        if self._checkpoints is not None:
            self._checkpoints.kept(key)

    def drain(self, patience_s: float) -> None:
        """Checkpoint what is in the stack, within this time."""
        if self._checkpoints is not None:
            if self._stack is not None:
                self._tell(self._stack.say())
            self._checkpoints.drain(self._stack, self._send, time.monotonic() + patience_s)

    def step(self) -> None:
        """Fill free slots, run one tick, and take a checkpoint if one is due."""
        try:
            self._refill()
            if self._stack is not None:
                self._tell(self._stack.tick())
        except torch.OutOfMemoryError:
            self._narrow()
        if self._checkpoints is not None:
            self._checkpoint(self._checkpoints)
        if not self.busy:
            self._announce(None)  # the stack stays, in case that more of its trials come

    def _refill(self) -> None:
        while self._backlog:
            head = self._backlog[0]
            same = self._stack_key == head["stack"]
            if self._stack is not None and ((self._stack.busy and not same) or (same and self._stack.free == 0)):
                return
            try:
                if self._stack is None or not same:
                    self._stack, self._stack_key = self._build(head), head["stack"]
                self._announce(self._stack_key)
                self._admit(head, self._stack)
            except torch.OutOfMemoryError:
                raise
            except Exception:  # the trial's boundary: the workload's own code runs here
                self._end(_key(head), "error", error=traceback.format_exc())
            self._backlog.popleft()

    def _build(self, head: Json) -> Stack:
        self._stack, self._stack_key = None, None  # its memory is needed
        name, params = head["workload"], head["workload_params"]
        address = (name, repr(sorted(params.items())))
        if address not in self._tasks:
            self._tasks = {address: workloads.load(name, params)}
        task = self._tasks[address]
        stack = Stack(task, width=self._width, micro_batch=head["micro_batch"], device=self._device)
        stack.keep_weights = self._checkpoints is not None
        return stack

    def _admit(self, head: Json, stack: Stack) -> None:
        self._send({"started": [head["trial"], head["attempt"]], "program": stack.program})
        spec = TrialSpec(
            key=_key(head),
            params=head["params"],
            seed=head["seed"],
            examples=head["examples"],
            rungs=tuple(head["rungs"]),
            report_every=head["report_every"],
            divergence_factor=head["divergence_factor"],
        )
        slot = self._resume(head, spec, stack)
        if slot is None:
            slot = stack.admit(spec)
        if self._checkpoints is not None and slot is not None:
            self._checkpoints.watch(_key(head), head["study"], head["number"], slot)

    def _resume(self, head: Json, spec: TrialSpec, stack: Stack) -> int | None:
        """Continue a trial from its checkpoint; None, and a message, when that cannot be done."""
        resume = head.get("resume")
        if resume is None:
            return None
        try:
            if self._checkpoints is None:
                raise Damaged("this worker has no checkpoint store")
            return stack.resume(self._checkpoints.load(resume, spec))
        except (Damaged, InvalidInput) as error:
            log.warning("a trial begins from zero: %s", error, extra={"action": "restart", "trial": head["trial"]})
            self._send({"restarted": {"trial": head["trial"], "attempt": head["attempt"], "why": str(error)}})
            return None

    def _checkpoint(self, checkpoints: Checkpoints) -> None:
        """Say what was written since the last step, and take the next checkpoint if one is due."""
        training = self._stack is not None and self._stack.busy
        for message in checkpoints.collect(0.0 if training or self._backlog else PAUSE_S):
            self._send(message)
        found = checkpoints.due(self._stack) if self._stack is not None else None
        if self._stack is None or found is None:
            return
        key, slot = found
        self._tell(self._stack.say())  # a checkpoint is never told ahead of its trial's rows
        if self._stack.slot_of(key) == slot:  # unless the trial has just diverged
            checkpoints.take(self._stack, key, slot)

    def _announce(self, key: str | None) -> None:
        if key != self._announced:
            self._announced = key
            self._send({"stack": key})

    def _narrow(self) -> None:
        """Halve the stack after running out of memory; its trials go back to the server."""
        held = [] if self._stack is None else [key for key in self._stack.keys() if isinstance(key, tuple)]
        if self._stack is None or not held:
            held = [_key(self._backlog.popleft())]
        self._stack, self._stack_key = None, None
        if self._width == 1:
            for key in held:
                self._end(key, "finished", infeasible="oom")
            return
        self._width //= 2
        log.warning("out of memory: the stack is halved", extra={"action": "narrow", "width": self._width})
        self._send({"width": self._width})
        for key in held:
            self._end(key, "displaced")

    def _tell(self, events: list[Event]) -> None:
        for event in events:
            trial, attempt = cast(Key, event.key)
            if isinstance(event, Ended):
                self._end(
                    (trial, attempt),
                    event.outcome,
                    event.infeasible,
                    event.step,
                    event.examples,
                    event.error,
                    event.weights,
                )
                continue
            row = {name: getattr(event, name) for name in ("step", "examples", "elapsed_s")}
            noise = None if event.noise is None else asdict(event.noise)
            metrics = dict(event.metrics)
            self._send({"row": {"trial": trial, "attempt": attempt, **row, "metrics": metrics, "noise": noise}})

    def _end(
        self,
        key: Key,
        outcome: str,
        infeasible: str | None = None,
        step: int = 0,
        examples: int = 0,
        error: str | None = None,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        message = {"trial": key[0], "attempt": key[1], "outcome": outcome, "infeasible": infeasible}
        ended = {**message, "step": step, "examples": examples, "error": error}
        if self._checkpoints is not None and weights is not None and self._checkpoints.watches(key):
            self._checkpoints.keep_weights(key, ended, weights)
        else:
            self._send({"ended": ended})
        if self._checkpoints is not None:
            self._checkpoints.forget(key)


def _key(assignment: Json) -> Key:
    return assignment["trial"], assignment["attempt"]
