"""Following a study: by events, by asking again, and through absences of the server."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from tuner import connection
from tuner.client import Client
from tuner.errors import NotFound, Unreachable
from tuner.wire.views import StudyView

AT = "2026-01-02T03:04:05Z"
STREAM = {"Content-Type": "text/event-stream; charset=utf-8"}


def study(revision: int, state: str = "running", done: int = 0, **changes: Any) -> httpx2.Response:
    view = {
        **{"id": 1, "name": "demo", "title": "", "state": state, "workload": "w", "metric": "loss", "goal": "minimize"},
        **{"method": "random", "optimizers": ["sgd"], "swept": {}, "run_cap": 4, "parallel": 2, "counts": {}},
        **{"examples_per_trial": 10, "examples_done": done, "revision": revision, "created_at": AT, "document": {}},
    }
    return httpx2.Response(200, json=view | changes)


def change(revision: int) -> bytes:
    return f"id: {revision}\nevent: change\ndata: {{}}\n\n".encode()


ADVANCED = b"event: advanced\ndata: {}\n\n"
GONE = httpx2.ConnectError("connection refused")


class Script(httpx2.BaseTransport):
    """Plays one answer after the other, for the study and for its events; the last answer for the study stays."""

    def __init__(self, studies: list[httpx2.Response | Exception], events: list[Any]) -> None:
        self.studies, self.events = studies, events
        self.asked: list[str] = []
        self.last_ids: list[str] = []

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request.url.path)
        if request.url.path.endswith("/events"):
            self.last_ids.append(request.headers["Last-Event-ID"])
            answer = self.events.pop(0)
            if isinstance(answer, list):
                return httpx2.Response(200, headers=STREAM, content=self._stream(answer))
        else:
            answer = self.studies.pop(0) if len(self.studies) > 1 else self.studies[0]
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, httpx2.Response)
        return answer

    @staticmethod
    def _stream(chunks: list[bytes | Exception]) -> Iterator[bytes]:
        for chunk in chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses are noted instead of waited for."""
    noted: list[float] = []
    monkeypatch.setattr(time, "sleep", noted.append)
    monkeypatch.setattr(connection, "RETRY_DELAYS_S", ())
    return noted


def watch(script: Script, **options: Any) -> list[tuple[int, int]]:
    client = Client("http://server:8700", transport=script)
    return [(view.revision, view.examples_done) for view in client.watch("demo", **options)]


def test_each_change_is_shown_once_until_the_end() -> None:
    studies = [study(1), study(1), study(2), study(2, done=5), study(3, "completed", 10)]
    script = Script(studies, [[change(2), ADVANCED, change(3), change(4)]])
    assert watch(script) == [(1, 0), (2, 0), (2, 5), (3, 10)]
    assert script.last_ids == ["1"]


@pytest.mark.parametrize("state", ["completed", "stopped", "failed"])
def test_a_study_that_has_ended_is_shown_once(state: str) -> None:
    script = Script([study(7, state)], [])
    assert watch(script) == [(7, 0)]
    assert script.asked == ["/api/v1/studies/demo"]


def test_events_that_the_view_already_holds_cost_no_request() -> None:
    looks: list[int] = []
    revision = 1

    def stream() -> Iterator[bytes]:
        nonlocal revision
        revision = 9
        for number in range(2, 10):
            yield change(number)
        revision = 10
        yield change(10)

    def handler(request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("/events"):
            return httpx2.Response(200, headers=STREAM, content=stream())
        looks.append(revision)
        return study(revision, "completed" if revision == 10 else "running")

    client = Client("http://server:8700", transport=httpx2.MockTransport(handler))
    assert [view.revision for view in client.watch("demo")] == [1, 9, 10]
    assert looks == [1, 1, 9, 10]


@pytest.mark.parametrize(
    "ending",
    [
        pytest.param([], id="ended"),
        pytest.param([b"event: closing\ndata: {}\n\n", change(99)], id="closing"),
        pytest.param([httpx2.ReadTimeout("silent")], id="silent"),
        pytest.param([httpx2.ReadError("reset")], id="broken"),
    ],
)
def test_a_stream_that_ends_is_opened_again_after_the_last_revision(ending: list[bytes | Exception]) -> None:
    studies = [study(1), study(1), study(2), study(2), study(2), study(3, "completed")]
    script = Script(studies, [[change(2), *ending], [change(3)], [change(3)]])
    assert watch(script) == [(1, 0), (2, 0), (3, 0)]
    assert script.last_ids[:2] == ["1", "2"]


def test_the_server_goes_away_and_comes_back(pauses: list[float]) -> None:
    heard: list[str | None] = []
    script = Script(
        [study(1), study(1), study(2), study(2), study(3, "completed")],
        [[change(2), httpx2.ReadError("reset")], GONE, GONE, httpx2.Response(503, text="starting"), [change(3)]],
    )
    assert watch(script, away=heard.append) == [(1, 0), (2, 0), (3, 0)]
    assert script.last_ids == ["1", "2", "2", "2", "2"]
    assert heard[-1] is None
    assert all(reason is not None and "http://server:8700" in reason for reason in heard[:-1])
    assert pauses == sorted(pauses)
    assert len(pauses) == 4
    assert pauses[-1] > 4 * pauses[0]


def test_patience_ends() -> None:
    script = Script([study(1), study(1)], [GONE] * 99)
    with pytest.raises(Unreachable, match="no server at http://server:8700"):
        watch(script, patience_s=-1.0)
    assert len(script.last_ids) == 1


@pytest.mark.parametrize(
    "events",
    [
        httpx2.Response(200, text="<html>", headers={"Content-Type": "text/html"}),
        httpx2.Response(404, json={"detail": "Not Found"}),
        httpx2.Response(
            404,
            json={"type": "tuner:not-found", "title": "", "status": 404, "detail": "no events"},
            headers={"Content-Type": "application/problem+json"},
        ),
    ],
)
def test_where_events_do_not_come_through_the_study_is_asked_for_again(
    events: httpx2.Response, pauses: list[float]
) -> None:
    script = Script([study(1), study(1), study(1), study(1, done=5), study(2, "completed")], [events])
    assert watch(script, poll_s=0.7) == [(1, 0), (1, 5), (2, 0)]
    assert set(pauses) == {0.7}


def test_a_study_that_is_deleted_or_never_was_is_not_found() -> None:
    body = {"type": "tuner:not-found", "title": "", "status": 404, "detail": "no study demo", "errors": []}
    missing = httpx2.Response(404, json=body, headers={"Content-Type": "application/problem+json"})
    with pytest.raises(NotFound, match="no study demo"):
        watch(Script([missing], []))
    with pytest.raises(NotFound, match="no study demo"):
        watch(Script([study(1), missing], [[change(2)]]))


def test_leaving_early_closes_the_stream() -> None:
    closed: list[bool] = []

    def stream() -> Iterator[bytes]:
        try:
            while True:
                yield ADVANCED
        finally:
            closed.append(True)

    counter = iter(range(100))

    def handler(request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("/events"):
            return httpx2.Response(200, headers=STREAM, content=stream())
        return study(1, done=next(counter))

    views: Iterator[StudyView] = Client("http://server:8700", transport=httpx2.MockTransport(handler)).watch("demo")
    next(views)
    next(views)
    next(views)
    close: Callable[[], None] = views.close  # type: ignore[attr-defined]
    close()
    assert closed == [True]


def test_a_study_that_waits_is_asked_for_what_it_waits_for(pauses: list[float]) -> None:
    """Nothing happens meanwhile, so no event says it; once a trial runs, events do."""
    queued, running = {"counts": {"queued": 4}}, {"counts": {"queued": 3, "running": 1}}
    waiting = study(1, notice="waiting for a worker", **queued)
    script = Script([study(1, **queued), waiting, study(2, **running), study(3, "completed")], [[change(3)]])
    client = Client("http://server:8700", transport=script)
    assert [view.notice for view in client.watch("demo", poll_s=7.0)] == [None, "waiting for a worker", None, None]
    assert pauses == [7.0, 7.0] and script.last_ids == ["2"]
