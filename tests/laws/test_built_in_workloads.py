"""What every built-in workload must satisfy: it runs as a stack and reports what its description says.

That it equals a solo run and keeps its bits: `test_solo_runs.py`, `test_engine_promises.py`.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from built_in_tasks import LR, NAMES, run, task_of

from tuner import workloads
from tuner.engine import Stack, TrialSpec
from tuner.study.catalogue import BUILT_IN_METRICS, BUILT_IN_WORKLOADS

STEPS, BATCH = 5, 8


def trial(name: str, key: int, optimizer: str, **params: Any) -> TrialSpec:
    configuration = {"optimizer": optimizer, "lr": LR.get(name, 0.05), "batch_size": BATCH, **params}
    return TrialSpec(key, configuration, 0, STEPS * BATCH, rungs=(2 * BATCH,), report_every=BATCH)


@pytest.mark.parametrize("name", NAMES)
def test_it_trains_as_one_stack_and_reports_what_the_server_says(name: str) -> None:
    assert workloads.describe(name).rstrip(".") == BUILT_IN_WORKLOADS[name]
    stack = Stack(task_of(name), width=3, micro_batch=4)
    assert stack.path == "eager"
    rows, ends = run(stack, [trial(name, 1, "sgd"), trial(name, 2, "adamw", lr=1e-3), trial(name, 3, "muon", lr=1e-3)])
    assert {key: (end.outcome, end.step, end.infeasible) for key, end in ends.items()} == {
        key: ("finished", STEPS, None) for key in (1, 2, 3)
    }
    assert {metric for row in rows[1] for metric in row.metrics} == set(BUILT_IN_METRICS[name])
    assert len({rows[key][-1].metrics["valid_loss"] for key in (1, 2, 3)}) == 3


def test_listing_names_loads_no_data() -> None:
    code = (
        "import sys; from tuner import workloads; print(*[workloads.describe(n) for n in workloads.names()]);"
        "from tuner.workloads import digits, python_sources;"
        "assert not any('sklearn' in m for m in sys.modules);"
        "assert not python_sources.python_sources.cache_info().currsize"
    )
    root = Path(workloads.__file__).parent.parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert "perceptron" in done.stdout
