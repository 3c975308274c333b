"""Tuner: works out how to train your network, and how certain the answer is.

The public names are loaded on first use, so that the server can import `tuner.study` without torch and a worker can
import the engine without the server's libraries. Besides `workload`, `Task`, `Value`, `Windows`, `Client` and (in a
script that a worker runs) `trial` and `report`, these are the packages that work on their own: `tuner.optimizers`,
`tuner.schedules`, `tuner.noise` and `tuner.draws`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuner.client import Client
    from tuner.inside import report, trial
    from tuner.workloads import Task, Value, Windows, workload

__version__ = "0.1.0"
__all__ = [
    "Client",
    "Task",
    "Value",
    "Windows",
    "draws",
    "noise",
    "optimizers",
    "report",
    "schedules",
    "trial",
    "workload",
    "__version__",
]

_PLACES = {
    "Client": "tuner.client",
    "report": "tuner.inside",
    "trial": "tuner.inside",
    "Task": "tuner.workloads",
    "Value": "tuner.workloads",
    "Windows": "tuner.workloads",
    "workload": "tuner.workloads",
}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        try:
            return getattr(import_module(_PLACES[name]), name)
        except ModuleNotFoundError as error:
            if error.name != _PLACES[name]:
                raise
            raise AttributeError(f"tuner.{name} is not part of tuner-optim; install tuner-hpo for it") from error
    if name in ("draws", "noise", "optimizers", "schedules"):
        return import_module(f"tuner.{name}")
    raise AttributeError(f"module 'tuner' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
