"""Workloads of installed packages: entry points of the group `tuner.workloads`.

    [project.entry-points."tuner.workloads"]
    my-network = "my_package.workloads:my_network"     # the factory, or a module that registers it with @tuner.workload

The entry point's name is the workload's. Only names are read here, from the packages' metadata; a package is imported
when one of its workloads is asked for.
"""

import logging
from functools import cache
from importlib.metadata import EntryPoint, entry_points

log = logging.getLogger(__name__)

GROUP = "tuner.workloads"


@cache
def installed() -> dict[str, EntryPoint]:
    """Return the entry points by name; of two packages with one name, the alphabetically first counts."""
    found: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda one: (one.name, package_of(one), one.value)):
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            about = {"action": "load", "workload": point.name, "packages": f"{package_of(other)}, {package_of(point)}"}
            log.warning("two packages name one workload; the first one's is used", extra=about)
    return found


def package_of(point: EntryPoint) -> str:
    """Name the package that an entry point comes from."""
    return point.dist.name if point.dist is not None else point.module
