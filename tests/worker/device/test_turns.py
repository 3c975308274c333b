"""Device time goes to studies by their priorities, whatever their ticks cost and however many stacks they have."""

from typing import Any, cast

import pytest
import torch
from worker_doubles import assignment

from tuner.worker.device.stacks import Held, Stacks


class Clock:
    """The time that ticks take."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Ticking:
    """A stack whose ticks take a given time and never end."""

    def __init__(self, clock: Clock, tick_s: float) -> None:
        self.clock, self.tick_s, self.used_s = clock, tick_s, 0.0
        self.busy = True

    def claim(self) -> None:
        pass

    def tick(self) -> list[Any]:
        self.clock.now += self.tick_s
        self.used_s += self.tick_s
        return []


def held(stacks: Stacks, stack: Ticking, *trials: tuple[int, int, float]) -> Held:
    """Add a stack with these (trial, study, priority)."""
    one = Held((f"key {id(stack)}", 4, None), cast(Any, None), cast(Any, None), cast(Any, stack))
    stacks.add(one)
    for trial, study, priority in trials:
        stacks.admitted(one, assignment(trial, study_id=study, priority=priority).model_dump(), 0)
    return one


def run(stacks: Stacks, clock: Clock, seconds: float) -> None:
    until = clock.now + seconds
    while clock.now < until:
        turn = stacks.next()
        assert turn is not None
        stacks.tick(turn)


@pytest.mark.parametrize(("priorities", "share"), [((1.0, 1.0), 0.5), ((3.0, 1.0), 0.75), ((1.0, 4.0), 0.2)])
def test_two_studies_share_a_minute_by_priority(priorities: tuple[float, float], share: float) -> None:
    """Ticks of one are a hundred times as long as the other's; a tenth of the promise of 20 %."""
    clock = Clock()
    stacks = Stacks(torch.device("cpu"), clock)
    short, long = Ticking(clock, 0.001), Ticking(clock, 0.1)
    held(stacks, short, (1, 1, priorities[0]), (2, 1, priorities[0]))
    held(stacks, long, (3, 2, priorities[1]))
    run(stacks, clock, 60.0)
    assert short.used_s / 60.0 == pytest.approx(share, rel=0.02)


def test_a_study_in_several_stacks_divides_its_share_among_them() -> None:
    clock = Clock()
    stacks = Stacks(torch.device("cpu"), clock)
    one, two, other = (Ticking(clock, tick_s) for tick_s in (0.01, 0.02, 0.005))
    held(stacks, one, (1, 1, 1.0))
    held(stacks, two, (2, 1, 1.0))
    held(stacks, other, (3, 2, 1.0))
    run(stacks, clock, 60.0)
    assert other.used_s == pytest.approx(30.0, rel=0.02)
    assert one.used_s == pytest.approx(15.0, rel=0.02) and two.used_s == pytest.approx(15.0, rel=0.02)


def test_a_study_that_comes_later_has_no_claim_on_the_time_before() -> None:
    """Nor does it wait until the others have been served."""
    clock = Clock()
    stacks = Stacks(torch.device("cpu"), clock)
    first, later = Ticking(clock, 0.01), Ticking(clock, 0.01)
    held(stacks, first, (1, 1, 1.0))
    run(stacks, clock, 100.0)
    held(stacks, later, (2, 2, 1.0))
    run(stacks, clock, 1.0)
    assert later.used_s == pytest.approx(0.5, abs=0.02)
    later.busy = False
    run(stacks, clock, 50.0)
    later.busy = True
    stacks.left((2, 1))
    stacks.admitted(next(h for h in stacks if h.stack is cast(Any, later)), assignment(3, study_id=2).model_dump(), 0)
    run(stacks, clock, 1.0)
    assert later.used_s == pytest.approx(1.0, abs=0.04)
