"""Running statistics of batch normalisation, recomputed at parameters that were never trained.

A rule that averages is evaluated at parameters other than those for which its buffers were computed (Defazio et al.
2024, https://arxiv.org/abs/2405.15682, section 4.4). Before each such evaluation, and before weights are kept, the
statistics are the plain mean over the first batches of the training data at the averaged parameters. The trial itself
continues with its own statistics: the result is a copy, and depends only on the parameters and the data.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from tuner import draws as own_draws
from tuner.engine.architecture import Architecture, Tensors, run
from tuner.engine.layers.drawing import draw_from, drawing
from tuner.engine.layers.dropout import draws_of
from tuner.engine.loader import AnyFeed
from tuner.engine.seeds import RECALIBRATION, derive

BATCHES = 50
"""The number that the authors' package recommends."""


class Recalibration:
    """Recomputes a model's running statistics; the rest of the model is in evaluation mode (no dropout)."""

    def __init__(self, architecture: Architecture, feed: AnyFeed, batch: int) -> None:
        """`feed` has the training data; `batch` is the number of examples that share statistics."""
        self._feed = feed
        self._values = architecture.values
        self._examples = architecture.task.examples
        self._evaluation = architecture.evaluation
        self._changed = architecture.changed
        self._device = architecture.device
        self._batch = batch
        self._shared = architecture.shared
        self._model = architecture.copy(architecture.evaluating)
        self._fresh: Tensors = {}
        for name, part in self._model.named_modules():
            prefix = f"{name}." if name else ""
            frozen = f"{prefix}running_mean" in self._shared.tensors  # no training pass moves it
            if isinstance(part, _BatchNorm) and part.track_running_stats and not frozen:
                part.train()
                part.momentum = None  # a plain mean over batches, starting from none
                part.reset_running_stats()
                self._fresh |= {f"{prefix}{key}": buffer for key, buffer in part.named_buffers(recurse=False)}

    def extras(self, params: Tensors, extras: Tensors, seed: int, seen: int) -> Tensors:
        """Return one slot's `extras` with the statistics at `params`; the same object if there are none.

        `seed` and `seen`, the examples that its trial has seen, are what a model draws from that is always random.
        """
        if not self._fresh:
            return extras
        fresh = {name: buffer.clone() for name, buffer in self._fresh.items()}
        tensors = {**self._shared.tensors, **params, **extras, **fresh}
        own = self._values.begin(tensors)
        try:
            with self._evaluation(), drawing(self._device):
                drawn = derive(seed, RECALIBRATION, seen)
                draw_from(drawn, self._device)
                for inputs in self._batches(drawn):
                    run(self._model, own, inputs)
        finally:
            own_draws.end()
            self._values.end()
        return {name: tensors[name] for name in extras}

    def _batches(self, seed: int) -> Iterator[Any]:
        """Yield the inputs of whole batches only, or one batch of all examples if there are fewer.

        They are transformed as in training, with draws of this seed.
        """
        for number in range(max(1, min(BATCHES, self._examples // self._batch))):
            first = number * self._batch
            last = min(first + self._batch, self._examples)
            data = self._feed.gather(torch.arange(first, last, device=self._device))
            yield self._changed(data, draws_of(seed, first, last - first, self._device))[0]
