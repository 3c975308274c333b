"""Starts `_sweep_peer.py` as a user starts a script, and times it from its start to its end."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _sweep_cases import Case, spaces

from tuner import workloads
from tuner.engine.data_order import DataOrder
from tuner.engine.seeds import INITIALISATION, derive
from tuner.workloads.task import Task

SCRIPT = Path(__file__).with_name("_sweep_peer.py")


@dataclass(frozen=True)
class Run:
    """One run: seconds on the clock, CPU seconds of all its processes, final losses (of a plain loop only)."""

    wall_s: float
    cpu_s: float
    values: list[float]


class Rival:
    """The peer of one case. `folder` takes its databases."""

    def __init__(self, case: Case, folder: Path, device: str) -> None:
        spec = case.spec()
        for source in case.workloads:
            workloads.import_user_workloads(source)
        self.task: Task = workloads.load(spec.workload.name, spec.workload.params)
        self._case, self._folder, self._count = case, folder, 0
        order = folder / "order.npy"
        np.save(order, DataOrder(spec.seed, self.task.examples).take(0, spec.budget.examples_per_trial))
        self._job: dict[str, Any] = {
            "workload": spec.workload.name,
            "workload_params": spec.workload.params,
            "workloads": case.workloads,
            "spaces": spaces(spec),
            "budget": spec.budget.examples_per_trial,
            "evaluations": spec.evaluations,
            "trials": spec.run_cap,
            "weights_seed": derive(spec.seed, INITIALISATION),
            "order": str(order),
            "device": device,
        }

    def optuna(self, processes: int) -> Run:
        """Run the study with Optuna in this many processes."""
        self._count += 1
        storage = f"sqlite:///{self._folder}/optuna-{self._count}.sqlite"
        return self._run({"kind": "optuna", "storage": storage, "name": self._case.name, "processes": processes})

    def loop(self, configurations: Sequence[dict[str, Any]]) -> Run:
        """Train these configurations one after another in one process."""
        return self._run({"kind": "loop", "configurations": list(configurations), "processes": 1})

    def _run(self, more: dict[str, Any]) -> Run:
        cores = os.cpu_count() or 1
        threads = cores if self._case.large and more["processes"] == 1 else 1
        path = self._folder / "job.json"
        path.write_text(json.dumps({**self._job, **more, "threads": threads}))
        begin = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(path)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        took = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{SCRIPT.name} ended with {process.returncode}")
        values = json.loads(printed) if more["kind"] == "loop" else []
        return Run(took, usage.ru_utime + usage.ru_stime, values)
