"""Rows that wait to be sent: how many there are, and what is kept of those that are joined."""

import pytest

from tuner.ask.curve import KEPT, Curve, Row


def reported(curve: Curve, count: int) -> None:
    for step in range(count):
        curve.add(Row(step, 10 * step, 0.1 * step, {"loss": float(abs(step - 1500))}, (1, 2.0, 1.0, 4.0, 1.0, 2.0)))
    curve.close()


def test_rows_are_sent_as_they_are_until_there_are_very_many() -> None:
    curve = Curve("loss")
    reported(curve, KEPT)
    assert [row.step for row in curve.ready(10**6)] == list(range(KEPT))


@pytest.mark.parametrize(("reports", "rows"), [(2 * KEPT, 1.5), (4 * KEPT, 2), (128_000, 4.5)])
def test_many_reports_make_few_rows_and_lose_no_noise(reports: int, rows: float) -> None:
    curve = Curve("loss")
    reported(curve, reports)
    found = curve.ready(10**6)
    assert abs(len(found) - rows * KEPT) <= 0.1 * KEPT
    assert sum(row.noise[0] for row in found if row.noise) == reports
    assert found[-1].step == reports - 1 and [row.step for row in found] == sorted(row.step for row in found)


def test_the_best_value_outlives_its_row() -> None:
    best, last = Curve("loss", "min"), Curve("loss")
    for curve in (best, last):
        reported(curve, 4000)
    assert min(row.metrics["loss"] for row in best.ready(10**6)) == 0.0
    assert min(row.metrics["loss"] for row in last.ready(10**6)) > 0.0
    assert last.ready(10**6)[-1].metrics["loss"] == 2499.0


def test_a_row_leaves_once_however_often_it_is_acknowledged() -> None:
    curve = Curve("loss")
    reported(curve, 5)
    first = curve.ready(3)
    curve.acknowledge(first)
    curve.acknowledge(first)
    assert [row.step for row in curve.ready(9)] == [3, 4]
