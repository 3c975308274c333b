"""Studies that search their workload's parameters, at the server: keys of stacks, what is granted, and the advice."""

from collections import Counter
from typing import Any

import pytest
from fake_worker import FakeWorker
from fastapi.testclient import TestClient
from over_http import submit, wait_for

from api.plans import Plan, Plans
from api.results import noise
from storage import studies, trials
from tuner.study.catalogue import load_catalogue
from tuner.study.check import parse_study
from tuner.study.families import families
from tuner.study.hyperparameter import Scalar

SHAPES = [16, 32, 64, 128]


def plan(**changes: Any) -> Plan:
    document = {"name": "p", "workload": "digits-mlp", "optimizers": ["sgd"], "run_cap": 32, "method": "random"}
    spec = parse_study({**document, **changes}, load_catalogue(), ["digits-mlp", "digits-cnn"])
    return Plan(spec, families(spec, load_catalogue()), spec.batch_groups())


def params(**own: Scalar) -> dict[str, Scalar]:
    return {"batch_size": 32, **{f"workload.{name}": value for name, value in own.items()}}


def test_keys_of_studies_that_search_no_model_are_what_they_were() -> None:
    assert plan().stack(params()) == "digits-mlp/16/a64c7d00a5a4"
    assert plan().stacks == ["digits-mlp/16/a64c7d00a5a4"]


def test_a_shape_has_the_key_of_a_study_that_has_it_fixed() -> None:
    searched = plan(parameters={"workload.hidden": SHAPES})
    fixed = plan(workload={"name": "digits-mlp", "params": {"hidden": 64}})
    assert searched.stack(params(hidden=64)) == fixed.stack(params())
    assert len({searched.stack(params(hidden=width)) for width in SHAPES}) == 4
    assert searched.stacks is None


def test_values_share_a_stack_of_its_own_program() -> None:
    valued = plan(parameters={"workload.dropout": {"min": 0.0, "max": 0.5}})
    assert valued.spec.workload.values == ["dropout"]
    assert valued.stacks == [valued.stack(params(dropout=0.1))] == [valued.stack(params(dropout=0.4))]
    assert valued.stack(params(dropout=0.1)) != plan().stack(params())


@pytest.mark.parametrize(
    ("changes", "at_once", "in_all"),
    [
        ({}, 32, 32),
        ({"parameters": {"workload.hidden": SHAPES}}, 8, 8),
        ({"parameters": {"workload.hidden": SHAPES, "batch_size": [16, 32, 128]}}, 6, 6),
        ({"parameters": {"workload.hidden": {"min": 10, "max": 25}}}, 2, 2),
        ({"parameters": {"workload.dropout": {"min": 0.0, "max": 0.5}}}, 32, 32),
        ({"parameters": {"workload.hidden": SHAPES}, "method": "tpe"}, 32, 8),
        (
            {
                "workload": "digits-cnn",
                "parameters": {"workload.channels": [4, 8], "workload.batch_norm": [True, False]},
            },
            8,
            8,
        ),
        ({"optimizers": ["sgd", {"name": "adamw", "workload.hidden": SHAPES}]}, 8, 8),
    ],
)
def test_a_stack_expects_its_share_of_the_trials(changes: dict[str, Any], at_once: int, in_all: int) -> None:
    found = plan(**changes)
    own = params(hidden=16, channels=4, batch_norm=True)
    assert (found.at_once(own, 32, 1), found.in_all(own, 32, 1)) == (at_once, in_all)


def test_a_restarted_server_asks_no_worker_what_the_shapes_are(client: TestClient) -> None:
    worker = FakeWorker(client)
    told = {
        "name": "mine",
        "parameters": [{"name": "width", "takes": "whole"}, {"name": "rate", "value": True}],
        "more": False,
    }
    answer = client.post(
        "/api/v1/workers",
        json={"session": "fake-session-0002", "name": "f", "devices": [{"device": "cpu"}], "workloads": [told]},
    )
    assert answer.status_code == 200
    domains = {"workload.width": {"min": 4, "max": 9}, "workload.rate": {"min": 0.1, "max": 0.2}}
    study = submit(client, name="own", workload="mine", optimizers=["sgd"], parameters=domains, metric="valid_loss")
    wait_for(lambda: client.get("/api/v1/studies/own").json()["counts"] == {"queued": 4})
    server: Any = client.app.state.server  # type: ignore[attr-defined]
    with server.database.read() as session:
        record = studies.get(session, study)
        again, before = Plans().of(record), server.plans.of(record)
        created = trials.page(session, study_id=study, limit=10)
    assert again.spec.workload.values == ["rate"]
    for trial in created:
        assert isinstance(trial.params["workload.width"], int)
        assert again.stack(trial.params) == before.stack(trial.params) == trial.stack
    assert len({trial.stack for trial in created}) == len({trial.params["workload.width"] for trial in created})
    assert not worker.sync(capacity=[entry(4)]).assign, "a worker without the workload gets none of it"


def queue(client: TestClient, count: int, **changes: Any) -> None:
    submit(client, **{"name": "shapes", "optimizers": ["sgd"], "run_cap": count, "parallel": count, **changes})
    wait_for(lambda: client.get("/api/v1/studies/shapes").json()["counts"] == {"queued": count})


def entry(free: int, stack: str | None = None) -> dict[str, Any]:
    return {"device": "cpu", "stack": stack, "free": free}


def test_a_stack_is_filled_with_trials_of_one_shape(client: TestClient) -> None:
    queue(client, 32, method="quasirandom", parameters={"batch_size": 32, "workload.hidden": SHAPES})
    worker = FakeWorker(client, width=8)
    stacks: dict[str, int] = {}
    seen: list[Scalar] = []
    for _ in SHAPES:
        entries = [entry(8, stack) for stack in stacks] + [entry(8)]
        for one in worker.sync(capacity=entries).assign:
            stacks[one.stack] = int(one.params["workload.hidden"])
            seen.append(one.params["workload.hidden"])
            assert (one.workload_params, one.workload_values, one.slots) == ({}, [], 8)
            assert one.params["workload.hidden"] == stacks[one.stack]
    assert sorted(stacks.values()) == SHAPES
    assert Counter(seen) == dict.fromkeys(SHAPES, 8)
    assert [width for width, _ in Counter(seen).most_common()] == list(dict.fromkeys(seen))
    assert seen == sorted(seen, key=list(dict.fromkeys(seen)).index), "one shape after another"
    first = client.get("/api/v1/studies/shapes/trials/0").json()
    assert first["params"]["workload.hidden"] == seen[0], "the shape of the first trial is opened first"


def test_the_configurations_do_not_depend_on_the_order_in_which_shapes_are_trained(client: TestClient) -> None:
    def configurations(name: str) -> list[Any]:
        return [trial["params"] for trial in client.get(f"/api/v1/studies/{name}/trials").json()["items"]]

    parameters = {"batch_size": 32, "workload.hidden": SHAPES}
    queue(client, 12, parameters=parameters)
    submit(client, name="slow", optimizers=["sgd"], run_cap=12, parallel=2, parameters=parameters)
    worker = FakeWorker(client, width=2)
    wait_for(lambda: _train(client, worker) == {"completed": 12})
    assert configurations("slow") == configurations("shapes")


def _train(client: TestClient, worker: FakeWorker) -> Any:
    for one in worker.sync(capacity=[entry(9)]).assign:
        worker.finish(one.model_dump(), 0.5)
    return client.get("/api/v1/studies/slow").json()["counts"]


def test_values_are_told_to_the_worker(client: TestClient) -> None:
    queue(client, 3, parameters={"batch_size": 32, "workload.dropout": {"min": 0.1, "max": 0.4}})
    (one, *_) = FakeWorker(client).take(3)
    assert one["workload_values"] == ["dropout"] and 0.1 <= one["params"]["workload.dropout"] <= 0.4


@pytest.mark.parametrize(
    ("parameters", "shapes"),
    [
        ({"workload.hidden": SHAPES, "batch_size": [16, 128]}, {64}),
        ({"workload.dropout": {"min": 0.0, "max": 0.5}, "batch_size": [16, 128]}, {None}),
    ],
)
def test_the_noise_of_other_shapes_is_no_evidence(
    client: TestClient, parameters: dict[str, Any], shapes: set[Scalar | None]
) -> None:
    queue(client, 16, method="quasirandom", parameters=parameters)
    worker = FakeWorker(client)
    while one := next(iter(worker.sync(capacity=[entry(1)]).assign), None):
        width = one.params.get("workload.hidden")
        diverged = one.number % 4 == 3
        more = {"infeasible": "diverged"} if diverged else {}
        worker.finish(one.model_dump(), None if diverged else abs(int(width or 0) - 64) + one.number / 100, **more)
    server: Any = client.app.state.server  # type: ignore[attr-defined]
    study = client.get("/api/v1/studies/shapes").json()
    with server.answers._readings.of(study["id"]) as reading:
        chosen = {trial.number for trial in noise._chosen(reading)}
        found = {one.number: one for one in trials.page(reading.session, study_id=study["id"], limit=100)}
    wanted = {n for n, one in found.items() if one.params.get("workload.hidden") in shapes}
    assert chosen == wanted and len({found[number].params["batch_size"] for number in wanted}) == 2
    assert {found[number].state for number in wanted} == {"completed", "infeasible"}
