"""`reproducible: true`: one program for a whole study, whoever comes to help, and the same bits when it runs again."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_worker import EngineWorker
from fake_worker import FakeWorker, report
from fastapi.testclient import TestClient
from study_documents import study_document

from api.waits import Waits
from tuner.study.program import fingerprint

WIDE = {"device": "cpu", "width": 8, "path": "eager"}
NARROW = {**WIDE, "width": 4}
SMALL = {"budget": {"examples_per_trial": 160}, "parameters": {"batch_size": 16}, "evaluations": 2, "report_points": 2}


@pytest.fixture(autouse=True)
def one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield
    torch.set_num_threads(before)


def submit(client: TestClient, **changes: Any) -> None:
    answer = client.post("/api/v1/studies", json=study_document(reproducible=True, **changes))
    assert answer.status_code == 201, answer.text
    wait_for(lambda: study(client)["counts"].get("queued", 0) >= 4)


def study(client: TestClient) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/api/v1/studies/small").json()
    return found


def wait_for(condition: Callable[[], bool], timeout_s: float = 15.0) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "the condition did not come true in time"
        time.sleep(0.02)


def started(held: dict[str, Any], program: dict[str, Any]) -> dict[str, Any]:
    return {"trial": held["trial"], "attempt": held["attempt"], "program": program}


def events(client: TestClient, kind: str) -> list[dict[str, Any]]:
    from storage import events as stored

    server = client.app.state.server  # type: ignore[attr-defined]
    with server.database.read() as session:
        found = stored.after(session, study_id=study(client)["id"], revision=0)
    return [record.data for record in found if record.kind == kind]


def test_the_first_attempts_program_becomes_the_studys(client: TestClient) -> None:
    submit(client, run_cap=8, parallel=8)
    first, second = FakeWorker(client), FakeWorker(client, session="fake-session-0002")
    (held,) = first.sync(free=8).assign
    assert held.reproducible and held.program is None
    assert second.sync(free=8).assign == [] and first.sync(free=7).assign == []  # one trial shows the program
    first.sync(free=0, started=[started(held.model_dump(), WIDE)])
    assert study(client)["fingerprint"] == fingerprint(WIDE) and study(client)["program"] == WIDE
    more = first.sync(free=3).assign
    assert len(more) == 3 and all(one.program == WIDE for one in more)
    (asked,) = second.sync(free=8).assign  # another device shows its program with one trial, too
    assert asked.program == WIDE
    second.sync(free=0, started=[started(asked.model_dump(), WIDE)])
    assert len(second.sync(free=2).assign) == 2
    trial = client.get(f"/api/v1/studies/small/trials/{held.number}").json()
    assert (trial["program"], trial["fingerprint"]) == (WIDE, fingerprint(WIDE))
    assert [data["fingerprint"] for data in events(client, "study.pinned")] == [fingerprint(WIDE)]


def test_a_worker_that_declines_is_asked_once_and_the_study_says_what_it_waits_for(client: TestClient) -> None:
    submit(client)
    first, second = FakeWorker(client), FakeWorker(client, session="fake-session-0002")
    (held,) = first.take(1)
    first.sync(free=0, started=[started(held, WIDE)])
    (asked,) = second.take(1)
    why = "does not run program x, which needs width 8 (offered: 4)"
    second.finish(asked, value=None, outcome="displaced", error=why)
    assert study(client)["waits_for"] is None  # somebody trains
    capacity = {"device": "cpu", "stack": None, "free": 4, "declines": [fingerprint(WIDE)]}
    assert second.sync(capacity=[capacity]).assign == []
    assert [data["why"] for data in events(client, "trial.requeued")] == [why]
    first.finish(held, value=None, outcome="drained")
    found = study(client)
    assert found["fingerprint"] == fingerprint(WIDE)
    assert found["waits_for"].startswith(
        f"a worker that runs program {fingerprint(WIDE)} (device cpu, width 8, path eager)"
    )
    assert found["waits_for"].endswith(f"; fake: {why}")
    assert second.sync(capacity=[capacity]).assign == []
    assert len(first.sync(free=4).assign) == 4  # it has shown that it runs the program


def test_a_program_under_which_nothing_was_learnt_is_given_up(client: TestClient) -> None:
    """The stack ran out of memory before any report, so the next, narrower one may pin the study."""
    submit(client)
    worker = FakeWorker(client)
    (held,) = worker.take(1)
    worker.sync(free=0, started=[started(held, WIDE)])
    worker.finish(held, value=None, outcome="displaced", error="out of memory")
    assert study(client)["program"] is None and len(events(client, "study.unpinned")) == 1
    (held,) = worker.take(1)
    worker.sync(free=0, started=[started(held, NARROW)], reports=[report(held, 3, valid_loss=1.0)])
    worker.finish(held, value=None, outcome="displaced", error="out of memory")
    assert study(client)["program"] == NARROW and len(events(client, "study.unpinned")) == 1


def test_other_studies_neither_wait_nor_share_its_stack(client: TestClient) -> None:
    submit(client)
    answer = client.post("/api/v1/studies", json=study_document(name="free"))
    assert answer.status_code == 201
    wait_for(lambda: client.get("/api/v1/studies/free").json()["counts"].get("queued") == 4)
    first, second = FakeWorker(client), FakeWorker(client, session="fake-session-0002")
    (held,) = first.sync(free=4).assign
    others = second.sync(free=4).assign
    assert [one.study for one in others] == ["free"] * 4
    assert held.study == "small" and held.stack != others[0].stack


def train(client: TestClient, *workers: EngineWorker) -> list[dict[str, Any]]:
    """Train the study to its end; return its trials."""
    for _ in range(400):
        for worker in workers:
            worker.train(ticks=20)
        if study(client)["state"] == "completed":
            break
    items: list[dict[str, Any]] = client.get("/api/v1/studies/small/trials").json()["items"]
    assert len(items) == 8 and {trial["state"] for trial in items} == {"completed"}
    return items


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # dear: it trains
def test_two_workers_of_different_widths_run_one_program_and_a_second_run_gives_the_same_bits(
    serve_app: Callable[..., TestClient],
) -> None:
    """The fixed width 3 declines; the free one takes over width 2. Without `reproducible` both widths are used."""
    client = serve_app(waits=Waits(refill_s=0.0), lease_s=300.0)
    size = {**SMALL, "run_cap": 8, "parallel": 8}
    submit(client, **size)
    one, other = EngineWorker(client, "one", 2), EngineWorker(client, "other", 3)
    free = EngineWorker(client, "free", 5, width_is_free=True)
    first = train(client, one, other, free)
    assert len({trial["fingerprint"] for trial in first}) == 1 and first[0]["program"]["width"] == 2
    assert {trial["worker"] for trial in first} == {"one", "free"}
    assert [data["why"] for data in events(client, "trial.requeued")] == [
        f"does not run program {first[0]['fingerprint']}, which needs width 2 (offered: 3)"
    ]
    assert 0 < study(client)["slot_utilisation"] <= 1

    client.delete("/api/v1/studies/small")
    submit(client, **size)
    second = train(client, EngineWorker(client, "again", 2))
    assert [(t["params"], t["value"]) for t in second] == [(t["params"], t["value"]) for t in first]
    assert second[0]["fingerprint"] == first[0]["fingerprint"]

    client.delete("/api/v1/studies/small")
    assert client.post("/api/v1/studies", json=study_document(**size)).status_code == 201
    wait_for(lambda: study(client)["counts"].get("queued", 0) == 8)
    loose = train(client, EngineWorker(client, "one-more", 2), EngineWorker(client, "other-more", 3))
    assert {trial["program"]["width"] for trial in loose} == {2, 3}
