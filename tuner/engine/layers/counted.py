"""The words that `tuner.draws` draws from within a pass: Philox with the trial's key, counted as dropout's are.

The counter is (element, site, position): the example's position in the trial's stream (low and high word), the
element's position within its example, and as site the number of the call within a part of the pass. Sites from 2^31 on
are these, smaller ones are dropout's, so that no number serves both.
"""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from tuner import draws as own_draws
from tuner.engine.layers.drawing import draw_from, drawing
from tuner.engine.layers.dropout import Draws, random_words
from tuner.engine.machine.out_of_memory import is_out_of_memory
from tuner.errors import InvalidInput

log = logging.getLogger(__name__)

MODEL, LOSS, METRICS, TRANSFORM = ((1 << 31) + (part << 28) for part in range(4))
"""First sites of the parts of a pass. In training the loss goes on where the model's calls ended."""


class CountedWords:
    """The source of one pass over the examples [b] of one trial."""

    def __init__(self, draws: Draws, first_site: int = MODEL) -> None:
        """`draws` are (key [2], examples [b])."""
        self._key, self._examples = draws
        self._first_site = first_site
        self.calls = 0
        """How often this pass has drawn."""

    def words(self, shape: torch.Size) -> Tensor:
        """See `tuner.draws.Source`. k rows per example are allowed, those of an example one after another.

        Raises:
            InvalidInput: dim 0 of the shape is not a multiple of the batch.
        """
        batch = len(self._examples)
        if not shape or shape[0] == 0 or shape[0] % batch:
            raise InvalidInput(
                f"tuner.draws: the tensor's dim 0 is {shape[0] if shape else 'missing'}; "
                f"allowed is the batch, {batch} examples, or a multiple of it"
            )
        site = self._first_site + self.calls
        self.calls += 1
        return random_words(self._key, self._examples, site, shape.numel()).view(shape)


class _Noting:
    """A source that notes whether it is asked."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.asked = False

    def words(self, shape: torch.Size) -> Tensor:
        """See `tuner.draws.Source`."""
        self.asked = True
        return torch.ones(shape, dtype=torch.int64, device=self._device)


def found_drawing(run: Callable[[], None], device: torch.device) -> bool:
    """Return whether `run`, a pass of the workload's code without a source of its own, draws by `tuner.draws`."""
    noting = _Noting(device)
    with drawing(device):
        draw_from(0, device)
        own_draws.begin(noting)
        try:
            run()
        except Exception as error:  # the trials' boundary: the workload's own code runs here; a trial will show it
            if is_out_of_memory(error):
                raise
            log.info("a dry run for random numbers failed", extra={"action": "dry run", "reason": repr(error)})
        finally:
            own_draws.end()
    return noting.asked
