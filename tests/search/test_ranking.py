"""Which trial won."""

import math

from tuner.search.ranking import better, value_of_curve


def test_better_follows_the_goal_and_nan_never_wins() -> None:
    assert better(1.0, 2.0, minimize=True)
    assert better(2.0, 1.0, minimize=False)
    assert not better(1.0, 1.0, minimize=True)
    assert not better(math.nan, 1.0, minimize=True)
    assert better(1.0, math.nan, minimize=False)


def test_the_value_of_a_curve() -> None:
    assert value_of_curve([3.0, 1.0, 2.0], at="last", minimize=True) == 2.0
    assert value_of_curve([3.0, 1.0, 2.0], at="best", minimize=True) == 1.0
    assert value_of_curve([3.0, math.nan, 2.0], at="best", minimize=False) == 3.0
    assert value_of_curve([3.0, math.nan], at="last", minimize=True) is None
    assert value_of_curve([], at="best", minimize=True) is None
