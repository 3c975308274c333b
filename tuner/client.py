"""The typed HTTP client: the only way from worker and user code to the server.

    client = Client()                                  # TUNER_SERVER, or http://127.0.0.1:8700
    study = client.submit("study.yaml")
    for view in client.watch(study.name):
        print(view.examples_done, view.best)
    print(client.best(study.name).snippet)

Every method raises the errors of `tuner.errors`: `NotFound`, `Conflict` (`NameTaken`), `InvalidInput` with every fault,
`NotAllowed`, and `Unreachable` with one line that says what to do. A study is given by its name or its id.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import quote

import httpx2
from pydantic import BaseModel

from tuner.connection import Connection, NotAStream
from tuner.document import plain, read_document
from tuner.errors import NotFound, Unreachable
from tuner.extra_headers import extra_headers
from tuner.study.states import StudyState, TrialState
from tuner.token import token_of
from tuner.wire.access import CreatedToken, Role, SessionView, TokenView
from tuner.wire.asking import Asked, Asking
from tuner.wire.sync import Registered, Registration, SyncReply, SyncRequest
from tuner.wire.views import (
    BatchAdviceList,
    Best,
    CatalogueView,
    Curve,
    EventView,
    Health,
    Leaderboard,
    LogView,
    Page,
    StudyDetail,
    StudyView,
    TrialView,
    WorkerView,
)

if TYPE_CHECKING:
    from tuner.ask import Loop

V = TypeVar("V", bound=BaseModel)

DEFAULT_SERVER = "http://127.0.0.1:8700"
PAGE = 200
"""Items per request when a whole list is fetched."""
SILENCE_S = 15.0
"""A stream that is silent for this long is reopened: the other end may have vanished without closing it."""
FIRST_PAUSE_S = 0.2
ENDED = frozenset({StudyState.COMPLETED, StudyState.STOPPED, StudyState.FAILED})


class Client:
    """Talks to one server.

    `url` defaults to TUNER_SERVER, or else `http://127.0.0.1:8700`; `token` to TUNER_TOKEN, or the content of the file
    that TUNER_TOKEN_FILE names; TUNER_HEADERS adds headers, for a proxy. `timeout_s` limits the wait for one response,
    in seconds. `transport` replaces the network. Safe to share between threads. Raises `InvalidInput` when `url` is not
    an http(s) address.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        timeout_s: float = 15.0,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        url = url or os.environ.get("TUNER_SERVER") or DEFAULT_SERVER
        self._http = Connection(url, token or token_of(), timeout_s, transport, extra_headers())

    @property
    def url(self) -> str:
        """The server's root address, without a slash at the end."""
        return self._http.url

    def close(self) -> None:
        """Close the sockets; the client cannot be used afterwards."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def health(self) -> Health:
        """Check that a Tuner server responds; needs no token."""
        return self._http.fetch(Health, "GET", "/healthz")

    # Studies

    def submit(self, document: Mapping[str, Any] | str | Path) -> StudyDetail:
        """Create a study from a document, or from a YAML or JSON file (a path). It starts at once.

        A document may hold scalars and arrays of numpy and torch.
        """
        values = read_document(document).values if isinstance(document, str | Path) else plain(document)
        return self._http.fetch(StudyDetail, "POST", "/api/v1/studies", body=values)

    def study(self, study: str | int) -> StudyDetail:
        """Show one study with its document."""
        return self._http.fetch(StudyDetail, "GET", _path(study))

    def studies(self, state: str | None = None) -> Iterator[StudyView]:
        """Iterate over all studies, or those in one state, page by page."""
        return self._items(Page[StudyView], "/api/v1/studies", {"state": state}, None)

    def stop(self, study: str | int) -> StudyDetail:
        """Stop a study: running trials are cancelled, their results are kept."""
        return self._http.fetch(StudyDetail, "POST", _path(study, "stop"))

    def pause(self, study: str | int) -> StudyDetail:
        """Pause a study: running trials store their states and leave their workers; nothing new is trained."""
        return self._http.fetch(StudyDetail, "POST", _path(study, "pause"))

    def resume(self, study: str | int) -> StudyDetail:
        """Let a paused study go on where it was, or undo the stop of a stopped one."""
        return self._http.fetch(StudyDetail, "POST", _path(study, "resume"))

    def edit(self, study: str | int, **changes: Any) -> StudyDetail:
        """Change a study while it runs, or after, e.g. `edit("digits", run_cap=128, budget={"max_failed": 3})`.

        Raises `InvalidInput` with every key that is unknown or cannot change. A raised cap reopens a completed study.
        """
        return self._http.fetch(StudyDetail, "PATCH", _path(study), body=plain(changes))

    def clone(self, study: str | int, name: str | None = None, changes: Mapping[str, Any] | None = None) -> StudyDetail:
        """Start another study with the document of one, changed by a JSON merge patch; it starts at once.

        `name` defaults to the study's with -2, -3 or whatever is free.
        """
        body = {"name": name, "changes": plain(changes or {})}
        return self._http.fetch(StudyDetail, "POST", _path(study, "clone"), body=body)

    def delete(self, study: str | int) -> None:
        """Delete a study with its trials."""
        self._http.send("DELETE", _path(study))

    # Trials

    def trials(
        self, study: str | int, state: str | None = None, sort: str | None = None, limit: int | None = None
    ) -> Iterator[TrialView]:
        """Iterate over the trials of a study, page by page.

        `sort` is a column such as `number` or `value`, with a leading `-` for descending; `limit` is the most to
        return.
        """
        return self._items(Page[TrialView], _path(study, "trials"), {"state": state, "sort": sort}, limit)

    def trial(self, study: str | int, number: int) -> TrialView:
        """Show one trial."""
        return self._http.fetch(TrialView, "GET", _path(study, "trials", number))

    def curve(self, study: str | int, number: int, metric: str | None = None, points: int | None = None) -> Curve:
        """Read a metric of a trial over the examples seen, thinned to `points`."""
        query = {"metric": metric, "points": points}
        return self._http.fetch(Curve, "GET", _path(study, "trials", number, "curve"), query=query)

    def enqueue(self, study: str | int, params: Mapping[str, Any]) -> TrialView:
        """Have a given configuration trained, before proposals that wait; it counts in `run_cap`.

        What is left out takes the study's fixed value, or the documented default. It makes one trial, also where the
        response is lost and the request repeated. Raises `InvalidInput` with every fault, and `Conflict` at the cap.
        """
        body = {"params": plain(params)}
        return self._http.fetch(TrialView, "POST", _path(study, "trials"), body=body, once=secrets.token_hex(16))

    def retry(self, study: str | int, number: int) -> TrialView:
        """Try a failed, cancelled or infeasible trial again, from its last checkpoint if there is one."""
        return self._http.fetch(TrialView, "POST", _path(study, "trials", number, "retry"))

    def log(self, study: str | int, number: int, attempt: int | None = None) -> LogView:
        """Read the end of what a trial printed: in its latest attempt with a log, or in the one named."""
        return self._http.fetch(LogView, "GET", _path(study, "trials", number, "log"), query={"attempt": attempt})

    def stop_trial(self, study: str | int, number: int) -> TrialView:
        """Cancel one trial."""
        return self._http.fetch(TrialView, "POST", _path(study, "trials", number, "stop"))

    # Results

    def best(self, study: str | int) -> Best:
        """Show the winner so far, its evidence and a snippet. Raises `NotFound` while no trial has completed."""
        return self._http.fetch(Best, "GET", _path(study, "best"))

    def leaderboard(self, study: str | int) -> Leaderboard:
        """Rank the optimizers of a study by their best trial."""
        return self._http.fetch(Leaderboard, "GET", _path(study, "leaderboard"))

    def batch_advice(
        self, study: str | int, step_times: Mapping[int, float] | None = None, optimizer: str | None = None
    ) -> BatchAdviceList:
        """Recommend batch sizes, for every optimizer of a study.

        `step_times`: seconds of one optimizer step by batch size on the hardware that will train, at least three; they
        add the fastest batch size, for `optimizer` alone if it is named.
        """
        query: dict[str, Any] = {}
        if step_times is not None:
            query["step_times"] = ",".join(f"{size}={float(seconds)!r}" for size, seconds in step_times.items())
            query |= {} if optimizer is None else {"optimizer": optimizer}
        return self._http.fetch(BatchAdviceList, "GET", _path(study, "batch-advice"), query=query)

    def weights(self, study: str | int, number: int | None = None) -> bytes:
        """Download a trial's weights, a safetensors file; the best trial's by default.

        Raises `NotFound` if there are none: only a study's best trial keeps its weights.
        """
        number = self.best(study).trial.number if number is None else number
        path = _path(study, "trials", number, "weights")
        content: bytes = self._http.send("GET", path, media_type="application/octet-stream", timeout_s=300.0).content
        return content

    def figure(self, study: str | int, name: str) -> dict[str, Any]:
        """Fetch a figure as Plotly JSON (`data`, `layout`)."""
        figure: dict[str, Any] = self._http.send("GET", _path(study, "figures", name)).json()
        return figure

    # Workers

    def workers(self) -> Iterator[WorkerView]:
        """Iterate over the workers, page by page."""
        return self._items(Page[WorkerView], "/api/v1/workers", {}, None)

    def drain(self, worker: int) -> WorkerView:
        """Tell a worker to store its trials' states, hand them back and leave."""
        return self._http.fetch(WorkerView, "POST", f"/api/v1/workers/{worker}/drain")

    def release(self, worker: int) -> WorkerView:
        """Give a worker trials again after a quarantine."""
        return self._http.fetch(WorkerView, "POST", f"/api/v1/workers/{worker}/release")

    def register(self, registration: Registration) -> Registered:
        """Register a worker. The same session may register again."""
        return self._http.fetch(Registered, "POST", "/api/v1/workers", body=registration)

    def sync(self, worker: int, request: SyncRequest) -> SyncReply:
        """Send a worker's whole state and return the state the server wants. Waits up to `request.wait_s` for work."""
        path = f"/api/v1/workers/{worker}/sync"
        return self._http.fetch(SyncReply, "POST", path, body=request, timeout_s=request.wait_s + 15.0)

    # A user's own loop

    def ask(self, study: str | int, name: str = "") -> Loop:
        """Iterate over the trials of a study, to train them in a loop of your own (`docs/own-loop.md`).

            for trial in client.ask("my-study"):
                ...
                trial.report(step=step, loss=loss)
                trial.finish()

        Waits for trials until the study has ended. `name` is shown on the page of the workers. Raises `NotFound` where
        there is no such study.
        """
        from tuner.ask import Loop

        return Loop(self, study, name)

    def open_session(self, study: str | int, asking: Asking) -> Asked:
        """Open a session of one slot for the trials of a study. The same session may be opened again."""
        return self._http.fetch(Asked, "POST", _path(study, "ask"), body=asking)

    def catalogue(self) -> CatalogueView:
        """Show everything that a study document may name."""
        return self._http.fetch(CatalogueView, "GET", "/api/v1/catalogue")

    # Access

    def session(self) -> SessionView:
        """Tell who this client is to the server, and in which role."""
        return self._http.fetch(SessionView, "GET", "/api/v1/session")

    def create_token(self, role: Role | str, label: str, expires_days: float | None = None) -> CreatedToken:
        """Create an access token; its secret is in the result, and cannot be read again."""
        body = {"role": str(role), "label": label, "expires_days": expires_days}
        return self._http.fetch(CreatedToken, "POST", "/api/v1/tokens", body=body)

    def tokens(self) -> list[TokenView]:
        """List all access tokens, without their secrets."""
        return self._http.fetch(Page[TokenView], "GET", "/api/v1/tokens").items

    def revoke_token(self, token: int) -> TokenView:
        """Revoke an access token by its id."""
        return self._http.fetch(TokenView, "DELETE", f"/api/v1/tokens/{token}")

    def history(self, study: str | int, limit: int | None = None) -> Iterator[EventView]:
        """Iterate over what happened to a study and its trials and who asked for it, the newest first."""
        return self._items(Page[EventView], _path(study, "history"), {}, limit)

    # Following a study

    def watch(
        self,
        study: str | int,
        *,
        poll_s: float = 1.0,
        patience_s: float = 300.0,
        away: Callable[[str | None], None] = lambda reason: None,
    ) -> Iterator[StudyView]:
        """Yield a study whenever it has changed, until it has ended.

        Changes arrive as server-sent events; if a proxy blocks these, the study is polled every `poll_s` seconds. So is
        one whose trials all wait: what it waits for changes with time alone, which is no event. While the server is
        unreachable, `away` is called with the reason and the client retries after 0.2, 0.4, ... 5 s; once it can
        continue, it calls `away(None)`. After `patience_s` seconds without a response it raises `Unreachable`.
        Raises `NotFound` if the study is deleted meanwhile.
        """
        view: StudyView = self.study(study)
        yield view
        last_answer, pause_s, is_streaming = time.monotonic(), FIRST_PAUSE_S, True
        while view.state not in ENDED:
            try:
                polls = not is_streaming or _waits(view)
                with closing(_ticks(poll_s) if polls else self._wakes(view, poll_s)) as wakes:
                    for revision in wakes:
                        if revision is not None and revision <= view.revision:
                            continue  # the view already includes that event
                        new = self.study(view.id)
                        if pause_s > FIRST_PAUSE_S:
                            away(None)
                        last_answer, pause_s = time.monotonic(), FIRST_PAUSE_S
                        if new != view:
                            view = new
                            yield view
                        if view.state in ENDED:
                            return
                        if is_streaming and _waits(view) != polls:
                            break
            except NotAStream:
                is_streaming = False
            except Unreachable as error:
                if time.monotonic() - last_answer > patience_s:
                    raise
                away(str(error))
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, 5.0)

    def _wakes(self, view: StudyView, poll_s: float) -> Generator[int | None]:
        """Yield whenever there may be news: the revision of an event, or None if it has no number.

        Follows one stream of events, from after the view's revision until the stream ends.
        """
        try:
            with self._http.events(_path(view.id, "events"), view.revision, SILENCE_S) as events:
                yield None
                for event in events:
                    if event.event == "closing":
                        break
                    is_change = event.event != "advanced" and event.id.isdecimal()
                    yield int(event.id) if is_change else None
        except NotFound:
            self.study(view.id)  # tells a deleted study from a server without events
            raise NotAStream(f"{self.url} sends no events") from None
        time.sleep(min(poll_s, 0.2))  # do not hammer a server that ends its streams immediately
        yield None

    def _items(
        self, kind: type[Page[V]], path: str, query: dict[str, str | int | None], limit: int | None
    ) -> Iterator[V]:
        cursor: str | None = None
        while limit is None or limit > 0:
            size = PAGE if limit is None else min(PAGE, limit)
            page = self._http.fetch(kind, "GET", path, query={**query, "limit": size, "cursor": cursor})
            yield from page.items[:limit]
            limit = None if limit is None else limit - len(page.items)
            cursor = page.next_cursor
            if cursor is None:
                return


def _waits(view: StudyView) -> bool:
    """Whether a study has trials to run and none is running."""
    return bool(view.counts.get(TrialState.QUEUED)) and not view.counts.get(TrialState.RUNNING)


def _ticks(pause_s: float) -> Generator[None]:
    while True:
        time.sleep(pause_s)
        yield


def _path(study: str | int, *rest: str | int) -> str:
    parts = [str(study), *(str(part) for part in rest)]
    if any(part in ("", ".", "..") for part in parts):
        raise NotFound(f"no study {study!r}")
    return "/api/v1/studies/" + "/".join(quote(part, safe="") for part in parts)
