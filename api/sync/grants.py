"""New leases: which queued trials the devices of a worker get.

First each device that can open a stack gets one trial of a stack that it does not hold (idle devices before busy
ones), then the trials of each stack are dealt over the devices that take it, to the one with the fewest of them. Whose
trial is next is decided by `shares`. A workload that did not load on a device is not offered to it again.

The cost is that of the running studies and of the trials granted, however many are queued.
"""

import secrets
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property

from sqlalchemy.orm import Session

from api.plans import Plan, Plans
from api.sync import resuming
from api.sync.leases import Key, Lease
from api.sync.offers import Offer, offers_of
from api.sync.resuming import Start
from api.sync.shares import Claim, Shares, ranked
from storage import attempts, programs, studies, trials
from storage.attempts import AttemptRecord
from storage.events import Change
from storage.studies import StudyRecord
from storage.trials import TrialRecord
from storage.workers import WorkerRecord
from tuner.study.states import StudyState, TrialState
from tuner.wire.sync import Capacity

GIVEN_UP = "its checkpoint lies on the disk of a worker that did not take it back within one lease"


@dataclass
class Queue:
    """The trials of a study that wait for one stack. The first ones are read when a device asks."""

    study: StudyRecord
    plan: Plan
    stack: str
    urgent: bool = False
    """Whether a user enqueued one of them: those go first."""
    first: list[TrialRecord] | None = None
    starts: dict[tuple[object, object], dict[int, Start]] = field(default_factory=dict)
    """Where each would begin, by what a device can read."""

    @property
    def cost(self) -> float:
        """Examples of a trial (1 where nobody knows), over the priority."""
        return (self.plan.spec.budget.examples_per_trial or 1) / self.study.priority


class Grants:
    """Grants leases to one worker, within a write transaction; `promising` reads only."""

    def __init__(
        self,
        session: Session,
        plans: Plans,
        worker: WorkerRecord,
        *,
        now: datetime,
        lease_s: float,
        capacity: Sequence[Capacity],
        leases: Sequence[Lease],
        held: Collection[Key],
    ) -> None:
        """`leases` are the worker's live ones, `held` those of them that it knows of."""
        self.served: dict[int, float] = {}
        """What studies have been served, where that changed."""
        self._session = session
        self._plans = plans
        self._worker = worker
        self._now = now
        self._lease_s = lease_s
        self._devices = {device["device"]: device for device in worker.devices}
        offers = offers_of(capacity, leases, held) if worker.takes_trials(now) else []
        self._offers = [offer for offer in offers if offer.device in self._devices]
        self._room = sum(offer.free for offer in self._offers)
        self._new: list[tuple[Lease, Start]] = []
        self._limits: dict[str, dict[int, int]] = {}
        """By device: how many more leases it may have of studies where that is limited."""
        self._counts: Counter[tuple[str, int | None, str | None]] = Counter()
        for lease in leases:
            self._count(lease)

    def promising(self) -> bool:
        """Whether a trial waits that one of the devices may take."""
        return any(_fits(offer, queue) for queue in self._queues for offer in self._offers)

    def give(self) -> tuple[list[Lease], list[Change]]:
        """Lease queued trials to the devices; return the new leases."""
        self._limit()
        self._open()
        for stack in dict.fromkeys(offer.stack for offer in self._offers if offer.stack is not None):
            self._deal(stack)
        new = [lease for lease, _ in self._new]
        trials.start(self._session, trials=[lease.trial for lease in new])
        attempts.begin(self._session, attempts=[lease.attempt for lease in new])
        return new, [change for lease, start in self._new for change in self._changes(lease, start)]

    @cached_property
    def _queues(self) -> list[Queue]:
        """The queues with trials that this worker can run, the oldest study's first."""
        if not self._offers:
            return []
        running = self._running()
        plans = {study.id: self._plans.of(study) for study in running}
        wanted = {offer.stack for offer in self._offers}
        shaped = [study.id for study in running if plans[study.id].stacks is None]
        told = trials.stacks_waiting(self._session, study_ids=shaped)
        queues = [
            Queue(study, plans[study.id], stack)
            for study in running
            for stack in (told.get(study.id, ()) if plans[study.id].stacks is None else plans[study.id].stacks or ())
        ]
        queues = [queue for queue in queues if None in wanted or queue.stack in wanted]
        waiting = trials.waiting(self._session, queues=[(queue.study.id, queue.stack) for queue in queues])
        for queue in queues:
            queue.urgent = waiting.get((queue.study.id, queue.stack), False)
        return [queue for queue in queues if (queue.study.id, queue.stack) in waiting]

    def _running(self) -> list[StudyRecord]:
        """Return the running studies whose trials the worker takes: of its workloads, or the only one of a session."""
        if self._worker.study_id is not None:
            found = studies.by_ids(self._session, ids=[self._worker.study_id]).values()
            return [study for study in found if study.state == StudyState.RUNNING]
        names = [workload["name"] for workload in self._worker.workloads]
        return studies.running(self._session, workloads=names)

    def _limit(self) -> None:
        """Lock the reproducible studies: what they are pinned to, and how many more leases a device may have."""
        if any(queue.plan.spec.reproducible for queue in self._queues):
            self._limits = {
                offer.device: programs.on_trial(
                    self._session, worker_id=self._worker.id, device=offer.device, declines=offer.declines
                )
                for offer in self._offers
            }
            del self._queues  # read again under the lock

    def _open(self) -> None:
        """Give one trial of another stack to each device that can open one."""
        opening = sorted((offer for offer in self._offers if offer.stack is None), key=lambda offer: not offer.idle)
        if not opening or not self._queues:
            return
        shares = self._shares()
        for offer in opening:
            place = self._worker.id, offer.device
            fitting = [queue for queue in self._queues if _fits(offer, queue) and self._worth(offer, queue, shares)]
            rank = lambda q: (shares.of(q.study.id), q.study.id, not q.urgent, self._held(q.stack))  # noqa: E731
            for queue in sorted(fitting, key=rank):
                if self._take(queue, offer):
                    offer.stack = queue.stack
                    shares.add(place, queue.study.id)
                    break

    def _worth(self, offer: Offer, queue: Queue, shares: Shares) -> bool:
        """Whether a device should open a stack for a study.

        A busy device opens no further stack of its own studies that another device of the worker holds: their trials
        would be thinner in both, and a device that runs out of trials opens it anyway.
        """
        place = self._worker.id, offer.device
        if not offer.idle and shares.on(place, queue.study.id):
            return self._held(queue.stack) == 0
        return shares.evens(place, queue.study.id)

    def _shares(self) -> Shares:
        holders = attempts.holders(self._session)
        priorities = {study: priority for _, study, priority in holders}
        priorities |= {queue.study.id: queue.study.priority for queue in self._queues}
        return Shares([(place, study) for place, study, _ in holders], priorities)

    def _deal(self, stack: str) -> None:
        """Deal the trials of a stack over the devices that take it."""
        queues = {queue.study.id: queue for queue in self._queues if queue.stack == stack}
        offers = [offer for offer in self._offers if offer.stack == stack]
        slots = self._held(stack) + sum(max(0, offer.free) for offer in offers)
        while queues and any(offer.free > 0 for offer in offers):
            claims = [
                Claim(
                    study=study,
                    priority=queue.study.priority,
                    slots=self._held(stack, study=study),
                    served=self.served.get(study, queue.study.served),
                    cost=queue.cost,
                )
                for study, queue in queues.items()
            ]
            next_one = ranked(claims, slots)[0]
            queue = queues[next_one.study]
            self.served[queue.study.id] = next_one.served
            fewest = sorted(offers, key=lambda offer: self._held(stack, device=offer.device))
            if not any(self._take(queue, offer) for offer in fewest):
                del queues[next_one.study]

    def _held(self, stack: str, *, study: int | None = None, device: str | None = None) -> int:
        """Return how many of the worker's leases are on a stack: all, a study's or a device's."""
        return self._counts[stack, study, device]

    def _take(self, queue: Queue, offer: Offer) -> bool:
        """Lease the first trial of a queue that a device may take; False if there is none."""
        found = self._first(queue, offer) if offer.free > 0 and _fits(offer, queue) else None
        if found is None:
            return False
        trial, start = found
        assert queue.first is not None
        queue.first.remove(trial)
        lease = self._lease(offer.device, trial, queue.study, start)
        self._new.append((lease, start))
        self._count(lease)
        offer.free -= 1
        limits = self._limits.get(offer.device, {})
        if queue.study.id in limits:
            limits[queue.study.id] -= 1
        self.served[queue.study.id] = self.served.get(queue.study.id, queue.study.served) + queue.cost
        return True

    def _first(self, queue: Queue, offer: Offer) -> tuple[TrialRecord, Start] | None:
        if self._limits.get(offer.device, {}).get(queue.study.id, 1) <= 0:
            return None
        if queue.first is None:
            pair = queue.study.id, queue.stack
            queue.first = trials.queued(self._session, queue=pair, limit=self._room, enqueued_first=queue.urgent)
        device = self._devices[offer.device]
        reads = device.get("checkpoints"), device.get("scope")
        if reads not in queue.starts:
            ids = [trial.id for trial in queue.first]
            found = resuming.starts(self._session, ids, device, now=self._now, lease_s=self._lease_s)
            queue.starts[reads] = found
        starts = queue.starts[reads]
        return next(((t, starts[t.id]) for t in queue.first if starts[t.id].elsewhere != "wait"), None)

    def _count(self, lease: Lease) -> None:
        stack = lease.trial.stack
        self._counts.update([(stack, None, None), (stack, lease.study.id, None), (stack, None, lease.attempt.device)])

    def _lease(self, device: str, trial: TrialRecord, study: StudyRecord, start: Start) -> Lease:
        begun = replace(
            trial,
            state=TrialState.RUNNING,
            attempt=trial.attempt + 1,
            started_at=trial.started_at or self._now,
            step=start.step,
            examples=resuming.examples_at(trial, start.step),
        )
        attempt = AttemptRecord(
            trial_id=trial.id,
            attempt=begun.attempt,
            worker_id=self._worker.id,
            device=device,
            lease_expires=self._now + timedelta(seconds=self._lease_s),
            started_at=self._now,
            token=secrets.token_hex(8),
            resumed_from=start.step,
        )
        return Lease(attempt, begun, study, self._plans.of(study))

    def _changes(self, lease: Lease, start: Start) -> Iterator[Change]:
        trial, attempt = lease.trial, lease.attempt.attempt
        data = {"worker": self._worker.name, "attempt": attempt, "resumed_from": start.step}
        yield Change(trial.study_id, "trial.running", trial.number, data)
        if start.elsewhere is not None:
            yield Change(trial.study_id, "trial.restarted", trial.number, {"attempt": attempt, "why": GIVEN_UP})


def _fits(offer: Offer, queue: Queue) -> bool:
    """Whether a device takes trials of this stack."""
    if queue.stack in offer.cannot_load:
        return False
    return queue.stack == offer.stack or (offer.stack is None and queue.stack not in offer.others)
