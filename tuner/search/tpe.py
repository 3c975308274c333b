"""Tree-structured Parzen estimator, by optuna, over the observations that are held.

- Until a trial has finished, and for the first proposals of a family, the quasirandom sequence is used.
- An infeasible trial is passed to optuna as complete, and every trial carries the constraint `feasible`, by which TPE
  sets it apart whatever its value: optuna's FAIL is invisible to TPE, which would keep proposing the same diverging
  learning rate.
- Running trials are passed as running; the sampler's constant liar keeps proposals apart. Each proposal of a request
  sees those before it as running.
- Observations are shown in the order of their trials' numbers, each proposal has an optuna sampler of its own, and no
  optuna study outlives a request: nothing but the observations held can reach a proposal.
"""

import warnings
from collections.abc import Container, Iterable, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from tuner.search import quasirandom
from tuner.search.axis import Axis
from tuner.search.request import Observation, Search
from tuner.study.hyperparameter import Scalar

optuna.logging.set_verbosity(optuna.logging.ERROR)


class Tpe:
    """A sampler of one family: optuna's trials of the observations held are made once, when they are told."""

    def __init__(self, search: Search) -> None:
        self._search = search
        self._axes = {name: Axis(domain) for name, domain in search.domains.items()}
        self._distributions = {name: axis.distribution() for name, axis in self._axes.items()}
        self._trials: dict[int, FrozenTrial] = {}
        self._finished: set[int] = set()
        self._partial: set[int] = set()
        """Trials that lack a hyperparameter, or have a value of it that the space does not hold."""

    def tell(self, number: int, observation: Observation) -> None:
        """Hold an observation of the trial with this number, in place of an earlier one."""
        self.forget(number)
        trial = self._trials[number] = self._frozen(number, observation)
        if len(trial.params) < len(self._axes):
            self._partial.add(number)
        if not observation.pending:
            self._finished.add(number)

    def forget(self, number: int) -> None:
        """Hold none of the trial with this number."""
        self._trials.pop(number, None)
        self._finished.discard(number)
        self._partial.discard(number)

    def propose(self, indexes: Sequence[int]) -> list[dict[str, Scalar]]:
        """Return one configuration per index."""
        shown = [self._trials[number] for number in sorted(self._trials)]
        following = max(self._trials, default=-1) + 1
        chosen: list[dict[str, Scalar]] = []
        for place, index in enumerate(indexes):
            if not self._finished or index < self._search.startup:
                values = quasirandom.propose(self._search, index)
            else:
                values = self._ask(index, shown, following + place)
            chosen.append(values)
            shown.append(self._frozen(following + place, Observation(values, None)))
        return chosen

    def _frozen(self, number: int, seen: Observation) -> FrozenTrial:
        told = {name: axis.told(seen.params[name]) for name, axis in self._axes.items() if name in seen.params}
        params = {name: value for name, value in told.items() if value is not None}
        value = 0.0 if seen.value is None else seen.value
        trial = create_trial(
            state=TrialState.RUNNING if seen.pending else TrialState.COMPLETE,
            value=None if seen.pending else value,
            params=params,
            distributions={name: self._distributions[name] for name in params},
            constraints=None if seen.pending else {"feasible": 0.0 if seen.feasible else 1.0},
        )
        trial.number = number
        return trial

    def _ask(self, index: int, shown: list[FrozenTrial], number: int) -> dict[str, Scalar]:
        options: dict[str, Any] = {"seed": self._search.seed_of(index) % 2**32, "n_startup_trials": 0}
        sampler: TPESampler
        if self._partial:
            with warnings.catch_warnings():
                # group=True (conditional hyperparameters) is marked experimental; its results are pinned by our tests.
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                sampler = TPESampler(**options, multivariate=True, group=True, constant_liar=True)
        else:
            sampler = _Whole(self._distributions, options)
        study = optuna.create_study(
            storage=_Shown(shown), sampler=sampler, direction="minimize" if self._search.minimize else "maximize"
        )
        asked = create_trial(state=TrialState.RUNNING)
        asked.number = number
        found = sampler.sample_relative(study, asked, sampler.infer_relative_search_space(study, asked))
        for name, distribution in self._distributions.items():
            if name not in found:
                found[name] = sampler.sample_independent(study, asked, name, distribution)
        return {name: axis.proposed(found[name]) for name, axis in self._axes.items()}


class _Whole(TPESampler):
    """Samples every hyperparameter together: optuna need not look through all trials for those that they share."""

    def __init__(self, distributions: dict[str, BaseDistribution], options: dict[str, Any]) -> None:
        super().__init__(**options, multivariate=True, group=False, constant_liar=True)
        self._space = dict(sorted(distributions.items()))

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._space


class _Shown(InMemoryStorage):
    """The trials of an optuna study that are all known beforehand."""

    def __init__(self, trials: Iterable[FrozenTrial]) -> None:
        super().__init__()
        self._shown = trials

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        return [trial for trial in self._shown if states is None or trial.state in states]

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """The sampler notes what it proposed; the next proposal is shown it as a running trial instead."""
