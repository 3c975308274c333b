"""What the devices of a worker offer to take: the capacity that they state, less what they were granted since.

- An entry with a stack takes trials of that stack. A stack that a device was granted and does not announce yet is its
  null entry's: the entry takes more trials of it, and opens no other stack meanwhile.
- Pure: the same request and leases give the same offers.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from api.sync.leases import Key, Lease
from tuner.wire.sync import Capacity


@dataclass
class Offer:
    """Room for trials on a device: of one stack, or, while `stack` is None, of one that it does not hold yet."""

    device: str
    stack: str | None
    free: int
    others: frozenset[str]
    """The stacks that the device holds beside."""
    idle: bool
    """Whether the device has no leases."""
    declines: frozenset[str]
    cannot_load: frozenset[str]


def offers_of(capacity: Sequence[Capacity], leases: Sequence[Lease], held: Collection[Key]) -> list[Offer]:
    """Return the offers with room, devices in the order in which they are named."""
    found = []
    for device in dict.fromkeys(entry.device for entry in capacity):
        entries = [entry for entry in capacity if entry.device == device]
        found += _of_device(device, entries, [lease for lease in leases if lease.attempt.device == device], held)
    return [offer for offer in found if offer.free > 0]


def _of_device(device: str, entries: Sequence[Capacity], own: Sequence[Lease], held: Collection[Key]) -> list[Offer]:
    free: dict[str | None, int] = {}
    for entry in entries:
        free.setdefault(entry.stack, entry.free)
    announced = {stack for stack in free if stack is not None}
    unannounced = [lease.trial.stack for lease in own if lease.trial.stack not in announced]
    for lease in own:
        if lease.key not in held:
            entry_of = lease.trial.stack if lease.trial.stack in announced else None
            free[entry_of] = free.get(entry_of, 0) - 1
    stacks = announced | set(unannounced)
    declines = frozenset(name for entry in entries for name in entry.declines)
    cannot_load = frozenset(name for entry in entries for name in entry.cannot_load)
    found = []
    for stated, room in free.items():
        stack = unannounced[0] if stated is None and unannounced else stated
        found.append(Offer(device, stack, room, frozenset(stacks - {stack}), not own, declines, cannot_load))
    return found
