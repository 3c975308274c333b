"""A device on which a workload does not load is left out; the study is trained by those on which it does."""

from typing import Any

from fake_worker import FakeWorker
from fastapi.testclient import TestClient
from study_documents import study_document


class Lacking(FakeWorker):
    """A worker that gives back whatever it gets, because the workload does not load."""

    cannot_load: tuple[str, ...] = ()

    def body(self, **more: Any) -> dict[str, Any]:
        body = super().body(**more)
        body["capacity"][0]["cannot_load"] = list(self.cannot_load)
        return body

    def give_back(self) -> None:
        given, self.held = self.held, {}
        self.cannot_load += tuple({held["stack"] for held in given.values()})
        why = "workload 'digits-mlp' does not load here: FileNotFoundError: no file"
        named = [{name: held[name] for name in ("trial", "attempt", "token")} for held in given.values()]
        ends = [{**one, "outcome": "displaced", "error": why} for one in named]
        self.sync(finished=ends)


def test_every_trial_is_trained_by_the_worker_that_has_the_data(client: TestClient) -> None:
    document = study_document(run_cap=6, parallel=6, retry={"max": 0})
    assert client.post("/api/v1/studies", json=document).status_code == 201
    bad, good = Lacking(client, "session-of-the-bad-worker", 8), FakeWorker(client, "session-of-the-good-one", 8)
    bad.take(1)
    bad.give_back()
    assert bad.sync().assign == [] and bad.held == {}
    for held in good.take(6):
        good.finish(held)
    study = client.get("/api/v1/studies/small").json()
    assert (study["state"], study["counts"]) == ("completed", {"completed": 6})


def test_other_workloads_are_still_offered_to_it(client: TestClient) -> None:
    """Trials of an older study that the device cannot load do not stand in the way."""
    assert client.post("/api/v1/studies", json=study_document(run_cap=6, parallel=6)).status_code == 201
    bad = Lacking(client, "session-of-the-bad-worker", 4)
    bad.take(4)
    bad.give_back()
    other = study_document(
        name="other", run_cap=2, parallel=2, workload={"name": "digits-mlp", "params": {"hidden": 8}}
    )
    assert client.post("/api/v1/studies", json=other).status_code == 201
    assert {held["study"] for held in bad.take(2)} == {"other"}
