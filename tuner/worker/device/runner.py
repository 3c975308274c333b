"""What a device process does: keep a backlog of assignments, train them in stacks, report what happens.

Trials share a stack when their assignments are of one kind: the same stack key and micro-batch. Stacks of several kinds
are held at once and take turns (`stacks.py`), so no study waits for another's end. A trial enters the first stack of
its kind that takes it; where there is none, one is opened, unless as many trials of its key train already as were found
to be fastest, or the memory is not there: then it waits. Where a better program was compiled meanwhile, later trials
enter a stack that runs it, and the old one goes when it is empty: no trial ever changes its program. What a workload's
code raises ends its own trial with outcome `error`, never the process. Whatever the call after which nothing is left to
do, it has announced which stacks are held: the server gives this device work by that.

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
from collections.abc import Callable

import torch

from tuner import workloads
from tuner.engine import Ended, Event, Stack, TrialSpec
from tuner.engine.machine.allocator import give_back, return_freed_memory
from tuner.engine.machine.out_of_memory import is_out_of_memory
from tuner.errors import InvalidInput
from tuner.store import SHARED, Damaged
from tuner.study.program import fingerprint
from tuner.worker.channel import Json
from tuner.worker.device.announcer import Announcer, Key
from tuner.worker.device.checkpoints import Checkpoints
from tuner.worker.device.loading import Address, Loaded, Loading, NotLoaded
from tuner.worker.device.pinned import OtherProgram
from tuner.worker.device.stack_choice import Chosen, Given, Kind, StackChoice, rule_of
from tuner.worker.device.stacks import MOST, Held, Stacks

log = logging.getLogger(__name__)

PAUSE_S = 0.05
"""How long an idle step waits for the writer of checkpoints."""
PREPARED = 1000
"""Trials for which a stack is built without work: enough to be worth it."""
NEWS_S = 1.0
"""How often to see whether a better program has been compiled."""


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
        self._choice = StackChoice(device, given or Given())
        self._stacks = Stacks(self._device)
        self._announcer = Announcer(send, checkpoints)
        self._backlog: list[Json] = []
        self._proven: set[Address] = set()
        """Workloads of which a trial was evaluated: more than one may train at once."""
        self._widths: dict[str, int] = {}
        """Stack key -> how many of its trials may train here at once."""
        self._alone: set[Kind] = set()
        """Kinds that ran out of memory beside others."""
        self._changed = False
        """Whether something waiting may find a place now."""
        self._news_at = 0.0
        self._expects_news = False

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
        if found is not None:
            held, slot = found
            held.stack.evict(slot)
        self._forget(key)
        self._announcer.forget(key)
        self._announce()

    def kept(self, key: Key) -> None:
        """Note that the server knows of a trial's latest checkpoint."""
        if self._checkpoints is not None:
            self._checkpoints.kept(key)

    def drain(self, patience_s: float) -> None:
        """Checkpoint what is in the stacks, within this time."""
        if self._checkpoints is not None:
            for held in self._stacks:
                self._announcer.tell(held.stack.say())
            self._checkpoints.drain(self._stacks.with_trial, self._send, time.monotonic() + patience_s)

    def step(self) -> None:
        """Fill free slots, run one tick of the stack whose turn it is, and take a checkpoint if one is due."""
        self._look_for_news()
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
        if self._checkpoints is not None:
            self._checkpoint(self._checkpoints)
        self._announce()

    def close(self) -> None:
        """End the compiling process, if there is one."""
        self._choice.close()

    @property
    def patience_s(self) -> float | None:
        """How long to wait for messages until `prepare` may find something to do; None: as long as it takes."""
        return NEWS_S if self._expects_news else None

    def prepare(self) -> None:
        """Without work: build the stack whose program has just been compiled, so that the next trials find it."""
        news = self._choice.news()
        for held in sorted(self._stacks, key=lambda held: -self._choice.spent_s(held.kind)):
            head = held.latest
            if held.chosen.path == "compiled" or head is None or head["reproducible"]:
                continue
            chosen = self._choice.choose({**head, "remaining": PREPARED}, held.loaded, 0) if news else held.chosen
            if chosen.path == "compiled":
                self._stacks.drop(held)
                self._hold(head, held.loaded, held.kind, chosen, chosen.width).seen = held.seen
            else:
                self._choice.compile_what_pays(head, held.loaded, held.chosen, held.seen)
        self._expects_news = self._choice.compiling
        self._announce()

    def _tick(self, held: Held) -> None:
        events, seconds = self._stacks.tick(held)
        if held.chosen.path != "compiled":
            self._choice.spent(held.kind, seconds)
        for event in events:
            if isinstance(event, Ended):
                self._forget(event.key)
        if held.loaded.address not in self._proven and any(map(_proves, events)):
            self._proven.add(held.loaded.address)
            self._widths |= {one.key: one.chosen.width for one in self._stacks if one.loaded is held.loaded}
            self._changed = True
        self._announcer.tell(events)
        if held.closing and not held.busy:
            self._stacks.drop(held)

    def _forget(self, key: object) -> None:
        """Note that a trial is in no stack any more: others may enter."""
        self._stacks.left(key)
        self._changed = True

    def _look_for_news(self) -> None:
        """Have compiled what pays; close the stacks for which something better has been compiled."""
        now = time.monotonic()
        if now < self._news_at:
            return
        self._news_at = now + NEWS_S
        news = self._choice.news()
        for held in list(self._stacks):
            if held.chosen.path == "compiled" or held.closing:
                continue
            if not held.trials:
                if news:
                    self._stacks.drop(held)  # it is as easily built again, and perhaps there is a better one
                continue
            waiting = [item for item in self._backlog if item["stack"] == held.key]
            latest = [*held.trials.values(), *waiting][-1]
            if latest["reproducible"]:
                continue
            if news and self._choice.choose(latest, held.loaded, len(held.trials)).path == "compiled":
                held.closing = self._changed = True
                continue
            rules = held.seen | {rule_of(item["params"]): item["params"] for item in waiting}
            self._choice.compile_what_pays(latest, held.loaded, held.chosen, rules)
        self._expects_news = self._choice.compiling

    def _refill(self) -> None:
        """Find a place for what waits, in the order of arrival within each kind."""
        self._changed, full = False, set()
        for head in list(self._backlog):
            loaded = self._loading.known(head)
            if loaded is not None and (self._choice.kind(head, loaded), str(head["params"].get("optimizer"))) in full:
                continue
            if not any(item is head for item in self._backlog):
                continue  # given back with another
            try:
                if loaded is None:
                    used = {held.loaded.address for held in self._stacks}
                    self._loading.load(head, used)
                    self._changed = True  # meanwhile more may have come, or it may have been stopped
                    return
                placed = self._place(head, loaded)
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
                full.add((self._choice.kind(head, loaded), str(head["params"].get("optimizer"))))

    def _place(self, head: Json, loaded: Loaded) -> bool:
        """Put a trial into a stack; False if there is no place now."""
        kind = self._choice.kind(head, loaded)
        if not self._is_proven(loaded) and self._stacks.trials_of(loaded.address):
            return False  # its first trial finds the mistakes that all of them would make
        places = [held for held in self._stacks if held.kind == kind and held.takes(head["params"])]
        held = max(places, key=lambda held: held.rules is not None, default=None) or self._open(head, loaded, kind)
        if held is None:
            return False
        self._widths.setdefault(held.key, held.chosen.width if self._is_proven(loaded) else 1)  # it was a spare one
        self._admit(head, held)
        return True

    def _is_proven(self, loaded: Loaded) -> bool:
        """Whether a trial of a workload has been evaluated here, or it is one of ours."""
        return loaded.address in self._proven or workloads.is_built_in(loaded.workload)

    def _open(self, head: Json, loaded: Loaded, kind: Kind) -> Held | None:
        """Open a stack for a trial; None if that has to wait."""
        chosen = self._choice.choose(head, loaded, self._stacks.slots(kind[0]))
        self._widths[kind[0]] = chosen.width if self._is_proven(loaded) else 1
        while self._stacks.slots(kind[0]) >= chosen.width:
            if not self._stacks.drop_spare(kind[0]):
                return None
        if not self._has_room(head, loaded, kind, chosen):
            return None
        width = chosen.width
        if kind[2] == "whole" and chosen.path != "compiled" and not head["reproducible"]:
            same = [item for item in self._backlog if item["stack"] == kind[0]]
            waiting = sum(self._choice.kind(item, loaded) == kind for item in same)
            width = min(width - self._stacks.slots(kind[0]), waiting)  # of each batch size come fewer trials
        self._announce()  # more of its trials come while it is built
        return self._hold(head, loaded, kind, chosen, width)

    def _hold(self, head: Json, loaded: Loaded, kind: Kind, chosen: Chosen, width: int) -> Held:
        stack = self._choice.build(head, loaded, chosen, width)
        stack.keep_weights = self._checkpoints is not None and self._checkpoints.scope == SHARED
        rules = chosen.rules if stack.path == "compiled" else None
        held = Held(kind, loaded, chosen, stack, rules)
        self._stacks.add(held)
        return held

    def _has_room(self, head: Json, loaded: Loaded, kind: Kind, chosen: Chosen) -> bool:
        """Make room for one more stack by dropping spare ones; False if what trains leaves none."""
        others = [held.kind for held in self._stacks if held.busy]
        if others and (kind in self._alone or self._alone & set(others)):
            return False
        while len(self._stacks) >= MOST:
            if not self._stacks.drop_spare():
                return False
        needed = self._choice.bytes(head, loaded, chosen)
        while len(self._stacks) and (room := self._choice.room()) is not None and needed > room:
            if not self._stacks.drop_spare():
                return False
        return True

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
            self._stacks.admitted(held, head)
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
        self._announcer.tell(held.stack.say())  # a checkpoint is never reported ahead of its trial's rows
        if held.stack.slot_of(key) == slot:  # unless the trial has just diverged
            checkpoints.take(held.stack, key, slot)

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
        oom = self._make_smaller(kind, width)
        for key in trials:
            self._forget(key)
            self._announcer.end(key, *(("finished", "oom") if oom else ("displaced",)))

    def _does_not_fit(self, head: Json) -> None:
        """React to a stack that could not be opened for lack of memory."""
        loaded = self._loading.known(head)
        kind = None if loaded is None else self._choice.kind(head, loaded)
        return_freed_memory()
        give_back(self._device)
        self._changed = True
        if kind is None or self._make_smaller(kind, self._choice.widest(head, kind)):
            self._backlog.remove(head)
            self._announcer.end(_key(head), "finished", "oom")

    def _make_smaller(self, kind: Kind, width: int) -> bool:
        """Let a kind train alone next time, or in half the width; return whether it is as small as can be."""
        if self._stacks.busy and kind not in self._alone:
            self._alone.add(kind)
            return False
        while self._stacks.drop_spare():
            pass
        if width == 1:
            return True
        self._choice.narrow(kind, width)
        self._widths[kind[0]] = width // 2
        return False

    def _announce(self) -> None:
        """Say which stacks train or are wanted, and whether one of another key may come.

        Spare stacks are not named: a study's stacks would be dealt to every device that had them once, each half empty.
        """
        keys = {held.key for held in self._stacks if held.busy} | {item["stack"] for item in self._backlog}
        self._widths = {key: width for key, width in self._widths.items() if key in keys}
        self._announcer.stacks(self._widths, self._stacks.may_open)


def _proves(event: Event) -> bool:
    """Whether an event shows that a workload can be trained and evaluated."""
    if isinstance(event, Ended):
        return event.outcome == "finished"
    return any(name != "train_loss" for name in event.metrics)


def _key(assignment: Json) -> Key:
    return assignment["trial"], assignment["attempt"]
