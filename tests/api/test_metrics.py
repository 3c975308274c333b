"""/metrics: gauges say what the database says, counters what this process did, and labels never what a caller wrote."""

from collections.abc import Callable
from typing import Any

import pytest
from fake_worker import FakeWorker, report
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from study_documents import study_document

TOKEN = "correct horse battery staple"


def scrape(client: TestClient) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    answer = client.get("/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain; version=")
    families = text_string_to_metric_families(answer.text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


class Scrape:
    """One scrape: `scrape("tuner_studies", state="running")`; None for a series that is not there."""

    def __init__(self, client: TestClient) -> None:
        self.series = scrape(client)

    def __call__(self, name: str, **labels: str) -> float | None:
        return self.series.get((name, frozenset(labels.items())))


def run_some(client: TestClient) -> tuple[FakeWorker, list[dict[str, Any]]]:
    """Three of ten trials are leased, one of them has completed, one diverged."""
    document = study_document(run_cap=10, parallel=6)
    client.post("/api/v1/studies", json=document)
    worker = FakeWorker(client)
    held = worker.take(3)
    used = {"ticks": 15, "computed": 20.0}
    worker.sync(free=0, reports=[{**report(one, 5, valid_loss=0.5), **used} for one in held[:2]])
    worker.finish(held[0])
    worker.finish(held[1], value=None, infeasible="diverged")
    return worker, held


def test_gauges_say_what_the_database_says(client: TestClient) -> None:
    empty = Scrape(client)
    assert (empty("tuner_studies", state="running"), empty("tuner_workers_alive"), empty("tuner_leases")) == (0, 0, 0)
    worker, held = run_some(client)
    now = Scrape(client)
    counts = client.get("/api/v1/studies/small").json()["counts"]
    assert counts["running"] == 1 and counts["completed"] == 1 and counts["infeasible"] == 1
    for state in ("queued", "running", "completed", "infeasible", "pruned"):
        found = Scrape(client)("tuner_trials", study="small", state=state)
        assert found is not None and (state == "queued" or found == counts.get(state, 0))
    assert now("tuner_studies", state="running") == 1 and now("tuner_studies", state="completed") == 0
    assert (now("tuner_workers_alive"), now("tuner_leases")) == (1, 1)
    assert now("tuner_queue_trials") == now("tuner_trials", study="small", state="queued")
    assert now("tuner_slot_utilisation_ratio", study="small") == 0.75
    worker.finish(held[2])
    client.post("/api/v1/studies/small/stop")
    later = Scrape(client)
    assert (later("tuner_leases"), later("tuner_queue_trials")) == (0, 0)
    assert (later("tuner_studies", state="running"), later("tuner_studies", state="stopped")) == (0, 1)
    client.delete("/api/v1/studies/small")
    assert Scrape(client)("tuner_trials", study="small", state="completed") is None


def test_a_study_that_ended_long_ago_has_no_series(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    run_some(client)
    client.post("/api/v1/studies/small/stop")
    assert Scrape(client)("tuner_trials", study="small", state="completed") == 1
    monkeypatch.setattr("api.metrics.SHOWN_AFTER_END_S", -3600.0)
    found = Scrape(client)
    assert found("tuner_trials", study="small", state="completed") is None
    assert found("tuner_slot_utilisation_ratio", study="small") is None
    assert found("tuner_studies", state="stopped") == 1


def test_syncs_reports_asks_and_requests_are_counted(client: TestClient) -> None:
    worker, _ = run_some(client)
    found = Scrape(client)
    assert found("tuner_syncs_total") == worker.seq and found("tuner_reports_total") == 2
    assert (found("tuner_sampler_ask_seconds_count", method="random") or 0) >= 2
    assert (found("tuner_sampler_ask_seconds_sum", method="random") or 0) > 0
    sync = "/api/v1/workers/{worker}/sync"
    assert found("tuner_http_requests_total", method="POST", route=sync, status="200") == worker.seq
    assert found("tuner_http_request_seconds_count", method="POST", route=sync) == worker.seq
    assert found("tuner_http_request_seconds_bucket", method="POST", route=sync, le="+Inf") == worker.seq
    assert found("tuner_http_requests_total", method="GET", route="/metrics", status="200") is None
    assert Scrape(client)("tuner_http_requests_total", method="GET", route="/metrics", status="200") == 1


def test_labels_are_route_templates_whatever_is_asked(client: TestClient) -> None:
    for path in ("/api/v1/studies/x", "/api/v1/studies/y", "/api/v1/no-such", "/a", "/b", "/static/css/app.css"):
        client.get(path)
    client.get("/api/v1/studies", headers={"Host": "evil.example"})
    client.request("BREW", "/pot")
    found = Scrape(client)
    assert found("tuner_http_requests_total", method="GET", route="/api/v1/studies/{study}", status="404") == 2
    assert found("tuner_http_requests_total", method="GET", route="none", status="404") == 3
    assert found("tuner_http_requests_total", method="GET", route="/static", status="200") == 1
    assert found("tuner_http_requests_total", method="GET", route="none", status="403") == 1
    routes = {dict(labels).get("route") for _, labels in found.series}
    assert routes == {None, "/api/v1/studies/{study}", "none", "/static"}
    assert {dict(labels).get("method") for _, labels in found.series} == {None, "GET", "other"}


def test_open_event_streams_are_counted(client: TestClient) -> None:
    streams = client.app.state.streams  # type: ignore[attr-defined]
    streams.append(object())
    assert Scrape(client)("tuner_event_streams") == 1
    streams.clear()
    assert Scrape(client)("tuner_event_streams") == 0


def test_a_token_guards_metrics_as_it_does_the_api(serve_app: Callable[..., TestClient]) -> None:
    client = serve_app(token=TOKEN)
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert client.get("/metrics", headers={"Host": "evil.example"}).status_code == 403
    assert client.get("/healthz").status_code == 200


def test_every_app_counts_for_itself(serve_app: Callable[..., TestClient]) -> None:
    first = serve_app()
    first.get("/healthz")
    labels = {"method": "GET", "route": "/healthz", "status": "200"}
    assert Scrape(first)("tuner_http_requests_total", **labels) == 1
    assert Scrape(serve_app())("tuner_http_requests_total", **labels) is None
