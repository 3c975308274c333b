"""Slot-ticks: what counts as busy, what as offered; the counts survive restarts and lost replies."""

from tuner.worker.agent.slot_totals import SlotTotals
from tuner.worker.device.slot_use import SlotUse, Wish


def use_of(**studies: int) -> SlotUse:
    """Four attempts of each study: keys (100 s + i, 1) for study number s."""
    use = SlotUse()
    for study in studies.values():
        for i in range(4):
            use.assign((100 * study + i, 1), study)
    return use


def keys(study: int, count: int) -> list[tuple[int, int]]:
    return [(100 * study + i, 1) for i in range(count)]


def test_an_empty_slot_counts_only_as_far_as_the_study_had_trials_for_it() -> None:
    for wish, offered in (
        (Wish("k", most=9, more=9), 4),  # it could have filled the stack
        (Wish("k", most=3, more=9), 3),  # it may only have three at a time
        (Wish("k", most=9, more=1), 3),  # two in slots and one to come
        (Wish("k", most=9, more=0), 2),  # its last trials
        (Wish("another", most=9, more=9), 2),  # these slots are of another stack
    ):
        use = use_of(a=1)
        use.demand({1: wish})
        use.occupy("k", 4, keys(1, 2), [])
        for _ in range(10):
            use.tick(0.1)
        assert use.totals() == {1: (20, 10 * offered)}


def test_trials_that_wait_here_could_have_been_in_a_slot() -> None:
    use = use_of(a=1)
    use.demand({1: Wish("k", most=4, more=0)})
    use.occupy("k", 4, keys(1, 2), keys(1, 3)[2:])
    use.tick(0.1)
    assert use.totals() == {1: (2, 3)}


def test_a_full_stack_is_nobodys_loss_and_an_idle_slot_is_everyones() -> None:
    use = use_of(a=1, b=2)
    use.demand({1: Wish("k", 9, 9), 2: Wish("k", 9, 9)})
    use.occupy("k", 4, keys(1, 3) + keys(2, 1), [])
    use.tick(0.1)
    assert use.totals() == {1: (3, 3), 2: (1, 1)}
    use.occupy("k", 4, keys(1, 3), [])
    use.tick(0.1)
    assert use.totals() == {1: (6, 7), 2: (1, 2)}


def test_time_without_ticks_counts_as_the_ticks_that_would_have_fitted() -> None:
    use = use_of(a=1)
    use.demand({1: Wish("k", most=2, more=9)})
    use.slept(100.0)  # nothing is known of ticks yet
    use.occupy("k", 4, keys(1, 2), [])
    use.tick(0.5)
    use.occupy("k", 4, [], [])
    use.slept(5.0)
    assert use.totals() == {1: (2, 2 + 10 * 2)}
    use.demand({})
    use.occupy("k", 4, [], [])
    use.slept(1000.0)
    assert use.totals() == {1: (2, 22)}


def row(busy: int, offered: int, study: int = 7) -> dict[str, int]:
    return {"study": study, "busy": busy, "offered": offered}


def test_totals_never_fall_and_are_repeated_until_acknowledged() -> None:
    totals = SlotTotals()
    totals.count("cpu", [row(5, 8)])
    first = totals.untold()
    assert [(one.device, one.study, one.busy, one.offered) for one in first] == [("cpu", 7, 5, 8)]
    assert totals.untold() == first
    totals.count("cpu", [row(6, 9)])
    totals.acknowledge(first)
    assert [(one.busy, one.offered) for one in totals.untold()] == [(6, 9)]
    totals.restart("cpu")
    totals.count("cpu", [row(1, 1)])
    assert [(one.busy, one.offered) for one in totals.untold()] == [(7, 10)]
    totals.acknowledge(totals.untold())
    assert totals.untold() == []
