"""Slot-ticks: each trial's own, and what was computed for it."""

from engine_cases import small_task, spec

from tuner.engine import Row, Stack
from tuner.engine.slots import Slots


def test_the_occupied_slots_share_the_empty_ones() -> None:
    slots = Slots(width=8, tick_examples=4)
    slots.occupy(2, ticks_per_step=1, step=0, tick_in_step=0, next_evaluation=9)
    slots.advance()  # alone: all eight are computed for it
    slots.occupy(5, ticks_per_step=1, step=0, tick_in_step=0, next_evaluation=9)
    slots.advance()
    slots.advance()  # four each
    assert (slots.ticks[2], slots.computed[2]) == (3, 8 + 2 * 4)
    assert (slots.ticks[5], slots.computed[5]) == (2, 2 * 4)
    slots.release(2)
    slots.advance()
    assert (slots.ticks[5], slots.computed[5]) == (3, 2 * 4 + 8)
    assert slots.computed.sum() == 4 * 8, "every slot of every tick is charged to somebody, once"
    slots.occupy(2, ticks_per_step=1, step=0, tick_in_step=0, next_evaluation=9)
    assert (slots.ticks[2], slots.computed[2]) == (0, 0), "the next trial begins at zero"


def test_rows_carry_the_counts_so_far() -> None:
    """Two trials of 100 and 50 ticks in four slots: 150 slot-ticks used of 400 computed."""
    stack = Stack(small_task(), width=4, micro_batch=4)
    for key, examples in ((1, 400), (2, 200)):
        stack.admit(spec(key, "sgd", lr=0.01, batch_size=8, examples=examples, report_every=40))
    rows: list[Row] = []
    while stack.busy:
        rows += [event for event in stack.tick() if isinstance(event, Row)]
    last = {row.key: (row.ticks, row.computed) for row in rows}
    assert last == {1: (100, 50 * 2 + 50 * 4), 2: (50, 50 * 2)}
    for key in last:
        counts = [(row.ticks, row.computed) for row in rows if row.key == key]
        assert len(counts) > 3 and counts == sorted(counts)
