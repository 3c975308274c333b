"""What a device process does: keep a backlog of assignments, train them in one stack at a time, report what happens.

Trials share a stack when their assignments are of one kind: the same stack key and micro-batch. Assignments are taken
in the order of arrival: the first one of another kind waits until the present stack has drained, and so does everything
behind it, so no kind can starve another; only those of its kind and study that wait already move up with it. Where a
probe has found the compiled path fastest, trials start on the eager one while a second process compiles; then the stack
drains, and its successor is compiled: no trial ever changes its program. What a workload's code raises ends its own
trial with outcome `error`, never the process. Whatever the call after which nothing is left to do, it has announced
that no stack runs: the server gives this device no other stack's trials before it knows.

Messages out (each a JSON object with one of these keys):

    started   [trial, attempt] and `program`: the trial is about to enter the stack
    row       a row of its curve
    left      [trial, attempt]: its slot is free; its final message waits until its weights are stored
    ended     the final message on it
    stack     the key of the stack that runs now, null when there is none
    cannot_load  the key of a stack whose workload does not load on this device
    declined  fingerprint of the program of a reproducible study that this device does not run
    width     slots of the stack, after running out of memory made it narrower, or a probe's choice changed it
    restarted    a trial whose checkpoint could not be used begins from zero; sent before anything else on it
    checkpointed  where a trial's state is stored
"""

import logging
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence

import torch

from tuner.engine import Stack, TrialSpec
from tuner.engine.machine.allocator import give_back, return_freed_memory
from tuner.engine.machine.out_of_memory import is_out_of_memory
from tuner.errors import InvalidInput
from tuner.store import SHARED, Damaged
from tuner.study.program import fingerprint
from tuner.worker.channel import Json
from tuner.worker.device.announcer import Announcer, Key
from tuner.worker.device.checkpoints import Checkpoints
from tuner.worker.device.pinned import OtherProgram
from tuner.worker.device.stack_choice import Kind, NotLoaded, StackChoice

log = logging.getLogger(__name__)

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
        """`width` None takes the probe's choice, else 32; `sources` are the user's modules, for compiling."""
        self._send = send
        self._device = device
        self._checkpoints = checkpoints
        self._choice = StackChoice(send, device, width, sources)
        self._draining = False
        self._backlog: deque[Json] = deque()
        self._stack: Stack | None = None
        self._kind: Kind | None = None
        self._announcer = Announcer(send, checkpoints)

    @property
    def busy(self) -> bool:
        """Whether `step` has something to do."""
        training = bool(self._backlog) or (self._stack is not None and self._stack.busy)
        return training or (self._checkpoints is not None and self._checkpoints.pending)

    def assign(self, assignment: Json) -> None:
        """Queue an assignment (the fields of the wire's `Assignment`)."""
        self._backlog.append(assignment)

    def stop(self, key: Key) -> None:
        """Drop a trial from backlog or stack, without a final message."""
        self._backlog = deque(item for item in self._backlog if _key(item) != key)
        slot = self._stack.slot_of(key) if self._stack is not None else None
        if self._stack is not None and slot is not None:
            self._stack.evict(slot)
        self._announcer.forget(key)
        self._rest()

    def kept(self, key: Key) -> None:
        """Note that the server knows of a trial's latest checkpoint."""
        if self._checkpoints is not None:
            self._checkpoints.kept(key)

    def drain(self, patience_s: float) -> None:
        """Checkpoint what is in the stack, within this time."""
        if self._checkpoints is not None:
            if self._stack is not None:
                self._announcer.tell(self._stack.say())
            self._checkpoints.drain(self._stack, self._send, time.monotonic() + patience_s)

    def step(self) -> None:
        """Fill free slots, run one tick, and take a checkpoint if one is due."""
        fits = True
        try:
            self._look_at_compiling()
            self._refill()
            if self._stack is not None:
                self._announcer.tell(self._stack.tick())
        except Exception as error:
            fits = not is_out_of_memory(error)
            if fits:
                raise
        if not fits:
            self._narrow()  # outside the handler: the error's traceback would keep the memory alive
        if self._checkpoints is not None:
            self._checkpoint(self._checkpoints)
        self._rest()

    def _rest(self) -> None:
        """Announce that no stack runs once there is nothing to do: no `step` may follow until a message comes."""
        if not self.busy:
            self._announcer.stack(None)  # the stack stays, in case more of its trials come

    def close(self) -> None:
        """End the compiling process, if there is one."""
        self._choice.close()

    def _look_at_compiling(self) -> None:
        """Let the stack drain once its programs are compiled; drop it when it is empty."""
        compiled = self._choice.newly_compiled()
        if compiled is not None and compiled == (self._kind, self._choice.width):
            self._draining = True
        if self._draining and (self._stack is None or not self._stack.busy):
            self._draining = False
            self._drop_stack()  # the next assignment builds the compiled one

    def _refill(self) -> None:
        while self._backlog and not self._draining:
            head = self._backlog[0]
            same = self._shares_stack(head)
            if self._stack is not None and ((self._stack.busy and not same) or (same and self._stack.free == 0)):
                return
            try:
                if self._stack is None or not same:
                    self._drop_stack()  # its memory is needed
                    if self._choice.load(head) and self._choice.kind(head)[2] == "whole":
                        return  # meanwhile more trials may have come that can enter the stack together
                    self._stack, self._kind = self._build(head), self._choice.kind(head)
                self._announcer.stack(head["stack"])
                self._admit(head, self._stack)
            except OtherProgram as error:
                self._send({"declined": fingerprint(head["program"])})
                self._give_back("study_id", head, str(error))
                continue
            except NotLoaded as error:
                self._send({"cannot_load": head["stack"]})
                self._give_back("stack", head, str(error))
                continue
            except Exception as error:  # the trial's boundary: the workload's own code runs here
                if is_out_of_memory(error):
                    raise
                self._announcer.end(_key(head), "error", error=traceback.format_exc())
            self._backlog.popleft()

    def _give_back(self, field: str, head: Json, why: str) -> None:
        """Give back every assignment that agrees with this one in a field: none of them can run here."""
        given_back = [item for item in self._backlog if item[field] == head[field]]
        self._backlog = deque(item for item in self._backlog if item[field] != head[field])
        for item in given_back:
            self._announcer.end(_key(item), "displaced", error=why)

    def _shares_stack(self, item: Json) -> bool:
        return self._kind is not None and item["stack"] == self._kind[0] and self._choice.kind(item) == self._kind

    def _build(self, head: Json) -> Stack:
        """Build the head's stack; those behind it that can share it move up, so that they enter it together."""
        kind, others = self._choice.kind(head), [item for item in self._backlog if item["stack"] != head["stack"]]
        first = self._backlog.index(others[0]) if others else len(self._backlog)  # nobody overtakes another study
        near = list(self._backlog)[:first]
        own = [item for item in near if self._choice.kind(item) == kind]
        rest = [item for item in near if self._choice.kind(item) != kind]
        self._backlog = deque([*own, *rest, *list(self._backlog)[first:]])
        stack = self._choice.build(head, len(own))
        stack.keep_weights = self._checkpoints is not None and self._checkpoints.scope == SHARED
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
            metric=head["metric"],
        )
        slot = self._resume(head, spec, stack)
        if slot is None:
            slot = stack.admit(spec)
        if self._checkpoints is not None and slot is not None:
            resumed = (head.get("resume") or {}).get("path")
            self._checkpoints.watch(_key(head), head["study"], head["number"], slot, resumed)

    def _resume(self, head: Json, spec: TrialSpec, stack: Stack) -> int | None:
        """Continue a trial from its checkpoint; None, and a message to the server, if that fails."""
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
        """Report what was written since the last step, and take the next checkpoint if one is due."""
        training = self._stack is not None and self._stack.busy
        for message in checkpoints.collect(0.0 if training or self._backlog else PAUSE_S):
            self._send(message)
        found = checkpoints.due(self._stack) if self._stack is not None else None
        if self._stack is None or found is None:
            return
        key, slot = found
        self._announcer.tell(self._stack.say())  # a checkpoint is never reported ahead of its trial's rows
        if self._stack.slot_of(key) == slot:  # unless the trial has just diverged
            checkpoints.take(self._stack, key, slot)

    def _narrow(self) -> None:
        """Halve the stack after running out of memory; its trials go back to the server."""
        held = [] if self._stack is None else [key for key in self._stack.keys() if isinstance(key, tuple)]
        if self._stack is None or not held:
            held = [_key(self._backlog[0])]
        self._backlog = deque(item for item in self._backlog if _key(item) not in held)
        return_freed_memory()
        self._drop_stack()
        if self._choice.width == 1:
            for key in held:
                self._announcer.end(key, "finished", infeasible="oom")
            return
        self._choice.narrow()
        for key in held:
            self._announcer.end(key, "displaced")

    def _drop_stack(self) -> None:
        """Give the stack's memory back now."""
        if self._stack is not None:
            self._stack.close()
        self._stack, self._kind = None, None
        give_back(torch.device(self._device))


def _key(assignment: Json) -> Key:
    return assignment["trial"], assignment["attempt"]
