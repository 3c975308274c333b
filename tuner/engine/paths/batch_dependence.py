"""Whether an example's loss depends on the other examples of its micro-batch, as under batch normalisation.

Found by a dry run, not by the names of layers: the loss of four examples must be the mean of the losses of two and two.
A loss that is not a mean over examples fails that too, and rightly: nor does its noise scale hold for another
micro-batch. Where other random numbers than those of dropout layers make the losses differ, layers are asked for.
"""

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from tuner.engine.architecture import Architecture
from tuner.engine.layers.dropout import draws_of
from tuner.engine.machine.out_of_memory import is_out_of_memory
from tuner.workloads.task import Data

TRIED = 4
TOLERANCE = 1e-3
"""Relative to the loss: the two sides differ in rounding only, bfloat16 included, or else by far more."""


def tried(examples: int) -> Tensor:
    """Return the numbers of the four examples to try, two halves that differ where the data allows it."""
    return torch.arange(TRIED) * min(examples, TRIED) // TRIED


def depends_on_batch(architecture: Architecture, sample: Data) -> bool:
    """Try a fresh model on (inputs, *targets) of four examples. A model that cannot run depends on nothing."""
    module = architecture.build(0)
    params = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}
    extras = architecture.extras(module)

    def loss(first: int, count: int, seed: int = 0) -> float:
        with torch.random.fork_rng(devices=[architecture.device] if architecture.device.type == "cuda" else []):
            torch.manual_seed(seed)
            draws = draws_of(0, first, count, architecture.device) if architecture.draws else ()
            part = [item[first : first + count] for item in sample]
            return float(architecture.loss(params, extras, draws, *part)[0])

    half = TRIED // 2
    try:
        with torch.no_grad():
            whole, again, parts = loss(0, TRIED), loss(0, TRIED, 1), [loss(0, half), loss(half, half)]
    except Exception as error:  # the trials' boundary: trials will meet it, and report it
        if is_out_of_memory(error):
            raise
        return False
    bound = TOLERANCE * max(abs(whole), *map(abs, parts))
    if abs(whole - again) > bound:
        return any(isinstance(part, _BatchNorm) for part in architecture.training.modules())
    return abs(whole - sum(parts) / 2) > bound
