"""One training pass of a workload's model by itself, watched: what its loss depends on, and what it leaves out.

It runs on the CPU in float32 with the engine's own call of model and loss, so that it sees what a stack would see.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tuner.engine.architecture import Architecture
from tuner.engine.layers.drawing import draw_from, drawing
from tuner.engine.layers.dropout import draws_of
from tuner.probe.checkup.watched import Watched, watched
from tuner.workloads.task import Data

CPU = torch.device("cpu")


class RaisedInLayer(Exception):
    """The workload's code raised, while `place` ran; None: outside of the model's layers. The cause says what."""

    def __init__(self, place: str | None) -> None:
        super().__init__(place)
        self.place = place


@dataclass(frozen=True)
class PlainPass:
    """What was seen."""

    loss: float
    doubled: float
    """The loss of a batch in which every example stands twice over that of the batch, in evaluation mode."""
    unused: list[str]
    """Trainable parameters from which no gradient path leads to the loss."""
    foreign: list[tuple[int, ...]]
    """Shapes of tensors that take part in the loss and want a gradient, but that the model does not hold."""
    seen: Watched


def plain_pass(architecture: Architecture, data: Data) -> PlainPass:
    """Run model and loss on one batch, twice in evaluation mode. Raises `RaisedInLayer`."""
    model = architecture.build(0)
    params = {n: p.detach().requires_grad_() for n, p in model.named_parameters() if p.requires_grad}
    extras = architecture.extras(model)

    def loss_of(batch: Data) -> Tensor:
        key, examples = draws_of(0, 0, len(batch[0]), CPU)
        draws = (key, examples % len(data[0])) if architecture.draws else ()  # an example twice draws the same
        draw_from(0, CPU)
        return architecture.loss(params, extras, draws, *batch)[0]

    module = architecture.training
    with drawing(CPU), watched(module) as seen:
        try:
            loss = loss_of(data)
            module.eval()
            with architecture.evaluation():
                once, twice = (
                    float(loss_of(batch).detach()) for batch in (data, tuple(torch.cat([x, x]) for x in data))
                )
        except Exception as error:  # the user's own code runs here
            raise RaisedInLayer(seen.place) from error
        finally:
            module.train()
    leaves = {id(leaf): leaf for leaf in _leaves(loss)}
    own = {id(param) for param in params.values()}
    return PlainPass(
        loss=float(loss.detach()),
        doubled=twice / once if once else float("nan"),
        unused=[name for name, param in params.items() if id(param) not in leaves],
        foreign=[tuple(leaf.shape) for key, leaf in leaves.items() if key not in own],
        seen=seen,
    )


def _leaves(loss: Tensor) -> Iterator[Tensor]:
    """Yield the tensors that `loss.backward()` would give gradients to."""
    waiting, known = [loss.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in known:
            continue
        known.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            yield leaf
        waiting += [after for after, _ in node.next_functions]
