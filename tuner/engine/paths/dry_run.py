"""Whether a model runs under vmap and does there what it does alone: tried with a few slots before a stack is built."""

import re
import warnings

import numpy as np
import torch
from torch import Tensor

from tuner.engine.architecture import Architecture
from tuner.engine.machine.out_of_memory import is_out_of_memory
from tuner.engine.paths.forward import EagerForward, slots_of
from tuner.engine.paths.loop import LoopForward
from tuner.errors import InvalidInput
from tuner.workloads.task import Data

TRIED = 3
"""Slots of a dry run."""
SLOT_DEPENDENT = "its losses or gradients under vmap depend on the slot"


def fault_of_vmap(architecture: Architecture, train: Data, micro_batch: int, per_tick: int = 1) -> str | None:
    """Try the model under vmap with a few slots on a tick of training data; return what is wrong, or None.

    Its results also have to agree with those of `loop`, and every slot to get its bits wherever it stands
    (`SLOT_DEPENDENT`): a model may run under vmap and yet mix its slots.
    """
    index = torch.arange(TRIED * per_tick * micro_batch, device=train[0].device) % len(train[0])
    sample = tuple(item[index].view(TRIED, per_tick * micro_batch, *item.shape[1:]) for item in train)
    order = list(range(TRIED))
    turned = order[1:] + order[:1]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*batching rule.*")  # it would run slot by slot inside
            found = _tried(EagerForward, architecture, sample, order, per_tick)
            found_turned = _tried(EagerForward, architecture, sample, turned, per_tick)
    except Exception as error:  # what vmap cannot take shows in many kinds of error
        if is_out_of_memory(error):
            raise
        return _in_words(error)
    try:
        if not agrees_with_loop(architecture, sample, *found, per_tick):
            return "its losses or gradients under vmap differ from those of a single model"
    except InvalidInput as error:
        return str(error).rstrip().rpartition("\n")[2]
    slots, slots_turned = ([slots_of(item, per_tick) for item in each] for each in (found, found_turned))
    if not all(_same_bits(one[turned], other) for one, other in zip(slots, slots_turned, strict=True)):
        return SLOT_DEPENDENT
    return None


def _in_words(error: Exception) -> str:
    operation = re.search(r"batching rule for (\S+?)\.? ", str(error))
    if operation is not None:
        return f"PyTorch has no batched form of {operation[1]}"
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def agrees_with_loop(
    architecture: Architecture, sample: Data, losses: Tensor, gradients: Tensor, per_tick: int = 1
) -> bool:
    """Whether these [n * per_tick], [n * per_tick, P] are what `loop` computes, micro-batch by micro-batch, for fresh
    models of seeds 0 to n - 1 on a sample [n, per_tick * b, ...]; or [n], [n, P], the slots' means of that.

    Raises `InvalidInput` with its traceback when a model cannot run at all.
    """
    count = len(sample[0])
    single = tuple(item.reshape(count * per_tick, -1, *item.shape[2:]) for item in sample)
    losses_single, gradients_single = _tried(LoopForward, architecture, single, list(range(count)), per_tick)
    if len(losses) == count:
        losses_single, gradients_single = (
            slots_of(item, per_tick).mean(1) for item in (losses_single, gradients_single)
        )
    rough = architecture.task.precision == "bf16"  # 8 bits of a product's factors
    loose = 20 if rough else 1
    size = gradients_single.nan_to_num().abs().max().item() if rough else 1e-2
    close = torch.allclose(losses, losses_single, rtol=1e-3 * loose, atol=1e-5, equal_nan=True)
    return close and torch.allclose(gradients, gradients_single, rtol=1e-2 * loose, atol=1e-2 * size, equal_nan=True)


def _tried(
    kind: type[EagerForward] | type[LoopForward],
    architecture: Architecture,
    sample: Data,
    seeds: list[int],
    per_tick: int,
) -> tuple[Tensor, Tensor]:
    """Return losses and gradients of fresh models of these seeds, each on its seed's part of the sample.

    The loop gets a row for each micro-batch, with the same model.
    """
    alone = kind is LoopForward and per_tick > 1
    rows = [seed for seed in seeds for _ in range(per_tick)] if alone else seeds
    size = len(sample[0][0])
    params = architecture.layout.allocate(len(rows), architecture.device)
    forward = kind(architecture, params, 1 if alone else per_tick)
    for slot, seed in enumerate(rows):
        module = architecture.build(seed)
        architecture.layout.write(params[slot], dict(module.named_parameters()))
        forward.extras[slot] = architecture.extras(module)
    own = sample if alone else tuple(item[seeds] for item in sample)
    losses = forward.run(own, np.arange(len(rows)), lambda slot: (rows[slot], slot % per_tick * size if alone else 0))
    if forward.failures:
        raise InvalidInput(next(iter(forward.failures.values())))
    return losses, forward.gradients


def _same_bits(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.nan_to_num(), other.nan_to_num())
