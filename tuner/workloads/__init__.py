"""Workloads: their contract, the registry, and one file per built-in problem.

import tuner

@tuner.workload("my-problem")
def my_problem(hidden: int = 32) -> tuner.Task:
...
return tuner.Task(model=lambda: MyModel(hidden), loss=cross_entropy, train=(x, y), valid=(xv, yv))
"""

from tuner.workloads.registry import (
    describe,
    import_user_workloads,
    is_built_in,
    known,
    load,
    names,
    origin,
    takes,
    workload,
)
from tuner.workloads.task import Task
from tuner.workloads.value import Value
from tuner.workloads.windows import Windows

__all__ = [
    "Task",
    "Value",
    "Windows",
    "describe",
    "import_user_workloads",
    "is_built_in",
    "known",
    "load",
    "names",
    "origin",
    "takes",
    "workload",
]
