"""What a device process does: keep a backlog of assignments, train them in one stack at a time, say what happens.

Trials share a stack when their assignments carry the same stack key. Assignments are taken in the order of arrival: the
first one with another key waits until the present stack has drained, and so does everything behind it, so no key can
starve another. Where a probe has found the compiled path fastest, trials start on the eager one while a second process
compiles; then the stack drains, and its successor is compiled: no trial ever changes its program. What a workload's
code raises ends its own trial with outcome `error`, never the process.

Messages out (each a JSON object with one of these keys):

    started   [trial, attempt] and `program`: the trial is about to enter the stack
    row       a row of its curve
    left      [trial, attempt]: its slot is free; the last word on it waits until its weights are stored
    ended     the last word on it
    stack     the key of the stack that runs now, null when there is none
    slots     slot-ticks of each study so far: `study` (its id), `busy`, `offered` (see `slot_use.py`)
    declined  fingerprint of the program of a reproducible study that this device does not run
    width     slots of the stack, after running out of memory made it narrower, or a probe's choice changed it
    restarted    a trial whose checkpoint could not be used begins from zero; told before anything else of it
    checkpointed  where a trial's state lies now
"""

import logging
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import cast

import torch
from torch import Tensor

from tuner import workloads
from tuner.choice import key, stored
from tuner.engine import Ended, Event, Stack, TrialSpec
from tuner.engine.allocator import give_back, return_freed_memory
from tuner.engine.out_of_memory import is_out_of_memory
from tuner.engine.probe import place_of
from tuner.errors import InvalidInput
from tuner.store import SHARED, Damaged
from tuner.study.program import Program, fingerprint
from tuner.worker.channel import Json
from tuner.worker.checkpoints import Checkpoints
from tuner.worker.child import DEFAULT_WIDTH
from tuner.worker.pinned import OtherProgram, check, check_whole
from tuner.worker.slot_use import SlotUse, Wish
from tuner.worker.warming import Warming
from tuner.workloads import Task

log = logging.getLogger(__name__)

Key = tuple[int, int]
"""(trial, attempt)."""

Programs = tuple[str | None, int]
"""(stack key, width): what a compiled stack is compiled for."""

PAUSE_S = 0.05
"""How long an idle step waits for the writer of checkpoints."""


class Runner:
    """Trains assignments on one device; `send` takes the messages out."""

    def __init__(
        self,
        send: Callable[[Json], None],
        device: str,
        width: int | None,
        checkpoints: Checkpoints | None = None,
        sources: Sequence[str] = (),
    ) -> None:
        """`width` None is the probe's, else 32; `sources` are the user's modules, which a compiling process needs."""
        self._send = send
        self._sources = list(sources)
        self._checkpoints = checkpoints
        self._width_is_free = width is None
        self._warming: Warming | None = None
        self._compiled: dict[Programs, bool] = {}
        """Programs that the second process was asked for, and whether they are there."""
        self._asked: Programs | None = None
        self._draining = False
        self._device = device
        self._width = width or DEFAULT_WIDTH
        self._backlog: deque[Json] = deque()
        self._stack: Stack | None = None
        self._stack_key: str | None = None
        self._announced: str | None = None
        self._tasks: dict[tuple[str, str], Task] = {}
        self._use = SlotUse()

    @property
    def busy(self) -> bool:
        """Whether `step` has something to do."""
        training = bool(self._backlog) or (self._stack is not None and self._stack.busy)
        return training or (self._checkpoints is not None and self._checkpoints.pending)

    def assign(self, assignment: Json) -> None:
        """Queue an assignment (the fields of the wire's `Assignment`)."""
        self._backlog.append(assignment)
        self._use.assign(_key(assignment), assignment["study_id"])

    def demand(self, wanted: list[Json]) -> None:
        """Take in what studies could put here (the fields of the wire's `Demand`)."""
        self._use.demand({one["study"]: Wish(one["stack"], one["most"], one["more"]) for one in wanted})

    def slept(self, seconds: float) -> None:
        """Count a time in which there was nothing to do."""
        self._look_at_slots()
        self._use.slept(seconds)

    def stop(self, key: Key) -> None:
        """Drop a trial, wherever it is, without a last word."""
        self._backlog = deque(item for item in self._backlog if _key(item) != key)
        slot = self._stack.slot_of(key) if self._stack is not None else None
        if self._stack is not None and slot is not None:
            self._stack.evict(slot)
        self._forget(key)

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
        fits = True
        try:
            self._look_at_warming()
            self._refill()
            if self._stack is not None:
                self._tick(self._stack)
        except Exception as error:
            fits = not is_out_of_memory(error)
            if fits:
                raise
        if not fits:
            self._narrow()  # out here: the error's traceback holds the memory that is to be given back
        if self._checkpoints is not None:
            self._checkpoint(self._checkpoints)
        if not self.busy:
            self._announce(None)  # the stack stays, in case that more of its trials come
        if rows := self._use.news(now_s=time.monotonic(), busy=self.busy):
            self._send({"slots": rows})

    def close(self) -> None:
        """End the compiling process, if there is one."""
        if self._warming is not None:
            self._warming.close()
            self._warming = None

    def _look_at_warming(self) -> None:
        """Note that the programs are compiled; switch when the stack is empty."""
        result = self._warming.result() if self._warming is not None else None
        if result is not None and self._asked is not None:
            self.close()
            self._compiled[self._asked] = result
            self._draining = result and self._asked == (self._stack_key, self._width)
        if self._draining and (self._stack is None or not self._stack.busy):
            self._draining = False
            self._drop_stack()  # the next assignment builds the compiled one

    def _tick(self, stack: Stack) -> None:
        self._look_at_slots()
        begun = time.monotonic()
        seated = stack.free < stack.width
        events = stack.tick()
        if seated:
            self._use.tick(time.monotonic() - begun)
        self._tell(events)

    def _look_at_slots(self) -> None:
        if self._use.changed:
            seated = [] if self._stack is None else cast(list[Key], self._stack.keys())
            waiting = [_key(item) for item in self._backlog if item["stack"] == self._stack_key]
            self._use.occupy(self._stack_key, self._width, seated, waiting)

    def _refill(self) -> None:
        while self._backlog and not self._draining:
            head = self._backlog[0]
            same = self._stack_key == head["stack"]
            if self._stack is not None and ((self._stack.busy and not same) or (same and self._stack.free == 0)):
                return
            try:
                if self._stack is None or not same:
                    self._stack, self._stack_key = self._build(head), head["stack"]
                self._announce(self._stack_key)
                self._admit(head, self._stack)
            except OtherProgram as error:
                self._decline(head, str(error))
                continue
            except Exception as error:  # the trial's boundary: the workload's own code runs here
                if is_out_of_memory(error):
                    raise
                self._end(_key(head), "error", error=traceback.format_exc())
            self._backlog.popleft()

    def _decline(self, head: Json, why: str) -> None:
        """Give back all trials of a study whose program this device does not run."""
        self._send({"declined": fingerprint(head["program"])})
        given_back = [item for item in self._backlog if item["study_id"] == head["study_id"]]
        self._backlog = deque(item for item in self._backlog if item["study_id"] != head["study_id"])
        for item in given_back:
            self._end(_key(item), "displaced", error=why)

    def _build(self, head: Json) -> Stack:
        self._drop_stack()  # its memory is needed
        name, params = head["workload"], head["workload_params"]
        address = (name, repr(sorted(params.items())))
        if address not in self._tasks:
            self._tasks = {address: workloads.load(name, params)}
        task, size = self._tasks[address], head["micro_batch"]
        pinned = head["program"]
        path = self._path(head) if pinned is None else self._pinned_path(pinned)
        stack = Stack(task, width=self._width, micro_batch=size, device=self._device, path=path)
        if pinned is not None:
            check_whole(pinned, stack.program)
        stack.keep_weights = self._checkpoints is not None and self._checkpoints.scope == SHARED
        return stack

    def _pinned_path(self, pinned: Program) -> str:
        """Prepare for the program of a reproducible study: its width, where that is free, and its path."""
        own: Program = {"device": torch.device(self._device).type, "threads": torch.get_num_threads()}
        check(pinned, own if self._width_is_free else {**own, "width": self._width})
        if pinned["width"] != self._width:
            self._width = int(pinned["width"] or 1)
            self._send({"width": self._width})
        return str(pinned["path"])

    def _path(self, head: Json) -> str:
        """Take over what a probe chose for this stack: its width where that is free, and its path."""
        name, params, size = head["workload"], head["workload_params"], head["micro_batch"]
        found = stored(key(name, params, size, place_of(torch.device(self._device))))
        choice = found.with_threads(torch.get_num_threads()) if found is not None else None
        width = DEFAULT_WIDTH if choice is None else choice.best.width
        if self._width_is_free and width != self._width:
            self._width = width
            self._send({"width": self._width})
        if choice is None:
            return "auto"
        path = choice.path_at(self._width)
        if path != "compiled":
            return "auto" if path == "eager" else path
        if head["reproducible"]:
            return path  # a reproducible study waits for the compiler here: it cannot change its program later
        programs = head["stack"], self._width
        if programs in self._compiled:
            return "compiled" if self._compiled[programs] else "auto"
        if self._warming is not None and self._asked == programs:
            return "auto"
        self.close()
        self._asked = programs
        wanted = {"workload": name, "workload_params": params, "micro_batch": size, "width": self._width}
        place = {"device": self._device, "threads": torch.get_num_threads(), "workloads": self._sources}
        self._warming = Warming(wanted | place)
        return "auto"

    def _admit(self, head: Json, stack: Stack) -> None:
        self._send({"started": [head["trial"], head["attempt"]], "program": stack.program})
        self._use.changed = True
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
            resumed = (head.get("resume") or {}).get("path")
            self._checkpoints.watch(_key(head), head["study"], head["number"], slot, resumed)

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
            held = [_key(self._backlog[0])]
        self._backlog = deque(item for item in self._backlog if _key(item) not in held)
        return_freed_memory()
        self._drop_stack()
        if self._width == 1:
            for key in held:
                self._end(key, "finished", infeasible="oom")
            return
        self._width, self._width_is_free = self._width // 2, False
        log.warning("out of memory: the stack is halved", extra={"action": "narrow", "width": self._width})
        self._send({"width": self._width})
        for key in held:
            self._end(key, "displaced")

    def _drop_stack(self) -> None:
        """Give the stack's memory back now."""
        if self._stack is not None:
            self._stack.close()
        self._stack, self._stack_key = None, None
        give_back(torch.device(self._device))

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
            self._send({"left": list(key)})
            self._checkpoints.keep_weights(key, ended, weights)
        else:
            self._send({"ended": ended})
        self._forget(key, done=outcome == "finished")

    def _forget(self, key: Key, done: bool = False) -> None:
        self._use.forget(key)
        if self._checkpoints is not None:
            self._checkpoints.forget(key, done=done)


def _key(assignment: Json) -> Key:
    return assignment["trial"], assignment["attempt"]
