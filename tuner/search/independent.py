"""Random search: every configuration is drawn independently, and the n-th is a function of n alone."""

import random

from tuner.search.request import Search
from tuner.study.hyperparameter import Scalar
from tuner.study.space import at_quantile


def propose(search: Search, index: int) -> dict[str, Scalar]:
    """Draw the configuration with this index."""
    draw = random.Random(search.seed_of(index)).random
    return {name: at_quantile(domain, draw()) for name, domain in search.domains.items()}
