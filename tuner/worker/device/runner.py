"""What a device process does: keep a backlog of assignments, train them in stacks, report what happens.

Trials share a stack when their assignments are of one kind: the same stack key and micro-batch. Stacks of several kinds
are held at once and take turns (`stacks.py`), so no study waits for another's end; which one a trial enters is decided
in `placing.py`, and no trial ever changes its program. What a workload's code raises ends its own trial with outcome
`error`, never the process. Whatever the call after which nothing is left to do, it has announced which stacks train:
the server gives this device work by that.

Messages out (each a JSON object with one of these keys):

    started   [trial, attempt] and `program`: the trial is about to enter a stack
    row       a row of its curve
    left      [trial, attempt]: its slot is free; its final message waits until its weights are stored
    ended     the final message on it
    stacks    stack key -> how many trials of it this process takes; with `opens`, whether it takes one of another key
    cannot_load  the key of a stack whose workload does not load on this device
    declined  fingerprint of the program of a reproducible study that this device does not run
    restarted    a trial whose checkpoint could not be used begins from zero; sent before anything else on it
    checkpointed  where a trial's state is stored
"""

import logging
import time
import traceback
from collections.abc import Callable, Sequence

import torch

from tuner.engine import Ended, Event, Stack, TrialSpec
from tuner.engine.machine.allocator import give_back, return_freed_memory
from tuner.engine.machine.out_of_memory import is_out_of_memory
from tuner.errors import InvalidInput
from tuner.store import SHARED, Damaged
from tuner.study.program import fingerprint
from tuner.worker.channel import Json
from tuner.worker.device.announcer import Announcer, Key
from tuner.worker.device.checkpoints import Checkpoints
from tuner.worker.device.loading import Loading, NotLoaded
from tuner.worker.device.pinned import OtherProgram
from tuner.worker.device.placing import NEWS_S, Placing
from tuner.worker.device.stack_choice import Given, rule_of
from tuner.worker.device.stacks import Held, Stacks

log = logging.getLogger(__name__)

PAUSE_S = 0.05
"""How long an idle step waits for the writer of checkpoints."""


class Runner:
    """Trains assignments on one device; `send` takes the messages out."""

    def __init__(
        self,
        send: Callable[[Json], None],
        device: str,
        given: Given | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self._send = send
        self._checkpoints = checkpoints
        self._device = torch.device(device)
        self._loading = Loading(self._device)
        self._stacks = Stacks(self._device)
        keep_weights = checkpoints is not None and checkpoints.scope == SHARED
        self._placing = Placing(device, given or Given(), self._stacks, keep_weights=keep_weights)
        self._announcer = Announcer(send, checkpoints)
        self._leaving: set[Key] = set()
        """Trials to be paused."""
        self._backlog: list[Json] = []
        self._changed = False
        """Whether something waiting may find a place now."""

    @property
    def busy(self) -> bool:
        """Whether `step` has something to do."""
        return bool(self._backlog) or self._stacks.busy or (self._checkpoints is not None and self._checkpoints.pending)

    def assign(self, assignment: Json) -> None:
        """Queue an assignment (the fields of the wire's `Assignment`)."""
        self._backlog.append(assignment)
        self._changed = True

    def stop(self, key: Key) -> None:
        """Drop a trial from backlog or stack, without a final message."""
        self._backlog = [item for item in self._backlog if _key(item) != key]
        found = self._stacks.with_trial(key)
        if found is not None and found[0].stack.slot_of(key) == found[1]:  # unless it has just ended
            found[0].stack.evict(found[1])
        self._forget(key)
        self._announcer.forget(key)
        self._announce()

    def pause(self, key: Key) -> None:
        """End a trial as `paused`: at once if it waits, else after its step, when its state is stored."""
        waiting = [item for item in self._backlog if _key(item) == key]
        if waiting:
            self._backlog.remove(waiting[0])
            self._announcer.end(key, "paused")
            self._announce()
        elif self._stacks.with_trial(key) is not None:
            self._leaving.add(key)

    def go_on(self, key: Key) -> None:
        """Do not pause a trial after all, if it has not left yet."""
        self._leaving.discard(key)

    def kept(self, key: Key) -> None:
        """Note that the server knows of a trial's latest checkpoint."""
        if self._checkpoints is not None:
            self._checkpoints.kept(key)

    def drain(self, patience_s: float) -> None:
        """Checkpoint what is in the stacks, within this time."""
        if self._checkpoints is not None:
            for held in self._stacks:
                self._tell(held, held.stack.say())
            self._checkpoints.drain(self._stacks.with_trial, self._send, time.monotonic() + patience_s)

    def step(self) -> None:
        """Fill free slots, run one tick of the stack whose turn it is, and take a checkpoint if one is due."""
        self._changed |= self._placing.look_for_news(self._backlog)
        if self._changed:
            self._refill()
        held, fits = self._stacks.next(), True
        if held is not None:
            try:
                self._tick(held)
            except Exception as error:
                fits = not is_out_of_memory(error)
                if fits:
                    raise
            if not fits:
                self._displace(held)  # outside the handler: the error's traceback would keep the memory alive
                held = None
                give_back(self._device)
        for key in sorted(self._leaving):
            self._leave(key)
        if self._checkpoints is not None:
            self._checkpoint(self._checkpoints)
        self._announce()

    def close(self) -> None:
        """End the compiling process, if there is one."""
        self._placing.choice.close()

    @property
    def patience_s(self) -> float | None:
        """How long to wait for messages until `prepare` may find something to do; None: as long as it takes."""
        return NEWS_S if self._placing.expects_news else None

    def prepare(self) -> None:
        """Without work: build the stack whose program has just been compiled, so that the next trials find it."""
        self._placing.prepare()
        self._announce()

    def _tick(self, held: Held) -> None:
        events, seconds = self._stacks.tick(held)
        if held.chosen.path != "compiled":
            self._placing.choice.spent(held.kind, seconds)
        self._tell(held, events)
        if held.closing and not held.busy:
            self._stacks.drop(held)

    def _tell(self, held: Held, events: Sequence[Event]) -> None:
        """Pass on what a stack says of its trials, and note which have left it."""
        for event in events:
            if isinstance(event, Ended):
                self._forget(event.key)
        self._changed |= self._placing.saw(held, events)
        self._announcer.tell(events)

    def _forget(self, key: object) -> None:
        """Note that a trial is in no stack any more: others may enter."""
        self._stacks.left(key)
        self._leaving.discard(key)
        self._changed = True

    def _refill(self) -> None:
        """Find a place for what waits, in the order of arrival within each kind."""
        self._changed, full = False, set()
        for head in list(self._backlog):
            loaded = self._loading.known(head)
            if loaded is not None and (self._placing.choice.kind(head, loaded), rule_of(head["params"])) in full:
                continue
            if not any(item is head for item in self._backlog):
                continue  # given back with another
            try:
                if loaded is None:
                    used = {held.loaded.address for held in self._stacks}
                    self._loading.load(head, used)
                    self._changed = True  # meanwhile more may have come, or it may have been stopped
                    return
                held = self._placing.place(head, loaded, self._backlog, self._announce)
                placed: bool | None = held is not None
                if held is not None:
                    self._admit(head, held)
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
                    placed = None
                else:
                    placed = True
                    self._announcer.end(_key(head), "error", error=traceback.format_exc())
            if placed is None:
                self._does_not_fit(head)
                return
            if placed:
                self._backlog.remove(head)
            elif loaded is not None:
                full.add((self._placing.choice.kind(head, loaded), rule_of(head["params"])))

    def _admit(self, head: Json, held: Held) -> None:
        stack = held.stack
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
        if slot is not None:
            self._stacks.admitted(held, head, slot)
        if self._checkpoints is not None and slot is not None:
            resumed = (head.get("resume") or {}).get("path")
            self._checkpoints.watch(_key(head), head["study"], head["number"], resumed)

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
        for message in checkpoints.collect(0.0 if self._stacks.busy or self._backlog else PAUSE_S):
            self._send(message)
        key = checkpoints.due(self._stacks.with_trial)
        found = None if key is None else self._stacks.with_trial(key)
        if key is None or found is None:
            return
        held, slot = found
        self._tell(held, held.stack.say())  # a checkpoint is never reported ahead of its trial's rows
        if held.stack.slot_of(key) == slot:  # unless the trial has just diverged
            checkpoints.take(held.stack, key, slot)

    def _leave(self, key: Key) -> None:
        """Let a trial leave that is to be paused, unless it is amid a step or the writer is busy: then it goes on."""
        found = self._stacks.with_trial(key)
        assert found is not None
        (held, slot), store = found, self._checkpoints
        if store is not None and (store.full or not held.stack.between_steps(slot)):
            return
        self._tell(held, held.stack.say())  # a checkpoint is never reported ahead of its trial's rows
        if held.stack.slot_of(key) == slot:  # unless it has just diverged
            self._announcer.pause(key, held.stack, slot)
            held.stack.evict(slot)
            self._forget(key)

    def _give_back(self, field: str, head: Json, why: str) -> None:
        """Give back every assignment that agrees with this one in a field: none of them can run here."""
        given_back = [item for item in self._backlog if item[field] == head[field]]
        self._backlog = [item for item in self._backlog if item[field] != head[field]]
        for item in given_back:
            self._announcer.end(_key(item), "displaced", error=why)

    def _displace(self, held: Held) -> None:
        """Drop a stack that ran out of memory; its trials go back to the server."""
        trials = [key for key in held.stack.keys() if isinstance(key, tuple)]
        kind, width = held.kind, held.stack.width
        return_freed_memory()
        self._stacks.drop(held)
        oom = self._placing.make_smaller(kind, width)
        for key in trials:
            self._forget(key)
            self._announcer.end(key, *(("finished", "oom") if oom else ("displaced",)))

    def _does_not_fit(self, head: Json) -> None:
        """React to a stack that could not be opened for lack of memory."""
        loaded = self._loading.known(head)
        kind = None if loaded is None else self._placing.choice.kind(head, loaded)
        return_freed_memory()
        give_back(self._device)
        self._changed = True
        if kind is None or self._placing.make_smaller(kind, self._placing.choice.widest(head, kind)):
            self._backlog.remove(head)
            self._announcer.end(_key(head), "finished", "oom")

    def _announce(self) -> None:
        """Say which stacks train or are wanted, and whether one of another key may come."""
        self._announcer.stacks(self._placing.widths(self._backlog), self._stacks.may_open)


def _key(assignment: Json) -> Key:
    return assignment["trial"], assignment["attempt"]
