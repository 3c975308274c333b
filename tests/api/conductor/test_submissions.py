"""Submissions: nothing is worked out while others wait for the write transaction; what is left out is said."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session
from study_documents import study_document

from api.conductor import submitting
from storage import events
from storage.database import Database
from tuner.study.spec import StudySpec


def test_a_document_is_checked_and_its_groups_derived_outside_the_write_transaction(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing: list[bool] = []
    seen: list[tuple[str, bool]] = []

    @contextmanager
    def write(self: Database, original: Any = Database.write) -> Iterator[Session]:
        with original(self) as session:
            writing.append(True)
            yield session
            writing.pop()

    def spied(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            seen.append((name, bool(writing)))
            return original(*args, **more)

        return call

    monkeypatch.setattr(Database, "write", write)
    monkeypatch.setattr(submitting, "parse_study", spied("parse_study", submitting.parse_study))
    monkeypatch.setattr(StudySpec, "batch_groups", spied("batch_groups", StudySpec.batch_groups))
    document = study_document(run_cap=1, parameters={"batch_size": 500_000_000}, budget={"examples_per_trial": 10**12})
    assert client.post("/api/v1/studies", json=document).status_code == 201
    assert seen == [("parse_study", False), ("batch_groups", False)]


def test_batch_sizes_that_are_left_out_are_named_in_an_event(client: TestClient) -> None:
    document = study_document(parameters={"batch_size": {"values": [16, 1024, 641]}})
    study = client.post("/api/v1/studies", json=document).json()
    with client.app.state.server.database.read() as session:  # type: ignore[attr-defined]
        found = events.after(session, study_id=study["id"], revision=0)
    assert [event.data["message"] for event in found if event.kind == "study.note"] == [
        "not tried: batch size 641, 1024, above the budget of 640 examples per trial"
    ]
