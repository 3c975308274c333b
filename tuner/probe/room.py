"""How much memory is available for stacks: on the GPU, or on this machine within the limits of its control groups.

It is read from the kernel's files, so no further package is needed. Files that cannot be read set no limit.
"""

from collections.abc import Iterator
from pathlib import Path

import torch

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
SHARE = 0.9
"""Share of the free memory: the rest is for other needs of the process."""


def room(device: torch.device) -> int | None:
    """Return the number of bytes that all stacks on a device may use together; None if unknown."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(SHARE * (free + unused))
    limits = list(_free_on_machine())
    return int(SHARE * min(limits)) if limits else None


def _free_on_machine() -> Iterator[int]:
    for line in _lines(PROC / "meminfo"):
        if line.startswith("MemAvailable:"):
            yield 1024 * int(line.split()[1])
    for line in _lines(PROC / "self" / "cgroup"):
        _, kinds, path = line.split(":", 2)
        if kinds == "":
            yield from _free_in_group(CGROUPS, path, "memory.max", "memory.current")
        elif "memory" in kinds.split(","):
            yield from _free_in_group(CGROUPS / "memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes")


def _free_in_group(root: Path, path: str, limit_name: str, usage_name: str) -> Iterator[int]:
    """Yield the memory left in a control group and in each of its parents. In a container the root is its own group."""
    place = root / path.strip("/")
    for group in [place, *place.parents]:
        if not group.is_relative_to(root):
            return
        limit, usage = (_lines(group / name)[:1] for name in (limit_name, usage_name))
        if limit and usage and limit[0].isdigit():
            yield max(0, int(limit[0]) - int(usage[0]) + _cached(group))


def _cached(group: Path) -> int:
    """Page cache that the kernel drops when memory is needed."""
    names = ("inactive_file", "total_inactive_file")
    found = dict(line.split(maxsplit=1) for line in _lines(group / "memory.stat") if line.startswith(names))
    return int(found.get("total_inactive_file", found.get("inactive_file", "0")))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
