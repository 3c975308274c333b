"""Random numbers that the workload's own code draws from torch's generators: from the trial's seed, wherever it runs.

Invariant: the generators of the process are as they were afterwards, so that nothing else depends on how often, or in
which order, the workload's code ran.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def drawing(device: torch.device) -> Iterator[None]:
    """Restore torch's generators at the end; call `draw_from` within."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def draw_from(seed: int, device: torch.device) -> None:
    """Seed the generators in use; `torch.manual_seed` costs ten times more, by what it notes for absent devices."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
