"""Which stack a device process builds for an assignment: width, path and threads, and when a compiled one is better.

Nobody has to ask for the best program. A workload's first assignment is measured for a moment (`first_look`); while it
trains, a second process compiles the program that pays, and times it; later stacks take it. What was learned is kept
per machine and workload (`probe/choice.py`), for every process of this machine. Invariants:

- A width set by the user is final; so is one forced by running out of memory.
- A stack is never wider than the trials that can be in flight on this process.
- A reproducible study gets its pinned program exactly, or `OtherProgram` is raised. What pins it, its first trial's
  program, depends on the document and the machine, not on what was measured.
- A model whose loss depends on the batch sees whole batches, as in the user's own script, unless the study's document
  asks for a micro-batch. Its trials share a stack only with those of the same batch size.
- No program is compiled for less work than compiling costs, and only the rules that the studies use are.
"""

import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch

from tuner.engine import Stack
from tuner.errors import InvalidInput
from tuner.optimizers.catalogue import defaults, program_key
from tuner.optimizers.one_pass import has_compiler
from tuner.probe import plan
from tuner.probe.bench import place_of
from tuner.probe.choice import DEFAULT_WIDTH, Choice, changed_at, cores, key, learn, stored
from tuner.probe.first_look import first_look, worth_going_on
from tuner.probe.room import room
from tuner.study.hyperparameter import Scalar
from tuner.study.parameter_groups import groups_of, kind_of
from tuner.study.program import Program
from tuner.worker.channel import Json
from tuner.worker.device.loading import Address, Loaded, not_loaded
from tuner.worker.device.pinned import check, check_whole
from tuner.worker.device.warming import Warming

log = logging.getLogger(__name__)

Batch = Literal["whole", "parts"] | None
"""What a tick computes of a batch, where the loss depends on it."""


class Kind(NamedTuple):
    """What trials must have in common to share a stack."""

    stack: str
    """The stack key."""
    micro_batch: int
    batch: Batch
    per_tick: int = 1

    @property
    def tick_examples(self) -> int:
        """Examples of a trial in one tick."""
        return self.micro_batch * self.per_tick


COMPILER = "torch._inductor.compile_fx"
"""The module whose import takes the longest before anything compiled can be built."""
PAYS_S = 2.0
"""Device time of uncompiled ticks, past and expected, from which on compiling pays."""
MUCH_MORE = 10
"""A kind is looked at again when so many times as much work is expected."""
LONG_S = 60.0
"""Expected device time from which on the compiler may take a noticeable share of the machine."""
PATIENT, EAGER = 15, 5
"""How nice the compiling process is: beside short work, and beside long work, which gains more than it gives."""


@dataclass(frozen=True)
class Given:
    """What the user has set for the stacks of a device process. `processes` share the device with it, itself included.

    `threads` None: the cores are divided among the processes that have work.
    """

    width: int | None = None
    threads: int | None = None
    processes: int = 1
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chosen:
    """A stack to build. `trials` are those that this process may get at once; `rules` those compiled for it."""

    path: str
    width: int
    threads: int
    trials: int
    rules: frozenset[str] | None = None
    pinned: Program | None = None


class StackChoice:
    """Chooses and builds the stacks of one device."""

    def __init__(self, device: str, given: Given) -> None:
        self._device = torch.device(device)
        self._given = given
        self._most: dict[Kind, int] = {}
        """Widths that did not run out of memory, where wider ones did."""
        self._known: dict[str, Choice] = {}
        self._read_at = 0.0
        self._spent_s: dict[Kind, float] = {}
        """Device time of uncompiled ticks."""
        self._asked: set[tuple[Kind, int, str]] = set()
        """(kind, width, rule) that the compiling process was asked for."""
        self._looked: dict[tuple[Kind, int], tuple[int, float]] = {}
        """The widest stack that a look was for, and the ticks that were expected then, by kind and threads."""
        self._sizes: dict[Address, set[int]] = {}
        """Micro-batches that were asked for, by workload."""
        self._warming: Warming | None = None

    def kind(self, head: Json, loaded: Loaded) -> Kind:
        """Return the kind of an assignment."""
        if loaded.depends_on_batch:
            if head["micro_batch_asked"]:
                return Kind(head["stack"], head["micro_batch"], "parts")
            return Kind(head["stack"], head["params"]["batch_size"], "whole")
        pinned = head["program"]
        per_tick = int(head["per_tick"] if pinned is None else pinned.get("per_tick", 1))
        return Kind(head["stack"], head["micro_batch"], None, per_tick if loaded.splits else 1)

    def choose(self, head: Json, loaded: Loaded, begun: int) -> Chosen:
        """Return the stack for an assignment, measuring for a moment what is not known yet.

        `begun` trials of its stack key train here already: they gain nothing from another program.

        Raises:
            OtherProgram: the assignment's study is pinned to a program that this device does not run.
            NotLoaded: the model does not load here.
            Whatever else the workload's code raises.
        """
        if head["program"] is not None:
            return self._pinned(head["program"], self.kind(head, loaded))
        kind, trials = self.kind(head, loaded), self._trials(head)
        threads = self._threads(head)
        torch.set_num_threads(threads)
        most = self.widest(head, kind)
        if head["reproducible"]:  # what is measured differs from run to run
            return Chosen("auto", self._given.width or min(most, DEFAULT_WIDTH), threads, trials)
        ticks = int(head["remaining"]) * head["examples"] / kind.tick_examples
        known = self._measured(kind, loaded, most, ticks)
        if known is None:
            return Chosen("auto", min(most, DEFAULT_WIDTH), threads, trials)
        base = plan.uncompiled(known, min(trials, most))
        assert base is not None
        if self._given.width is not None:
            path = plan.at_width(known, most)
            tick_s = known.tick_s("loop" if path == "loop" else "eager", most)
            base = plan.Plan(path, most, most / (tick_s or 1.0))
        better = plan.compiled(known, min(trials, most), base, self._given.width and most)
        if better is not None and rule_of(head["params"]) in better[1].rules:
            faster, one = better
            cost_s = one.build_s + (0.0 if COMPILER in sys.modules else one.import_s)
            if self._expected_s(head, kind, base, begun) * (1 - base.rate / faster.rate) > cost_s:
                return Chosen("compiled", faster.width, threads, trials, frozenset(one.rules))
        return Chosen(base.path, base.width, threads, trials)

    def build(self, head: Json, loaded: Loaded, chosen: Chosen, width: int) -> Stack:
        """Build a chosen stack, of another width where fewer trials can share it.

        Raises:
            OtherProgram: it is not the program to which the assignment's study is pinned.
            NotLoaded: the model does not load here.
        """
        kind = self.kind(head, loaded)
        torch.set_num_threads(chosen.threads)
        try:
            stack = Stack(
                loaded.task,
                width=width,
                micro_batch=kind.micro_batch,
                per_tick=kind.per_tick,
                path=chosen.path,
                batch=kind.batch,
                device=self._device,
            )
        except OSError as error:  # its model reads a file
            raise not_loaded(head["workload"], error) from error
        if chosen.pinned is not None:
            check_whole(chosen.pinned, stack.program)
        return stack

    def spent(self, kind: Kind, seconds: float) -> None:
        """Count device time of an uncompiled stack."""
        self._spent_s[kind] = self._spent_s.get(kind, 0.0) + seconds

    def spent_s(self, kind: Kind) -> float:
        """Return the device time of a kind's uncompiled ticks."""
        return self._spent_s.get(kind, 0.0)

    def compile_what_pays(self, head: Json, loaded: Loaded, chosen: Chosen, rules: Mapping[str, Json]) -> None:
        """Have an uncompiled stack's program compiled in the second process, if that pays and it does nothing else.

        `rules` (see `rule_of`) are compiled for it, each with the parameters of some trial.
        """
        if chosen.path == "compiled" or head["reproducible"] or self.compiling or not has_compiler():
            return
        kind = self.kind(head, loaded)
        known = self._of(kind, loaded, chosen.threads)
        base = None if known is None else plan.uncompiled(known, chosen.trials)
        if known is None or base is None or known.of_path("eager") is None:  # a model that cannot be stacked
            return
        expected_s = self._expected_s(head, kind, base)
        if expected_s + self.spent_s(kind) < PAYS_S:
            return
        width = self._given.width or plan.worth_compiling(base, chosen.trials)
        ready = {rule for one in known.compiled if one.width == width for rule in one.rules}
        wanted = {rule: p for rule, p in rules.items() if rule not in ready and (kind, width, rule) not in self._asked}
        wanted.pop("", None)
        if not wanted:
            return
        self._asked |= {(kind, width, rule) for rule in wanted}
        program = {"workload": loaded.workload, "workload_params": loaded.params, "micro_batch": kind.micro_batch}
        program |= {"model": loaded.model, "workload_values": list(loaded.values)}
        place = {"device": str(self._device), "threads": chosen.threads, "workloads": list(self._given.sources)}
        program |= {"base": [base.path, base.width]}
        share = {
            "batch": kind.batch,
            "per_tick": kind.per_tick,
            "nice": EAGER if expected_s > LONG_S else PATIENT,
            "parent": os.getpid(),
        }
        self._warming = Warming({**program, **place, **share, "width": width, "rules": wanted})

    @property
    def compiling(self) -> bool:
        """Whether the second process is at work."""
        return self._warming is not None and self._warming.running

    def news(self) -> bool:
        """Whether something was learned since the last call, by this process or by another one of this machine."""
        at = changed_at()
        if at == self._read_at:
            return False
        self._read_at = at
        self._known = {}
        return True

    def widest(self, head: Json, kind: Kind) -> int:
        """Return the most slots that a stack for an assignment may have."""
        asked = self._given.width or plan.rung(self._trials(head))
        return min(asked, self._most.get(kind, asked))

    def narrow(self, kind: Kind, width: int) -> None:
        """Halve the width of a kind permanently: the device ran out of memory. The width must be above 1."""
        self._most[kind] = width // 2
        log.warning("out of memory: the stack is halved", extra={"action": "narrow", "width": width // 2})

    def bytes(self, head: Json, loaded: Loaded, chosen: Chosen) -> int:
        """Return roughly how much memory a stack takes, from what was measured of others."""
        known = self._of(self.kind(head, loaded), loaded, chosen.threads)
        seen = [cell.bytes / cell.width for cell in known.cells if cell.bytes] if known is not None else []
        return round(chosen.width * max(seen, default=0.0))

    def room(self) -> int | None:
        """Return the bytes that one more stack may take; None if unknown."""
        free = room(self._device)
        return None if free is None else free // self._given.processes

    def close(self) -> None:
        """End the compiling process, if there is one."""
        if self._warming is not None:
            self._warming.close()
            self._warming = None

    def _trials(self, head: Json) -> int:
        """Return how many trials of an assignment's stack this process may get at once."""
        return int(head["slots"])

    def _threads(self, head: Json) -> int:
        if self._given.threads is not None:
            return self._given.threads
        return max(1, cores() // min(self._given.processes, int(head["in_flight"])))

    def _expected_s(self, head: Json, kind: Kind, base: plan.Plan, begun: int = 0) -> float:
        """Return the device time that a study's further trials would take here without compiling."""
        trials = max(0, int(head["remaining"]) - begun)
        return float(trials * head["examples"] / kind.tick_examples / base.rate)

    def _pinned(self, pinned: Program, kind: Kind) -> Chosen:
        """Adopt the program of a reproducible study: its width and threads, unless the user set them, and its path."""
        given = {"width": self._given.width, "threads": self._given.threads}
        own: Program = {name: value for name, value in given.items() if value is not None}
        check(pinned, {"device": self._device.type, **own})
        if int(pinned["width"] or 1) > self._most.get(kind, 1 << 20):
            check(pinned, {"width": self._most[kind]})
        width, threads = int(pinned["width"] or 1), int(pinned["threads"] or 1)
        if threads > max(cores(), self._given.threads or 1):
            check(pinned, {"threads": cores()})
        return Chosen(str(pinned["path"]), width, threads, width, None, pinned)

    def _measured(self, kind: Kind, loaded: Loaded, most: int, ticks: float) -> Choice | None:
        """Return what is known of a kind with the present number of threads, with at least a first look at it.

        `ticks` of single trials are expected. None where its trials end in the middle of a look.
        """
        threads = torch.get_num_threads()
        known = self._of(kind, loaded, threads)
        if self._suffices(known, kind, threads, most, ticks):
            return known
        self._looked[kind, threads] = most, ticks
        widths = plan.widths_to_measure(most) if self._given.width is None else [most]
        try:
            how: dict[str, Any] = {
                "per_tick": kind.per_tick,
                "batch": kind.batch,
                "room": self.room(),
                "expected": ticks,
            }
            cells = list(first_look(loaded.task, kind.micro_batch, self._device, widths, **how))
        except OSError as error:  # its model reads a file
            raise not_loaded(loaded.workload, error) from error
        name = self._name(kind, loaded)
        if cells:
            self._known[name] = learn(name, *cells, model=loaded.model)
            self._read_at = changed_at()
        return self._of(kind, loaded, threads)

    def _suffices(self, known: Choice | None, kind: Kind, threads: int, most: int, ticks: float) -> bool:
        """Whether a look would show nothing that is not known already, by this process or by another one.

        What ended the last one (the memory, its own cost) would end it again, unless far more work has come since.
        """
        most_before, ticks_before = self._looked.get((kind, threads), (0, 0.0))
        if most <= most_before and ticks < MUCH_MORE * ticks_before:
            return True
        if known is None:
            return False
        widest = max(cell.width for cell in known.cells)
        if plan.settled(known) or widest >= most:
            return True
        lone = known.tick_s("loop", 1)
        return widest == 1 and lone is not None and not worth_going_on(lone, ticks)

    def _of(self, kind: Kind, loaded: Loaded, threads: int) -> Choice | None:
        """Return what is known of a kind; where whole batches differ in size only, of the nearest size."""
        own = self._stored(kind, loaded)
        if own is None and kind.batch == "whole":
            sizes = [size for size in self._sizes.get(loaded.address, ()) if size != kind.micro_batch]
            near = min(sizes, key=lambda size: abs(size - kind.micro_batch), default=None)
            other = None if near is None else self._stored(kind._replace(micro_batch=near), loaded)
            if near is not None and other is not None:
                scale = kind.micro_batch / near
                own = Choice(tuple(replace(c, tick_s=c.tick_s * scale) for c in other.cells if c.path != "compiled"))
        self._sizes.setdefault(loaded.address, set()).add(kind.micro_batch)
        return None if own is None else own.with_threads(threads)

    def _stored(self, kind: Kind, loaded: Loaded) -> Choice | None:
        name = self._name(kind, loaded)
        if name not in self._known:
            found = stored(name)
            if found is None:
                return None
            self._known[name] = found
        return self._known[name].of_model(loaded.model)

    def _name(self, kind: Kind, loaded: Loaded) -> str:
        place = place_of(self._device)
        return key(loaded.workload, loaded.params, kind.micro_batch, place, kind.per_tick, loaded.values)


def rule_of(params: Mapping[str, Scalar]) -> str:
    """Name what a trial's parameters fix of its rule's program; empty where they name no rule."""
    name = str(params.get("optimizer"))
    try:
        kind = kind_of(groups_of(params))
        key = program_key(name, {key: params[key] for key in defaults(name) if key in params})
        return str((key, kind) if kind else key)
    except (InvalidInput, ValueError, TypeError):
        return ""  # the stack says what is wrong with them
