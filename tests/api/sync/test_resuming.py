"""Checkpoints, server side: who resumes from where, whose curve counts, which files stay, whose word is not taken."""

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_worker import report
from fastapi.testclient import TestClient
from over_http import wait_for
from storing_worker import TOKEN, StoringWorker
from study_documents import study_document

from api.conductor.retention import ORPHANS_EVERY_S
from storage import attempts, events, trials
from tuner.client import Client
from tuner.errors import NotFound
from tuner.store import path_of


@pytest.fixture
def worker(client: TestClient) -> StoringWorker:
    answer = client.post("/api/v1/studies", json=study_document(run_cap=1, parallel=1, retry={"max": 1}))
    assert answer.status_code == 201, answer.text
    return StoringWorker(client)


def server_of(client: TestClient) -> Any:
    return client.app.state.server  # type: ignore[attr-defined]


def trial(client: TestClient, number: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/api/v1/studies/small/trials/{number}").json()
    return found


def curve(client: TestClient) -> list[int]:
    steps: list[int] = client.get("/api/v1/studies/small/trials/0/curve").json()["step"]
    return steps


def files(worker: StoringWorker) -> list[str]:
    return sorted(worker.store.files(time.time() + 60))


def kinds(client: TestClient) -> list[str]:
    with server_of(client).database.read() as session:
        return [event.kind for event in events.after(session, study_id=1, revision=0)]


def test_a_requeued_trial_resumes_and_its_curve_is_joined(client: TestClient, worker: StoringWorker) -> None:
    (first,) = worker.take(1)
    assert first["resume"] is None
    word = worker.checkpoint(first, 10)
    worker.sync(free=0, reports=[report(first, 12, valid_loss=0.5)])
    worker.hand_back(first)
    assert (trial(client)["state"], trial(client)["step"]) == ("queued", 10)
    assert trial(client)["examples"] == 10 * first["params"]["batch_size"]
    second = worker.retake(first["trial"])
    examples = 10 * first["params"]["batch_size"]
    expected = {k: word[k] for k in ("path", "digest", "bytes")} | {"step": 10, "examples": examples}
    assert second["resume"] == expected and trial(client)["step"] == 10
    assert (second["attempt"], curve(client)) == (2, [10])
    worker.sync(free=0, reports=[report(second, 15, valid_loss=0.2)])
    assert curve(client) == [10, 15]
    worker.finish(second, value=None)
    assert (trial(client)["state"], trial(client)["value"]) == ("completed", 0.2)


def test_an_assignment_that_is_repeated_names_the_same_checkpoint(client: TestClient, worker: StoringWorker) -> None:
    (first,) = worker.take(1)
    worker.checkpoint(first, 10)
    worker.hand_back(first)
    wait_for(lambda: trial(client)["state"] == "queued")
    lost, again = (worker.post({**worker.body(free=1), "seq": 1000 + n}) for n in (0, 1))
    assert lost.assign[0].resume is not None and lost.assign == again.assign


def test_repeated_words_change_nothing(client: TestClient, worker: StoringWorker) -> None:
    (first,) = worker.take(1)
    word = worker.checkpoint(first, 10)
    worker.sync(free=0, checkpointed=[word, word])
    newer = worker.checkpoint(first, 20)
    worker.sync(free=0, checkpointed=[word])
    worker.hand_back(first)
    second = worker.retake(first["trial"])
    assert second["resume"]["path"] == newer["path"]
    restarted = {"trial": second["trial"], "attempt": 2, "why": "the file is gone"}
    worker.sync(free=0, restarted=[restarted], reports=[report(second, 3, valid_loss=0.9)])
    worker.sync(free=0, restarted=[restarted])
    assert trial(client)["step"] == 3 and curve(client) == [3]
    assert kinds(client).count("trial.restarted") == 1


def test_after_a_restart_nobody_resumes_from_what_came_before(client: TestClient, worker: StoringWorker) -> None:
    (first,) = worker.take(1)
    worker.checkpoint(first, 10)
    worker.hand_back(first)
    second = worker.retake(first["trial"])
    worker.sync(free=0, restarted=[{"trial": second["trial"], "attempt": 2, "why": "damaged"}])
    worker.hand_back(second)
    assert trial(client)["step"] == 0
    third = worker.retake(first["trial"])
    assert (third["attempt"], third["resume"]) == (3, None)
    word = worker.checkpoint(third, 4)
    worker.hand_back(third)
    assert worker.retake(first["trial"])["resume"]["path"] == word["path"]
    assert curve(client) == [4]


def test_a_worker_without_the_store_begins_from_zero(client: TestClient, worker: StoringWorker) -> None:
    (first,) = worker.take(1)
    worker.checkpoint(first, 10)
    worker.hand_back(first)
    other = StoringWorker(client, "storing-session-2", stores=False)
    second = other.retake(first["trial"])
    assert second["resume"] is None
    other.sync(free=0, reports=[report(second, 3, valid_loss=0.9)])
    assert curve(client) == [3]
    with server_of(client).database.read() as session:
        assert [a.resumed_from for a in attempts.of_trial(session, trial_id=first["trial"])] == [0, 0]


def test_paths_that_are_not_the_trials_own_are_not_taken(client: TestClient, worker: StoringWorker) -> None:
    (first,) = worker.take(1)
    good = worker.write(first, 10)
    for path in ("../../etc/passwd", "/etc/passwd", "small/../0/1-10-0123abcd.state.safetensors", "file:///etc/passwd"):
        body = worker.body(free=0, checkpointed=[{**good, "path": path}])
        answer = client.post(f"/api/v1/workers/{worker.id}/sync", json={**body, "seq": 500})
        assert answer.status_code == 422 and "path" in answer.json()["errors"][0]["field"]
    for foreign in (path_of("small", 1, 1, 10, TOKEN), path_of("other", 0, 1, 10, TOKEN)):
        worker.store.write(foreign, b"another trial's")
        worker.sync(free=0, checkpointed=[{**good, "path": foreign}])
        assert worker.store.existing(foreign)
    worker.hand_back(first)
    assert worker.retake(first["trial"])["resume"] is None


def test_a_fenced_workers_checkpoint_is_not_used_and_deletes_nothing(client: TestClient, worker: StoringWorker) -> None:
    """Its file goes with the others that have no row, when it is old: no message makes the server delete a file."""
    (first,) = worker.take(1)
    kept = worker.checkpoint(first, 10)
    worker.hand_back(first)
    stray = worker.write(first, 30)
    unreported = path_of("another", 0, 1, 5, TOKEN)
    worker.store.write(unreported, b"written by another worker, which has not said so yet")
    worker.sync(free=0, checkpointed=[stray, kept, {**stray, "path": unreported}])
    assert files(worker) == sorted([unreported, kept["path"], stray["path"]])
    server_of(client).retention.sweep_orphans(time.time() + 60)
    assert files(worker) == [kept["path"]]
    assert worker.retake(first["trial"])["resume"]["step"] == 10


def test_the_newest_state_stays_and_all_go_with_the_trial(client: TestClient, worker: StoringWorker) -> None:
    (first,) = worker.take(1)
    worker.checkpoint(first, 10)
    newest = worker.checkpoint(first, 20)
    server_of(client).retention.sweep()
    assert files(worker) == [newest["path"]]
    worker.finish(first, value=0.5)
    server_of(client).retention.sweep()
    assert files(worker) == []


def test_weights_at_the_step_of_the_last_state_take_its_place(client: TestClient, worker: StoringWorker) -> None:
    (first,) = worker.take(1)
    worker.checkpoint(first, 40)
    weights = worker.write(first, 40, "weights")
    worker.finish(first, value=0.5, step=40, weights=weights)
    assert files(worker) == [weights["path"]]


def test_a_state_is_not_taken_for_weights(client: TestClient, worker: StoringWorker) -> None:
    (first,) = worker.take(1)
    state = {name: value for name, value in worker.write(first, 40).items() if name in ("path", "digest", "bytes")}
    worker.finish(first, value=0.5, step=40, weights=state)
    assert client.get("/api/v1/studies/small/trials/0/weights").status_code == 404


def test_after_an_outage_workers_have_time_to_report_their_files(client: TestClient, worker: StoringWorker) -> None:
    """What lay in the store while the server was away is old, and may still be named by a worker."""
    (first,) = worker.take(1)
    unreported = worker.write(first, 20)
    os.utime(worker.store.root / unreported["path"], (0, 0))  # type: ignore[attr-defined]
    retention = server_of(client).retention
    retention.tick(time.monotonic())
    assert files(worker) == [unreported["path"]]
    retention.tick(time.monotonic() + ORPHANS_EVERY_S + 1)
    assert files(worker) == []


def test_only_the_best_weights_stay_and_can_be_downloaded(serve_app: Callable[..., TestClient]) -> None:
    client = serve_app()
    client.post("/api/v1/studies", json=study_document(run_cap=3, parallel=3))
    worker = StoringWorker(client)
    best = None
    for held, value in zip(worker.take(3), (0.5, 0.1, 0.3), strict=True):
        weights = worker.write(held, 40, "weights")
        worker.finish(held, value=value, step=40, weights=weights)
        best = (held["number"], weights) if value == 0.1 else best
        server_of(client).retention.sweep()
    assert best is not None and files(worker) == [best[1]["path"]]
    answer = client.get(f"/api/v1/studies/small/trials/{best[0]}/weights")
    assert answer.status_code == 200 and hashlib.sha256(answer.content).hexdigest() == best[1]["digest"]
    assert answer.headers["etag"] == f'"{best[1]["digest"]}"'
    assert f'filename="small-{best[0]}.safetensors"' in answer.headers["content-disposition"]
    other = next(number for number in range(3) if number != best[0])
    missing = client.get(f"/api/v1/studies/small/trials/{other}/weights")
    assert missing.status_code == 404 and "only the best" in missing.json()["detail"]
    with Client("http://127.0.0.1:8700", transport=client._transport) as ours:
        assert ours.weights("small") == answer.content
        with pytest.raises(NotFound, match="only the best"):
            ours.weights("small", other)
    client.delete("/api/v1/studies/small")
    assert files(worker) == []


def test_files_without_a_row_go_when_they_are_old(client: TestClient, worker: StoringWorker) -> None:
    (first,) = worker.take(1)
    known = worker.checkpoint(first, 10)
    orphan = worker.write(first, 20)
    foreign = worker.store.root / "small" / "0" / "my-model.safetensors"
    foreign.write_bytes(b"a user's own")
    server_of(client).retention.sweep_orphans(time.time() - 60)
    assert files(worker) == sorted([known["path"], orphan["path"]])
    server_of(client).retention.sweep_orphans(time.time() + 60)
    assert files(worker) == [known["path"]] and foreign.exists()


def test_the_store_lies_where_the_settings_say(serve_app: Callable[..., TestClient], tmp_path: Path) -> None:
    assert server_of(serve_app()).store.root == tmp_path / "data" / "checkpoints"
    assert server_of(serve_app(checkpoints=tmp_path / "shared")).store.root == tmp_path / "shared"
    with server_of(serve_app()).database.read() as session:
        assert trials.of_study(session, study_id=1) == []
