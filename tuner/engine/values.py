"""The values of a slot's trial: parameters of the workload that are one number per trial (`tuner.Value`).

They are among the slot's extras, as tensors without dimensions in the model's type, so that every path gives each slot
its own, and snapshots have them. While a model and its loss run, the workload's handles stand for them.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from tuner.errors import Fault, InvalidInput
from tuner.study.hyperparameter import PREFIX, Scalar
from tuner.workloads.value import SlotValue, bind, unbind

Tensors = dict[str, Tensor]

SAMPLE = 0.5
"""What dry runs use for a value without a default."""


class TrialValues:
    """The handles of a task, and their numbers as extras. A name with a leading dot is that of no buffer."""

    def __init__(
        self, handles: Collection[SlotValue], probabilities: Iterable[object], device: torch.device, dtype: torch.dtype
    ) -> None:
        """`probabilities` are those of the model's dropout layers; handles among them have to be in [0, 1]."""
        self._handles = handles
        self._names = [f".{handle.name}" for handle in handles]
        self._probabilities = {one.name for one in probabilities if isinstance(one, SlotValue)}
        self._device, self._dtype = device, dtype

    def tensors(self, params: Mapping[str, Scalar] | None) -> Tensors:
        """Return the extras of a trial with this configuration; without one, those of a dry run.

        Raises:
            InvalidInput: the configuration has no number for a value, or an illegal one.
        """
        given = self.sample() if params is None else params
        return {f".{handle.name}": self._tensor(handle, given) for handle in self._handles}

    def sample(self) -> dict[str, Scalar]:
        """Return a configuration's part for trials that only try or measure a program."""
        return {PREFIX + handle.name: SAMPLE if handle.default is None else handle.default for handle in self._handles}

    def begin(self, tensors: Tensors) -> Tensors:
        """Let the handles stand for their numbers; return the other tensors. `end` has to follow."""
        if not self._names:
            return tensors
        bind(self._handles, {name.removeprefix("."): tensors[name] for name in self._names})
        return {name: tensor for name, tensor in tensors.items() if name not in self._names}

    def end(self) -> None:
        """Let the handles stand for nothing."""
        unbind(self._handles)

    @contextmanager
    def sampled(self) -> Iterator[None]:
        """Let the handles stand for numbers to try a model with."""
        self.begin(self.tensors(None))
        try:
            yield
        finally:
            self.end()

    def _tensor(self, handle: SlotValue, params: Mapping[str, Scalar]) -> Tensor:
        found = params.get(PREFIX + handle.name, handle.default)
        number = isinstance(found, int | float) and not isinstance(found, bool)
        if not number:
            told = "is missing" if found is None else f"is {found!r}"
            raise InvalidInput([Fault(PREFIX + handle.name, f"{told}; allowed is a number")])
        if handle.name in self._probabilities and not 0 <= float(found or 0) <= 1:
            told = f"is {found!r}; it is a dropout layer's: allowed is a number in [0, 1]"
            raise InvalidInput([Fault(PREFIX + handle.name, told)])
        return torch.tensor(float(found or 0), dtype=self._dtype, device=self._device)
