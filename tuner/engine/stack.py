"""The stack: trials trained together as one program, a free slot refilled at once.

A tick runs one micro-batch of b examples through every slot. A slot with batch size B = K b adds up K micro-batch
gradients and then steps with their mean, by its own rule. Invariants:

- For one program (device, dtype, threads, width, path, versions) a trial's numbers have the same bits in any slot,
  beside any neighbours, whatever is admitted or evicted meanwhile.
- Every stacked tensor is allocated once; admission writes into it.
- What the workload's code or an update rule raises ends the trials it concerns, and nothing else.
"""

import time
import traceback
from collections.abc import Hashable, Sequence
from typing import Literal

import torch
from torch import Tensor

from tuner.engine.architecture import Architecture, Tensors
from tuner.engine.ledger import Ledger
from tuner.engine.loader import feed_of
from tuner.engine.machine.hardware import hardware
from tuner.engine.machine.out_of_memory import is_out_of_memory
from tuner.engine.paths.evaluation import Evaluation
from tuner.engine.paths.path import PATHS, path_of
from tuner.engine.paths.recalibration import Recalibration
from tuner.engine.paths.reevaluation import Reevaluation
from tuner.engine.progress import Progress
from tuner.engine.slots import Slots
from tuner.engine.snapshot import Snapshot
from tuner.engine.trial import Ended, Event, TrialSpec
from tuner.engine.update import Updates
from tuner.engine.validation_data import ValidationData
from tuner.errors import Fault, InvalidInput, NotFound
from tuner.study.hyperparameter import Scalar
from tuner.workloads.task import Task


class Stack:
    """Up to `width` trials of one task, stepping by micro-batches of `micro_batch` examples.

    A tick computes `per_tick` of them per slot, whose gradients are seen apart: for tasks that `splits` allows.

    `path` is `eager` (one vmapped program), `loop` (slot by slot), `compiled` (see `compiled.py`; eager where it cannot
    be compiled) or `auto` (eager). Models that vmap cannot take run as a loop, unless `eager` is asked for. `batch` is
    said of models whose loss depends on the batch (`batch_dependence.py`) and is part of the program: `whole` where the
    micro-batch is every trial's batch, `parts` where it was asked to be smaller. Raises `InvalidInput` for a model
    without parameters, and whatever the workload's code raises.
    """

    def __init__(
        self,
        task: Task,
        *,
        width: int,
        micro_batch: int,
        per_tick: int = 1,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        path: str = "auto",
        batch: Literal["whole", "parts"] | None = None,
    ) -> None:
        if min(width, micro_batch, per_tick) < 1 or path not in PATHS:
            asked = f"width {width}, micro-batch {micro_batch}, {per_tick} of them per tick and path {path!r}"
            raise InvalidInput(f"no stack with {asked}")
        self.width = width
        self.micro_batch = micro_batch
        self.per_tick = per_tick
        self._batch = batch
        self.device = torch.device(device)
        self.dtype = dtype
        self._architecture = Architecture(task, self.device, dtype)
        self._threads = torch.get_num_threads()
        self.claim()
        layout = self._architecture.layout
        self._params, self._sums = (layout.allocate(width, self.device) for _ in range(2))
        self._real = layout.real.to(self.device)
        self._slots = Slots(width, self.tick_examples)
        self._examples = task.examples
        self._feed = feed_of(task, self._slots, width, self.device, dtype)
        self._recalibration = Recalibration(self._architecture, self._feed, micro_batch)
        self._ledger = Ledger(width, self.device)
        self.keep_weights = False
        """Whether a feasible trial's `Ended` carries its weights."""
        self._progress: dict[int, Progress] = {}
        self._events: list[Event] = []
        self._path = path_of(self._architecture, self._feed, path, micro_batch, self._params, per_tick)
        self._forward, compiled = self._path.forward, self._path.compiled
        valid = ValidationData(task.validation, self.device, dtype)
        self._evaluation = Evaluation(
            self._architecture, valid, self._settled, self._stream, self._path.together, compiled
        )
        model = self._architecture.roles(), self._architecture.parameter_names()
        self._updates = Updates(layout, *model, self._slots, self._params, compiled)
        parts = self._architecture, self._feed, self._slots, self._forward, self._stream
        self._reevaluation = Reevaluation(*parts, stackable=self._path.stackable)
        self._updates.evaluate_for = self._reevaluation.for_slots

    def claim(self) -> None:
        """Set what PyTorch keeps per process to this stack's program: needed when another stack has run meanwhile."""
        torch.backends.cuda.matmul.allow_tf32 = self._architecture.task.precision == "tf32"
        torch.backends.cudnn.allow_tf32 = self._architecture.task.precision == "tf32"
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)

    @property
    def tick_examples(self) -> int:
        """Examples of a slot in one tick."""
        return self.micro_batch * self.per_tick

    @property
    def path(self) -> str:
        """The path that it runs on: `loop`, `eager` or `compiled`."""
        return self._path.name

    @property
    def program(self) -> dict[str, Scalar]:
        """What fixes the floating-point result, and what advice on batch sizes needs to know of the task."""
        task = self._architecture.task
        return {
            "device": self.device.type,
            "hardware": hardware(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "threads": self._threads,
            "width": self.width,
            "micro_batch": "whole" if self._batch == "whole" else self.micro_batch,
            **({} if self.per_tick == 1 else {"per_tick": self.per_tick}),
            **({} if self._batch is None else {"batch_dependent": True}),
            **self._path.program,
            "torch": torch.__version__,
            **({"train_examples": self._examples} if task.weights is None else {}),  # else there is no end of draws
            "kind": str(task.kind),
            **({} if task.digest is None else {"data": task.digest}),
            **({} if task.precision == "float32" else {"precision": task.precision}),
        }

    @property
    def sample(self) -> dict[str, Scalar]:
        """The part of a configuration that gives the workload's values, for trials that only measure the stack."""
        return self._architecture.values.sample()

    @property
    def busy(self) -> bool:
        """Whether a tick has something to do or to report."""
        return bool(self._progress or self._events)

    @property
    def free(self) -> int:
        """Number of free slots."""
        return self.width - len(self._progress)

    def keys(self) -> list[Hashable]:
        """Return the keys of the trials in the stack."""
        return [progress.spec.key for progress in self._progress.values()]

    def slot_of(self, key: Hashable) -> int | None:
        """Return the slot of a trial, or None."""
        return next((slot for slot, p in self._progress.items() if p.spec.key == key), None)

    def parameters(self, slot: int) -> Tensors:
        """Return a slot's parameters as views of the stack's buffer."""
        return self._architecture.layout.slot_views(self._params[slot])

    def result(self, slot: int) -> Tensors:
        """Return the parameters to evaluate and to keep: the slot's own, or the average that its rule keeps."""
        return self._architecture.layout.slot_views(self._updates.result(slot, self._params))

    def weights(self, slot: int) -> Tensors:
        """Copy a slot's resulting parameters and its buffers, fit for `load_state_dict` of the workload's model."""
        row = self._updates.result(slot, self._params)
        return self._architecture.state_dict(self._architecture.layout.slot_views(row), self._settled(slot, row))

    def resume(self, snapshot: Snapshot) -> int:
        """Continue a trial in any free slot. Raises `InvalidInput` as `restore` does, and when the stack is full."""
        slot = self._free_slot()
        self.restore(slot, snapshot)
        return slot

    def admit(self, spec: TrialSpec) -> int | None:
        """Put a trial in a free slot; None when its budget allows no step (the next tick reports that).

        Raises `InvalidInput` when the stack is full or the configuration is illegal, and whatever the model raises.
        """
        if spec.batch_size % self.tick_examples:
            each = f"the micro-batch {self.micro_batch}"
            tick = each if self.per_tick == 1 else f"a tick's {self.tick_examples} examples"
            raise InvalidInput([Fault("batch_size", f"is {spec.batch_size}; allowed are multiples of {tick}")])
        reported = ["train_loss", *self._evaluation.names]
        if spec.metric is not None and spec.metric not in reported:
            raise InvalidInput([Fault("metric", f"is {spec.metric!r}; the workload reports {', '.join(reported)}")])
        if spec.total_steps == 0:
            self._events.append(Ended(spec.key, "finished", 0, 0, infeasible="batch_exceeds_budget"))
            return None
        slot = self._free_slot()
        module = self._architecture.fresh(spec.seed)
        extras = self._architecture.extras(module, spec.params)
        self._occupy(slot, Progress(spec, self.micro_batch, self.per_tick), 0, 0)
        self._architecture.layout.write(self._params[slot], dict(module.named_parameters()))
        self._forward.extras[slot] = extras
        return slot

    def tick(self) -> list[Event]:
        """Run one micro-batch through every slot; return the events since the last tick."""
        if self._progress:
            self._advance()
        events, self._events = self._events, []
        return events

    def say(self) -> list[Event]:
        """Return the events so far, without a tick."""
        self._read_ledger()
        events, self._events = self._events, []
        return events

    def between_steps(self, slot: int) -> bool:
        """Whether an occupied slot has just completed a step."""
        return bool(self._slots.tick_in_step[slot] == 0)

    def evaluate(self, slots: Sequence[int]) -> list[dict[str, float]]:
        """Return the validation metrics of occupied slots as they are now."""
        for slot in slots:
            self._occupant(slot)
        return self._evaluation.metrics(slots, [self._updates.result(slot, self._params) for slot in slots])

    def evict(self, slot: int) -> None:
        """Free a slot without an `Ended` event. Rows reported before are still returned."""
        self._occupant(slot)
        self._read_ledger()
        if slot in self._progress:
            self._release(slot)

    def snapshot(self, slot: int) -> Snapshot:
        """Copy everything of a slot's trial, between two ticks."""
        self._read_ledger()
        progress = self._occupant(slot)
        return Snapshot(
            spec=progress.spec,
            params=self._params[slot].clone(),
            sums=self._sums[slot].clone(),
            slabs=tuple(slab[slot].clone() for slab in self._updates.slabs_of(slot)),
            pool=None if (pool := self._updates.pool_row(slot)) is None else pool.clone(),
            extras={name: tensor.clone() for name, tensor in self._forward.extras[slot].items()},
            shared=self._architecture.shared.digests,
            progress=progress.resumed_at(progress.started),
            elapsed_s=time.monotonic() - progress.started,
            step=int(self._slots.step[slot]),
            tick_in_step=int(self._slots.tick_in_step[slot]),
        )

    def restore(self, slot: int, snapshot: Snapshot) -> None:
        """Continue a trial, bit for bit, in a free slot of this or another stack of the same task.

        Raises `InvalidInput` when the slot is taken, or the snapshot is of another model, or another frozen part of it.
        """
        if self._slots.occupied[slot]:
            raise InvalidInput([Fault("slot", f"{slot} is taken by {self._progress[slot].spec.key}")])
        seen = len(snapshot.params), snapshot.params.dtype, snapshot.progress.micro_batch
        own = self._params.shape[1], self.dtype, self.micro_batch
        if seen != own:
            raise InvalidInput([Fault("snapshot", f"has (P, dtype, micro-batch) {seen}; this stack takes {own}")])
        self._architecture.shared.compare(snapshot.shared, snapshot.extras)
        progress = snapshot.progress.resumed_at(time.monotonic() - snapshot.elapsed_s)
        if snapshot.tick_in_step and progress.per_tick != self.per_tick:
            within = f"within a step, in ticks of {progress.per_tick} micro-batches; this stack's have {self.per_tick}"
            raise InvalidInput([Fault("snapshot", f"was taken {within}")])
        progress.per_tick = self.per_tick
        self._occupy(slot, progress, snapshot.step, snapshot.tick_in_step)
        self._params[slot].copy_(snapshot.params)
        self._sums[slot].copy_(snapshot.sums)
        for slab, content in zip(self._updates.slabs, snapshot.slabs, strict=False):
            slab[slot].copy_(content)
        if (pool := self._updates.pool_row(slot)) is not None and snapshot.pool is not None:
            pool.copy_(snapshot.pool)
        self._forward.extras[slot] = snapshot.extras

    def close(self) -> None:
        """End what runs beside the stack; no tick comes after it."""
        self._feed.close()

    def _advance(self) -> None:
        data = self._feed.next()
        failures = self._feed.take_failures()
        if failures:
            self._read_ledger()
            for slot in failures.keys() & self._progress.keys():
                self._end(slot, error=failures[slot])
        try:
            counts, found = self._updates.counts, self._ledger.open()
            means = self._forward.accumulate(data, self._sums, counts, self._slots, self._stream, found)
        except Exception as raised:  # the trials' boundary: the workload's own code runs here
            if is_out_of_memory(raised):
                raise  # a narrower stack may help: the caller decides
            self._read_ledger()
            for slot in list(self._progress):
                self._end(slot, error=traceback.format_exc())
            return
        due = self._slots.advance()
        evaluated = due[:0]
        if len(due):
            self._updates.apply(due, self._params, self._sums, means)
            evaluated = self._slots.count_steps(due)
        self._ledger.close(due)
        failures = self._updates.take_failures() | self._reevaluation.take_failures() | self._forward.failures
        for slot, error in failures.items():
            self._end(slot, error=error)
        if len(evaluated) or self._ledger.full:
            self._read_ledger()
        if len(evaluated):
            self._evaluate_due([slot for slot in evaluated.tolist() if slot in self._progress])

    def _settled(self, slot: int, row: Tensor) -> Tensors:
        """Return a slot's extras as they are at its resulting parameters, a row [P]."""
        extras = self._forward.extras[slot]
        if not self._updates.averages(slot):
            return extras
        return self._recalibration.extras(self._architecture.layout.slot_views(row), extras, *self._stream(slot))

    def _evaluate_due(self, slots: list[int]) -> None:
        results = self._updates.results(slots, self._params)
        for slot, error in self._updates.take_failures().items():
            self._end(slot, error=error)
        slots = list(results)
        found = self._evaluation.each(slots, list(results.values()))
        finite = (torch.isfinite(self._params[slots]) | ~self._real).all(1).tolist()
        for slot, metrics, sound in zip(slots, found, finite, strict=True):
            progress = self._progress[slot]
            if isinstance(metrics, str):
                self._end(slot, error=metrics)
                continue
            self._events.append(progress.row(metrics))
            progress.evaluations.pop(0)
            if not progress.finished:
                self._slots.next_evaluation[slot] = progress.evaluations[0]
            else:  # an infinite weight comes from the last update, which no training loss has seen
                self._end(slot, infeasible=None if sound else "diverged")

    def _read_ledger(self) -> None:
        if self._ledger.empty:
            return
        reading = self._ledger.read()
        for slot, progress in list(self._progress.items()):
            progress.slot_ticks = int(self._slots.ticks[slot]), float(self._slots.computed[slot])
            self._events.extend(progress.absorb(reading.of(slot)))
            if progress.diverged:
                self._end(slot, infeasible="diverged")

    def _occupy(self, slot: int, progress: Progress, step: int, tick_in_step: int) -> None:
        self._read_ledger()
        self._updates.admit(slot, progress.spec, self._params, step)
        count = progress.batch_size // self.tick_examples
        self._slots.occupy(slot, count, step, tick_in_step, progress.evaluations[0])
        self._feed.admit(slot, progress.spec.seed)
        self._sums[slot].zero_()  # free slots accumulate gradients too
        self._progress[slot] = progress

    def _end(self, slot: int, *, infeasible: Literal["diverged"] | None = None, error: str | None = None) -> None:
        weights = self.weights(slot) if self.keep_weights and infeasible is None and error is None else None
        progress = self._release(slot)
        outcome: Literal["finished", "error"] = "finished" if error is None else "error"
        step, examples = progress.step, progress.examples
        self._events.append(Ended(progress.spec.key, outcome, step, examples, infeasible, error, weights))

    def _release(self, slot: int) -> Progress:
        """Free a slot, and leave harmless numbers in it."""
        self._slots.release(slot)
        self._feed.evict(slot)
        self._forward.extras.release(slot)
        self._params[slot].zero_()
        return self._progress.pop(slot)

    def _stream(self, slot: int) -> tuple[int, int]:
        return self._progress[slot].spec.seed, self._slots.examples(slot)

    def _free_slot(self) -> int:
        slot = self._slots.free()
        if slot is None:
            raise InvalidInput(f"all {self.width} slots of the stack are taken")
        return slot

    def _occupant(self, slot: int) -> Progress:
        if slot not in self._progress:
            raise NotFound(f"slot {slot} holds no trial; taken are {sorted(self._progress)}")
        return self._progress[slot]
