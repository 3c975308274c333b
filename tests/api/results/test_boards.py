"""What is kept of settled trials is what the rows say, whatever happened between two readings."""

from typing import Any

from fake_worker import FakeWorker, report
from fastapi.testclient import TestClient
from study_documents import study_document

from api.results.boards import Board, Boards
from api.results.reading import Readings
from storage import points, studies
from storage.points import TrialPoint
from storage.studies import Progress

AT = "/api/v1/studies/small"


def server_of(client: TestClient) -> Any:
    return client.app.state.server  # type: ignore[attr-defined]


def check(client: TestClient) -> None:
    """The kept board agrees with rows that are read anew, and the view with the counts of the database."""
    server = server_of(client)
    while True:
        shown = client.get(AT).json()
        with server.answers._readings.of(shown["id"], growing=True) as reading:
            kept, fresh = list(reading.trials), points.read(reading.session, study_id=reading.study.id)
            counted = studies.progress(reading.session, study_ids=[shown["id"]])
        if client.get(AT).json()["revision"] == shown["revision"]:
            break  # else the conductor has proposed a trial meanwhile
    found = counted.get(shown["id"]) or Progress({}, 0)
    assert kept == fresh
    assert (shown["counts"], shown["examples_done"]) == (found.counts, found.examples)
    assert shown["slot_utilisation"] == found.slot_utilisation


def test_a_board_follows_its_study(client: TestClient) -> None:
    client.post("/api/v1/studies", json=study_document(run_cap=6, parallel=3, retry={"max": 1}))
    worker = FakeWorker(client)
    check(client)
    for turn in range(2):
        held = list(worker.take(3))
        check(client)
        ticks = {"ticks": 4 + turn, "computed": 6.0}
        worker.sync(free=0, reports=[{**report(one, 2, valid_loss=0.5), **ticks} for one in held])
        check(client)
        worker.finish(held[0], 0.1 * turn)
        check(client)
        worker.finish(held[1], None, infeasible="diverged")
        check(client)
        worker.finish(held[2], None, outcome="error", error="RuntimeError: x")  # queued again
        again = next(iter(worker.take(1)))
        check(client)
        worker.finish(again, 0.3)
        check(client)


def test_a_transaction_that_is_older_than_the_board_is_not_used(client: TestClient) -> None:
    client.post("/api/v1/studies", json=study_document())
    worker = FakeWorker(client)
    held = worker.take(4)
    server, boards = server_of(client), Boards()
    readings = Readings(server.database, server.plans, boards)
    study_id = client.get(AT).json()["id"]
    with server.database.read() as older:
        before = studies.get(older, study_id)
        for one in held:
            worker.finish(one, 0.5)
        with readings.of(study_id) as newer:
            assert {trial.state for trial in newer.trials} == {"completed"}
        assert boards.of(study_id).trials(older, before) is None, "it could not read what these trials reported last"
        assert before.revision < newer.study.revision


def test_of_settled_trials_everything_is_read_once() -> None:
    board, asked = Board(), []
    trials = [TrialPoint(n, n, "sgd", state, 0.5, None, 0, 1, 1, None, 0.1, 32) for n, state in enumerate(STATES)]

    def read(wanted: list[TrialPoint]) -> dict[int, int]:
        asked.append([trial.id for trial in wanted])
        return {trial.id: 10 * trial.id for trial in wanted}

    for _ in range(2):
        assert board.of_settled("x", trials, read) == {n: 10 * n for n in range(len(STATES))}
    assert asked == [[0, 1, 2, 3], [1, 3]], "running and failed trials may change"
    board.of_settled("x", trials[:1], read)
    board.of_settled("x", trials, read)
    assert asked[2:] == [[], [1, 2, 3]], "what nobody asked for any more was dropped"


STATES = [points.TrialState(name) for name in ("completed", "running", "infeasible", "failed")]


def test_the_boards_of_the_latest_studies_are_kept() -> None:
    boards = Boards(most_trials=10)
    for study_id in range(5):
        boards.of(study_id)._trials = [None] * 4  # type: ignore[list-item]
    boards.of(9)
    assert [study_id for study_id, board in boards._boards.items() if board.size] == [3, 4]
    boards.forget(4)
    assert 4 not in boards._boards
