"""Slot-ticks, server side: counts are stored however messages come, and studies say what they could still fill."""

from typing import Any

from fake_worker import FakeWorker
from fastapi.testclient import TestClient
from study_documents import study_document


def submit(client: TestClient, **changes: Any) -> int:
    answer = client.post("/api/v1/studies", json=study_document(**changes))
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


def utilisation(client: TestClient) -> float | None:
    found: float | None = client.get("/api/v1/studies/small").json()["slot_utilisation"]
    assert client.get("/api/v1/studies").json()["items"][0]["slot_utilisation"] == found
    return found


def count(study: int, busy: int, offered: int, device: str = "cpu") -> dict[str, Any]:
    return {"study": study, "device": device, "busy": busy, "offered": offered}


def test_counts_are_cumulative_so_repeated_and_late_messages_change_nothing(client: TestClient) -> None:
    study = submit(client)
    worker = FakeWorker(client)
    worker.take(2)
    assert utilisation(client) is None
    worker.sync(free=0, slots=[count(study, 60, 80)])
    assert utilisation(client) == 0.75
    worker.sync(free=0, slots=[count(study, 90, 100)])
    worker.sync(free=0, slots=[count(study, 90, 100)])
    worker.post({**worker.body(free=0, slots=[count(study, 60, 80)]), "seq": 1})
    assert utilisation(client) == 0.9
    other = FakeWorker(client, session="fake-session-0002")
    other.take(1)
    other.sync(free=0, slots=[count(study, 5, 100, "cuda:1"), count(study, 5, 300, "cuda:2")])
    assert utilisation(client) == 100 / 500


def test_a_worker_that_had_no_trial_of_a_study_cannot_count_for_it(client: TestClient) -> None:
    study = submit(client)
    worker = FakeWorker(client)
    worker.sync(free=0, slots=[count(study, 1, 9), count(999, 1, 9)])
    assert utilisation(client) is None


def test_counts_go_with_their_study(client: TestClient) -> None:
    study = submit(client)
    worker = FakeWorker(client)
    worker.take(1)
    worker.sync(free=0, slots=[count(study, 1, 2)])
    assert client.delete("/api/v1/studies/small").status_code == 204
    again = submit(client)
    assert again != study or utilisation(client) is None
    worker.sync(free=0, slots=[count(study, 1, 2)])
    assert utilisation(client) is None


def test_demand_says_what_a_study_could_put_on_a_device(client: TestClient) -> None:
    """Ten trials, six at a time; four are here and one is on another worker."""
    study = submit(client, run_cap=10, parallel=6)
    other, worker = FakeWorker(client, session="fake-session-0002"), FakeWorker(client)
    (elsewhere,) = other.take(1)
    held = worker.take(4)
    (demand,) = worker.sync(free=0).demand
    assert (demand.study, demand.device, demand.stack) == (study, "cpu", held[0]["stack"])
    assert (demand.most, demand.more) == (5, 5)  # one queued, four not yet proposed
    other.finish(elsewhere)
    worker.finish(held[0])
    client.post("/api/v1/studies/small/stop")
    assert [(d.most, d.more) for d in worker.sync(free=0).demand] == [(6, 0)]
    worker.held.clear()
    worker.sync(free=0)
    assert worker.sync(free=0).demand == []
