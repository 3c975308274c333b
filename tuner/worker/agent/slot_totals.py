"""Slot-ticks of all devices of a worker since its session began, and which of them the server knows.

A device process counts from its own start; what earlier ones counted is added, so the numbers never fall. They are
repeated until a sync that carried them succeeds.
"""

from collections.abc import Sequence

from tuner.wire.sync import SlotCount
from tuner.worker.channel import Json

Count = tuple[int, int]
"""(busy, offered)."""


class SlotTotals:
    """Counts by (device, study id). Not thread-safe: its owner locks."""

    def __init__(self) -> None:
        self._before: dict[tuple[str, int], Count] = {}
        """By device processes that are gone."""
        self._total: dict[tuple[str, int], Count] = {}
        self._told: dict[tuple[str, int], Count] = {}

    def count(self, device: str, rows: Sequence[Json]) -> None:
        """Take in what a device process counted since its own start."""
        for row in rows:
            key = device, row["study"]
            busy, offered = self._before.get(key, (0, 0))
            self._total[key] = busy + row["busy"], offered + row["offered"]

    def restart(self, device: str) -> None:
        """Note that a device's process is gone: the next one counts from zero."""
        self._before.update({key: total for key, total in self._total.items() if key[0] == device})

    def untold(self) -> list[SlotCount]:
        """Return the counts that the server has not acknowledged."""
        return [
            SlotCount(device=key[0], study=key[1], busy=total[0], offered=total[1])
            for key, total in self._total.items()
            if self._told.get(key) != total
        ]

    def acknowledge(self, told: Sequence[SlotCount]) -> None:
        """Note what a request carried that the server answered."""
        self._told.update({(one.device, one.study): (one.busy, one.offered) for one in told})
