"""Which stack a device process builds for an assignment: width, path, and when the compiled one replaces it.

Invariants:

- A width set by the user, or forced by running out of memory, is final; otherwise the probe or the pinned program
  decides.
- A reproducible study gets its pinned program exactly, or `OtherProgram` is raised.
- A model whose loss depends on the batch sees whole batches, as in the user's own script, unless the study's document
  asks for a micro-batch. Its trials share a stack only with those of the same batch size.
- An error while a workload is loaded (a file that is not there, a package that is missing) is this machine's, not the
  trial's: `NotLoaded`.
- A second process compiles one program at a time, and no program is requested again once its result is known.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch

from tuner import workloads
from tuner.engine import Stack
from tuner.engine.batch_dependence import depends_on_batch
from tuner.engine.machine.out_of_memory import is_out_of_memory
from tuner.errors import InvalidInput, TunerError
from tuner.optimizers.catalogue import catalogue
from tuner.probe.bench import place_of
from tuner.probe.choice import DEFAULT_WIDTH, key, stored
from tuner.study.hyperparameter import Scalar
from tuner.study.program import Program
from tuner.worker.channel import Json
from tuner.worker.device.pinned import check, check_whole
from tuner.worker.device.warming import Warming
from tuner.workloads import Task

log = logging.getLogger(__name__)


class NotLoaded(TunerError):
    """A workload does not load on this machine; on another one it may."""


Batch = Literal["whole", "parts"] | None
"""What a tick computes of a batch, where the loss depends on it."""
Kind = tuple[str, int, Batch]
"""(stack key, micro-batch, batch): what trials must have in common to share a stack."""
Programs = tuple[Kind, int]
"""(kind, width): what a compiled stack was compiled for."""


@dataclass(frozen=True)
class Loaded:
    """A workload's task, and what a dry run found out about it."""

    task: Task
    depends_on_batch: bool


class StackChoice:
    """Chooses and builds the stacks of one device; `send` sends the `width` messages."""

    def __init__(self, send: Callable[[Json], None], device: str, width: int | None, sources: Sequence[str]) -> None:
        """`width` None: the probe's choice, or else 32; `sources`: the user's modules, for the compiling process."""
        self.width = width or DEFAULT_WIDTH
        self._send = send
        self._device = device
        self._width_is_free = width is None
        self._sources = list(sources)
        self._warming: Warming | None = None
        self._compiled: dict[Programs, bool] = {}
        """Programs requested from the second process, and whether they are compiled."""
        self._asked: Programs | None = None
        self._loaded: dict[tuple[str, str], Loaded] = {}

    def load(self, head: Json) -> bool:
        """Load an assignment's workload in place of the one before it; return whether it was not loaded yet.

        Raises:
            NotLoaded: the workload does not load here.
            InvalidInput: it never will: its parameters, or what its factory returns, are illegal.
        """
        name, params = head["workload"], head["workload_params"]
        address = (name, repr(sorted(params.items())))
        if address in self._loaded:
            return False
        self._loaded = {}  # its memory is needed
        task = _loaded(name, params)
        self._loaded = {address: Loaded(task, depends_on_batch(task, torch.device(self._device)))}
        return True

    def kind(self, head: Json) -> Kind:
        """Return the kind of an assignment whose workload is loaded."""
        (loaded,) = self._loaded.values()
        if not loaded.depends_on_batch:
            return head["stack"], head["micro_batch"], None
        if head["micro_batch_asked"]:
            return head["stack"], head["micro_batch"], "parts"
        return head["stack"], head["params"]["batch_size"], "whole"

    def build(self, head: Json, waiting: int) -> Stack:
        """Build the stack for an assignment whose workload is loaded; `waiting` are the trials that can share it.

        The caller has closed the previous stack: its memory is needed.

        Raises:
            OtherProgram: the assignment's study is pinned to a program that this device does not run.
            NotLoaded: the model does not load here.
        """
        (loaded,), pinned = self._loaded.values(), head["program"]
        path = self._path(head) if pinned is None else self._pinned_path(pinned)
        width, (_, micro_batch, batch) = self.width, self.kind(head)
        if batch == "whole" and path == "auto" and not head["reproducible"]:
            width = min(width, waiting)  # of each batch size come fewer trials than there are slots
        wanted = partial(Stack, loaded.task, width=width, micro_batch=micro_batch, path=path, batch=batch)
        try:
            stack = wanted(device=self._device)
        except OSError as error:  # its model reads a file
            raise _not_loaded(head["workload"], error) from error
        if pinned is not None:
            check_whole(pinned, stack.program)
        return stack

    def newly_compiled(self) -> Programs | None:
        """Collect the compiling process's result, if available; return the programs compiled since the last call."""
        result = self._warming.result() if self._warming is not None else None
        if result is None or self._asked is None:
            return None
        self.close()
        self._compiled[self._asked] = result
        return self._asked if result else None

    def narrow(self) -> None:
        """Halve the width permanently: the device ran out of memory. The width must be above 1."""
        self.width, self._width_is_free = self.width // 2, False
        log.warning("out of memory: the stack is halved", extra={"action": "narrow", "width": self.width})
        self._send({"width": self.width})

    def close(self) -> None:
        """End the compiling process, if there is one."""
        if self._warming is not None:
            self._warming.close()
            self._warming = None

    def _pinned_path(self, pinned: Program) -> str:
        """Adopt the program of a reproducible study: its width, unless the user set one, and its path."""
        own: Program = {"device": torch.device(self._device).type, "threads": torch.get_num_threads()}
        check(pinned, own if self._width_is_free else {**own, "width": self.width})
        if pinned["width"] != self.width:
            self.width = int(pinned["width"] or 1)
            self._send({"width": self.width})
        return str(pinned["path"])

    def _path(self, head: Json) -> str:
        """Adopt a probe's choice for this stack: its width, unless the user set one, and its path."""
        name, params, size = head["workload"], head["workload_params"], self.kind(head)[1]
        found = stored(key(name, params, size, place_of(torch.device(self._device))))
        choice = found.with_threads(torch.get_num_threads()) if found is not None else None
        width = DEFAULT_WIDTH if choice is None else choice.best.width
        if self._width_is_free and width != self.width:
            self.width = width
            self._send({"width": self.width})
        if choice is None:
            return "auto"
        path = choice.path_at(self.width)
        if path != "compiled":
            return "auto" if path == "eager" else path
        if head["reproducible"]:
            return path  # a reproducible study waits for the compiler here: it cannot switch programs later
        return self._warmed_path(head)

    def _warmed_path(self, head: Json) -> str:
        """Return the compiled path if its programs are ready; otherwise start compiling them and begin eagerly."""
        programs = self.kind(head), self.width
        if programs in self._compiled:
            return "compiled" if self._compiled[programs] else "auto"
        if self._warming is not None and self._asked == programs:
            return "auto"
        self.close()
        self._asked = programs
        wanted = {"workload": head["workload"], "workload_params": head["workload_params"]}
        wanted |= {"micro_batch": self.kind(head)[1], "width": self.width}
        wanted["optimizers"] = list(catalogue())  # any may come next
        place = {"device": self._device, "threads": torch.get_num_threads(), "workloads": self._sources}
        self._warming = Warming(wanted | place)
        return "auto"


def _loaded(name: str, params: Mapping[str, Scalar]) -> Task:
    try:
        return workloads.load(name, params)
    except InvalidInput:
        raise
    except Exception as error:  # the device's boundary: the workload's own code runs here
        if is_out_of_memory(error):
            raise  # a narrower stack may help: the caller decides
        raise _not_loaded(name, error) from error


def _not_loaded(name: str, error: Exception) -> NotLoaded:
    log.error("a workload does not load here", exc_info=error, extra={"action": "load", "workload": name})
    return NotLoaded(f"workload {name!r} does not load here: {type(error).__name__}: {error}")
