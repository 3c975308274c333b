"""A device on which a workload does not load is left out; the study is trained by those on which it does."""

from typing import Any

import pytest
from fake_worker import FakeWorker
from fastapi.testclient import TestClient
from study_documents import study_document


class Lacking(FakeWorker):
    """A worker that gives back whatever it gets, because the workload does not load."""

    cannot_load: tuple[str, ...] = ()
    raised = "FileNotFoundError: no file"

    def body(self, **more: Any) -> dict[str, Any]:
        body = super().body(**more)
        body["capacity"][0]["cannot_load"] = list(self.cannot_load)
        return body

    def give_back(self) -> None:
        given, self.held = self.held, {}
        self.cannot_load += tuple({held["stack"] for held in given.values()})
        why = f"workload 'digits-mlp' does not load here: {self.raised}"
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
    study = conducted(client)
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


def submitted(client: TestClient) -> None:
    assert client.post("/api/v1/studies", json=study_document(run_cap=6, parallel=6)).status_code == 201


def give_back(client: TestClient, session: str, raised: str) -> None:
    worker = Lacking(client, session)
    worker.raised = raised
    worker.take(1)
    worker.give_back()


def conducted(client: TestClient) -> dict[str, Any]:
    """The study, after another round of the conductor."""
    rounds = client.app.state.server.conductor  # type: ignore[attr-defined]
    rounds._close_finished()
    found: dict[str, Any] = client.get("/api/v1/studies/small").json()
    return found


def test_a_mistake_in_the_loading_code_ends_the_study_once_every_worker_has_met_it(client: TestClient) -> None:
    submitted(client)
    FakeWorker(client, "session-of-one-that-is-idle")
    give_back(client, "session-of-the-first-one", "KeyError: 'x' in <Batch at 0x7f>")
    assert conducted(client)["state"] == "running", "another worker is here, which may load it"
    give_back(client, "session-of-one-that-is-idle", "KeyError: 'x' in <Batch at 0x80>")
    found = conducted(client)
    assert (found["state"], found["counts"]) == ("failed", {"cancelled": 6})
    assert found["reason"].startswith("the workload loads on no worker: KeyError: 'x' in <Batch")


@pytest.mark.parametrize(
    "raised",
    [
        ("FileNotFoundError: no file", "FileNotFoundError: no file"),
        ("ModuleNotFoundError: no module", "ModuleNotFoundError: no module"),
        ("KeyError: 'x'", "KeyError: 'y'"),
    ],
)
def test_what_another_machine_may_have_is_waited_for(client: TestClient, raised: tuple[str, str]) -> None:
    names = ["session-of-one-worker", "session-of-another"]
    for name in names:  # both are there before either has tried
        FakeWorker(client, name)
    submitted(client)
    for name, text in zip(names, raised, strict=True):
        give_back(client, name, text)
    found = conducted(client)
    assert (found["state"], found["counts"]) == ("running", {"queued": 6})
