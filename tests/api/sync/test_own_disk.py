"""Checkpoints on a worker's own disk: that worker is preferred for one lease, then the trial starts over."""

from datetime import timedelta
from typing import Any

import pytest
from fake_worker import FakeWorker, report
from fastapi.testclient import TestClient
from study_documents import study_document

from api.sync import resuming
from storage import attempts, events
from tuner.store import path_of

OWN, OTHER = "worker:0123abcd", "worker:89abcdef"


class DiskWorker(FakeWorker):
    """A worker whose checkpoints lie in one scope."""

    def __init__(self, client: TestClient, scope: str, session: str) -> None:
        self.scope = scope
        super().__init__(client, session)

    def register(self) -> None:
        device = {"device": "cpu", "width": 4, "checkpoints": True, "scope": self.scope}
        body = {"session": self.session, "name": "fake", "devices": [device], "workloads": [{"name": "digits-mlp"}]}
        self.id = self.client.post("/api/v1/workers", json=body).json()["worker"]

    def checkpoint(self, held: dict[str, Any], step: int) -> dict[str, Any]:
        path = path_of(held["study"], held["number"], held["attempt"], step, "0123abcd")
        word = {"trial": held["trial"], "attempt": held["attempt"], "step": step, "scope": self.scope}
        word |= {"path": path, "digest": "0" * 64, "bytes": 3}
        self.sync(free=0, reports=[report(held, step, valid_loss=1.0)], checkpointed=[word])
        return word

    def hand_back(self, held: dict[str, Any]) -> None:
        self.held.pop((held["trial"], held["attempt"]))
        word = {"trial": held["trial"], "attempt": held["attempt"], "token": held["token"], "outcome": "drained"}
        self.sync(free=0, finished=[word])


@pytest.fixture
def queued(client: TestClient) -> dict[str, Any]:
    """A trial that is queued again, with a checkpoint on the disk OWN."""
    answer = client.post("/api/v1/studies", json=study_document(run_cap=1, parallel=1, retry={"max": 1}))
    assert answer.status_code == 201, answer.text
    worker = DiskWorker(client, OWN, "session-of-the-own-disk")
    (held,) = worker.take(1)
    worker.checkpoint(held, 10)
    worker.hand_back(held)
    return held


def test_the_worker_with_the_disk_goes_on_and_others_wait(client: TestClient, queued: dict[str, Any]) -> None:
    for scope in (OTHER, "shared"):
        assert DiskWorker(client, scope, f"session-of-{scope}-0000").sync(free=1).assign == []
    back = DiskWorker(client, OWN, "session-after-a-restart")  # another process, another id, the same disk
    (again,) = back.take(1)
    assert (again["attempt"], again["resume"]["step"]) == (2, 10)


def test_after_one_lease_it_starts_over_elsewhere_and_says_so(
    client: TestClient, queued: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    database = client.app.state.server.database  # type: ignore[attr-defined]
    with database.read() as session:
        (before,) = attempts.of_trial(session, trial_id=queued["trial"])
        assert before.ended_at is not None
        cases = ((14, OTHER, "wait"), (16, OTHER, "given up"), (16, OWN, None), (0, OWN, None))
        for passed_s, scope, expected in cases:
            now = before.ended_at + timedelta(seconds=passed_s)
            found = resuming.starts(session, [queued["trial"]], {"scope": scope}, now=now, lease_s=15.0)
            assert found[queued["trial"]].elsewhere == expected
    given_up = resuming.Start(0, "given up")
    monkeypatch.setattr(resuming, "starts", lambda _, ids, *__, **___: dict.fromkeys(ids, given_up))
    (again,) = DiskWorker(client, OTHER, "session-of-another-disk").take(1)
    assert (again["attempt"], again["resume"]) == (2, None)
    with database.read() as session:
        told = [event for event in events.after(session, study_id=1, revision=0) if event.kind == "trial.restarted"]
    assert len(told) == 1 and "own" not in told[0].data and "within one lease" in told[0].data["why"]


def test_other_scopes_are_refused(client: TestClient, queued: dict[str, Any]) -> None:
    for scope in ("worker:1", "worker:../../etc", "everyone"):
        device = {"device": "cpu", "width": 4, "checkpoints": True, "scope": scope}
        body = {"session": "s" * 16, "name": "fake", "devices": [device], "workloads": [{"name": "digits-mlp"}]}
        assert client.post("/api/v1/workers", json=body).status_code == 422
