"""A worker that freed a slot hears of the trial that takes its place in the same reply, once it has been proposed."""

from collections.abc import Callable

from fake_worker import FakeWorker
from fastapi.testclient import TestClient
from study_documents import study_document

from api.waits import Waits


def test_a_freed_slot_is_refilled_by_the_reply_that_takes_the_last_word(serve_app: Callable[..., TestClient]) -> None:
    """Of a study that trains one trial at a time; without the wait its next trial is not there yet."""
    client = serve_app(waits=Waits(refill_s=60.0))
    document = study_document(run_cap=3, parallel=1)
    assert client.post("/api/v1/studies", json=document).status_code == 201
    worker = FakeWorker(client, width=1)
    (held,) = worker.take(1)
    worker.held.clear()
    word = {name: held[name] for name in ("trial", "attempt", "token")}
    word |= {"outcome": "finished", "value": 0.5, "step": 1, "examples": 16}
    reply = worker.sync(free=1, finished=[word])
    assert [assignment.number for assignment in reply.assign] == [held["number"] + 1]
