"""How much memory is available for stacks: on the GPU, or on this machine."""

import torch

from tuner.probe.free import free_memory

SHARE = 0.9
"""Share of the free memory: the rest is for other needs of the process."""


def room(device: torch.device) -> int | None:
    """Return the number of bytes that all stacks on a device may use together; None if unknown."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(SHARE * (free + unused))
    found = free_memory()
    return None if found is None else int(SHARE * found)
