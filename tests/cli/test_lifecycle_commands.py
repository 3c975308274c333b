"""pause, resume, edit, clone, enqueue and retry in the terminal: what they send, and what they say."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from fake_server import FakeServer, answer, problem, study, trial
from typer.testing import Result

from tuner.errors import InvalidInput
from tuner.terminal.assignments import assignments, nested

Run = Callable[..., Result]
AT = "/api/v1/studies/demo"


def sent(server: FakeServer) -> Any:
    return json.loads(server.asked[-1][3])


def test_pause_and_resume(tuner: Run, server: FakeServer) -> None:
    server.set(f"{AT}/pause", answer(study(state="paused")), "POST")
    server.set(f"{AT}/resume", answer(study(state="running")), "POST")
    assert tuner("pause", "demo").stderr == "study demo is paused; go on with: tuner resume demo\n"
    assert tuner("resume", "demo").stderr == "study demo is running\n"
    assert json.loads(tuner("pause", "demo", "--json").stdout)["state"] == "paused"
    server.set(f"{AT}/pause", problem(409, "tuner:conflict", "the study is stopped"), "POST")
    result = tuner("pause", "demo")
    assert (result.exit_code, result.stderr) == (1, "error: the study is stopped\n")


def test_edit_sends_what_is_given_and_nothing_else(tuner: Run, server: FakeServer) -> None:
    server.set(AT, answer(study(state="stopped")), "PATCH")
    result = tuner("edit", "demo", "run_cap=128", "title=007", "tags=[a, b]", "budget.max_failed=3", "parallel=null")
    assert sent(server) == {
        "run_cap": 128, "title": "007", "tags": ["a", "b"], "budget": {"max_failed": 3}, "parallel": None,
    }  # fmt: skip
    assert result.stderr.splitlines() == [
        "study demo is stopped: budget, parallel, run_cap, tags, title as asked",
        "it has no more trials until it goes on: tuner resume demo",
    ]
    faults = [{"field": "seed", "message": "cannot change"}]
    server.set(AT, problem(422, "tuner:invalid-input", "no", faults), "PATCH")
    assert tuner("edit", "demo", "seed=1").exit_code == 2
    assert tuner("edit", "demo").exit_code == 2
    assert tuner("edit", "demo", "run_cap").exit_code == 2


def test_clone(tuner: Run, server: FakeServer) -> None:
    server.set(f"{AT}/clone", answer(study(name="demo-2"), 201), "POST")
    assert tuner("clone", "demo").stderr == "submitted demo-2: 64 trials of digits-mlp\n"
    assert sent(server) == {"name": None, "changes": {}}
    tuner(
        "clone", "demo", "--name", "x", "budget.examples_per_trial=9", "parameters.workload.hidden=[1, 2]", "tags=null"
    )
    assert sent(server) == {
        "name": "x",
        "changes": {
            "budget": {"examples_per_trial": 9}, "parameters": {"workload.hidden": [1, 2]}, "tags": None,
        },
    }  # fmt: skip


def test_enqueue_and_retry(tuner: Run, server: FakeServer) -> None:
    server.set(f"{AT}/trials", answer(trial(state="queued", value=None), 201), "POST")
    server.set(f"{AT}/trials/7/retry", answer(trial(state="queued", value=None)), "POST")
    result = tuner("enqueue", "demo", "optimizer=muon", "lr=1e-3", "workload.norm=true", "batch_size=32")
    assert sent(server)["params"] == {"optimizer": "muon", "lr": 0.001, "workload.norm": True, "batch_size": 32}
    assert result.stderr.startswith("trial 7 of demo is queued: muon lr=0.0213 batch_size=32")
    assert tuner("retry", "demo", "7").stderr == "trial 7 of demo is queued\n"
    assert json.loads(tuner("retry", "demo", "7", "--json").stdout)["number"] == 7
    refused = tuner("enqueue", "demo", "lr=[1, 2]")
    assert refused.exit_code == 2 and "one value of each" in refused.stderr


def test_values_are_read_as_in_a_document_and_faults_named() -> None:
    assert assignments(["a=1e-3", "b=no", "c=x: y", "d=", "e={f: [1]}"], text=["c"]) == {
        "a": 0.001, "b": "no", "c": "x: y", "d": None, "e": {"f": [1]},
    }  # fmt: skip
    with pytest.raises(InvalidInput) as caught:
        assignments(["=1", "a=1", "a=2", "b=[", "c"])
    assert [fault.field for fault in caught.value.faults] == ["=1", "a", "b", "c"]
    with pytest.raises(InvalidInput, match="given as a whole"):
        nested({"budget": 1, "budget.max_failed": 2})
