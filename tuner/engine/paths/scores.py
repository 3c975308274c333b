"""The validation loss and metrics of one model: in as few parts as its outputs' memory allows.

Where the outputs of all examples fit in `OUTPUT_BYTES` they are joined, and the loss and the metrics see all of them at
once. Otherwise the data is cut into chunks whose outputs fit: the loss is the mean over the chunks, weighted by
examples (exact for a loss that is a mean over examples), streaming metrics are updated chunk by chunk, and outputs are
kept only for metrics that need all of them.
"""

import logging
from typing import Any

import torch
from torch import Tensor, nn

from tuner import draws as own_draws
from tuner.engine.architecture import Architecture, Tensors, run
from tuner.engine.layers.counted import LOSS, METRICS, MODEL, CountedWords
from tuner.engine.layers.drawing import draw_from, drawing
from tuner.engine.machine.out_of_memory import is_out_of_memory
from tuner.engine.paths.outputs import MORE, Outputs, outputs_of, weighted_mean
from tuner.engine.validation_data import ValidationData
from tuner.workloads.examples import Data
from tuner.workloads.metrics import is_streaming, streaming
from tuner.workloads.tree import map_leaves

log = logging.getLogger(__name__)

CHUNK = 4096
"""Most examples in one call of the model."""
OUTPUT_BYTES = 2**27
"""Of a chunk's outputs, at most, but for a single example that has more. Fixed: it decides where data is cut."""


class Scores:
    """Computes `names` for models of one architecture on validation data."""

    def __init__(self, architecture: Architecture, data: ValidationData) -> None:
        self._architecture = architecture
        self._task = architecture.task
        self._data = data
        self._metrics = dict(self._task.metrics or {})
        self.names = ["valid_loss", *(f"valid_{name}" for name in self._metrics)]
        """What `values` returns."""
        self._outputs = self._try_out()
        each = 0 if self._outputs is None else self._outputs.bytes_each
        if self._outputs is not None and self._task.loss is None:  # the model may hide what its loss is made of
            each = self._outputs.largest_each
        self.chunk = max(1, min(CHUNK, OUTPUT_BYTES // max(1, each)))
        """Examples in one call of the model, at most."""
        self.whole = len(data) * each <= OUTPUT_BYTES or len(data) <= self.chunk
        """Whether the loss sees all examples at once."""

    @property
    def stackable(self) -> bool:
        """Whether several models might be evaluated as one program."""
        streams = any(map(is_streaming, self._metrics.values()))
        return self.whole and self._data.resident is not None and not streams and not self._task.evaluate_with_grad

    def values(self, model: nn.Module, tensors: Tensors, key: Tensor, data: Data | None = None) -> Tensor:
        """Return the values of one model, float64 [names]. `data`, if given, stands for all of the validation data.

        What `tuner.draws` draws comes from `key` [2] and the examples' places in the validation data.
        """
        tensors = self._architecture.values.begin({**self._architecture.shared.tensors, **tensors})
        try:
            if self.whole:
                return self._of_all(model, tensors, key, self._data.part(0, len(self._data)) if data is None else data)
            return self._by_chunks(model, tensors, key)
        finally:
            self._architecture.values.end()
            own_draws.end()

    def _draw_for(self, key: Tensor, part: int, first: int, count: int) -> None:
        """Let a part of the pass draw the numbers of `count` examples from `first` on."""
        places = torch.arange(first, first + count, device=self._architecture.device)
        own_draws.begin(CountedWords((key, places), part))

    def _of_all(self, model: nn.Module, tensors: Tensors, key: Tensor, data: Data) -> Tensor:
        structure = self._data.structure
        pieces = [data]
        if len(data[0]) > self.chunk:
            pieces = list(zip(*(torch.split(item, self.chunk) for item in data), strict=True))
        parts: list[Any] = []
        sizes = [len(piece[0]) for piece in pieces]
        for piece in pieces:
            self._draw_for(key, MODEL, len(parts) * self.chunk, len(piece[0]))
            parts.append(self._run(model, tensors, piece))
        output = self._join(parts, sizes)
        self._draw_for(key, LOSS, 0, len(data[0]))
        targets = structure.targets(data)
        found: dict[str, Any] = {"": self._task.loss_of(output, targets)}
        if self._task.evaluate_with_grad:
            output = map_leaves(_detached, output)
        self._draw_for(key, METRICS, 0, len(data[0]))
        for name, metric in self._metrics.items():
            stream = streaming(metric, self._architecture.device)
            if stream is None:
                found[name] = metric(output, *targets)
            else:
                stream.update(output, *targets)
                found[name] = stream.compute()
        return self._numbers(found)

    def _by_chunks(self, model: nn.Module, tensors: Tensors, key: Tensor) -> Tensor:
        streams = {name: streaming(metric, self._architecture.device) for name, metric in self._metrics.items()}
        keeps = None in streams.values()
        losses, kept, sizes = [], [], []
        for start in range(0, len(self._data), self.chunk):
            data = self._data.part(start, min(start + self.chunk, len(self._data)))
            targets = self._data.structure.targets(data)
            self._draw_for(key, MODEL, start, len(data[0]))
            output = self._run(model, tensors, data)
            self._draw_for(key, LOSS, start, len(data[0]))
            losses.append(self._task.loss_of(output, targets).detach().double())
            sizes.append(len(data[0]))
            output = map_leaves(_detached, output)
            for stream in streams.values():
                if stream is not None:
                    stream.update(output, *targets)
            if keeps:
                kept.append((output, targets))
        self._draw_for(key, METRICS, 0, len(self._data))
        found: dict[str, Any] = {"": weighted_mean(losses, sizes)}
        if keeps:
            output = self._join([each[0] for each in kept], sizes)
            targets = map_leaves(lambda *parts: torch.cat(parts), *(each[1] for each in kept))
        for name, stream in streams.items():
            found[name] = self._metrics[name](output, *targets) if stream is None else stream.compute()
        return self._numbers(found)

    def _run(self, model: nn.Module, tensors: Tensors, data: Data) -> Any:
        if self._task.evaluate_with_grad:
            data = tuple(item.detach() for item in data)  # a model may ask for gradients by what it gets
        return run(model, tensors, self._data.structure.inputs(data))

    def _numbers(self, found: dict[str, Any]) -> Tensor:
        device = self._architecture.device
        return torch.stack([torch.as_tensor(value, dtype=torch.float64, device=device) for value in found.values()])

    def _join(self, outputs: list[Any], sizes: list[int]) -> Any:
        if len(outputs) == 1:
            return outputs[0]
        if self._outputs is None:
            return map_leaves(lambda *parts: torch.cat(parts), *outputs)
        return self._outputs.join(outputs, sizes)

    def _try_out(self) -> Outputs | None:
        """Return what a new model's outputs are; None for very little data, or where the model cannot run."""
        if len(self._data) < MORE:
            return None
        architecture, model = self._architecture, self._architecture.evaluating
        try:
            with architecture.evaluation(), architecture.values.sampled(), drawing(architecture.device):
                draw_from(0, architecture.device)
                return outputs_of(lambda count: self._run(model, {}, self._data.part(0, count)))
        except Exception as error:  # a model that cannot run fails the trial, not the stack
            if is_out_of_memory(error):
                raise
            log.info("a model's outputs are not known", extra={"action": "evaluation", "reason": repr(error)})
            return None


def _detached(leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, Tensor) else leaf
