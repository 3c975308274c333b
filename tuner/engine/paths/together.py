"""Whether products with what all slots share may be computed for all slots at once: found by a dry run.

One product for all slots is the least work, but its kernels may round the last rows unlike the others: a trial's bits
would depend on its slot. So equal models are put into the slots, and have to get equal bits, at the very width that is
trained. Where they do not, products are computed slot by slot; the shared tensor is held once in any case.
"""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tuner.engine.architecture import Architecture
from tuner.engine.machine.out_of_memory import is_out_of_memory
from tuner.engine.paths.dry_run import SLOT_DEPENDENT, TRIED
from tuner.engine.paths.forward import EagerForward, Forward
from tuner.workloads.task import Data

log = logging.getLogger(__name__)


def eager_forward(architecture: Architecture, params: Tensor, sample: Data, per_tick: int) -> EagerForward:
    """Return the eager forward program over the buffer [width, P], with products for all slots at once if possible.

    `sample` is data as in a tick; every slot has the same.
    """
    if architecture.shared.tensors:
        try:
            forward = EagerForward(architecture, params, per_tick, apart=False)
            if _is_even(forward, sample):
                return forward
            reason = SLOT_DEPENDENT
        except Exception as error:  # vmap takes some operations only where every tensor has slots
            if is_out_of_memory(error):
                raise
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        log.info("products are computed slot by slot", extra={"action": "path", "reason": reason})
    return EagerForward(architecture, params, per_tick)


def models_tried(width: int) -> int:
    """Return how many models share the slots in a dry run, so that each is in two slots at least."""
    return max(1, min(TRIED, width // 2))


def fill(forward: Forward, models: int) -> None:
    """Put so many new models into the slots, in turn."""
    architecture = forward.architecture
    modules = [architecture.build(seed) for seed in range(models)]
    for slot in range(len(forward.params)):
        module = modules[slot % models]
        architecture.layout.write(forward.params[slot], dict(module.named_parameters()))
        forward.extras[slot] = architecture.extras(module)


def clear(forward: Forward) -> None:
    """Leave nothing of them."""
    for slot in range(len(forward.params)):
        forward.extras.release(slot)
    forward.params.zero_()


def even(items: Sequence[Tensor], models: int) -> bool:
    """Whether slots with equal models have equal bits in these tensors [width, ...]."""
    first = torch.arange(len(items[0]), device=items[0].device) % models
    return all(torch.equal(item.nan_to_num(), item.nan_to_num()[first]) for item in items)


def _is_even(forward: EagerForward, sample: Data) -> bool:
    width = len(forward.params)
    models = models_tried(width)
    fill(forward, models)
    try:
        losses = forward.run(sample, np.arange(width), lambda slot: (slot % models, 0))
        rows = [item.reshape(width, -1) for item in (losses, forward.gradients)]
        return even([*rows, *forward.extras.stacked.values()], models)
    finally:
        clear(forward)
