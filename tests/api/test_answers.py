"""Reading studies over HTTP: ETags, one computation for all readers, and nobody waits for a slow figure."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fake_worker import FakeWorker, report
from fastapi.testclient import TestClient
from study_documents import study_document

from api import replies
from api.routes import results
from api.waits import Waits

AT = "/api/v1/studies/small"
FIGURES = ("curves", "loss_vs_lr", "lr_batch", "progress", "noise", "batch_advice")
PATHS = [AT, "/api/v1/studies", *(f"{AT}/{part}" for part in ("trials?sort=-value", "trials/0", "trials/0/curve"))]
PATHS += [f"{AT}/{part}" for part in ("best", "leaderboard", "batch-advice", "trials/0/figures/noise")]
PATHS += [f"{AT}/figures/{name}" for name in FIGURES]


def tag(client: TestClient, path: str, etag: str = "") -> tuple[int, str]:
    answer = client.get(path, headers={"If-None-Match": etag} if etag else {})
    assert answer.headers["Cache-Control"] == "private, no-cache"
    assert answer.status_code == 200 or answer.content == b""
    return answer.status_code, answer.headers["ETag"]


@pytest.fixture
def started(client: TestClient) -> tuple[TestClient, FakeWorker, list[dict[str, Any]]]:
    """A study of four trials, of which one has completed."""
    assert client.post("/api/v1/studies", json=study_document()).status_code == 201
    worker = FakeWorker(client)
    held = worker.take(4)
    worker.sync(free=0, reports=[report(held[0], 1, valid_loss=0.7)])
    worker.finish(held[0], 0.5)
    return client, worker, held


def test_who_has_the_latest_answer_is_told_so(
    started: tuple[TestClient, FakeWorker, list[dict[str, Any]]],
) -> None:
    client, worker, held = started
    tags = {path: tag(client, path)[1] for path in PATHS}
    for path, etag in tags.items():
        assert tag(client, path, etag) == (304, etag), path
        assert tag(client, path, f'"other", {etag.removeprefix("W/")}') == (304, etag), path
        assert tag(client, path, '"other"') == (200, etag), path
    before = {path: client.get(path).json() for path in PATHS}
    for number, trial in enumerate(held[1:], 1):
        worker.finish(trial, 0.5 - 0.1 * number)
    changed = set()
    for path, etag in tags.items():
        status, now = tag(client, path, etag)
        assert (status == 200) == (now != etag) == (client.get(path).json() != before[path]), path
        changed |= {path} if status == 200 else set()
    same = {path for path in PATHS if "trials/0" in path or path.endswith(("/curves", "/noise", "batch_advice"))}
    assert changed >= set(PATHS) - same, "three trials have completed since"


def test_every_report_shows_in_what_grows(started: tuple[TestClient, FakeWorker, list[dict[str, Any]]]) -> None:
    client, worker, held = started
    paths = [AT, f"{AT}/trials", f"{AT}/figures/curves", f"{AT}/trials/{held[1]['number']}/curve"]
    tags = {path: tag(client, path)[1] for path in paths}
    worker.sync(free=0, reports=[report(held[1], 2, valid_loss=0.9)])
    assert all(tag(client, path, etag)[0] == 200 for path, etag in tags.items())
    best = tag(client, f"{AT}/best")
    assert tag(client, f"{AT}/best", best[1])[0] == 304


def test_answers_are_compressed_once_for_all(
    started: tuple[TestClient, FakeWorker, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = started[0]
    packed = []
    compress = replies.gzip.compress  # type: ignore[attr-defined]
    monkeypatch.setattr(replies.gzip, "compress", lambda *a, **k: packed.append(a) or compress(*a, **k))  # type: ignore
    plain = client.get(f"{AT}/figures/loss_vs_lr", headers={"Accept-Encoding": "identity"})
    small = [client.get(f"{AT}/figures/loss_vs_lr", headers={"Accept-Encoding": "gzip"}) for _ in range(3)]
    assert len(packed) == 1 and "Content-Encoding" not in plain.headers
    assert {answer.headers["Content-Encoding"] for answer in small} == {"gzip"}
    assert all(answer.json() == plain.json() for answer in small)


def test_a_blocked_figure_delays_no_sync_and_no_other_answer_and_is_drawn_once(
    started: tuple[TestClient, FakeWorker, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, worker, held = started
    begun, may_end, drawn = threading.Event(), threading.Event(), []

    def blocked(reading: Any, view: Any) -> dict[str, Any]:
        drawn.append(view.revision)
        begun.set()
        assert may_end.wait(60)
        return {"data": [], "layout": {}}

    monkeypatch.setitem(results.BUILDERS, "progress", blocked)
    with ThreadPoolExecutor(40) as readers:
        waiting = [readers.submit(client.get, f"{AT}/figures/progress") for _ in range(40)]
        assert begun.wait(60)
        try:
            for number, trial in enumerate(held[1:]):
                worker.finish(trial, 0.1 * number)  # each is stored while the readers wait
            assert client.get(AT).json()["counts"] == {"completed": 4}
            assert client.get(f"{AT}/best").status_code == 200
            assert not any(answer.done() for answer in waiting)
        finally:
            may_end.set()
        assert {answer.result().status_code for answer in waiting} == {200}
    assert len(drawn) <= 2, "once, and once more at most for those who came after a change"


def test_the_end_is_exact_however_dear_its_figures_were(
    serve_app: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.kept.CHEAP_S", 0.0)
    client = serve_app(waits=Waits(tick_s=0.05, pause=1e9))
    client.post("/api/v1/studies", json=study_document(run_cap=3))
    worker = FakeWorker(client)
    held = worker.take(3)
    worker.finish(held[0], 0.5)
    rows = lambda **headers: client.get(f"{AT}/leaderboard", headers=headers)  # noqa: E731
    done = lambda answer: sum(row["completed"] for row in answer.json()["rows"])  # noqa: E731
    assert done(rows()) == 1
    worker.finish(held[1], 0.4)
    behind = rows()
    assert done(behind) == 1 and 0 < float(behind.headers["Tuner-Behind-S"]) <= 10
    assert done(rows(**{"Cache-Control": "no-cache"})) == 2, "who asks for exact results gets them"
    worker.finish(held[2], 0.3)
    while client.get(AT, headers={"Cache-Control": "no-cache"}).json()["state"] != "completed":
        pass
    final = rows()
    assert done(final) == 3 and "Tuner-Behind-S" not in final.headers


def test_nothing_is_kept_of_a_deleted_study(started: tuple[TestClient, FakeWorker, list[dict[str, Any]]]) -> None:
    client = started[0]
    for path in PATHS:
        client.get(path)
    answers = client.app.state.server.answers  # type: ignore[attr-defined]
    assert answers._replies._entries and answers._details._entries and answers._boards._boards
    assert client.delete(AT).status_code == 204
    assert not answers._replies._entries and not answers._details._entries and not answers._boards._boards
    assert client.get(f"{AT}/best").status_code == 404
    client.post("/api/v1/studies", json=study_document())
    assert client.get(AT).json()["examples_done"] == 0
    assert client.get(f"{AT}/best").status_code == 404
