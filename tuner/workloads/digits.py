"""scikit-learn's handwritten digits: 1,797 grey images of 8 x 8, the data of the `digits-` workloads.

Source of the data: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (its test part).
The split is fixed: 1,437 images to train on and 360 to validate on, drawn once with seed 0 and not stratified, so that
every trial of every study sees the same examples. Inputs are grey levels 0..16 divided by 16.

The file comes with scikit-learn and is read without loading it, which would take a process another second to start.
"""

import gzip
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tuner.workloads.task import Data

TRAIN_EXAMPLES = 1437
SPLIT_SEED = 0


@cache
def digits() -> tuple[Data, Data]:
    """Return (images [n, 64] in [0, 1], labels [n]) to train on, and the same to validate on."""
    images, labels = _read()
    order = np.random.Generator(np.random.PCG64(SPLIT_SEED)).permutation(len(labels))
    inputs, targets = torch.from_numpy(images / 16).float(), torch.from_numpy(labels).long()
    train, valid = torch.from_numpy(order[:TRAIN_EXAMPLES]), torch.from_numpy(order[TRAIN_EXAMPLES:])
    return (inputs[train], targets[train]), (inputs[valid], targets[valid])


def _read() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (images [1797, 64], labels [1797])."""
    spec = find_spec("sklearn")
    for place in (spec.submodule_search_locations or []) if spec else []:
        path = Path(place) / "datasets" / "data" / "digits.csv.gz"
        if path.exists():
            with gzip.open(path, "rb") as file:
                rows = np.loadtxt(file, delimiter=",")
            return rows[:, :-1], rows[:, -1]
    from sklearn.datasets import load_digits  # a version that keeps the file elsewhere

    images, labels = load_digits(return_X_y=True)
    return images, labels
