"""How much memory is free on this machine, within the limits of its control groups.

It is read from the kernel's files, so no further package is needed. Files that cannot be read set no limit.
"""

from collections.abc import Iterator
from pathlib import Path

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def free_memory() -> int | None:
    """Return the bytes that processes of this machine may still take; None if unknown."""
    return min(_free_on_machine(), default=None)


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
