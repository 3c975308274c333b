"""Which stack trains some trials fastest: worked out from measurements, without any machine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.probe import plan
from tuner.probe.choice import Cell, Choice, Compiled

SMALL = Choice((Cell("loop", 1, 8e-4), *(Cell("eager", width, 1e-3 * (1 + width / 64)) for width in (4, 16, 64))))
"""Ticks cost nearly the same whatever the width."""
LARGE = Choice((Cell("loop", 1, 0.1), Cell("eager", 4, 0.5)))
"""Every slot costs the same, and stacking costs extra."""


@given(st.integers(1, 10_000))
def test_the_ladder_holds_the_trials_with_few_empty_slots(trials: int) -> None:
    width = plan.rung(trials)
    assert trials <= width <= max(trials, (trials * 3 - 1) // 2)
    assert plan.rung(width) == width


@pytest.mark.parametrize(("trials", "expected"), [(1, ("loop", 1)), (3, ("eager", 3)), (9, ("eager", 12))])
def test_a_stack_is_as_wide_as_its_trials_ask_for(trials: int, expected: tuple[str, int]) -> None:
    found = plan.uncompiled(SMALL, trials)
    assert found is not None and (found.path, found.width) == expected


def test_what_gains_nothing_by_being_wide_trains_one_by_one() -> None:
    for trials in (1, 4, 100):
        found = plan.uncompiled(LARGE, trials)
        assert found == plan.Plan("loop", 1, pytest.approx(10.0))  # type: ignore[arg-type]
    assert plan.uncompiled(Choice(()), 4) is None
    assert plan.worth_compiling(plan.Plan("loop", 1, 10.0), 100) == plan.SEVERAL
    assert plan.worth_compiling(plan.Plan("loop", 1, 10.0), 2) == 2


def test_a_users_width_gets_the_path_that_is_clearly_faster_there() -> None:
    assert plan.at_width(SMALL, 16) == "auto" and plan.at_width(SMALL, 1) == "loop"
    assert plan.at_width(LARGE, 4) == "loop" and plan.at_width(Choice(()), 4) == "auto"


def test_a_compiled_stack_is_known_for_its_width_and_worth_it_if_clearly_faster() -> None:
    base = plan.uncompiled(SMALL, 64)
    assert base is not None and base.width == 64
    one = Compiled(16, 1, ("a",), 1.0)
    slow, fast = (Choice((*SMALL.cells, Cell("compiled", 16, tick_s)), (one,)) for tick_s in (4.8e-4, 2e-4))
    assert plan.compiled(slow, 64, base) is None
    found = plan.compiled(fast, 64, base)
    assert found is not None and (found[0].path, found[0].width, found[1]) == ("compiled", 16, one)
    assert plan.compiled(fast, 64, base, width=64) is None, "the user's width is another"
    assert plan.compiled(fast, 3, plan.Plan("eager", 3, 1.0)) is None, "four slots would do"


def test_no_wider_stack_is_tried_once_width_gains_nothing() -> None:
    assert plan.settled(SMALL) and plan.settled(LARGE)
    assert not plan.settled(Choice(SMALL.cells[:3])) and not plan.settled(Choice(SMALL.cells[:1]))
    assert plan.widths_to_measure(64) == plan.widths_to_measure(1000) == [1, 4, 16, 64]
    assert plan.widths_to_measure(6) == [1, 4, 6]


def test_a_time_between_two_measured_widths_lies_between_theirs() -> None:
    assert SMALL.tick_s("eager", 10) == pytest.approx(1e-3 * (1 + 10 / 64))
    assert SMALL.tick_s("eager", 128) == pytest.approx(4e-3) and SMALL.tick_s("eager", 1) == SMALL.tick_s("eager", 4)
    assert SMALL.tick_s("compiled", 4) is None
