"""Dispatch of requests to methods: the only module that knows all of them."""

from tuner.search.request import AskRequest
from tuner.study.hyperparameter import Scalar


def propose(request: AskRequest) -> list[dict[str, Scalar]]:
    """Return the values of the swept hyperparameters, one mapping per index."""
    # Each method imports what it needs: scipy and optuna take seconds to load.
    if not request.domains:
        return [{} for _ in request.indexes]
    if request.method == "tpe":
        from tuner.search import tpe

        return tpe.propose(request)
    if request.method == "quasirandom":
        from tuner.search import quasirandom

        return [quasirandom.propose(request, index) for index in request.indexes]
    from tuner.search import independent

    return [independent.propose(request, index) for index in request.indexes]
