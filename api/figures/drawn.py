"""What a figure needs of a trial. Both the API's view of a trial and the server's narrow rows have it."""

from datetime import datetime
from typing import Protocol

from tuner.study.states import TrialState


class Drawn(Protocol):
    """A trial to draw. `lr` is NaN and `batch_size` 0 where its configuration has none."""

    @property
    def number(self) -> int: ...  # noqa: D102
    @property
    def optimizer(self) -> str: ...  # noqa: D102
    @property
    def state(self) -> TrialState: ...  # noqa: D102
    @property
    def value(self) -> float | None: ...  # noqa: D102
    @property
    def reason(self) -> str | None: ...  # noqa: D102
    @property
    def replicate(self) -> int: ...  # noqa: D102
    @property
    def step(self) -> int: ...  # noqa: D102
    @property
    def examples(self) -> int: ...  # noqa: D102
    @property
    def finished_at(self) -> datetime | None: ...  # noqa: D102
    @property
    def lr(self) -> float: ...  # noqa: D102
    @property
    def batch_size(self) -> int: ...  # noqa: D102
