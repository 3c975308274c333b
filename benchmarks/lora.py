"""A sweep of adapters on a frozen base: 32 learning rates as stacks, against separate runs of plain PyTorch.

    python benchmarks/lora.py [--quick] [--rounds N] [--steps N] [--batch N]

The base is a perceptron of 8.4 M frozen parameters (1024-2048-2048-1024, tanh) with adapters of rank 4 and a new head.
The peer is what a user would write, with `torch.optim.AdamW`, trial after trial. Each side has two processes of one
thread, as many as there are cores: the peer trains one trial in each at a time, Tuner a stack of 16 trials in each, as
its workers do. Both make the same steps on the same batches from the same weights, and final losses have to be equal.
Processes start before the clock; models, optimizers and stacks are built after it. A round is one run of each side, in
turns: other load of the machine hits both, so ratios count, and CPU time says what was computed. The floor is what the
base's products of all trials take at the rate of a large product. Prints one table, writes results/lora.json, and ends
with the promised figure.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tuner.engine import Ended, Row, Stack, TrialSpec  # noqa: E402
from tuner.engine.data_order import DataOrder  # noqa: E402
from tuner.engine.machine.allocator import keep_freed_memory  # noqa: E402
from tuner.engine.solo import model_of  # noqa: E402
from tuner.workloads import Task  # noqa: E402

SIZES, RANK, CLASSES, EXAMPLES = (1024, 2048, 2048, 1024), 4, 10, 1024
TRIALS, CORES = 32, 2
LEAST = 3.0
"""Bound of the ratio."""
CLOSE = 1e-3
"""Allowed relative difference of final losses, in float32: one large product rounds unlike a small one."""


class Adapter(nn.Module):
    """A frozen layer plus the product of two small matrices."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Parameter(torch.randn(RANK, base.in_features) / base.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(base.out_features, RANK))

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output, adapted."""
        return self.base(x) + x @ self.down.T @ self.up.T  # type: ignore[no-any-return]


def sweep_task() -> Task:
    """Return the workload: labels of a teacher, so that there is something to learn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base = [nn.Linear(one, other).requires_grad_(False) for one, other in pairwise(SIZES)]
        x = torch.randn(EXAMPLES, SIZES[0])
        y = (x @ torch.randn(SIZES[0], CLASSES)).argmax(1)

    def model() -> nn.Module:
        layers = [part for layer in base for part in (Adapter(layer), nn.Tanh())]
        return nn.Sequential(*layers, nn.Linear(SIZES[-1], CLASSES))

    return Task(model, cross_entropy, (x, y), (x[:64], y[:64]))


def lr_of(trial: int) -> float:
    """Return a trial's learning rate, from 1e-4 to 3e-3."""
    return float(1e-4 * 30 ** (trial / (TRIALS - 1)))


def plain(task: Task, trial: int, batch: int, steps: int) -> float:
    """Train one trial as a user would; return its last loss."""
    model = model_of(task, trial)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr_of(trial))
    order = torch.from_numpy(DataOrder(trial, EXAMPLES).take(0, batch * steps)).view(steps, batch)
    x, y = task.train
    for index in order:
        loss = cross_entropy(model(x[index]), y[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def stacked(task: Task, trials: list[int], batch: int, steps: int) -> dict[int, float]:
    """Train trials as one stack; return their last losses."""
    stack = Stack(task, width=len(trials), micro_batch=batch)
    for trial in trials:
        params = {"optimizer": "adamw", "lr": lr_of(trial), "weight_decay": 0.01, "batch_size": batch}
        stack.admit(TrialSpec(trial, params, trial, batch * steps, report_every=batch, divergence_factor=1e30))
    losses: dict[int, float] = {}
    while stack.busy:
        for event in stack.tick():
            if isinstance(event, Row) and "train_loss" in event.metrics:
                losses[int(str(event.key))] = event.metrics["train_loss"]
            elif isinstance(event, Ended) and event.outcome != "finished":
                raise SystemExit(f"trial {event.key}: {event.error}")
    return losses


def separate(task: Task, trials: list[int], batch: int, steps: int) -> dict[int, float]:
    """Train trials one after another; return their last losses."""
    return {trial: plain(task, trial, batch, steps) for trial in trials}


def serve(train: Callable[[Task, list[int], int, int], dict[int, float]], pipe: Connection) -> None:
    """Run one side in a process of its own: replies to (trials, batch, steps) with (losses, CPU seconds)."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as device processes do; both sides gain
    task = sweep_task()
    train(task, [0, 1], 2, 2)  # what is imported at the first use
    pipe.send(None)
    while (asked := pipe.recv()) is not None:
        before = time.process_time()
        losses = train(task, *asked)
        pipe.send((losses, time.process_time() - before))


class Side:
    """Processes that wait for work."""

    def __init__(self, train: Callable[[Task, list[int], int, int], dict[int, float]]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes = []
        for _ in range(CORES):
            own, other = context.Pipe()
            context.Process(target=serve, args=(train, other), daemon=True).start()
            self._pipes.append(own)
        for pipe in self._pipes:
            pipe.recv()

    def measure(self, batch: int, steps: int) -> tuple[float, float, dict[int, float]]:
        """Return wall and CPU seconds of all trials, and their last losses."""
        start, losses, cpu_s = time.monotonic(), {}, 0.0
        for place, pipe in enumerate(self._pipes):
            pipe.send((list(range(place, TRIALS, len(self._pipes))), batch, steps))
        for pipe in self._pipes:
            found, used_s = pipe.recv()
            losses |= found
            cpu_s += used_s
        return time.monotonic() - start, cpu_s, losses

    def close(self) -> None:
        """Let the processes end."""
        for pipe in self._pipes:
            pipe.send(None)


def floor_cpu_s(batch: int, steps: int) -> float:
    """Return the CPU seconds of the base's products: forward, and back to the inputs of all layers but the first."""
    torch.set_num_threads(1)
    one, other = torch.randn(1024, 1024), torch.randn(1024, 1024)
    times = []
    for _ in range(9):
        start = time.process_time()
        one @ other
        times.append(time.process_time() - start)
    products = [one * other for one, other in pairwise(SIZES)]
    flops = 2 * batch * TRIALS * steps * (2 * sum(products) - products[0])
    return flops * min(times) / (2 * 1024**3)


def main() -> None:
    """Measure, print the table and the bar, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two short rounds")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=4)
    options = parser.parse_args()
    rounds, steps = (2, 60) if options.quick else (options.rounds, options.steps)
    processes, stack = Side(separate), Side(stacked)
    found: list[dict[str, Any]] = []
    worst = 0.0
    for number in range(rounds):
        seen = {}
        for name, side in sorted((("processes", processes), ("stack", stack)), reverse=bool(number % 2)):
            seen[name] = side.measure(options.batch, steps)
        (wall_s, cpu_s, losses), (stack_wall_s, stack_cpu_s, stack_losses) = seen["processes"], seen["stack"]
        worst = max(worst, *(abs(stack_losses[key] / loss - 1) for key, loss in losses.items()))
        found.append(
            {"processes": {"wall_s": wall_s, "cpu_s": cpu_s}, "stack": {"wall_s": stack_wall_s, "cpu_s": stack_cpu_s}}
        )
        print(f"  round {number + 1}: {wall_s:.2f} s, {stack_wall_s:.2f} s", file=sys.stderr, flush=True)
    processes.close()
    stack.close()
    report(found, options.batch, steps, worst)


def report(found: list[dict[str, Any]], batch: int, steps: int, worst: float) -> None:
    """Print the table and the bar, and write the file."""
    ratios = {
        kind: statistics.median(one["processes"][kind] / one["stack"][kind] for one in found)
        for kind in ("wall_s", "cpu_s")
    }
    floor_s = floor_cpu_s(batch, steps)
    print(f"{TRIALS} trials of {steps} steps of {batch} examples, {len(found)} rounds; medians")
    print(f"{'':22}{'wall s':>9}{'CPU s':>9}")
    for side, name in (("processes", "two processes"), ("stack", "two stacks")):
        wall_s, cpu_s = (statistics.median(one[side][kind] for one in found) for kind in ("wall_s", "cpu_s"))
        print(f"{name:22}{wall_s:9.2f}{cpu_s:9.2f}")
    print(f"{'ratio':22}{ratios['wall_s']:9.2f}{ratios['cpu_s']:9.2f}")
    print(f"{'floor, products alone':22}{floor_s / CORES:9.2f}{floor_s:9.2f}")
    print(f"largest relative difference of a final loss: {worst:.1e}")
    record = {
        "trials": TRIALS,
        "steps": steps,
        "batch": batch,
        "ratios": ratios,
        "floor_cpu_s": floor_s,
        "rounds": found,
    }
    path = ROOT / "benchmarks" / "results" / "lora.json"
    path.write_text(json.dumps(record | {"loss_difference": worst}, indent=1) + "\n", "utf-8")
    if worst > CLOSE:
        raise SystemExit(f"final losses differ by {worst:.1e}; allowed is {CLOSE}")
    ratio = ratios["wall_s"]
    print(f"bar lora {ratio:.2f} >= {LEAST:g} {'ok' if ratio >= LEAST else 'short'}")


if __name__ == "__main__":
    main()
