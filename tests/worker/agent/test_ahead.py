"""How many assignments are kept ahead of the slots."""

import pytest

from tuner.worker.agent.ahead import HORIZON_S, Ahead


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_before_anything_has_ended_it_is_a_guess(clock: Clock) -> None:
    ahead = Ahead(clock)
    ahead.answered(0.1)
    assert [ahead.count(width) for width in (1, 16, 64)] == [1, 2, 8]


def test_what_ends_during_two_round_trips_is_kept(clock: Clock) -> None:
    ahead = Ahead(clock)
    for _ in range(100):
        clock.now_s += 0.125
        ahead.ended()
    ahead.answered(0.25)
    assert ahead.count(8) == 5  # half a second, both ends included
    ahead.answered(1.25)
    ahead.answered(0.01)
    assert ahead.count(8) == 21


def test_trials_that_end_together_count_together(clock: Clock) -> None:
    """One wave of 16 in ten seconds needs 16 ahead; its mean rate would need one."""
    ahead = Ahead(clock)
    ahead.answered(0.1)
    for _ in range(16):
        ahead.ended()
    clock.now_s += 5.0
    ahead.ended()
    assert ahead.count(32) == 16
    clock.now_s += HORIZON_S - 4.0
    assert ahead.count(32) == 1  # the wave is forgotten


def test_long_trials_need_one(clock: Clock) -> None:
    ahead = Ahead(clock)
    ahead.answered(0.1)
    for _ in range(5):
        clock.now_s += 60.0
        ahead.ended()
    assert ahead.count(64) == 1
