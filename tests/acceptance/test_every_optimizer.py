"""Every optimizer of the catalogue in one study, on one worker, in one stack."""

import math
from collections.abc import Callable
from typing import Any

from live_server import LiveServer, wait_for

from tuner.study.catalogue import load_catalogue

EXAMPLES = 1024


def document() -> dict[str, Any]:
    """One trial per optimizer, every hyperparameter at its default, so that only the rules tell two trials apart."""
    optimizers = []
    for info in load_catalogue().optimizers.values():
        fixed = {h.name: h.default for h in info.hyperparameters}
        optimizers.append({"name": info.name, **fixed, "batch_size": 256 if info.needs_loss else 32})
    return {
        "name": "all",
        "workload": "digits-mlp",
        "optimizers": optimizers,
        "parameters": {"schedule": "one_cycle"},
        "method": "random",
        "micro_batch": 16,
        "run_cap": len(optimizers),
        "parallel": len(optimizers),
        "evaluations": 4,
        "budget": {"examples_per_trial": EXAMPLES},
    }


def test_all_optimizers_train_side_by_side(live_server: Callable[..., LiveServer]) -> None:
    server = live_server(TUNER_WIDTH="64")
    wanted = document()
    server.submit(wanted)
    wait_for(lambda: server.get("/studies/all")["state"] == "completed", "the study to complete", 200)
    trials = server.get("/studies/all/trials?limit=1000")["items"]
    assert [trial["params"]["optimizer"] for trial in trials] == [choice["name"] for choice in wanted["optimizers"]]
    problems = {t["params"]["optimizer"]: t.get("reason") or t["state"] for t in trials if t["state"] != "completed"}
    assert not problems
    for trial in trials:
        assert trial["examples"] == EXAMPLES and trial["attempt"] == 1, trial
        assert math.isfinite(trial["value"]), trial
    values = {trial["params"]["optimizer"]: trial["value"] for trial in trials}
    assert len(set(values.values())) == len(values), "no two rules give the same bits"
    assert sum(value < math.log(10) for value in values.values()) > 0.8 * len(values), values
