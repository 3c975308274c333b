"""What becomes of a trial when its attempt ends: by the worker's final message, an expired lease or a stop.

- A trial's first terminal transition wins; one that finished has done so whatever it was told meanwhile.
- Only lost, crashed and error count against `retry.max`, but not a loss after a pause was ordered: its user may have
  taken the worker away. An error that repeats word for word ends the trial at once.
- Decisions change the leases in memory; the caller saves them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy.orm import Session

from api.sync import resuming
from api.sync.leases import Lease
from storage import checkpoints, outcomes, programs, reports
from storage.events import Change
from storage.reports import ReportRow
from storage.studies import ENDED
from tuner.search.ranking import value_of_curve
from tuner.study.failure import FAILURES, same_way
from tuner.study.states import Order, OrderedBy, StudyState, TrialState
from tuner.wire.failures import headline

LOSSES = ("train_loss", "valid_loss")


@dataclass(frozen=True)
class Ending:
    """An attempt that has just ended. `infeasible` and `value` come with a finished one; `why` is shown to users."""

    lease: Lease
    infeasible: str | None = None
    value: float | None = None
    why: str | None = None
    final: bool = False
    """Of an error: whoever trained it says that the trial has failed."""

    @property
    def outcome(self) -> str:
        """How the attempt ended."""
        return str(self.lease.attempt.outcome)

    @property
    def finished(self) -> bool:
        """Whether the trial was trained to its end, or as far as its configuration can be."""
        return self.outcome == "finished"

    @property
    def needs_curve(self) -> bool:
        """Whether the trial's value has to be read from its reports."""
        return self.finished and self.infeasible is None and self.value is None

    @property
    def exhausted(self) -> bool:
        """Whether this attempt was one failure too many."""
        return self.counts and self.lease.trial.charged + 1 > self.lease.plan.spec.retry.max

    @property
    def counts(self) -> bool:
        """Whether it counts against `retry.max`."""
        return self.outcome in FAILURES and not (self.outcome == "lost" and self.lease.trial.order is Order.PAUSE)


def conclude(session: Session, endings: Sequence[Ending], *, now: datetime) -> list[Change]:
    """Decide what becomes of the trials of ended attempts. Store their reports and checkpoints first."""
    unread = [ending.lease.trial.id for ending in endings if ending.needs_curve]
    curves = reports.effective_rows(session, trial_ids=unread, with_noise=False) if unread else {}
    given_back = [ending.lease.trial.id for ending in endings if not ending.finished]
    states = checkpoints.usable(session, trial_ids=given_back)
    raised = [e.lease.trial.id for e in endings if e.outcome == "error" and e.lease.trial.charged]
    before = outcomes.last_failures(session, trial_ids=raised) if raised else {}
    changes = []
    for ending in endings:
        trial_id = ending.lease.trial.id
        if ending.finished:
            changes.append(_finish(ending, curves.get(trial_id, []), now))
        else:
            found = states.get(trial_id)
            step = 0 if found is None else found.step
            changes.append(_give_back(ending, step, before.get(trial_id, ("", None)), now))
    return changes


def unpin(session: Session, endings: Sequence[Ending]) -> list[Change]:
    """Free reproducible studies from a program whose only stack was given up. Call once the endings are saved."""
    changes = []
    for ending in endings:
        study = ending.lease.study
        displaced = ending.outcome == "displaced" and ending.lease.trial.state == TrialState.QUEUED
        if displaced and ending.lease.plan.spec.reproducible and programs.unpin(session, study_id=study.id):
            changes.append(Change(study.id, "study.unpinned", None, {"why": ending.why}))
    return changes


def _finish(ending: Ending, curve: Sequence[ReportRow], now: datetime) -> Change:
    if ending.infeasible is not None:
        return _end(ending, TrialState.INFEASIBLE, ending.infeasible, now=now)
    metric, minimize = ending.lease.plan.spec.metric, ending.lease.plan.minimize
    values = [row.metrics[metric.name] for row in curve if metric.name in row.metrics]
    value = ending.value
    if value is None:
        value = value_of_curve(values, at=metric.at, minimize=minimize)
    if value is not None and not math.isfinite(value):
        return _end(ending, TrialState.INFEASIBLE, "diverged", now=now)
    if value is not None:
        return _end(ending, TrialState.COMPLETED, now=now, value=value)
    if values:
        return _end(ending, TrialState.INFEASIBLE, _without_value(metric.name, values[-1], curve), now=now)
    known = ", ".join(sorted({name for row in curve for name in row.metrics})) or "nothing"
    reason = f"the workload reported no {metric.name!r}; it reported {known}"
    return _end(ending, TrialState.FAILED, reason, now=now)


def _without_value(metric: str, last: float, curve: Sequence[ReportRow]) -> str:
    """Say why a trial has reports of its metric and no value: its loss diverged, or the metric alone is not finite."""
    losses = {name: row.metrics[name] for row in curve for name in LOSSES if name in row.metrics}  # the last of each
    if metric in LOSSES or not all(map(math.isfinite, losses.values())):
        return "diverged"
    return f"{metric} is {last} at the end{', while the loss is finite' if losses else ''}"


def _give_back(ending: Ending, step: int, before: tuple[str, str | None], now: datetime) -> Change:
    """End the trial, pause it, or queue it again to go on from a step; `before` is how it failed before."""
    lease, outcome = ending.lease, ending.outcome
    trial = lease.trial
    if trial.order in (Order.STOP, Order.PRUNE):
        state = TrialState.CANCELLED if trial.order is Order.STOP else TrialState.PRUNED
        return _end(ending, state, trial.order_why, now=now)
    if lease.study.state in ENDED:
        lease.trial = trial = replace(trial, ordered_by=OrderedBy.STUDY)
        return _end(ending, TrialState.CANCELLED, f"the study is {lease.study.state}", now=now)
    error = lease.attempt.error
    if outcome == "error" and ending.final:
        return _end(ending, TrialState.FAILED, headline(error or "") or "no reason given", now=now)
    if outcome == before[0] == "error" and same_way(error, before[1]):
        return _end(ending, TrialState.FAILED, f"failed twice in the same way: {headline(error or '')}", now=now)
    if ending.exhausted:
        reason = f"{outcome} {trial.charged + 1} times; retry.max is {lease.plan.spec.retry.max}"
        return _end(ending, TrialState.FAILED, reason, now=now)
    pauses = trial.order is Order.PAUSE or lease.study.state == StudyState.PAUSED
    lease.trial = replace(
        trial,
        state=TrialState.PAUSED if pauses else TrialState.QUEUED,
        order=None,
        order_why=None,
        ordered_by=None,
        charged=trial.charged + ending.counts,
        step=step,
        examples=resuming.examples_at(trial, step),
    )
    data = {"outcome": outcome, "attempt": trial.attempt, "step": step}
    kind = "trial.paused" if pauses else "trial.requeued"
    return Change(trial.study_id, kind, trial.number, data if ending.why is None else {**data, "why": ending.why})


def _end(
    ending: Ending, state: TrialState, reason: str | None = None, *, now: datetime, value: float | None = None
) -> Change:
    trial = ending.lease.trial
    by = trial.ordered_by if state == TrialState.CANCELLED else None
    ended = replace(trial, state=state, value=value, reason=reason, finished_at=now)
    ending.lease.trial = replace(ended, order=None, order_why=None, ordered_by=by)
    return Change(trial.study_id, f"trial.{state}", trial.number, {"value": value, "reason": reason})
