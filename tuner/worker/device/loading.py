"""The workloads that a device process has loaded, each with what a dry run found out about it.

An error while a workload is loaded (a file that is not there, a package that is missing) is this machine's, not the
trial's: `NotLoaded`. What no stack uses is dropped when another workload is loaded: its memory may be needed.
"""

import hashlib
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tuner import workloads
from tuner.engine.batch_dependence import depends_on_batch
from tuner.engine.machine.out_of_memory import is_out_of_memory
from tuner.engine.splitting import splits
from tuner.errors import InvalidInput, TunerError
from tuner.study.failure import NOT_LOADED
from tuner.study.hyperparameter import PREFIX, Scalar
from tuner.worker.channel import Json
from tuner.workloads import Task

log = logging.getLogger(__name__)

Address = tuple[str, str]
"""(workload, its parameters in a fixed form)."""
Parameters = tuple[dict[str, Scalar], tuple[str, ...]]
"""A workload's parameters, and the names of those that are one number per trial."""


class NotLoaded(TunerError):
    """A workload does not load on this machine; on another one it may."""


@dataclass(frozen=True)
class Loaded:
    """A workload's task, and what a dry run found out about it."""

    workload: str
    params: Mapping[str, Scalar]
    """The study's, and those of the trial that fix its shape."""
    values: tuple[str, ...]
    """Its parameters that are one number per trial."""
    address: Address
    family: Address
    """The same without what differs between the study's trials: all shapes that come from one document."""
    task: Task
    depends_on_batch: bool
    splits: bool
    """Whether a tick may compute several micro-batches side by side."""
    model: str
    """A name for the shapes of its model and data: with others, what was measured is of no use."""


class Loading:
    """Loads workloads for one device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._loaded: dict[Address, Loaded] = {}

    def known(self, head: Json) -> Loaded | None:
        """Return an assignment's workload if it is loaded."""
        return self._loaded.get(address_of(head))

    def load(self, head: Json, used: Collection[Address]) -> Loaded:
        """Return an assignment's workload, loading it if need be; drop those that are not `used`.

        Raises:
            NotLoaded: the workload does not load here.
            InvalidInput: it never will: its parameters, or what its factory returns, are illegal.
        """
        address = address_of(head)
        if address not in self._loaded:
            self._loaded = {key: loaded for key, loaded in self._loaded.items() if key in used}
            name, (params, values) = head["workload"], parameters_of(head)
            task = _task(name, params, values)
            mixes = depends_on_batch(task, self._device)
            apart = not mixes and splits(task, self._device)
            family = _family_of(head)
            self._loaded[address] = Loaded(name, params, values, address, family, task, mixes, apart, shapes_of(task))
        return self._loaded[address]


def parameters_of(head: Json) -> Parameters:
    """Return the parameters of an assignment's workload: the study's, and the trial's own."""
    own = {name.removeprefix(PREFIX): value for name, value in head["params"].items() if name.startswith(PREFIX)}
    values = tuple(head["workload_values"])
    return head["workload_params"] | {k: v for k, v in own.items() if k not in values}, values


def address_of(head: Json) -> Address:
    """Return what tells an assignment's workload from others."""
    params, values = parameters_of(head)
    return head["workload"], repr((sorted(params.items()), values))


def _family_of(head: Json) -> Address:
    return head["workload"], repr(sorted(head["workload_params"].items()))


def shapes_of(task: Task) -> str:
    """Name the shapes of a task's model and data in 12 hex digits; empty where they cannot be had."""
    try:
        parameters = [(name, tuple(p.shape)) for name, p in task.build_model(0).named_parameters()]
        data = [tuple(item.shape[1:]) for item in task.training.read(np.arange(1))]
    except Exception:  # the device's boundary: the workload's own code runs here, and a trial will show the error
        return ""
    return hashlib.sha256(repr((parameters, data)).encode()).hexdigest()[:12]


def not_loaded(name: str, error: Exception) -> NotLoaded:
    """Log an error of loading with its traceback, and return it as `NotLoaded`."""
    log.error("a workload does not load here", exc_info=error, extra={"action": "load", "workload": name})
    return NotLoaded(f"workload {name!r} {NOT_LOADED}{type(error).__name__}: {error}")


def _task(name: str, params: Mapping[str, Scalar], values: Sequence[str]) -> Task:
    try:
        return workloads.load(name, params, values)
    except InvalidInput:
        raise
    except Exception as error:  # the device's boundary: the workload's own code runs here
        if is_out_of_memory(error):
            raise  # a narrower stack may help: the caller decides
        raise not_loaded(name, error) from error
