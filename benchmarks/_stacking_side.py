"""Both sides of `stacking.py` in one process: a plain PyTorch loop per trial, and stacks. One thread.

A process replies to (method, arguments) over a pipe with (result, CPU seconds used).
"""

import itertools
import statistics
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tuner.engine import Row, Stack, TrialSpec
from tuner.engine.data_order import DataOrder
from tuner.engine.machine.allocator import keep_freed_memory
from tuner.engine.paths.compiled import CompiledForward
from tuner.engine.seeds import INITIALISATION, derive
from tuner.probe.bench import Bench, probe
from tuner.probe.choice import Cell, Choice
from tuner.workloads import load

Config = dict[str, float]
ENDLESS = {"report_every": 10**12, "divergence_factor": 1e30}
PROBE_S = 0.5
TURNS, MANY_TURNS = 9, 45


@dataclass(frozen=True)
class Case:
    """One measured workload. `widths` are those that the probe compares; `steps` is per trial."""

    workload: str
    batch: int
    widths: tuple[int, ...]
    trials: int
    steps: int
    params: dict[str, Any] = field(default_factory=dict)
    device: str = "cpu"


class Side:
    """The operations of a process for one case."""

    def __init__(self, case: Case, path: str | None = None, width: int = 0) -> None:
        """Without `path` the probe chooses path and width."""
        torch.set_num_threads(1)
        self.case = case
        keep_freed_memory()  # as device processes do
        self.task = load(case.workload, case.params)
        self.cells: list[tuple[str, int, float]] = []
        if path is None:
            bench = Bench(self.task, case.batch, case.device, PROBE_S)
            cells = tuple(cell for cell in probe(bench, widths=case.widths) if isinstance(cell, Cell))
            self.cells = [(cell.path, cell.width, cell.tick_s) for cell in cells]
            path, width = Choice(cells).best.path, Choice(cells).best.width
        self.stack = self._new_stack(path, width)
        self.data = tuple(tensor.to(case.device) for tensor in self.task.train)
        self.valid = tuple(tensor.to(case.device) for tensor in self.task.valid)
        self.stacked([{"lr": 1e-4, "weight_decay": 0.01}] * 2, 3)
        self.loop([{"lr": 1e-4, "weight_decay": 0.01}], 3)

    def chosen(self) -> tuple[str, int, list[tuple[str, int, float]]]:
        """Return path, width, and the probe's measurements: (path, width, seconds per tick)."""
        return self.stack.path, self.stack.width, self.cells

    def stacked(
        self, configs: list[Config], steps: int, stack: Stack | None = None, seeds: list[int] | None = None
    ) -> list[float]:
        """Train all trials in a stack whose slots are refilled; return their validation losses."""
        seeds = seeds or list(range(len(configs)))
        stack, values, waiting = stack or self.stack, [0.0] * len(configs), list(enumerate(configs))
        while waiting or stack.busy:
            while waiting and stack.free:
                key, config = waiting.pop(0)
                params = {"optimizer": "adamw", "batch_size": self.case.batch, **config}
                stack.admit(TrialSpec(key, params, seeds[key], steps * self.case.batch, **ENDLESS))  # type: ignore[arg-type]
            for event in stack.tick():
                if isinstance(event, Row) and isinstance(event.key, int):
                    values[event.key] = event.metrics.get("valid_loss", float("nan"))
        return values

    def loop(self, configs: list[Config], steps: int) -> list[float]:
        """Train the trials one after another in a plain PyTorch loop; return their validation losses."""
        return [self._plain(key, config, steps) for key, config in enumerate(configs)]

    def _plain(self, seed: int, config: Config, steps: int) -> float:
        model = self.task.build_model(derive(seed, INITIALISATION)).to(self.case.device)
        optimizer = torch.optim.AdamW(model.parameters(), **config, fused=True)  # type: ignore[arg-type]
        order = torch.from_numpy(DataOrder(seed, self.task.examples).take(0, steps * self.case.batch))
        for index in order.to(self.case.device).view(steps, self.case.batch):
            inputs, *targets = (tensor[index] for tensor in self.data)
            loss = self.task.loss(model(inputs), *targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            inputs, *targets = self.valid
            output = model.eval()(inputs)
            for metric in (self.task.metrics or {}).values():
                float(metric(output, *targets))
            return float(self.task.loss(output, *targets))

    def differences(self) -> tuple[float, float]:
        """Return the relative difference of a trial's validation loss in a full stack, and that to the loop's.

        In the full stack neighbours come and go, the first one overflows, and the trial is in another slot.
        """
        watched = {"lr": 1e-3, "weight_decay": 0.01}
        (alone,), (loop,) = self.stacked([watched], 5), self.loop([watched], 5)
        crowd = [{"lr": 1e30, "weight_decay": 0.01}, *[{"lr": 1e-2, "weight_decay": 0.1}] * (self.stack.width // 2)]
        beside = self.stacked([*crowd, watched, *crowd], 5, seeds=[*range(1, len(crowd) + 1), 0, *range(len(crowd))])
        return abs(beside[len(crowd)] - alone) / abs(alone), abs(loop - alone) / abs(alone)

    def width_one(self, steps: int) -> list[float]:
        """Return the plain loop's time divided by that of a compiled stack of one slot, for each round."""
        narrow, config = self._new_stack("compiled", 1), [{"lr": 1e-3, "weight_decay": 0.01}]
        sides = (lambda: self.loop(config, steps)), (lambda: self.stacked(config, steps, narrow))
        plain, ours = _turns(*sides)
        return [one / other for one, other in zip(plain, ours, strict=True)]

    def noise_cost(self) -> list[float]:
        """Return the norms' share of a tick, for each round: the program with norms against that without."""
        stack = self._full()
        sums, counts = torch.zeros_like(stack._params), stack._updates.counts
        data, slots = stack._feed.sample(), stack._slots.busy()
        programs = []
        for norms in (True, False):
            forward = CompiledForward(stack._architecture, stack._params.clone(), norms=norms)
            forward.try_out(data)
            forward.params.copy_(stack._params)
            programs.append(lambda forward=forward: forward.tick(data, sums, counts, slots, stack._stream))
        repeats = max(1, round(0.01 / _cpu_s(programs[0])))
        with_norms, without, ticks = _turns(*programs, stack.tick, repeats=repeats, turns=MANY_TURNS)
        tick = statistics.median(ticks)
        self._empty(stack)
        return [(one - other) / tick for one, other in zip(with_norms, without, strict=True)]

    def evaluation_ticks(self) -> list[float]:
        """Return the cost of evaluating all slots of a full stack, in ticks, for each round."""
        stack = self._full()
        slots = list(range(stack.width))
        ticks, evaluations = _turns(lambda: [stack.tick() for _ in range(10)], lambda: stack.evaluate(slots))
        self._empty(stack)
        return [10 * evaluation / tick for tick, evaluation in zip(ticks, evaluations, strict=True)]

    def roofline(self) -> list[float]:
        """Return seconds per tick of a full stack, and this core's FLOP/s (matrix product) and bytes/s (copy in L3)."""
        stack = self._full()
        (ticks,) = _turns(stack.tick, repeats=20)
        self._empty(stack)
        square, source = torch.randn(1024, 1024), torch.randn(2**19)
        target = torch.empty_like(source)
        products, copies = _turns(lambda: square @ square, lambda: target.copy_(source))
        return [statistics.median(ticks), 2 * 1024**3 / min(products), 2 * source.nbytes / min(copies)]

    def _new_stack(self, path: str, width: int) -> Stack:
        return Stack(self.task, width=width, micro_batch=self.case.batch, device=self.case.device, path=path)

    def _full(self) -> Stack:
        params = {"optimizer": "adamw", "lr": 1e-4, "batch_size": self.case.batch}
        for key in range(self.stack.width):
            self.stack.admit(TrialSpec(key, params, key, 10**12, **ENDLESS))  # type: ignore[arg-type]
        self.stack.tick()
        return self.stack

    def _empty(self, stack: Stack) -> None:
        for slot in range(stack.width):
            stack.evict(slot)
        stack.tick()


def _cpu_s(action: Callable[[], Any]) -> float:
    start = time.process_time()
    action()
    return time.process_time() - start


def _turns(*actions: Callable[[], Any], repeats: int = 1, turns: int = TURNS) -> list[list[float]]:
    """Return each action's CPU seconds per call, interleaved in rounds, so that other load affects all alike."""
    found: list[list[float]] = [[] for _ in actions]
    for turn, (place, action) in itertools.product(range(-1, turns), enumerate(actions)):
        took = _cpu_s(lambda action=action: [action() for _ in range(repeats)]) / repeats  # type: ignore[misc]
        if turn >= 0:
            found[place].append(took)
    return found


def serve(pipe: Connection, case: Case, path: str | None, width: int) -> None:
    """Serve requests until None arrives."""
    side = Side(case, path, width)
    pipe.send(side.chosen())
    while (request := pipe.recv()) is not None:
        method, arguments = request
        start = time.process_time()
        result = getattr(side, method)(*arguments)
        if case.device != "cpu":
            torch.cuda.synchronize()
        pipe.send((result, time.process_time() - start))


def write_images(folder: Path) -> None:
    """Write synthetic images in the format of CIFAR-10's binary version: 500 for training, 100 for validation."""
    generator = np.random.Generator(np.random.PCG64(0))
    for name in (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"):
        records = generator.integers(0, 256, (100, 3073), dtype=np.uint8)
        records[:, 0] %= 10
        (folder / name).write_bytes(records.tobytes())


def write_digits(folder: Path) -> None:
    """Write synthetic images in MNIST's format: 1,000 for training, 200 for validation."""
    generator = np.random.Generator(np.random.PCG64(0))
    for part, count in (("train", 1000), ("t10k", 200)):
        images = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        header = struct.pack(">4B3I", 0, 0, 8, 3, *images.shape)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = generator.integers(0, 10, count, dtype=np.uint8)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">4BI", 0, 0, 8, 1, count) + labels.tobytes())
