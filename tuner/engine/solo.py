"""A trial by itself, for a plain training loop: its initial weights, its batches in its order, its evaluation.

What a file of `tuner best STUDY -o FILE` calls. The weights, the examples and what `tuner.draws` draws are those of the
trial; a loop of one's own rounds differently, and dropout draws other masks.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from tuner import draws as own_draws
from tuner.engine.architecture import Architecture
from tuner.engine.layers.counted import MODEL, TRANSFORM, CountedWords
from tuner.engine.layers.dropout import draws_of
from tuner.engine.loader import feed_of
from tuner.engine.paths.evaluation import Evaluation
from tuner.engine.paths.recalibration import Recalibration
from tuner.engine.seeds import INITIALISATION, derive, example_seeds
from tuner.engine.shared import held
from tuner.engine.slots import Slots
from tuner.engine.validation_data import ValidationData
from tuner.workloads.examples import Data
from tuner.workloads.task import Task
from tuner.workloads.tree import call


def model_of(task: Task, seed: int) -> nn.Module:
    """Return the model with the initial weights of a trial with this seed, on the CPU, in training mode."""
    return task.build_model(derive(seed, INITIALISATION)).train()


def batches(task: Task, seed: int, batch_size: int, count: int, device: str = "cpu") -> Iterator[Data]:
    """Yield the batches of a trial's `count` updates, in its order, augmented as in the trial.

    Besides the examples a batch has two tensors for `loss_of`, what their draws depend on: key [b, 2], position [b].
    """
    place = torch.device(device)
    feed = feed_of(task, Slots(1, batch_size), 1, place, torch.float32)
    order = feed.order(seed)
    try:
        for start in range(0, count * batch_size, batch_size):
            numbers = torch.from_numpy(order.take(start, batch_size)).to(place)
            key, places = draws_of(seed, start, batch_size, place)
            yield (*feed.gather(numbers, example_seeds(seed, start, batch_size)), key.expand(batch_size, 2), places)
    finally:
        feed.close()


def loss_of(task: Task, model: nn.Module, batch: Data) -> Tensor:
    """Return the task's mean loss of a model on a batch, or a part of one, of those that `batches` yields."""
    *data, keys, places = batch
    try:
        own_draws.begin(CountedWords((keys[0], places), TRANSFORM))
        inputs, targets = task.batch_of(tuple(data))
        own_draws.begin(CountedWords((keys[0], places), MODEL))
        return task.loss_of(call(model, inputs), targets)
    finally:
        own_draws.end()


def recalibrate(task: Task, model: nn.Module, batch_size: int) -> None:
    """Recompute the running statistics of batch normalisation for weights that were never trained, such as averages.

    On the model's own device, and in place; nothing happens without such layers.
    """
    found = _Placed(task, model)
    feed = feed_of(task, Slots(1, batch_size), 1, found.device, torch.float32)
    try:
        extras = Recalibration(found.architecture, feed, batch_size).extras(found.params, found.extras, 0, 0)
    finally:
        feed.close()
    buffers = dict(model.named_buffers())
    for name, value in extras.items():
        if name in buffers:
            buffers[name].copy_(value)


def evaluate(task: Task, model: nn.Module, seed: int = 0, seen: int = 0) -> dict[str, float]:
    """Return `valid_loss` and `valid_<name>` of each metric, of a model as it is.

    From a trial's seed and the examples that it has seen a model draws that is random in evaluation too.
    """
    found = _Placed(task, model)
    valid = ValidationData(task.validation, found.device, torch.float32)
    evaluation = Evaluation(
        found.architecture, valid, lambda slot, row: found.extras, lambda slot: (seed, seen), 1, compiled=False
    )
    row = found.architecture.layout.allocate(1, found.device)[0]
    found.architecture.layout.write(row, found.params)
    return evaluation.metrics([0], [row])[0]


class _Placed:
    """A model's tensors, as the engine takes them."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        self.device = next(model.parameters()).device
        self.architecture = Architecture(task, self.device, torch.float32)
        own = {name: tensor.detach().clone() for name, tensor in held(model).items()}  # shared ones too: it has its own
        self.extras = self.architecture.values.tensors(None) | own
        self.params = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
