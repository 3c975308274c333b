"""Leases expire only after the server has run without a gap for a whole lease."""

from datetime import UTC, datetime, timedelta

from api.sync.grace import Grace

START = datetime(2026, 1, 1, tzinfo=UTC)


def run(grace: Grace, times: list[float], wall_offset: float = 0.0) -> bool:
    verdict = False
    for t in times:
        verdict = grace.tick(steady_s=t, wall=START + timedelta(seconds=t + wall_offset))
    return verdict


def test_it_takes_one_whole_lease() -> None:
    grace = Grace(10.0)
    assert not run(grace, [t / 2 for t in range(20)])
    assert run(grace, [10.0])


def test_a_gap_starts_it_anew() -> None:
    grace = Grace(10.0)
    assert run(grace, [float(t) for t in range(11)])
    assert not run(grace, [100.0])
    assert not run(grace, [100.0 + t for t in range(1, 10)])
    assert run(grace, [110.0])


def test_a_jump_of_the_wall_clock_starts_it_anew() -> None:
    grace = Grace(10.0)
    assert run(grace, [float(t) for t in range(11)])
    assert not run(grace, [11.0], wall_offset=3600)
    assert not run(grace, [11.0 + t for t in range(1, 10)], wall_offset=3600)
    assert run(grace, [21.0], wall_offset=3600)


def test_an_interruption_starts_it_anew() -> None:
    grace = Grace(10.0)
    assert run(grace, [float(t) for t in range(11)])
    grace.interrupt()
    assert not run(grace, [11.0, 12.0, 13.0])
    assert run(grace, [13.0 + t for t in range(9)])
