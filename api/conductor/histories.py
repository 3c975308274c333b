"""What the sampler of a family is shown of its history: a bounded selection, and a pure function of the rows.

- The `PART` best completed trials, the `PART` newest with something to learn from, the `PART` newest under way, and an
  even sample of the family's sequence. The sample is every 2^k-th index, so that it stays the same while a study
  grows, until every second one leaves it.
- A trial that failed is shown as infeasible if its configuration fails by itself, and else is not shown.
- Configurations are read once, while their trials stay in the selection: a round costs what changed.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from sqlalchemy.orm import Session

from api.conductor import failures
from storage import outcomes
from storage.outcomes import Outcome
from tuner.search.feeding import KEPT
from tuner.search.request import Observation
from tuner.study.states import TrialState

PART = 150
"""Trials of each kind that are shown: TPE's time grows with them (about 5 ms at three such parts)."""


def evenly(next_index: int, ended: int) -> range:
    """Return every 2^k-th index below the next one, with the smallest k that leaves at most `PART` of the ended."""
    every = 1
    while ended > PART * every:
        every *= 2
    return range(0, next_index, every)


class Histories:
    """Histories by study and family. Not thread-safe."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[int, str], dict[Outcome, Observation | None]] = OrderedDict()
        """What was shown last; None is not shown after all."""

    def of(
        self, session: Session, *, study_id: int, family: str, minimize: bool, sampled: Sequence[int]
    ) -> Mapping[int, Observation]:
        """Return what the sampler of a family is shown now, by trial number; `sampled` comes from `evenly`."""
        selected = outcomes.shown(
            session, study_id=study_id, family=family, minimize=minimize, part=PART, sampled=sampled
        )
        before = self._kept.pop((study_id, family), {})
        new = [outcome for outcome in selected if outcome not in before]
        before.update(_observed(session, study_id, new))
        now = self._kept[study_id, family] = {outcome: before[outcome] for outcome in selected}
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return {outcome.number: seen for outcome, seen in now.items() if seen is not None}


def _observed(session: Session, study_id: int, new: Sequence[Outcome]) -> dict[Outcome, Observation | None]:
    """Read what the sampler is told of these trials; None where it learns nothing."""
    read = outcomes.configurations(session, study_id=study_id, numbers=[outcome.number for outcome in new])
    failed = [read[outcome.number][0] for outcome in new if outcome.state == TrialState.FAILED]
    failing = failures.own(session, study_id=study_id, trial_ids=failed) if failed else set()
    found: dict[Outcome, Observation | None] = {}
    for outcome in new:
        trial_id, params = read[outcome.number]
        if outcome.state in outcomes.PENDING:
            found[outcome] = Observation(params, None)
        elif outcome.state == TrialState.COMPLETED:
            found[outcome] = Observation(params, outcome.value)
        elif outcome.state == TrialState.INFEASIBLE or trial_id in failing:
            found[outcome] = Observation(params, None, feasible=False)
        else:
            found[outcome] = None
    return found
