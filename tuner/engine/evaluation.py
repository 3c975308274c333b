"""Validation of one slot: the loss and the workload's metrics over all validation examples, in evaluation mode."""

import torch
from torch import Tensor
from torch.func import functional_call

from tuner.engine.architecture import Architecture, Tensors
from tuner.workloads.task import Data

CHUNK = 4096
"""Examples evaluated at once; outputs of several chunks are joined, so metrics see all examples whatever its value."""


class Evaluation:
    """Evaluates parameters on the validation data, which lives on the device."""

    def __init__(self, architecture: Architecture, data: Data) -> None:
        self._architecture = architecture
        self._inputs, *self._targets = data

    def metrics(self, params: Tensors, extras: Tensors) -> dict[str, float]:
        """Return `valid_loss` and `valid_<name>` for each metric. What the workload raises passes through."""
        task = self._architecture.task
        with torch.no_grad():
            output = self._output({**params, **extras})
            values = {"valid_loss": task.loss(output, *self._targets)}
            for name, metric in (task.metrics or {}).items():
                values[f"valid_{name}"] = torch.as_tensor(metric(output, *self._targets))
        return {name: float(value) for name, value in values.items()}

    def _output(self, tensors: Tensors) -> Tensor:
        model = self._architecture.evaluating
        parts: tuple[Tensor, ...] = torch.split(self._inputs, CHUNK)
        outputs = [functional_call(model, tensors, (part,)) for part in parts]
        joined: Tensor = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return joined
