"""Tree-structured Parzen estimator, by optuna: one fresh in-memory study per request, built from the history in the
request.

- Until a trial has finished, and for the first proposals of a family, the quasirandom sequence is used.
- An infeasible trial is passed to optuna as complete with the family's worst finite value, and every trial carries the
  constraint `feasible`: optuna's FAIL is invisible to TPE, which would keep proposing the same diverging learning rate.
- Running trials are passed as running; the sampler's constant liar keeps proposals apart.
"""

import math
import warnings

import optuna
from optuna.trial import TrialState, create_trial

from tuner.search import quasirandom
from tuner.search.axis import Axis
from tuner.search.request import AskRequest, Observation
from tuner.study.hyperparameter import Scalar

SHOWN = 1500
"""Trials in the history of a proposal: TPE's time grows with it (about 30 ms at this size)."""


def propose(request: AskRequest) -> list[dict[str, Scalar]]:
    """Return one configuration per index; each proposal sees those before it as running."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    chosen: list[dict[str, Scalar]] = []
    blind = all(seen.pending for seen in request.history)
    for index in request.indexes:
        if blind or index < request.startup:
            values = quasirandom.propose(request, index)
        else:
            values = _ask(request, index, chosen)
        chosen.append(values)
    return chosen


def _ask(request: AskRequest, index: int, pending: list[dict[str, Scalar]]) -> dict[str, Scalar]:
    history = shown(request) + [Observation(values, None) for values in pending]
    axes = {name: Axis(domain) for name, domain in request.domains.items()}
    told = _tell(request, history, axes)
    conditional = any(name not in trial.params for trial in told for name in axes)
    with warnings.catch_warnings():
        # group=True (conditional hyperparameters) is marked experimental; its results are pinned by our tests.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            seed=request.seed_of(index) % 2**32,
            n_startup_trials=0,
            multivariate=True,
            group=conditional,
            constant_liar=True,
        )
    study = optuna.create_study(sampler=sampler, direction="minimize" if request.minimize else "maximize")
    study.add_trials(told)
    trial = study.ask({name: axis.distribution() for name, axis in axes.items()})
    return {name: axis.proposed(trial.params[name]) for name, axis in axes.items()}


def shown(request: AskRequest) -> list[Observation]:
    """Bound the history: everything running, the best and the most recent, and an even sample of the rest."""
    history = request.history
    if len(history) <= SHOWN:
        return history
    sign = 1.0 if request.minimize else -1.0
    finished = [i for i, seen in enumerate(history) if not seen.pending]
    by_value = sorted(
        finished, key=lambda i: math.inf if history[i].value is None else sign * (history[i].value or 0.0)
    )
    keep = {i for i, seen in enumerate(history) if seen.pending}
    keep.update(by_value[: SHOWN // 3])
    keep.update(finished[-SHOWN // 3 :])
    rest = [i for i in finished if i not in keep]
    room = max(SHOWN - len(keep), 0)
    keep.update(rest[:: max(1, math.ceil(len(rest) / max(room, 1)))])
    return [history[i] for i in sorted(keep)]


def _tell(request: AskRequest, history: list[Observation], axes: dict[str, Axis]) -> list[optuna.trial.FrozenTrial]:
    values = [seen.value for seen in history if seen.value is not None and math.isfinite(seen.value)]
    worst = (max(values) if request.minimize else min(values)) if values else 0.0
    found = []
    for seen in history:
        known = {name: axis.told(seen.params[name]) for name, axis in axes.items() if name in seen.params}
        params = {name: value for name, value in known.items() if value is not None}
        found.append(
            create_trial(
                state=TrialState.RUNNING if seen.pending else TrialState.COMPLETE,
                value=None if seen.pending else (worst if seen.value is None else seen.value),
                params=params,
                distributions={name: axes[name].distribution() for name in params},
                constraints=None if seen.pending else {"feasible": 0.0 if seen.feasible else 1.0},
            )
        )
    return found
