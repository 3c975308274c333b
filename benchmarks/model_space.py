"""What it costs to search the shape of a model: four shapes of eight trials each against 32 trials of one shape.

    python benchmarks/model_space.py [--quick] [--rounds N] [--examples N]

Tuner as a user runs it (`_sweep_service.py`), digits-mlp with AdamW at two batch sizes, quasirandom. Both studies have
the same configurations but for the width of the hidden layer: 16, 32, 64 and 128 in turn, or 64. The caches are warm:
each study has run before, until all of its trials ran in compiled stacks (at most `WARM` times). Rounds are pairs, one
after the other, in turns; other load hits both, so their ratio counts. A third study searches a dropout rate (a value,
not a shape) as well: one stack. Prints one table, writes results/model_space.json, and ends with a line per promised
figure.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from _sweep_service import Service, Timing  # noqa: E402

WARM = 10
TRIALS, SHAPES, ONE = 32, [16, 32, 64, 128], 64
MOST = 1.5
"""Bound of the ratio."""
CASES: dict[str, dict[str, Any]] = {
    "one shape": {"workload.hidden": ONE},
    "four shapes": {"workload.hidden": {"values": SHAPES}},
    "a value": {"workload.hidden": ONE, "workload.dropout": {"min": 0.0, "max": 0.5}},
}


def document(case: str, number: int, examples: int) -> dict[str, Any]:
    """Return one study. `number` tells its name from others."""
    return {
        "name": f"{case.replace(' ', '-')}-{number + WARM}",
        "workload": "digits-mlp",
        "optimizers": ["adamw"],
        "parameters": {"batch_size": {"values": [16, 32]}, **CASES[case]},
        "method": "quasirandom",
        "run_cap": TRIALS,
        "budget": {"examples_per_trial": examples},
    }


def main() -> None:
    """Run all studies and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two rounds of short trials")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--examples", type=int, default=20_000)
    options = parser.parse_args()
    rounds, examples = (2, 4000) if options.quick else (options.rounds, options.examples)
    found: dict[str, list[Timing]] = {case: [] for case in CASES}
    with tempfile.TemporaryDirectory() as folder, Service(Path(folder) / "service", ()) as service:
        for case in CASES:
            warm_up(service, case, examples)
        for number in range(rounds):
            for case in list(CASES) if number % 2 else list(reversed(CASES)):
                found[case].append(run(service, case, number, examples))
    report(found, examples)


def warm_up(service: Service, case: str, examples: int) -> None:
    """Run a study until all of its trials are in compiled stacks, and wait each time until nothing is compiled."""
    for number in range(WARM):
        timing = run(service, case, number - WARM, examples)
        if all("compiled" in program for program in timing.programs):
            return
        service.settle()


def run(service: Service, case: str, number: int, examples: int) -> Timing:
    """Run a study and say how long it took."""
    timing = service.run(document(case, number, examples))
    programs = ", ".join(f"{count} {name}" for name, count in timing.programs.items())
    print(f"  {case}, round {number + 1}: {timing.wall_s:.2f} s; {programs}", file=sys.stderr, flush=True)
    return timing


def report(found: dict[str, list[Timing]], examples: int) -> None:
    """Print the table and the bars, and write the file."""
    base = [timing.wall_s for timing in found["one shape"]]
    rows: dict[str, Any] = {}
    print(f"{TRIALS} trials of {examples} examples, {len(base)} rounds; medians")
    print(f"{'':14}{'wall s':>9}{'worker CPU s':>14}{'in ticks s':>12}{'utilised':>10}{'ratio':>8}  programs")
    for case, timings in found.items():
        ratio = statistics.median(t.wall_s / one for t, one in zip(timings, base, strict=True))
        wall, cpu, ticks = (
            statistics.median(values)
            for values in zip(*((t.wall_s, t.worker_cpu_s, max(t.tick_s, default=0.0)) for t in timings), strict=True)
        )
        used = timings[-1].utilisation or 0.0
        rows[case] = {"ratio": ratio, "rounds": [timing.record() for timing in timings]}
        programs = ", ".join(f"{count} {name}" for name, count in timings[-1].programs.items())
        print(f"{case:14}{wall:9.2f}{cpu:14.2f}{ticks:12.2f}{used:10.2f}{ratio:8.2f}  {programs}")
    path = ROOT / "benchmarks" / "results" / "model_space.json"
    path.write_text(json.dumps({"trials": TRIALS, "examples": examples, "cases": rows}, indent=1) + "\n", "utf-8")
    for case, name in (("four shapes", "four_shapes_over_one"), ("a value", "value_over_none")):
        ratio = rows[case]["ratio"]
        print(f"bar {name} {ratio:.2f} <= {MOST} {'ok' if ratio <= MOST else 'short'}")


if __name__ == "__main__":
    main()
