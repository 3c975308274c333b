"""What is kept of studies that ended long ago, by the settings; on both databases."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from fake_worker import FakeWorker
from fastapi.testclient import TestClient
from over_http import submit, wait_for
from sqlalchemy import text


def counts(client: TestClient) -> dict[str, int]:
    with client.app.state.server.database.read() as session:  # type: ignore[attr-defined]
        tables = ("events", "reports", "trials", "studies")
        return {table: session.execute(text(f"select count(*) from {table}")).scalar_one() for table in tables}


def ended_study(client: TestClient, name: str, *, days_ago: float) -> None:
    submit(client, name=name, run_cap=2)
    worker = FakeWorker(client, session=f"session-of-{name:>8}", width=2)
    for assignment in worker.take(2):
        row = {"trial": assignment["trial"], "attempt": 1, "step": 1, "examples": 16, "elapsed_s": 1.0}
        worker.sync(free=0, reports=[{**row, "metrics": {"valid_loss": 0.5}}])
        worker.finish(assignment, 0.5)
    wait_for(lambda: client.get(f"/api/v1/studies/{name}").json()["state"] == "completed")
    database = client.app.state.server.database  # type: ignore[attr-defined]
    with database.write() as session:
        then = database.now(session) - timedelta(days=days_ago)
        session.execute(text("update studies set finished_at = :then where name = :name"), {"then": then, "name": name})


@pytest.mark.parametrize(
    ("settings", "gone"),
    [
        ({}, set()),
        ({"keep_events_days": 30}, {"events"}),
        ({"keep_reports_days": 30}, {"reports"}),
        ({"keep_events_days": 30, "keep_reports_days": 30}, {"events", "reports"}),
        ({"keep_events_days": 60, "keep_reports_days": 60}, set()),
    ],
)
def test_old_studies_lose_what_is_not_kept_and_others_nothing(
    serve_app: Callable[..., TestClient], settings: dict[str, Any], gone: set[str]
) -> None:
    client = serve_app(**settings)
    ended_study(client, "new", days_ago=1)
    of_new = counts(client)
    ended_study(client, "old", days_ago=40)
    before = counts(client)
    client.app.state.server.retention.forget_old_studies()  # type: ignore[attr-defined]
    after = counts(client)
    for table in before:
        assert after[table] == (of_new[table] if table in gone else before[table]), table
    best = client.get("/api/v1/studies/old/best").json()
    assert best["trial"]["value"] == 0.5
    assert client.get("/api/v1/studies/old/history").json()["items"] == [] if "events" in gone else True
    curve = client.get("/api/v1/studies/old/trials/0/curve")
    assert curve.status_code == 200
    assert (curve.json()["value"] == []) is ("reports" in gone)
    for path in ("", "/leaderboard", "/batch-advice", "/figures/curves", "/figures/progress"):
        assert client.get(f"/api/v1/studies/old{path}").status_code == 200
