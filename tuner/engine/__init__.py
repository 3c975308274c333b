"""The engine: many trials of one workload trained as one program on one device.

    stack = Stack(task, width=32, micro_batch=4)
    stack.admit(TrialSpec(...))
    while stack.busy:
        for event in stack.tick(): ...      # Row, Ended

It knows no HTTP and no SQL, and needs torch and numpy only. The map:

    trial.py       what to train (TrialSpec) and what comes out (Row, Ended)
    stack.py       the stack itself: admission, tick, eviction, snapshots
    snapshot.py, checkpoint.py         a trial taken out of the stack, in memory and as bytes
    slots.py       what each slot is doing, known on the host
    layout.py      where each parameter lives in the flat buffer
    architecture.py  the model as a function of its parameters
    dropout.py, philox.py, stackable.py   layers whose numbers no other slot can see
    extras.py      buffers and frozen parameters of all slots
    forward.py     gradients of all slots: as one vmapped program, or slot by slot
    update.py      applying each slot's rule to the slots that are due
    reevaluation.py  the loss and its curvature again, for rules with a line search
    feed.py, data_order.py, seeds.py   which examples a trial sees
    loader.py      the same from data that is not on the device
    probe.py, memory.py, room.py       how fast and how large stacks are, and what there is for them
    out_of_memory.py, allocator.py     telling an exhausted memory, and keeping what ticks free
    ledger.py, progress.py             losses and gradient norms on their way to report rows
    evaluation.py  validation metrics, several slots in a pass where that pays
    compiled.py, replay.py             the compiled path; on GPUs recorded as a graph
    initial_weights.py                 the weights of a seed, without building the model anew
"""

from tuner.engine.snapshot import Snapshot
from tuner.engine.stack import Stack
from tuner.engine.trial import Ended, Event, Row, TrialSpec

__all__ = ["Ended", "Event", "Row", "Snapshot", "Stack", "TrialSpec"]
