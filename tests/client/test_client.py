"""Every method of the client: what it asks, and what it makes of the answer."""

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from pydantic import BaseModel

import tuner
from tuner.client import PAGE, Client
from tuner.errors import InvalidInput, NotFound
from tuner.study.states import StudyState, TrialState
from tuner.wire import sync, views

NOW = datetime(2026, 1, 2, tzinfo=UTC)
TRIAL = views.TrialView(
    **{"study": "demo", "number": 3, "state": TrialState.COMPLETED, "optimizer": "muon", "params": {"lr": 0.1}},
    **{"seed": 0, "value": math.inf, "total_steps": 10, "total_examples": 320, "attempt": 1, "created_at": NOW},
)
STUDY = views.StudyDetail(
    **{"id": 1, "name": "demo", "title": "", "state": StudyState.RUNNING, "workload": "digits-mlp", "metric": "loss"},
    **{"goal": "minimize", "method": "tpe", "optimizers": ["muon"], "swept": {"muon": ["lr"]}, "run_cap": 4},
    **{"parallel": 2, "examples_per_trial": 320, "counts": {TrialState.COMPLETED: 1}, "examples_done": 320},
    **{"best": TRIAL, "revision": 5, "created_at": NOW, "document": {"workload": "digits-mlp"}},
)
BEST = views.Best(trial=TRIAL, grade="C", interval=None, evidence="one seed", snippet="x = 1\n")
BOARD = views.Leaderboard(study="demo", metric="loss", goal="minimize", rows=[], grade="C", evidence="one seed")
ADVICE = views.BatchAdviceList(study="demo", items=[])
CURVE = views.Curve(study="demo", number=3, metric="loss", metrics=["loss"], step=[1], examples=[32], value=[math.nan])
CATALOGUE = views.CatalogueView(optimizers=[], schedules=[], methods=[], workloads=[])
HEALTH = views.Health(status="ok", service="tuner", version="0.1.0")
DEVICE = sync.DeviceInfo(device="cpu", width=2)
REGISTRATION = sync.Registration(session="s" * 16, name="box", devices=[DEVICE], workloads=[])
REGISTERED = sync.Registered(worker=4, lease_s=15.0, database="d")
REQUEST = sync.SyncRequest(session="s" * 16, seq=1, wait_s=10)
REPLY = sync.SyncReply(lease_s=15.0, next_sync_s=1.0)

CALLS: list[tuple[Callable[[Client], Any], str, str, BaseModel]] = [
    (lambda c: c.health(), "GET", "/healthz", HEALTH),
    (lambda c: c.submit({"workload": "x"}), "POST", "/api/v1/studies", STUDY),
    (lambda c: c.study("demo"), "GET", "/api/v1/studies/demo", STUDY),
    (lambda c: c.study(1), "GET", "/api/v1/studies/1", STUDY),
    (lambda c: c.stop("demo"), "POST", "/api/v1/studies/demo/stop", STUDY),
    (lambda c: c.pause("demo"), "POST", "/api/v1/studies/demo/pause", STUDY),
    (lambda c: c.resume("demo"), "POST", "/api/v1/studies/demo/resume", STUDY),
    (lambda c: c.edit("demo", run_cap=9), "PATCH", "/api/v1/studies/demo", STUDY),
    (lambda c: c.clone("demo"), "POST", "/api/v1/studies/demo/clone", STUDY),
    (lambda c: c.enqueue("demo", {"lr": 0.1}), "POST", "/api/v1/studies/demo/trials", TRIAL),
    (lambda c: c.retry("demo", 3), "POST", "/api/v1/studies/demo/trials/3/retry", TRIAL),
    (lambda c: c.trial("demo", 3), "GET", "/api/v1/studies/demo/trials/3", TRIAL),
    (lambda c: c.stop_trial("demo", 3), "POST", "/api/v1/studies/demo/trials/3/stop", TRIAL),
    (lambda c: c.best("demo"), "GET", "/api/v1/studies/demo/best", BEST),
    (lambda c: c.leaderboard("demo"), "GET", "/api/v1/studies/demo/leaderboard", BOARD),
    (lambda c: c.batch_advice("demo"), "GET", "/api/v1/studies/demo/batch-advice", ADVICE),
    (lambda c: c.catalogue(), "GET", "/api/v1/catalogue", CATALOGUE),
    (lambda c: c.register(REGISTRATION), "POST", "/api/v1/workers", REGISTERED),
    (lambda c: c.sync(4, REQUEST), "POST", "/api/v1/workers/4/sync", REPLY),
    (lambda c: c.study("a/b ?"), "GET", "/api/v1/studies/a%2Fb%20%3F", STUDY),
]


class Recorder:
    """Answers everything with one value (or what a function makes of the request), and remembers the requests."""

    def __init__(self, reply: BaseModel | Callable[[httpx2.Request], httpx2.Response]) -> None:
        self.requests: list[httpx2.Request] = []
        self._reply = reply
        self.client = Client("http://server:8700", transport=httpx2.MockTransport(self._handle))

    def _handle(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        return as_json(self._reply) if isinstance(self._reply, BaseModel) else self._reply(request)


def as_json(value: BaseModel) -> httpx2.Response:
    return httpx2.Response(200, content=value.model_dump_json(), headers={"Content-Type": "application/json"})


@pytest.mark.parametrize(("call", "method", "path", "value"), CALLS, ids=[f"{c[1]} {c[2]}" for c in CALLS])
def test_each_method_asks_its_route_and_reads_its_value(
    call: Callable[[Client], Any], method: str, path: str, value: BaseModel
) -> None:
    recorder = Recorder(value)
    assert call(recorder.client) == value
    (request,) = recorder.requests
    assert (request.method, request.url.raw_path.decode()) == (method, path)


def test_non_finite_numbers_survive() -> None:
    curve = Recorder(CURVE).client.curve("demo", 3, "loss", points=100)
    assert math.isnan(curve.value[0])
    assert Recorder(TRIAL).client.trial("demo", 3).value == math.inf


def test_a_curve_is_asked_for_with_its_metric_and_points() -> None:
    recorder = Recorder(CURVE)
    recorder.client.curve("demo", 3, points=100)
    assert recorder.requests[0].url.query == b"points=100"
    assert recorder.requests[0].url.path == "/api/v1/studies/demo/trials/3/curve"


def test_a_document_is_sent_as_json_from_a_mapping_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("workload: digits-mlp\nrun_cap: 8\n")
    for document in (file, str(file), {"workload": "digits-mlp", "run_cap": 8}):
        recorder = Recorder(STUDY)
        recorder.client.submit(document)
        assert json.loads(recorder.requests[0].content) == {"workload": "digits-mlp", "run_cap": 8}
        assert recorder.requests[0].headers["Content-Type"] == "application/json"


def test_a_document_may_hold_scalars_and_arrays_of_numpy_and_torch() -> None:
    recorder = Recorder(STUDY)
    lr = {"min": np.float32(0.5), "max": torch.tensor(2.0), "scaling": np.str_("log")}
    sizes = {"values": np.array([16, 32]) * 2}
    recorder.client.submit(
        {
            "run_cap": np.int64(8),
            "optimizers": ({"name": "sgd", "lr": lr}, {"name": "adamw", "lr": torch.logspace(-2, 0, 3)}),
            "parameters": {"batch_size": sizes},
            "reproducible": np.bool_(True),
        }
    )
    assert json.loads(recorder.requests[0].content) == {
        "run_cap": 8,
        "optimizers": [
            {"name": "sgd", "lr": {"min": 0.5, "max": 2.0, "scaling": "log"}},
            {"name": "adamw", "lr": pytest.approx([0.01, 0.1, 1.0])},
        ],
        "parameters": {"batch_size": {"values": [32, 64]}},
        "reproducible": True,
    }


@pytest.mark.parametrize("value", [math.nan, {1, 2}])
def test_a_document_that_json_cannot_hold_is_refused_before_it_is_sent(value: object) -> None:
    recorder = Recorder(STUDY)
    with pytest.raises(InvalidInput, match="cannot be written as JSON"):
        recorder.client.submit({"x": value})
    assert recorder.requests == []


def test_delete_takes_no_content_for_an_answer() -> None:
    recorder = Recorder(lambda request: httpx2.Response(204))
    recorder.client.delete("demo")
    assert [(r.method, r.url.path) for r in recorder.requests] == [("DELETE", "/api/v1/studies/demo")]


def test_a_figure_is_plain_json() -> None:
    recorder = Recorder(lambda request: httpx2.Response(200, json={"data": [], "layout": {}}))
    assert recorder.client.figure("demo", "progress") == {"data": [], "layout": {}}
    assert recorder.requests[0].url.path == "/api/v1/studies/demo/figures/progress"


def test_names_that_would_lead_to_another_route_do_not_exist() -> None:
    for name in ("", ".", ".."):
        with pytest.raises(NotFound):
            Recorder(STUDY).client.study(name)


def pages(request: httpx2.Request) -> httpx2.Response:
    """450 trials, page by page."""
    first = int(request.url.params.get("cursor", 0))
    last = min(first + int(request.url.params["limit"]), 450)
    items = [TRIAL.model_copy(update={"number": number}) for number in range(first, last)]
    return as_json(views.Page[views.TrialView](items=items, next_cursor=str(last) if last < 450 else None))


@pytest.mark.parametrize(("limit", "sizes"), [(None, [PAGE] * 3), (450, [200, 200, 50]), (5, [5]), (201, [200, 1])])
def test_lists_are_gone_through_page_by_page(limit: int | None, sizes: list[int]) -> None:
    recorder = Recorder(pages)
    trials = list(recorder.client.trials("demo", state="completed", sort="-value", limit=limit))
    assert [trial.number for trial in trials] == list(range(limit or 450))
    assert [int(request.url.params["limit"]) for request in recorder.requests] == sizes
    assert {(r.url.params["state"], r.url.params["sort"]) for r in recorder.requests} == {("completed", "-value")}


def test_a_sync_waits_longer_than_the_server_may() -> None:
    recorder = Recorder(REPLY)
    recorder.client.sync(4, REQUEST)
    assert recorder.requests[0].extensions["timeout"]["read"] > REQUEST.wait_s


def test_the_client_is_exported() -> None:
    assert tuner.Client is Client


def test_an_enqueued_configuration_is_sent_again_under_one_key_until_there_is_a_response() -> None:
    answers = [httpx2.RemoteProtocolError("the server went away"), as_json(TRIAL)]

    def reply(request: httpx2.Request) -> httpx2.Response:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    recorder = Recorder(reply)
    assert recorder.client.enqueue("demo", {"lr": np.float64(0.1)}) == TRIAL
    keys = {request.headers["Idempotency-Key"] for request in recorder.requests}
    assert len(recorder.requests) == 2 and len(keys) == 1
    assert {request.content for request in recorder.requests} == {b'{"params": {"lr": 0.1}}'}
