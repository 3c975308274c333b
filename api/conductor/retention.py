"""Which files the checkpoint store keeps: the newest state of trials that may go on, and each study's best weights.

A trial that failed or was cancelled goes on from where it was if a user tries it again within a week; that, and how
long what belongs to ended studies is kept, are settings.

A file goes first and its row after it, so a server that is killed in between finishes the work later. Files without a
row (their worker died before it could tell of them, or their study was deleted) go when they are an hour old.
"""

import contextlib
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from api.plans import Plans
from storage import aging, checkpoints, studies, trials, workers
from storage.database import Database
from tuner.complaints import Complaints
from tuner.errors import InvalidInput, NotFound
from tuner.store import Store

log = logging.getLogger(__name__)

EVERY_S = 3.0
ORPHANS_EVERY_S = 3600.0
ORPHAN_AGE_S = 3600.0


@dataclass(frozen=True)
class Kept:
    """How long things are kept after a trial or its study has ended; None: for good."""

    states: timedelta = timedelta(days=7)
    """Of trials that failed or were cancelled: they go on from where they were if a user tries them again."""
    weights: timedelta | None = None
    """Of a study's best trial."""
    events: timedelta | None = None
    reports: timedelta | None = None
    """Rows of curves."""


WORKERS_KEPT = timedelta(days=7)


class Retention:
    """Deletes files that are no longer needed from the store."""

    def __init__(self, database: Database, plans: Plans, store: Store, kept: Kept | None = None) -> None:
        self._database = database
        self._plans = plans
        self._store = store
        self._kept = kept or Kept()
        self._complaints = Complaints(log)
        self._next_s = 0.0
        self._next_orphans_s = time.monotonic() + ORPHANS_EVERY_S  # workers may have files to report after an outage

    def tick(self, steady_s: float) -> None:
        """Do what is due; call this often."""
        if steady_s >= self._next_s:
            self._next_s = steady_s + EVERY_S
            self.sweep()
        if steady_s >= self._next_orphans_s:
            self._next_orphans_s = steady_s + ORPHANS_EVERY_S
            self.sweep_orphans(time.time() - ORPHAN_AGE_S)
            self.forget_workers()
            self.forget_old_studies()

    def sweep(self) -> None:
        """Delete states that were superseded and weights that are not their study's best."""
        with self._database.read() as session:
            now = self._database.now(session)
            unwanted = checkpoints.superseded(session, ended_before=now - self._kept.states)
            old = set(aging.ended(session, before=now - self._kept.weights)) if self._kept.weights else set()
            for study_id, found in checkpoints.stored_weights(session).items():
                with contextlib.suppress(NotFound):  # deleted meanwhile
                    minimize = self._plans.of(studies.get(session, study_id)).minimize
                    best = trials.best(session, study_id=study_id, minimize=minimize)
                    keeps = None if best is None or study_id in old else best.id
                    unwanted += [row for row in found if row.trial_id != keeps]
        if not unwanted:
            return
        gone = [record for record in unwanted if self.delete([record.path])]
        with self._database.write() as session:
            checkpoints.forget(session, records=gone)

    def forget_old_studies(self) -> None:
        """Drop what is not kept of studies that ended long ago, in portions."""
        for forget, kept in ((aging.forget_events, self._kept.events), (aging.forget_reports, self._kept.reports)):
            while kept is not None:
                with self._database.write() as session:
                    old = aging.ended(session, before=self._database.now(session) - kept)
                    if not old or not forget(session, study_ids=old):
                        break

    def forget_workers(self) -> None:
        """Drop worker sessions that were not seen for long and of which no attempt is kept."""
        with self._database.write() as session:
            workers.prune(session, before=self._database.now(session) - WORKERS_KEPT)

    def sweep_orphans(self, older_than: float) -> None:
        """Delete files that no row names and that were last written before a Unix time, in seconds."""
        try:
            files = self._store.files(older_than)
        except OSError as error:  # a network mount that is unavailable
            self._complaints.say("the checkpoint store cannot be listed", error, action="retention")
            return
        if not files:
            return
        with self._database.read() as session:
            known = set(checkpoints.paths(session))
        self.delete(path for path in files if path not in known)

    def delete(self, paths: Iterable[str]) -> bool:
        """Delete files; False when one could not be deleted (logged)."""
        done = True
        for path in paths:
            try:
                self._store.delete(path)
            except (OSError, InvalidInput) as error:
                self._complaints.say("a checkpoint cannot be deleted", error, action="retention", path=path)
                done = False
        return done
