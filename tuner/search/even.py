"""Random and quasirandom search: the n-th configuration is a function of n alone.

Quasirandom points are a scrambled Sobol sequence (Owen 1998, as in scipy), which covers the space more evenly than
independent draws: with few trials per family no learning-rate decade stays empty by bad luck.
"""

import warnings

import numpy as np
from scipy.stats import qmc

from tuner.search.ask import AskRequest, derive_seed
from tuner.study.hyperparameter import Scalar
from tuner.study.space import at_quantile


def random(request: AskRequest, index: int) -> dict[str, Scalar]:
    """Draw the configuration of an index independently of all others."""
    generator = np.random.Generator(np.random.Philox(key=request.seed_of(index)))
    return _place(request, generator.random(len(request.domains)))


def quasirandom(request: AskRequest, index: int) -> dict[str, Scalar]:
    """Return point number `index` of the family's Sobol sequence."""
    scramble = derive_seed(request.seed, request.family + "/sobol", 0)
    sequence = qmc.Sobol(d=len(request.domains), scramble=True, rng=np.random.default_rng(scramble))
    with warnings.catch_warnings():
        # The balance that scipy warns of holds for powers of two; a sequence cut anywhere is still even.
        warnings.simplefilter("ignore", UserWarning)
        if index:
            sequence.fast_forward(index)
        return _place(request, sequence.random(1)[0])


def _place(request: AskRequest, point: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> dict[str, Scalar]:
    return {
        name: at_quantile(domain, float(u)) for (name, domain), u in zip(request.domains.items(), point, strict=True)
    }
