"""What a user's own loop waits for: its next trial in a study of 10,000, and a report.

    python benchmarks/own_loop.py [--quick] [--trials N]

`tuner serve` on SQLite, as a process of its own, has a TPE study of external trials of which N have ended. A loop in
this process asks for trials over HTTP on the loopback, "trains" each for 0.2 s and finishes it with a value. Timed
are the step from `finish` to the next trial (the server stores the result, leases the next trial, and proposes one more
beside), and `report`, called in bursts far beyond what is sent. Prints one table, writes results/own_loop.json, and
ends with a line per promised figure.
"""

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from finished_trials import finish_trials

from api.app import open_database
from api.plans import Plans, stored
from api.settings import Settings
from storage import studies
from tuner.client import Client
from tuner.study.catalogue import load_catalogue
from tuner.study.check import parse_study

ROOT = Path(__file__).resolve().parent.parent
IN_FLIGHT = 16
REPORTS = 2_000
TRAINING_S = 0.2
"""Any real trial takes longer: a proposal for the queue is made meanwhile."""


def document(trials: int) -> dict[str, Any]:
    """Seven hyperparameters of code that only its owner knows."""
    log_range = {"min": 1e-5, "max": 1.0, "scaling": "log"}
    return {
        "name": "own",
        "workload": "external",
        "metric": "loss",
        "parameters": {
            "lr": log_range,
            "decay": log_range,
            "batch_size": {"values": [16, 32, 64, 128]},
            "depth": {"min": 1, "max": 12, "integer": True},
            "width": {"min": 16, "max": 1024, "scaling": "log", "integer": True},
            "dropout": {"min": 0.0, "max": 0.5},
            "activation": {"values": ["relu", "gelu", "silu"]},
        },
        "method": "tpe",
        "run_cap": trials + 100_000,
        "parallel": IN_FLIGHT,
    }


def prepare(data_dir: Path, trials: int) -> None:
    """Make a database with a study of which so many trials have ended."""
    database = open_database(Settings(data_dir=data_dir))
    spec = parse_study(document(trials), load_catalogue(), [])
    with database.write() as session:
        study = studies.create(
            session,
            name=spec.name,
            title="",
            document=spec.model_dump(mode="json"),
            batch_groups=stored(spec.batch_groups()),
            run_cap=spec.run_cap,
            parallel=spec.in_flight(),
            idempotency_key=None,
            now=database.now(session),
        )
    finish_trials(database, Plans(), study.id, trials)
    database.close()


def serve(data_dir: Path) -> "tuple[subprocess.Popen[bytes], Client]":
    """Start the server, and wait until it is ready and trials wait."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-P", "-m", "tuner", "serve", "--no-worker", "--port", port, "--data-dir", str(data_dir)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    client = Client(f"http://127.0.0.1:{port}")
    while True:
        try:
            if client.study("own").counts.get("queued", 0) >= IN_FLIGHT:  # type: ignore[call-overload]
                return process, client
        except Exception as error:
            if process.poll() is not None:
                raise SystemExit(f"tuner serve ended with status {process.returncode}") from error
        time.sleep(0.1)


def race(client: Client, asks: int) -> dict[str, list[float]]:
    """Return the seconds of each ask and of each report."""
    times: dict[str, list[float]] = {"finish to next trial": [], "report": []}
    begin = None
    for trial in client.ask("own"):
        if begin is not None:
            times["finish to next trial"].append(time.perf_counter() - begin)
        if len(times["report"]) < REPORTS:
            for step in range(200):
                started = time.perf_counter()
                trial.report(step=step, loss=1.0 / (step + 1), accuracy=0.5)
                times["report"].append(time.perf_counter() - started)
            time.sleep(0.5)  # the burst is on its way
        if len(times["finish to next trial"]) >= asks:
            break
        time.sleep(TRAINING_S)
        begin = time.perf_counter()
        trial.finish(float(trial.params.dropout))
    return times


def milliseconds(times: list[float]) -> tuple[float, float]:
    """Return the median and the 95th percentile in ms."""
    cuts = statistics.quantiles(times, n=20, method="inclusive")
    return 1e3 * statistics.median(times), 1e3 * cuts[-1]


def main() -> None:
    """Measure, print the table, write the JSON file, and compare with the bars."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--trials", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name), options.trials)
        process, client = serve(Path(name))
        try:
            times = race(client, 100 if options.quick else 600)
        finally:
            process.terminate()
            process.wait()
            client.close()
    print(f"{'ms':<28}{'p50':>9}{'p95':>9}{'count':>8}")
    for label, seconds in times.items():
        middle, high = milliseconds(seconds)
        print(f"{label:<28}{middle:>9.3f}{high:>9.3f}{len(seconds):>8}")
    machine = {"python": platform.python_version(), "cores": os.cpu_count(), "load": os.getloadavg(),
               "device": platform.machine()}  # fmt: skip
    record = {"machine": machine, "trials": options.trials, "in_flight": IN_FLIGHT,
              "p50_p95_ms": {label: milliseconds(seconds) for label, seconds in times.items()}}  # fmt: skip
    (Path(__file__).parent / "results" / "own_loop.json").write_text(json.dumps(record, indent=1) + "\n")
    for label, what, bound in (("own-ask-p50-ms", "finish to next trial", 30), ("own-report-p50-ms", "report", 5)):
        value = milliseconds(times[what])[0]
        print(f"bar {label} {value:.3f} < {bound} {'ok' if value < bound else 'short'}")


if __name__ == "__main__":
    main()
