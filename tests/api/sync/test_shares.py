"""Shares of device time: slots go by priority, nobody waits for ever, devices are shared only where it helps."""

from collections import Counter, deque

import pytest

from api.sync.shares import Claim, Shares, ranked


def course(
    slots: int, priorities: dict[int, float], length: dict[int, int], turns: int, joins: dict[int, int] | None = None
) -> tuple[Counter[int], list[int]]:
    """Run a stack whose slots are always refilled: what each study got in slot-ticks, and who was served, in order.

    Trials of study s last `length[s]` ticks; a study has trials from tick `joins[s]` on.
    """
    served, used, order = dict.fromkeys(priorities, 0.0), Counter[int](), list[int]()
    running: deque[tuple[int, int]] = deque()
    for tick in range(turns):
        running = deque((study, ends) for study, ends in running if ends > tick)
        while len(running) < slots:
            held = Counter(study for study, _ in running)
            claims = [
                Claim(s, priority, held[s], served[s], length[s] / priority)
                for s, priority in priorities.items()
                if tick >= (joins or {}).get(s, 0)
            ]
            first = ranked(claims, slots)[0]
            served[first.study] = first.served + first.cost
            running.append((first.study, tick + length[first.study]))
            order.append(first.study)
        used.update(study for study, _ in running)
    return used, order


@pytest.mark.parametrize("slots", [1, 2, 3, 64])
@pytest.mark.parametrize("priorities", [{1: 1.0, 2: 1.0}, {1: 3.0, 2: 1.0}, {1: 1.0, 2: 2.0, 3: 0.5}])
def test_the_slots_of_a_stack_go_by_priority_whatever_its_width_and_however_long_trials_are(
    slots: int, priorities: dict[int, float]
) -> None:
    used, _ = course(slots, priorities, {1: 7, 2: 40, 3: 13}, turns=6000)
    for study, priority in priorities.items():
        assert used[study] / used.total() == pytest.approx(priority / sum(priorities.values()), rel=0.1)


def test_who_comes_late_is_served_with_the_next_slot_and_keeps_nobody_waiting() -> None:
    for slots in (1, 64):
        _, order = course(slots, {1: 1.0, 2: 1.0}, {1: 10, 2: 10}, turns=2000, joins={2: 1500})
        late = order[order.index(2) :]
        assert order.index(2) <= order.count(1)
        first = late[: 2 * slots + 2]
        assert {1, 2} == set(first), "neither is shut out while the other catches up"


def test_a_device_is_shared_only_where_that_brings_the_shares_closer() -> None:
    here, there = (1, "cpu"), (2, "cpu")
    apart = Shares([(here, 1), (there, 2)], {1: 1.0, 2: 1.0, 3: 1.0})
    assert not apart.evens(there, 1) and not apart.evens(here, 2), "a device each: nothing to gain"
    assert apart.evens(here, 3), "who has nothing is let in anywhere"
    apart.add(here, 3)
    assert not apart.evens(there, 3), "study 3 would have more than study 2 then"
    alone = Shares([(here, 1), (there, 1)], {1: 1.0, 2: 1.0})
    assert alone.of(1) == 2 and alone.of(2) == 0 and alone.evens(here, 2)
    alone.add(here, 2)
    assert alone.evens(there, 2)
    heavy = Shares([(here, 1), (there, 2)], {1: 10.0, 2: 1.0})
    assert heavy.evens(there, 1) and not heavy.evens(here, 2)
