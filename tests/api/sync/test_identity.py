"""Messages about work of another database, or of a deleted study, change nothing here."""

from fake_worker import FakeWorker, report
from fastapi.testclient import TestClient
from over_http import submit


def test_a_study_that_follows_a_deleted_one_gets_none_of_its_results(client: TestClient) -> None:
    """The worker does not sync in between, and the new study has the old one's name and shape."""
    first = submit(client)
    worker = FakeWorker(client)
    old = worker.take(4)
    assert client.delete("/api/v1/studies/small").status_code == 204
    second = submit(client)
    assert second > first
    words = [{**{name: held[name] for name in ("trial", "attempt", "token")}, "outcome": "finished"} for held in old]
    stale = worker.body(free=0, reports=[report(held, 5, valid_loss=0.5) for held in old], finished=words[:2])
    stale["held"] = stale["held"][2:]
    worker.seq += 1
    reply = worker.post({**stale, "seq": worker.seq})
    assert [stop.order for stop in reply.stop] == ["deleted"] * 2
    assert client.get("/api/v1/studies/small/best").status_code == 404
    worker.held.clear()
    new = worker.take(4)
    assert not {(held["trial"], held["attempt"]) for held in new} & {(held["trial"], held["attempt"]) for held in old}
    for held in new:
        worker.finish(held, value=0.5)
    assert client.get("/api/v1/studies/small").json()["counts"] == {"completed": 4}


def test_the_same_numbers_with_another_token_are_of_another_database(client: TestClient) -> None:
    submit(client)
    worker = FakeWorker(client)
    (own,) = worker.take(1)
    foreign = {**own, "token": "of another database"}
    key = own["trial"], own["attempt"]
    worker.held[key] = foreign
    worker.seq += 1
    body = worker.body(free=0, reports=[report(own, 7, valid_loss=0.1)])
    reply = worker.post(body)
    assert [(stop.trial, stop.attempt) for stop in reply.stop] == [key], "what it holds is not what it was leased"
    assert [(one.trial, one.token) for one in reply.assign] == [(own["trial"], own["token"])], "that is leased still"
    word = {"trial": key[0], "attempt": key[1], "token": foreign["token"], "outcome": "finished", "value": 0.0}
    worker.held.clear()
    worker.seq += 1
    worker.post(worker.body(free=0, finished=[word]))
    trial = client.get(f"/api/v1/studies/small/trials/{own['number']}").json()
    assert (trial["state"], trial["step"], trial["value"]) == ("running", 0, None)
    worker.held[key] = own
    worker.finish(own, value=0.25)
    assert client.get(f"/api/v1/studies/small/trials/{own['number']}").json()["value"] == 0.25
