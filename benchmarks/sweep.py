"""A whole study, from its submit to its last result: `tuner serve` compared with what a user runs without it.

    python benchmarks/sweep.py [--case NAME ...] [--repeats N] [--quick] [--device cuda]

Ours: `tuner serve` in processes of its own, SQLite, its local worker, everything at its default. The first study starts
on a fresh machine (empty data directory and caches) and includes the server's start; the second and third follow on the
same server, when nothing works in the background any more. Peers: Optuna with `study.optimize` in 1, 2 and 4 processes
on SQLite (on a GPU up to 32), the fastest of them, its start included; or a plain loop over the same trials in one
process. Both train the same model on the same data, with the same ranges, number of evaluations and reports; final
losses of the same configurations are compared. Ours and the peer take turns, so that other load affects both.

Prints a table per case with what a study costs beyond its ticks and two floors, writes results/sweep-NAME.json, and
ends with a line per promised figure.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from _sweep_cases import CASES, QUICK, Case, prepared
from _sweep_floor import floor_s, peak_flops
from _sweep_rival import Rival, Run
from _sweep_service import Service, Timing

PROCESSES = {"cpu": (1, 2, 4), "cuda": (1, 2, 4, 8, 16, 32)}
STUDIES = ("first", "second", "third")
NEAR_BEST = 1.05
"""A number of processes whose time is within this factor of the best one's is measured again."""
COMPARED = 8
"""Configurations whose final losses are compared."""
NOT_TICKS = 0.15
Bar = tuple[str, float, str, float]


class Measurement:
    """One case: its peers and its servers, run in turns."""

    def __init__(self, case: Case, folder: Path, device: str, processes: Sequence[int]) -> None:
        self.case = prepared(case, folder / "images")
        self.folder, self.processes = folder, processes
        self.rival = Rival(self.case, folder, device)
        self.ours: dict[str, list[Timing]] = defaultdict(list)
        self.peers: dict[str, list[Run]] = defaultdict(list)
        self.beside: dict[str, list[float]] = defaultdict(list)
        """Seconds of the best peer in the turn of each of our studies."""

    def round(self, number: int, studies: Sequence[str], settle_s: float) -> None:
        """Run the studies on one new server, each followed by a turn of the peer."""
        with Service(self.folder / f"service-{number}", self.case.workloads) as service:
            for study in studies:
                timing = service.run({"name": f"{self.case.name}-{study}", **self.case.document})
                self.ours[study].append(timing)
                waited = service.settle(settle_s)
                peer = self._turn_of_peer(timing)
                self.beside[study].append(peer)
                print(f"  {study}: {timing.wall_s:.1f} s, then busy for {waited:.0f} s; peer {peer:.1f} s")

    def _turn_of_peer(self, timing: Timing) -> float:
        if self.case.peer == "loop":
            self.peers["loop x 1"].append(self.rival.loop([params for params, _ in timing.trials]))
            return self.peers["loop x 1"][-1].wall_s
        best = min((_median(runs) for runs in self.peers.values()), default=None)
        took = []
        for count in self.processes:
            runs = self.peers[f"optuna x {count}"]
            if not runs or (best is not None and _median(runs) < NEAR_BEST * best):
                runs.append(self.rival.optuna(count))
                took.append(runs[-1].wall_s)
        return min(took)

    def ratios(self, study: str) -> list[float]:
        """Return the peer's time divided by ours, for each turn."""
        return [peer / ours.wall_s for peer, ours in zip(self.beside[study], self.ours[study], strict=True)]

    def losses(self) -> list[tuple[float, float]]:
        """Return the final losses of ours and of the plain loop for some configurations of the second study."""
        trials = [(params, value) for params, value in self.ours["second"][-1].trials if value is not None]
        chosen = trials[:: max(1, len(trials) // COMPARED)][:COMPARED]
        loop = self.rival.loop([params for params, _ in chosen]).values
        return [(value, other) for (_, value), other in zip(chosen, loop, strict=True)]


def _median(runs: Sequence[Run] | Sequence[Timing]) -> float:
    return statistics.median(run.wall_s for run in runs)


def measure(case: Case, arguments: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], list[Bar]]:
    """Measure one case; print its table; return the record and the bars."""
    spec = case.spec()
    print(f"\n{case.name}: {spec.run_cap} trials of {spec.budget.examples_per_trial:,} examples, {spec.method}")
    processes = PROCESSES[arguments.device]
    measurement = Measurement(case, folder, arguments.device, processes[:2] if arguments.quick else processes)
    for number in range(arguments.repeats):
        measurement.round(number, STUDIES[:2] if arguments.quick else STUDIES, 5.0 if arguments.quick else 180.0)
    ratios = {study: measurement.ratios(study) for study in measurement.ours}
    print(f"{'seconds':<24}{'median':>10}{'lowest':>10}{'highest':>10}{'CPU s':>10}{'first at':>10}{'ratio':>10}")
    for name, runs in measurement.peers.items():
        _row(name, [run.wall_s for run in runs], statistics.median(run.cpu_s for run in runs), "", "")
    for study, timings in measurement.ours.items():
        cpu = statistics.median(t.server_cpu_s + t.worker_cpu_s for t in timings)
        first, ratio = statistics.median(t.first_s for t in timings), statistics.median(ratios[study])
        _row(f"tuner, {study} study", [t.wall_s for t in timings], cpu, f"{first:.1f}", f"{ratio:.2f}")
    second = measurement.ours["second"]
    share = statistics.median(timing.not_ticks for timing in second)
    _costs(second[-1])
    peak = peak_flops(arguments.device)
    floor = floor_s(measurement.rival.task, spec, peak)
    print(f"floor: {floor:.2f} s for the products at this machine's {peak / 1e9:.0f} GFLOP/s; "
          f"{max(second[-1].tick_s, default=0.0):.1f} s in ticks")  # fmt: skip
    losses = measurement.losses()
    ours, loop = (statistics.mean(side) for side in zip(*losses, strict=True))
    typical = statistics.median(abs(one / other - 1) for one, other in losses)
    print(f"final loss of {len(losses)} configurations: mean {ours:.5f}, plain loop {loop:.5f}; "
          f"median difference {typical:.2%}")  # fmt: skip
    record = {
        "ratios": ratios,
        "peers": {name: [asdict(run) for run in runs] for name, runs in measurement.peers.items()},
        "ours": {study: [timing.record() for timing in timings] for study, timings in measurement.ours.items()},
        "floor_s": floor,
        "peak_flops": peak,
        "losses": losses,
    }
    bars: list[Bar] = [
        (case.name, statistics.median(ratios["second"]), ">=", case.least),
        (f"{case.name}-first", statistics.median(ratios["first"]), ">=", case.least_first),
    ]
    if case.name == "digits-mlp":
        bars.append((f"{case.name}-not-ticks", share, "<=", NOT_TICKS))
    return record, bars


def _row(name: str, seconds: list[float], cpu: float, first: str, ratio: str) -> None:
    middle = f"{statistics.median(seconds):>10.1f}{min(seconds):>10.1f}{max(seconds):>10.1f}"
    print(f"{name:<24}{middle}{cpu:>10.1f}{first:>10}{ratio:>10}")


def _costs(timing: Timing) -> None:
    programs = "; ".join(f"{count} trials with {name}" for name, count in timing.programs.items())
    print(f"second study: {programs}; utilisation {timing.utilisation or 0:.0%}")
    ticks = ", ".join(f"{t:,} ticks in {s:.1f} s" for s, t in zip(timing.tick_s, timing.ticks, strict=True))
    print(f"second study beyond its ticks ({ticks}): {timing.not_ticks:.0%} of the time, server's CPU "
          f"{timing.server_cpu_s:.1f} s, {timing.rows:,} report rows in {timing.syncs:,} syncs")  # fmt: skip


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--case", nargs="+", choices=[case.name for case in CASES], help="default: all")
    parser.add_argument("--repeats", type=int, default=2, help="servers started per case")
    parser.add_argument("--quick", action="store_true", help="less than 50 s: the first case, smaller")
    parser.add_argument("--device", choices=list(PROCESSES), default="cpu")
    arguments = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    if arguments.quick:
        arguments.repeats = 1
    cases = [QUICK] if arguments.quick else [c for c in CASES if c.name in (arguments.case or [c.name])]
    machine = {"torch": torch.__version__, "python": platform.python_version(), "cores": os.cpu_count(),
               "machine": platform.processor() or platform.machine(), "load": os.getloadavg()}  # fmt: skip
    if arguments.device == "cuda":
        machine["gpu"] = torch.cuda.get_device_name()
    bars: list[Bar] = []
    suffix = "-quick" if arguments.quick else "" if arguments.device == "cpu" else f"-{arguments.device}"
    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            record, found = measure(case, arguments, Path(folder))
        bars += found
        path = Path(__file__).parent / "results" / f"sweep-{case.name}{suffix}.json"
        path.write_text(json.dumps({"machine": machine, **record}, indent=1) + "\n")
    print()
    for name, value, sign, bound in bars:
        ok = value >= bound if sign == ">=" else value <= bound
        print(f"bar {name} {value:.3g} {sign} {bound:g} {'ok' if ok else 'short'}")


if __name__ == "__main__":
    main()
