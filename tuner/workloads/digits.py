"""scikit-learn's handwritten digits: 1,797 grey images of 8 x 8, the data of the `digits-` workloads.

Source of the data: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (its test part).
The split is fixed: 1,437 images to train on and 360 to validate on, drawn once with seed 0 and not stratified, so that
every trial of every study sees the same examples. Inputs are grey levels 0..16 divided by 16.
"""

from functools import cache

import numpy as np
import torch

from tuner.workloads.task import Data

TRAIN_EXAMPLES = 1437
SPLIT_SEED = 0


@cache
def digits() -> tuple[Data, Data]:
    """Return (images [n, 64] in [0, 1], labels [n]) to train on, and the same to validate on."""
    from sklearn.datasets import load_digits  # only code that reads its data needs scikit-learn

    images, labels = load_digits(return_X_y=True)
    order = np.random.Generator(np.random.PCG64(SPLIT_SEED)).permutation(len(labels))
    inputs, targets = torch.from_numpy(images / 16).float(), torch.from_numpy(labels).long()
    train, valid = torch.from_numpy(order[:TRAIN_EXAMPLES]), torch.from_numpy(order[TRAIN_EXAMPLES:])
    return (inputs[train], targets[train]), (inputs[valid], targets[valid])
