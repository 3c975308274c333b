"""Studies that search the model too, with a real server and a real worker."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from live_server import LiveServer, wait_for
from safetensors.torch import load

OWN = Path(__file__).parent / "own_models.py"


@pytest.fixture
def server(live_server: Callable[..., LiveServer]) -> LiveServer:
    server = live_server("--workloads", str(OWN))
    server.await_worker()
    return server


def finished(server: LiveServer, document: dict[str, Any]) -> list[dict[str, Any]]:
    """The trials of a study that was submitted, when it is completed."""
    server.submit(document)
    name = document["name"]
    wait_for(lambda: server.get(f"/studies/{name}")["state"] == "completed", f"{name} to complete: {server.log()}", 240)
    return list(server.get(f"/studies/{name}/trials?limit=1000")["items"])


def shapes_of_best(server: LiveServer, study: str) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """The parameters of a study's winner, and the shapes of its weights."""
    best = server.get(f"/studies/{study}/best")["trial"]
    answer = server.client.get(f"/api/v1/studies/{study}/trials/{best['number']}/weights", timeout=30)
    assert answer.status_code == 200, answer.text
    return best["params"], {name: list(tensor.shape) for name, tensor in load(answer.content).items()}


def test_four_shapes_of_eight_trials_each_have_models_of_their_shape(server: LiveServer) -> None:
    widths = (16, 32, 64, 128)
    trials = finished(server, small("four", 32, {"workload.width": {"values": list(widths)}}))
    assert [trial["state"] for trial in trials] == ["completed"] * 32
    found = [trial["params"]["workload.width"] for trial in trials]
    assert {width: found.count(width) for width in widths} == dict.fromkeys(widths, 8)
    for trial in trials:
        curve = server.get(f"/studies/four/trials/{trial['number']}/curve?metric=valid_width")
        assert set(curve["value"]) == {trial["params"]["workload.width"]}
    params, shapes = shapes_of_best(server, "four")
    assert shapes["0.weight"] == [params["workload.width"], 6]
    assert server.get("/studies/four")["swept"]["adamw"] == ["lr", "workload.width"]


def small(name: str, run_cap: int, parameters: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "workload": "own-models",
        "optimizers": [{"name": "adamw", "weight_decay": 0.01, "beta1": 0.9, "beta2": 0.99}],
        "parameters": {"batch_size": 32, **parameters},
        "method": "quasirandom",
        "run_cap": run_cap,
        "budget": {"examples_per_trial": 1600},
        "evaluations": 2,
        **changes,
    }


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_choices_conditions_and_values_of_an_own_workload(server: LiveServer, method: str) -> None:
    parameters = {
        "workload.width": {"values": [8, 24]},
        "workload.activation": {"values": ["relu", "gelu", "none"]},
        "workload.norm": {"values": [True, False], "when": {"workload.activation": ["relu", "gelu"]}},
        "workload.dropout": {"min": 0.0, "max": 0.6},
        "workload.smoothing": {"min": 0.0, "max": 0.3},
    }
    trials = finished(server, small("own", 24, parameters, method=method))
    assert [trial["state"] for trial in trials] == ["completed"] * 24, [trial["error"] for trial in trials]
    for trial in trials:
        assert ("workload.norm" in trial["params"]) == (trial["params"]["workload.activation"] != "none")
    params, shapes = shapes_of_best(server, "own")
    assert shapes["0.weight"] == [params["workload.width"], 6]
    assert any(len(shape) == 1 and "weight" in name for name, shape in shapes.items()) == params.get(
        "workload.norm", False
    )
    assert len({trial["params"]["workload.dropout"] for trial in trials}) == 24
    if method == "random":  # the same document means the same trials, whatever came first
        again = finished(server, small("again", 24, parameters, method=method))
        assert [trial["params"] for trial in again] == [trial["params"] for trial in trials]


def test_whether_a_trial_gets_whole_batches_depends_on_its_own_model(server: LiveServer) -> None:
    parameters = {"workload.batch_norm": [True, False], "batch_size": {"values": [16, 32]}}
    document = small("norms", 8, parameters, workload="digits-cnn", budget={"examples_per_trial": 320})
    trials = finished(server, document)
    assert [trial["state"] for trial in trials] == ["completed"] * 8, [trial["error"] for trial in trials]
    for trial in trials:
        whole, program = trial["params"]["workload.batch_norm"], trial["program"]
        assert (program["micro_batch"], program.get("batch_dependent")) == (("whole", True) if whole else (8, None))


def test_what_a_worker_told_of_its_workload_is_checked(server: LiveServer) -> None:
    document = small("wrong", 4, {"workload.depth": [1, 2], "workload.norm": [True, 2]})
    answer = server.client.post("/api/v1/studies", json=document, timeout=30)
    assert answer.status_code == 422
    assert {error["field"]: error["message"] for error in answer.json()["errors"]} == {
        "parameters.workload.depth": "is unknown; own-models takes width, activation, norm, dropout, smoothing",
        "parameters.workload.norm": "is 2; allowed are true and false",
        "workload.params.width": "is missing; own-models takes width, activation, norm, dropout, smoothing",
    }
