"""Budgets: each ends its study with its reason, is exact under concurrency, is shown, and can be raised."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from fake_worker import FakeWorker
from fastapi.testclient import TestClient
from over_http import submit, wait_for
from sqlalchemy import text
from study_documents import study_document

from api.conductor.metering import LONGEST_S, Metering, divided
from api.servers.ownership import Alone
from storage import attempts, studies, usage
from storage.database import Database

EACH = 640


def budgets(client: TestClient, name: str = "mine") -> dict[str, Any]:
    return {found.pop("name"): found for found in client.get(f"/api/v1/studies/{name}").json()["budgets"]}


def study(client: TestClient, name: str = "mine") -> Any:
    return client.get(f"/api/v1/studies/{name}").json()


def database_of(client: TestClient) -> Database:
    return client.app.state.server.database  # type: ignore[attr-defined,no-any-return]


def submitted(client: TestClient, budget: dict[str, Any], **changes: Any) -> None:
    submit(client, name="mine", budget={"examples_per_trial": EACH, **budget}, **changes)


def trial_count(client: TestClient) -> int:
    return sum(study(client)["counts"].values())


def test_examples_bound_the_trials_and_end_the_study_with_its_reason(client: TestClient) -> None:
    submitted(client, {"examples": 3 * EACH + 100}, run_cap=10, parallel=10)
    worker = FakeWorker(client, width=8)
    for assignment in worker.take(3):
        worker.finish(assignment, 0.5, examples=EACH, step=40)
    wait_for(lambda: study(client)["state"] == "completed")
    assert study(client)["reason"] == "the budget of 2,020 examples has no room for another trial of 640"
    assert trial_count(client) == 3
    assert budgets(client)["examples"] == {"limit": 2020, "used": 1920, "left": 100, "unit": "examples"}


def test_what_a_trial_leaves_over_is_given_to_others(client: TestClient) -> None:
    submitted(client, {"examples": 2 * EACH}, run_cap=10, parallel=10)
    worker = FakeWorker(client, width=8)
    first, second = worker.take(2)
    assert trial_count(client) == 2
    worker.finish(first, None, infeasible="diverged", examples=EACH // 4, step=10)
    worker.finish(second, None, infeasible="diverged", examples=EACH * 3 // 4, step=30)
    wait_for(lambda: trial_count(client) == 3)
    assert len(worker.take(1)) == 1
    assert budgets(client)["examples"]["left"] == 0


def test_forty_writers_at_once_pass_no_budget_of_examples_by_one(client: TestClient) -> None:
    submitted(client, {"examples": 17 * EACH}, run_cap=100, parallel=1)
    client.post("/api/v1/studies/mine/pause")
    before, statuses = trial_count(client), []

    def write(number: int) -> None:
        params = {"optimizer": "sgd", "lr": 1e-3 * (number + 1), "batch_size": 16}
        statuses.append(client.post("/api/v1/studies/mine/trials", json={"params": params}).status_code)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(40)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(statuses) == [201] * (17 - before) + [409] * (40 - 17 + before)
    assert trial_count(client) == 17
    assert budgets(client)["examples"]["left"] == 0


def test_a_retry_finds_no_room_that_others_took(client: TestClient) -> None:
    submitted(client, {"examples": 2 * EACH}, run_cap=10, parallel=10)
    worker = FakeWorker(client, width=8)
    first, _ = worker.take(2)
    worker.finish(first, None, infeasible="diverged", examples=0, step=0)
    wait_for(lambda: trial_count(client) == 3)
    refused = client.post(f"/api/v1/studies/mine/trials/{first['number']}/retry")
    assert refused.status_code == 409
    assert "the budget of 1,280 examples has no room" in refused.json()["detail"]
    assert study(client)["counts"]["infeasible"] == 1


def test_a_raised_budget_of_examples_lets_a_completed_study_go_on(client: TestClient) -> None:
    submitted(client, {"examples": EACH}, run_cap=10)
    worker = FakeWorker(client, width=8)
    worker.finish(worker.take(1)[0], 0.5, examples=EACH, step=40)
    wait_for(lambda: study(client)["state"] == "completed")
    lowered = client.patch("/api/v1/studies/mine", json={"budget": {"examples": EACH - 1}})
    assert lowered.status_code == 422
    assert lowered.json()["errors"][0]["field"] == "budget.examples"
    assert "640 are promised to trials already" in lowered.text
    raised = client.patch("/api/v1/studies/mine", json={"budget": {"examples": 2 * EACH}})
    assert raised.json()["state"] == "running"
    worker.finish(worker.take(1)[0], 0.5, examples=EACH, step=40)
    wait_for(lambda: study(client)["state"] == "completed")
    assert trial_count(client) == 2


@pytest.mark.parametrize(
    ("budget", "name", "used", "reason"),
    [
        ({"wall_clock": "1h30m"}, "wall_clock", {"spent_s": 5400.0}, "the budget of 1h30m (wall_clock) is used up"),
        ({"device_hours": 2}, "device_hours", {"device_s": 7200.0}, "the budget of 2 device hours is used up"),
        (
            {"cost": 5, "price_per_device_hour": 2.5},
            "cost",
            {"device_s": 7200.0},
            "the budget of 5 (cost) is used up",
        ),
    ],
)
def test_time_and_money_stop_what_runs_and_go_on_when_they_are_raised(
    client: TestClient, budget: dict[str, Any], name: str, used: dict[str, float], reason: str
) -> None:
    submitted(client, budget, run_cap=8, parallel=4)
    worker = FakeWorker(client, width=2)
    first, second = worker.take(2)
    worker.finish(first, 0.5)
    assert study(client)["state"] == "running"
    (column, value), database = *used.items(), database_of(client)  # type: ignore[misc]
    with database.write() as session:
        session.execute(text(f"update studies set {column} = {value}"))
    wait_for(lambda: study(client)["state"] == "completed")
    assert study(client)["reason"] == reason
    told = worker.sync(free=0)
    assert [(stop.order, stop.why) for stop in told.stop] == [("stop", "budget")]
    worker.sync(free=0)
    stopped = client.get(f"/api/v1/studies/mine/trials/{second['number']}").json()
    assert (stopped["state"], stopped["reason"]) == ("cancelled", "budget")
    spent = budgets(client)[name]
    assert spent["left"] == 0
    assert spent["used"] >= spent["limit"]
    refused = client.post(f"/api/v1/studies/mine/trials/{second['number']}/retry")
    assert (refused.status_code, "raise it first" in refused.json()["detail"]) == (409, True)
    key = next(iter(budget))
    raised = client.patch("/api/v1/studies/mine", json={"budget": {key: 1000 if key != "wall_clock" else "2h"}})
    assert raised.json()["state"] == "running"
    wait_for(lambda: study(client)["counts"].get("cancelled", 0) == 0)
    again = [one["number"] for one in worker.take(2)]
    assert second["number"] in again


def test_pauses_do_not_count_as_time(client: TestClient) -> None:
    submitted(client, {"wall_clock": 100}, run_cap=8)
    worker = FakeWorker(client, width=1)
    database = database_of(client)
    with database.read() as session:
        study_id = studies.get(session, "mine").id
        assert usage.times(session, study_id=study_id, now=database.now(session)).wall_clock_s == 0.0
    worker.take(1)
    with database.write() as session:
        began = database.now(session) - timedelta(seconds=40)
        session.execute(text("update studies set running_since = :at"), {"at": began})
    client.post("/api/v1/studies/mine/pause")
    with database.read() as session:
        later = database.now(session) + timedelta(hours=9)
        assert 40 <= usage.times(session, study_id=study_id, now=later).wall_clock_s < 50
    client.post("/api/v1/studies/mine/resume")
    with database.read() as session:
        later = database.now(session) + timedelta(hours=9)
        assert 40 <= usage.times(session, study_id=study_id, now=later).wall_clock_s < 50  # until its next lease


def test_device_time_is_metered_and_shared(client: TestClient) -> None:
    submit(client, name="one", priority=3.0)
    submit(client, name="two")
    database, now = database_of(client), [0.0]
    metering = Metering(database, Alone(), lambda: now[0])
    FakeWorker(client, session="a" * 16, width=1).take(1)
    with database.read() as session:
        ids = {name: studies.get(session, name).id for name in ("one", "two")}
        held = {study for _, study, _ in attempts.holders(session)}
    (leased,) = (name for name, study_id in ids.items() if study_id in held)
    for step in (0.0, 2.0, 2.0, LONGEST_S + 1.0, 1.0):
        now[0] += step
        metering.round(set(ids.values()))
    with database.read() as session:
        at = database.now(session)
        seconds = {name: usage.times(session, study_id=i, now=at).device_s for name, i in ids.items()}
    # The server's own meter runs as well, but its first look charges nothing and its second comes after two seconds.
    assert seconds[leased] == pytest.approx(5.0, abs=2.5)
    assert sum(seconds.values()) == seconds[leased]


def test_a_device_is_divided_by_priority_and_its_processes_are_one() -> None:
    holders = [
        ((1, "cpu#0"), 7, 3.0),
        ((1, "cpu#1"), 7, 3.0),
        ((1, "cpu#1"), 8, 1.0),
        ((1, "cuda:0"), 8, 1.0),
        ((2, "cpu#0"), 8, 1.0),
    ]
    assert divided(holders) == {7: 0.75, 8: 0.25 + 1.0 + 1.0}
    assert divided([]) == {}


@pytest.mark.parametrize(
    ("budget", "field", "said"),
    [
        ({"examples": 100}, "budget.examples", "less than one trial's 640"),
        ({"wall_clock": "soon"}, "budget.wall_clock", "30m, 1h30m, 2d"),
        ({"wall_clock": "30 m 5"}, "budget.wall_clock", "30m, 1h30m, 2d"),
        ({"wall_clock": 0}, "budget.wall_clock", "greater than 0"),
        ({"device_hours": -1}, "budget.device_hours", "greater than 0"),
        ({"cost": 5}, "budget", "cost needs price_per_device_hour"),
        ({"money": 5}, "budget.money", "unknown key"),
    ],
)
def test_bad_budgets_are_refused_by_field(
    serve_app: Callable[..., TestClient], budget: dict[str, Any], field: str, said: str
) -> None:
    answer = serve_app().post("/api/v1/studies", json=study_document(budget={"examples_per_trial": EACH, **budget}))
    (fault,) = answer.json()["errors"]
    assert fault["field"] == field
    assert said in fault["message"]
