"""What a server keeps in memory stays right when another server changes things."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from fake_worker import FakeWorker, report
from several_servers import Served, eventually
from sqlalchemy import update
from stored_leases import NOW
from study_documents import study_document

from api.access import principals
from api.conductor.asker import Asker
from api.conductor.proposing import Proposing
from api.hub import Hub
from api.plans import Plans, stored
from api.servers.ownership import Alone
from storage import events, studies, trials
from storage import tables as t
from storage.database import Database
from storage.events import Change
from tuner.study.catalogue import load_catalogue
from tuner.study.check import parse_study
from tuner.study.states import TrialState

Serve = Callable[..., Served]
SMALL = "/api/v1/studies/small"


@pytest.fixture
def both(serve: Serve) -> tuple[Served, Served]:
    """Two servers that drive half of the studies each."""
    first, second = serve(), serve()
    eventually(lambda: first.shards.count == second.shards.count == 32, "both to have their share")
    return first, second


def submit(served: Served, **changes: Any) -> None:
    answer = served.client.post("/api/v1/studies", json=study_document(**changes))
    assert answer.status_code == 201, answer.text


def get(served: Served, path: str = SMALL) -> Any:
    answer = served.client.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_plans_follow_the_document(both: tuple[Served, Served]) -> None:
    first, second = both
    submit(first, run_cap=2, parallel=2)
    worker = FakeWorker(second.client)
    held = worker.take(2)
    assert {each["priority"] for each in held} == {1.0}  # the second server has made its plan
    assert first.client.patch(SMALL, json={"run_cap": 3, "title": "other", "priority": 2.5}).status_code == 200
    assert (get(second)["title"], get(second)["run_cap"]) == ("other", 3)
    worker.finish(held[0])
    worker.finish(held[1])
    (third,) = worker.take(1)
    assert third["priority"] == 2.5
    with second.server.database.read() as session:
        assert second.server.plans.of(studies.get(session, "small")).spec.title == "other"


def test_answers_follow_every_change(both: tuple[Served, Served]) -> None:
    first, second = both
    submit(first, run_cap=1, parallel=1)
    worker = FakeWorker(first.client)
    paths = [SMALL, f"{SMALL}/trials", f"{SMALL}/leaderboard", f"{SMALL}/best", f"{SMALL}/figures/progress"]
    (assignment,) = worker.take(1)
    before = {path: second.client.get(path) for path in paths}
    worker.finish(assignment, value=0.25)
    eventually(lambda: get(first)["state"] == "completed", "it to complete")
    for path in paths:
        here, there = first.client.get(path), second.client.get(path)
        assert here.headers.get("ETag") == there.headers.get("ETag"), path
        assert there.content == here.content != before[path].content, path
    assert first.client.delete(SMALL).status_code == 204
    assert {second.client.get(path).status_code for path in paths} == {404}


def test_growth_is_told_on(both: tuple[Served, Served]) -> None:
    first, second = both
    submit(first, run_cap=1, parallel=1)
    worker = FakeWorker(first.client)
    (assignment,) = worker.take(1)
    curve = f"{SMALL}/trials/0/curve"
    assert get(second, curve)["step"] == []
    for step in range(1, 6):
        worker.sync(reports=[report(assignment, step, valid_loss=1.0 / step)])
        eventually(lambda step=step: len(get(second, curve)["step"]) == step, "the curve to grow")
    study = get(first)["id"]
    with first.server.growth._lock, second.server.growth._lock:
        totals = [served.server.growth._tracks[study].total for served in both]
    assert totals == [80, 80]


def test_a_worker_may_speak_to_either_and_nothing_is_leased_twice(both: tuple[Served, Served]) -> None:
    first, second = both
    worker = FakeWorker(first.client)
    with ThreadPoolExecutor(1) as pool:
        older = worker.body(wait_s=25.0)
        waits = pool.submit(worker.post, older)
        eventually(lambda: worker.id in first.server.syncs.presence._waiting, "it to wait")
        worker.client = second.client  # its connection broke, and what waits there does not know
        worker.seq += 1
        assert not worker.post(worker.body()).assign
        submit(first, run_cap=8, parallel=8)
        waits.result(30)
    granted: set[tuple[int, int]] = set()
    for client in (second.client, first.client) * 4:
        worker.client = client
        granted |= {(each.trial, each.attempt) for each in worker.sync().assign}
        assert len(worker.held) <= worker.width
    assert set(worker.held) == granted and len(granted) == worker.width
    assert {attempt for _, attempt in granted} == {1}
    workers = get(first, "/api/v1/workers")["items"]
    assert [each["held"] for each in workers] == [worker.width]
    for assignment in list(worker.held.values()):
        worker.client = second.client if worker.client is first.client else first.client
        worker.finish(assignment)


def test_a_worker_that_waits_here_is_there_for_all(serve: Serve) -> None:
    first, second = serve(lease_s=1.0), serve(lease_s=1.0)
    worker = FakeWorker(second.client)
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(worker.sync, wait_s=25.0)
        eventually(lambda: worker.id in second.server.syncs.presence._waiting, "it to wait")
        seen = get(first, "/api/v1/workers")["items"][0]["last_seen"]
        eventually(lambda: get(first, "/api/v1/workers")["items"][0]["last_seen"] > seen, "it to be seen")
        submit(first, run_cap=1, parallel=1)
        assert waits.result(30).assign


def test_a_revoked_token_is_refused_everywhere(both: tuple[Served, Served]) -> None:
    first, second = both
    tokens, headers = [], []
    for label in ("first", "second"):
        wish = {"label": label, "role": "admin"}
        tokens.append(first.client.post("/api/v1/tokens", json=wish, headers=headers[-1] if headers else None).json())
        headers.append({"Authorization": f"Bearer {tokens[-1]['token']}"})
    closed = lambda: second.client.get("/api/v1/studies").status_code == 401  # noqa: E731
    eventually(closed, "it to ask for tokens", principals.FRESH_S + 20)
    assert second.client.get("/api/v1/studies", headers=headers[1]).status_code == 200
    revoked = first.client.delete(f"/api/v1/tokens/{tokens[1]['id']}", headers=headers[0])
    assert revoked.status_code in (200, 204), revoked.text
    gone = lambda: second.client.get("/api/v1/studies", headers=headers[1]).status_code == 401  # noqa: E731
    eventually(gone, "it to be refused", principals.FRESH_S + 20)


def learned(database: Database, name: str, servers: list[Proposing]) -> list[dict[str, Any]]:
    """Fill a study that learns, each trial by another of the servers; return what was proposed."""
    spec = parse_study(
        study_document(name=name, method="tpe", run_cap=14, parallel=1, optimizers=["sgd"]),
        load_catalogue(),
        ["digits-mlp"],
    )
    with database.write() as session:
        study = studies.create(
            session, name=name, title="", document=spec.model_dump(mode="json"),
            batch_groups=stored(spec.batch_groups()), run_cap=spec.run_cap, parallel=1, idempotency_key=None, now=NOW,
        ).id  # fmt: skip
    for number in range(14):
        servers[number % len(servers)].fill(study)
        with database.write() as session:
            trial = trials.get(session, study_id=study, number=number)
            value = (trial.params["lr"] - 0.01) ** 2  # type: ignore[operator]
            changed = {"state": TrialState.COMPLETED, "value": value}
            session.execute(update(t.Trial).where(t.Trial.id == trial.id).values(**changed))
            events.append(session, changes=[Change(study, "trial.completed", number)], now=NOW)
    with database.read() as session:
        return [trial.params for trial in trials.of_study(session, study_id=study)]


def test_samplers_of_several_servers_propose_what_one_would(postgresql: Database) -> None:
    with ExitStack() as stack:
        servers = []
        for _ in range(2):
            asker = Asker(60.0)
            stack.callback(asker.close)
            servers.append(Proposing(postgresql, Plans(), Hub(), asker, Alone()))
        together, alone = learned(postgresql, "together", servers), learned(postgresql, "alone", servers[:1])
    assert together == alone
    assert len({str(params) for params in together}) == 14
