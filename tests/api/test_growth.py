"""The rate of a study: what its trials went on by in the last seconds, as reports arrive."""

import pytest
from fake_worker import FakeWorker, report
from fastapi.testclient import TestClient
from study_documents import study_document

from api.growth import SHARED_S, WINDOW_S, Growth


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_rate_is_that_of_the_last_seconds() -> None:
    clock = Clock()
    growth = Growth(clock)
    assert growth.rate(1) is None
    for _ in range(60):  # slow at first
        clock.now += 1.0
        growth.note({1: 10, 2: 1})
    assert growth.rate(1) == pytest.approx(10.0)
    for _ in range(int(WINDOW_S) + 2):
        clock.now += 1.0
        growth.note({1: 500})
    assert growth.rate(1) == pytest.approx(500.0)
    assert growth.count(1) == 60 + WINDOW_S + 2
    clock.now += WINDOW_S + 1
    assert growth.rate(1) is None, "nothing has been reported for a long time"
    assert growth.rate(2) is None
    growth.forget(1)
    assert growth.count(1) == 0


def test_rare_and_crowded_reports_give_the_same_rate() -> None:
    clock = Clock()
    growth = Growth(clock)
    for _ in range(5):  # one long trial: a report a minute
        clock.now += 60.0
        growth.note({1: 6000})
        assert growth.rate(1) in (None, pytest.approx(100.0))
    clock.now += 70.0
    assert growth.rate(1) == pytest.approx(100.0), "a late report is not the end"
    for _ in range(4000):  # hundreds of workers: what is kept stays small
        clock.now += 0.005
        growth.note({3: 1})
    assert growth.rate(3) == pytest.approx(200.0, rel=0.05)
    assert len(growth._tracks[3].seen) <= 2 * WINDOW_S / 0.5 + 2


def test_examples_of_a_sync_are_counted_once(client: TestClient) -> None:
    study = client.post("/api/v1/studies", json=study_document()).json()
    worker = FakeWorker(client)
    trial = worker.take(1)[0]
    growth = client.app.state.server.growth  # type: ignore[attr-defined]
    rows = [report(trial, 1, valid_loss=1.0), report(trial, 2, valid_loss=0.9)]
    worker.sync(free=0, reports=rows)
    worker.sync(free=0, reports=rows)
    assert growth._tracks[study["id"]].total == 32


def test_what_others_report_counts_and_what_they_may_have_while_they_are_not_heard() -> None:
    clock = Clock()
    growth = Growth(clock, shared=True)
    seen = [growth.count(1)]

    def later(seconds: float) -> None:
        clock.now += seconds
        seen.append(growth.count(1))

    later(2 * SHARED_S)
    growth.hears()
    later(0.0)
    assert seen == [0, 2, 3], "it was not heard for two spans, and once more at the end"
    later(100 * SHARED_S)
    growth.note({1: 32})  # as it comes from another server
    later(0.0)
    assert seen[3:] == [3, 4]
    growth.deaf()
    later(SHARED_S)
    assert (seen[-1], growth.count(1, live=False)) == (5, 4), "curves of a study that has ended grow no more"
    growth.hears()
    later(0.0)
    assert seen == sorted(seen), "it never goes back: what was made from an earlier count would count as newer"
