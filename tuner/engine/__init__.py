"""The engine: many trials of one workload trained as one program on one device.

    stack = Stack(task, width=32, micro_batch=4)
    stack.admit(TrialSpec(...))
    while stack.busy:
        for event in stack.tick(): ...      # Row, Ended

It knows no HTTP and no SQL, and needs only torch and numpy. The map:

    trial.py            what to train (TrialSpec) and the events that result (Row, Ended)
    stack.py            the stack itself: admission, tick, eviction, snapshots
    snapshot.py, checkpoint.py         the state of one trial, in memory and as bytes
    slots.py            the state of each slot, known on the host
    layout.py           where each parameter is in the flat buffer
    architecture.py     the model as a function of its parameters
    batch_dependence.py whether a loss depends on which examples share a batch
    extras.py, shared.py               buffers and frozen parameters: of each slot, and what all slots share
    update.py, rule_group.py, pool.py  applying each slot's rule to the slots that are due; state of other shapes
    elementwise.py      the same in place, for rules that update every element alone
    feed.py, data_order.py, seeds.py   which examples a trial sees
    loader.py           the same for data that is not on the device
    ledger.py, progress.py, divergence.py   from losses and gradient norms to report rows and to divergence
    initial_weights.py  the weights for a seed, without rebuilding the model
    layers/             dropout and other layers whose results do not depend on other slots
    paths/              how a tick is computed (loop, eager, compiled); evaluation, and the loss again for line searches
    machine/            hardware names, the heap, and detecting exhausted memory
"""

from tuner.engine.snapshot import Snapshot
from tuner.engine.stack import Stack
from tuner.engine.trial import Ended, Event, Row, TrialSpec

__all__ = ["Ended", "Event", "Row", "Snapshot", "Stack", "TrialSpec"]
