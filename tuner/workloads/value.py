"""`tuner.Value`: a workload's parameter that is one number per trial, not one per stack.

    @tuner.workload("mine")
    def mine(dropout: tuner.Value = 0.1, smoothing: tuner.Value = 0.0) -> tuner.Task: ...

Where a study does not search the parameter, the factory gets a plain number. Where it does, the factory gets a
`SlotValue`: a handle that stands, while the model and the loss run, for the number of the trial that is computed, a
tensor without dimensions in the model's type. Trials with different numbers then share a stack and its program.

A handle is used as a number in tensor arithmetic (`smoothing * x`, `x / temperature`, `torch.lerp(a, b, weight)`), and
as the probability of torch's dropout layers. Its number is unknown while the model is built, so it never decides the
model's shape: it counts as true, and other questions about it are refused. Where a plain number is needed
(`label_smoothing=` of torch's cross-entropy) it works too, but its trials are computed slot by slot.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

from torch import Tensor

from tuner.errors import Fault, InvalidInput


class PerTrial:
    """The mark in `Value`."""


Value = Annotated[float, PerTrial()]
"""The annotation of such a parameter. A type checker sees a float."""


class SlotValue:
    """The handle. `now` is set by the engine while a trial's model and loss run."""

    def __init__(self, name: str, default: float | None = None) -> None:
        """`default` is the number of trials that do not have the parameter; None: they must have it."""
        self.name = name
        self.default = default
        self.now: Tensor | None = None

    @property
    def tensor(self) -> Tensor:
        """The number of the trial that is computed, a tensor without dimensions.

        Raises:
            InvalidInput: no trial is computed.
        """
        if self.now is None:
            raise self._refused("is a number of each trial, and known only while the model or the loss runs")
        return self.now

    def __bool__(self) -> bool:
        """A parameter that is searched counts as on."""
        return True

    def __float__(self) -> float:
        """Return the number, where a plain one is needed. Such a model is trained slot by slot: vmap refuses it."""
        return float(self.tensor)

    def __lt__(self, other: Any) -> Any:
        """Compare; while the model is built only with 0, as torch's dropout layers do: a trial's number is checked."""
        if self.now is None:
            return self._answered(other, 0)
        return self.now < other

    def __gt__(self, other: Any) -> Any:
        """Compare; while the model is built only with 1, as torch's dropout layers do: a trial's number is checked."""
        if self.now is None:
            return self._answered(other, 1)
        return self.now > other

    def _answered(self, asked: Any, legal: float) -> bool:
        if isinstance(asked, int | float) and asked == legal:
            return False
        raise self._refused("is a number of each trial: it cannot decide how the model is built")

    def _refused(self, why: str) -> InvalidInput:
        return InvalidInput([Fault(f"workload.{self.name}", why)])

    def __deepcopy__(self, memo: Any) -> "SlotValue":
        """Stay the same handle in copies of a model."""
        return self

    def __repr__(self) -> str:
        return f"<workload.{self.name} of each trial>"

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Stand for the trial's number in every function of torch."""
        return func(*map(_plain, args), **{name: _plain(value) for name, value in (kwargs or {}).items()})

    def __add__(self, other: Any) -> Any:
        return self.tensor + _plain(other)

    def __radd__(self, other: Any) -> Any:
        return other + self.tensor

    def __sub__(self, other: Any) -> Any:
        return self.tensor - _plain(other)

    def __rsub__(self, other: Any) -> Any:
        return other - self.tensor

    def __mul__(self, other: Any) -> Any:
        return self.tensor * _plain(other)

    def __rmul__(self, other: Any) -> Any:
        return other * self.tensor

    def __truediv__(self, other: Any) -> Any:
        return self.tensor / _plain(other)

    def __rtruediv__(self, other: Any) -> Any:
        return other / self.tensor

    def __pow__(self, other: Any) -> Any:
        return self.tensor ** _plain(other)

    def __rpow__(self, other: Any) -> Any:
        return other**self.tensor

    def __neg__(self) -> Any:
        return -self.tensor

    def __le__(self, other: Any) -> Any:
        return self.tensor <= _plain(other)

    def __ge__(self, other: Any) -> Any:
        return self.tensor >= _plain(other)


def bind(values: Iterable[SlotValue], tensors: Mapping[str, Tensor]) -> None:
    """Let handles stand for these numbers, by name, until `unbind`."""
    for value in values:
        value.now = tensors[value.name]


def unbind(values: Iterable[SlotValue]) -> None:
    """Let handles stand for nothing."""
    for value in values:
        value.now = None


def _plain(item: Any) -> Any:
    if isinstance(item, SlotValue):
        return item.tensor
    if type(item) in (tuple, list):
        return type(item)(_plain(one) for one in item)
    return item
