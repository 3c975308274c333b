"""The kind of problem, for batch-size advice: told from the validation data where a task does not say it."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tuner.workloads.examples import Source
from tuner.workloads.tree import leaves

Kind = Literal["classification", "regression", "language", "other"]

SAMPLE = 16
"""Examples looked at where data is not in memory."""


def guessed_kind(source: Source) -> Kind:
    """Tell the kind of problem from inputs and targets.

    Whole numbers as target are classes, and so are zeros and ones; whole numbers for a sequence of whole numbers are
    tokens. Other targets are values to fit, unless there is none, there are several, or the target is an input (an
    autoencoder). `labels` among named inputs are the target where there is no other.
    """
    data = source.tensors
    if data is None:
        data = source.read(np.arange(min(SAMPLE, len(source))))
    inputs, targets = source.structure.inputs(data), source.structure.targets(data)
    if not targets and isinstance(inputs, Mapping) and "labels" in inputs:
        targets = [inputs["labels"]]
        inputs = {name: value for name, value in inputs.items() if name != "labels"}
    found = leaves(targets)
    return _kind(leaves(inputs), found[0]) if len(found) == 1 else "other"


def _kind(inputs: list[Tensor], target: Tensor) -> Kind:
    if not target.is_floating_point() and not target.is_complex():
        tokens = any(item.shape == target.shape and not item.is_floating_point() for item in inputs)
        return "language" if tokens and target.dim() > 1 else "classification"
    same = (item for item in inputs if item.shape == target.shape and item.dtype == target.dtype)
    if any(torch.equal(item, target) for item in same):
        return "other"
    return "classification" if bool(((target == 0) | (target == 1)).all()) else "regression"
