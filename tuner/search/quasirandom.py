"""Quasirandom search: the n-th configuration is point n of a scrambled Sobol sequence (Owen 1998, as in scipy).

It covers the space more evenly than independent draws: even with few trials per family, no decade of learning rates
stays empty by chance.
"""

import warnings

import numpy as np
from scipy.stats import qmc

from tuner.search.request import Search, derive_seed
from tuner.study.hyperparameter import Scalar
from tuner.study.space import at_quantile


def propose(search: Search, index: int) -> dict[str, Scalar]:
    """Return point number `index` of the family's sequence."""
    scramble = derive_seed(search.seed, search.family + "/sobol", 0)
    sequence = qmc.Sobol(d=len(search.domains), scramble=True, rng=np.random.default_rng(scramble))
    with warnings.catch_warnings():
        # scipy warns that exact balance needs a power of two; a sequence cut anywhere is still evenly spread.
        warnings.simplefilter("ignore", UserWarning)
        if index:
            sequence.fast_forward(index)
        (point,) = sequence.random(1)
    return {
        name: at_quantile(domain, float(u)) for (name, domain), u in zip(search.domains.items(), point, strict=True)
    }
