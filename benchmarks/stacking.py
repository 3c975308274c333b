"""Stacked trials against separate processes: trial-steps per second on digits-mlp (64-32-10, batch 32, AdamW).

    python benchmarks/stacking.py [--quick]

Peer: Optuna hands 128 configurations to persistent worker processes, each a plain PyTorch loop with
torch.optim.AdamW(fused=True). Ours: Optuna hands the same configurations to compiled stacks of 64 slots in persistent
processes. Both sides: float32, one thread per process, the same model, data order, number of examples and final
evaluation; the best over the number of processes counts; start-up (imports, compiling) is excluded. Both run in the
same processes, in turns, so that other load on the machine meets both. Prints one table, writes
results/stacking.json, and ends with a line per promised figure.
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import optuna
import torch
from torch.nn.functional import cross_entropy

from tuner.engine import Row, Stack, TrialSpec
from tuner.engine.compiled import CompiledForward
from tuner.engine.data_order import DataOrder
from tuner.engine.seeds import INITIALISATION, derive
from tuner.workloads import Task, load

TRIALS, BATCH, WIDTH, PROCESSES = 128, 32, 64, 2
Config = dict[str, float]


class Bench:
    """What a worker process can do; each method returns seconds or values."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.task: Task = load("digits-mlp", {})
        self.stack = Stack(self.task, width=WIDTH, micro_batch=BATCH, path="compiled")
        self.narrow = Stack(self.task, width=1, micro_batch=BATCH, path="compiled")
        self.stacked([{"lr": 1e-3, "weight_decay": 0.01}] * 2, 5)
        self.loop([{"lr": 1e-3, "weight_decay": 0.01}], 5)

    def stacked(self, configs: list[Config], steps: int, narrow: bool = False) -> list[float]:
        """Train all in a stack whose slots are refilled; return their validation losses."""
        stack, values, waiting = self.narrow if narrow else self.stack, [0.0] * len(configs), list(enumerate(configs))
        while waiting or stack.busy:
            while waiting and stack.free:
                key, config = waiting.pop(0)
                params = {"optimizer": "adamw", "batch_size": BATCH, **config}
                stack.admit(TrialSpec(key, params, key, steps * BATCH, report_every=10**9, divergence_factor=1e9))
            for event in stack.tick():
                if isinstance(event, Row) and isinstance(event.key, int):
                    values[event.key] = event.metrics.get("valid_loss", float("nan"))
        return values

    def loop(self, configs: list[Config], steps: int) -> list[float]:
        """Train one after another in a plain PyTorch loop; return their validation losses."""
        return [self._plain(key, config, steps) for key, config in enumerate(configs)]

    def _plain(self, seed: int, config: Config, steps: int) -> float:
        model = self.task.build_model(derive(seed, INITIALISATION))
        optimizer = torch.optim.AdamW(model.parameters(), **config, fused=True)  # type: ignore[arg-type]
        x, y = self.task.train
        order = torch.from_numpy(DataOrder(seed, len(x)).take(0, steps * BATCH)).view(steps, BATCH)
        for index in order:
            loss = cross_entropy(model(x[index]), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            x, y = self.task.valid
            return float(cross_entropy(model(x), y))

    def width_one(self, steps: int) -> list[float]:
        """Return the plain loop's time over that of a stack of one slot, for each of seven turns."""
        ratios, config = [], [{"lr": 1e-3, "weight_decay": 0.01}]
        for _ in range(7):
            plain = seconds(lambda: self.loop(config, steps))
            ratios.append(plain / seconds(lambda: self.stacked(config, steps, narrow=True)))
        return ratios

    def noise_cost(self, ticks: int) -> list[float]:
        """Return the share of a tick that the norms cost, for each of seven turns."""
        buffers = [torch.randn(self.stack._params.shape) * 0.1 for _ in range(3)]
        data, counts = self.stack._feed.sample(), torch.full((WIDTH,), 2.0)
        forwards = [CompiledForward(self.stack._architecture, *buffers[:2], norms=norms) for norms in (True, False)]

        def least(forward: CompiledForward) -> float:
            forward.accumulate(data, buffers[2], counts)
            return min(seconds(lambda: forward.accumulate(data, buffers[2], counts)) for _ in range(ticks))

        tick = self._tick_s(ticks)
        return [(least(forwards[0]) - least(forwards[1])) / tick for _ in range(7)]

    def roofline(self, ticks: int) -> list[float]:
        """Return seconds per tick of a full stack, and this core's FLOP/s (matrix product) and bytes/s (copy in L3)."""
        tick = self._tick_s(ticks)
        square, source = torch.randn(1024, 1024), torch.randn(2**19)
        target = torch.empty_like(source)
        product = min(seconds(lambda: square @ square) for _ in range(10))
        copy = min(seconds(lambda: target.copy_(source)) for _ in range(50))
        return [tick, 2 * 1024**3 / product, 2 * source.nbytes / copy]

    def _tick_s(self, ticks: int) -> float:
        """Return seconds per tick of a full stack; what trials cost at their two ends cancels out."""
        configs = [{"lr": 1e-3, "weight_decay": 0.01}] * WIDTH
        short, long = (
            min(seconds(lambda count=count: self.stacked(configs, count)) for _ in range(3))  # type: ignore[misc]
            for count in (ticks, 2 * ticks)
        )
        return (long - short) / ticks


def seconds(action: Any) -> float:
    """Time one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def serve(pipe: Connection) -> None:
    """Answer (method, arguments) until None comes."""
    bench = Bench()
    pipe.send("ready")
    while (request := pipe.recv()) is not None:
        method, arguments = request
        pipe.send(getattr(bench, method)(*arguments))


def study_time(pipes: list[Connection], method: str, chunk: int, steps: int) -> float:
    """Let Optuna hand `TRIALS` configurations, `chunk` at a time, to the processes; return the seconds it took."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    space = {
        "lr": optuna.distributions.FloatDistribution(1e-4, 3e-2, log=True),
        "weight_decay": optuna.distributions.FloatDistribution(5e-3, 1.0, log=True),
    }
    begin, asked, running = time.perf_counter(), 0, {}

    def hand_out(pipe: Connection) -> None:
        nonlocal asked
        trials = [study.ask(space) for _ in range(min(chunk, TRIALS - asked))]
        asked += len(trials)
        if trials:
            running[pipe] = trials
            pipe.send((method, ([trial.params for trial in trials], steps)))

    for pipe in pipes:
        hand_out(pipe)
    while running:
        for pipe in multiprocessing.connection.wait(list(running)):
            assert isinstance(pipe, Connection)
            for trial, value in zip(running.pop(pipe), pipe.recv(), strict=True):
                study.tell(trial, value)
            hand_out(pipe)
    return time.perf_counter() - begin


def measure(pipes: list[Connection], steps: int, repeats: int) -> dict[str, list[float]]:
    """Return trial-steps per second of each side and number of processes, for each turn."""
    rates: dict[str, list[float]] = {}
    for _ in range(repeats):
        for count in range(1, PROCESSES + 1):
            for side, method, chunk in (("peer", "loop", 1), ("stack", "stacked", TRIALS // count)):
                took = study_time(pipes[:count], method, chunk, steps)
                rates.setdefault(f"{side} x {count}", []).append(TRIALS * steps / took)
    return rates


def ask(pipe: Connection, method: str, *arguments: int) -> list[float]:
    """Call a method of one process."""
    pipe.send((method, arguments))
    result: list[float] = pipe.recv()
    return result


def floor_lines(tick_s: float, flops_per_s: float, bytes_per_s: float) -> dict[str, float]:
    """Return what a tick needs at least, by count (docs/engine.md has the sums), beside what it took; print it."""
    flops, size = 23.0e6, 11.5e6
    found = {
        "tick_us": 1e6 * tick_s,
        "gflop_per_s": flops_per_s / 1e9,
        "gbyte_per_s": bytes_per_s / 1e9,
        "floor_us": 1e6 * (flops / flops_per_s + size / bytes_per_s),
    }
    print("\none tick of 64 slots: " + ", ".join(f"{name} {value:.0f}" for name, value in found.items()))
    return found


def report(
    rates: dict[str, list[float]], width_one: list[float], noise: list[float], roofline: list[float], path: Path
) -> None:
    """Print the table and the bars, write the file."""
    best = {side: max((k for k in rates if k.startswith(side)), key=lambda k: statistics.median(rates[k]))
            for side in ("peer", "stack")}  # fmt: skip
    ratios = [ours / theirs for ours, theirs in zip(rates[best["stack"]], rates[best["peer"]], strict=True)]
    print(f"{'side x processes':<24}{'trial-steps/s':>14}{'lowest':>12}{'highest':>12}")
    for name, values in rates.items():
        print(f"{name:<24}{statistics.median(values):>14,.0f}{min(values):>12,.0f}{max(values):>12,.0f}")
    figures = {"digits-mlp": (ratios, ">=", 8.0), "width-1": (width_one, ">=", 0.97), "noise-cost": (noise, "<=", 0.03)}
    print(f"\n{'figure':<24}{'median':>14}{'lowest':>12}{'highest':>12}")
    for name, (values, _, _) in figures.items():
        print(f"{name:<24}{statistics.median(values):>14.3f}{min(values):>12.3f}{max(values):>12.3f}")
    machine = {"torch": torch.__version__, "python": platform.python_version(), "cores": os.cpu_count(),
               "machine": platform.processor() or platform.machine(), "load": os.getloadavg()}  # fmt: skip
    record = {
        "machine": machine,
        "roofline": floor_lines(*roofline),
        "rates": rates,
        **{name: values for name, (values, _, _) in figures.items()},
    }
    path.write_text(json.dumps(record, indent=1) + "\n")
    for name, (values, sign, bound) in figures.items():
        value = statistics.median(values)
        ok = value >= bound if sign == ">=" else value <= bound
        print(f"bar {name} {value:.3f} {sign} {bound} {'ok' if ok else 'short'}")


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="less than 50 s")
    quick = parser.parse_args().quick
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    context = multiprocessing.get_context("spawn")
    pipes: list[Connection] = []
    for _ in range(PROCESSES):
        ours, theirs = context.Pipe()
        context.Process(target=serve, args=(theirs,), daemon=True).start()
        pipes.append(ours)
        ours.recv()  # one after another: the first fills the cache of compiled programs
    rates = measure(pipes, 100 if quick else 400, 3 if quick else 5)
    width_one = ask(pipes[0], "width_one", 500 if quick else 2000)
    noise = ask(pipes[0], "noise_cost", 100 if quick else 500)
    roofline = ask(pipes[0], "roofline", 100 if quick else 500)
    report(rates, width_one, noise, roofline, Path(__file__).parent / "results" / "stacking.json")
    for pipe in pipes:
        pipe.send(None)


if __name__ == "__main__":
    main()
