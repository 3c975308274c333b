"""From a document to a stored study, with the trials that it enqueues."""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from api.conductor.enqueueing import enqueue_all, groups_with
from api.plans import Plan, Plans, stored
from storage import studies, workers
from storage.database import Database
from storage.events import Change
from storage.studies import StudyRecord
from tuner.study.catalogue import BUILT_IN_WORKLOADS, EXTERNAL, load_catalogue
from tuner.study.check import parse_study
from tuner.study.given import Given, complete
from tuner.study.hyperparameter import Scalar
from tuner.study.spec import StudySpec
from tuner.study.workload_parameters import Signature, signature_of
from tuner.wire.workload_info import WorkloadInfo


class Documents:
    """Reads documents and configurations, with what workers have told of their workloads."""

    def __init__(self, database: Database, plans: Plans) -> None:
        self._database = database
        self._plans = plans

    def read(self, document: Mapping[str, Any]) -> tuple[Plan, list[Given]]:
        """Return the plan of a document, and what it enqueues. Raises `InvalidInput` with every fault."""
        signatures = self._signatures()
        known = {*BUILT_IN_WORKLOADS, EXTERNAL, *signatures}
        spec = parse_study(document, load_catalogue(), known, signatures)
        plan = self._plans.made(spec, spec.batch_groups())
        if not spec.enqueue:
            return plan, []
        own = plan.spec, plan.families, load_catalogue(), signature_of(spec.workload.name, signatures)
        given = [complete(one, *own, f"enqueue[{index}]") for index, one in enumerate(spec.enqueue)]
        groups = plan.groups
        for index, one in enumerate(given):
            groups = groups_with(spec, groups, one.params, f"enqueue[{index}]")
        return self._plans.made(spec, groups), given

    def configuration(self, plan: Plan, given: Mapping[str, Scalar]) -> Given:
        """Return a given configuration, completed. Raises `InvalidInput` with every fault."""
        signature = signature_of(plan.spec.workload.name, self._signatures())
        return complete(given, plan.spec, plan.families, load_catalogue(), signature)

    def _signatures(self) -> dict[str, Signature]:
        with self._database.read() as session:
            told = workers.workloads(session)
        return {name: WorkloadInfo.model_validate(workload).signature() for name, workload in told.items()}


def create(
    session: Session, now: datetime, *, plan: Plan, given: list[Given], key: str | None, data: Mapping[str, Any]
) -> tuple[StudyRecord, list[Change]]:
    """Store a new study and its first trials; `data` goes into its first event.

    Raises:
        NameTaken: another study has the name.
    """
    spec = plan.spec
    study = studies.create(
        session,
        name=spec.name,
        title=spec.title,
        document=spec.model_dump(mode="json"),
        batch_groups=stored(plan.groups),
        priority=spec.priority,
        run_cap=spec.run_cap,
        parallel=spec.in_flight(),
        idempotency_key=key,
        submitted=digest(spec),
        webhook=spec.webhook,
        now=now,
    )
    changes = [Change(study.id, "study.running", None, dict(data))]
    if left_out := spec.batch_sizes_left_out():
        changes.append(Change(study.id, "study.note", None, {"message": _left_out(left_out, spec)}))
    return study, changes + enqueue_all(session, study, now, plan=plan, given=given)


def digest(spec: StudySpec) -> str:
    """Return what tells a document from every other one, whatever defaults later versions add."""
    said = spec.model_dump(mode="json", exclude_defaults=True)
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def same(study: StudyRecord, spec: StudySpec) -> bool:
    """Whether a study was submitted with this document; it may have been changed since."""
    return (study.submitted or digest(StudySpec.model_validate(study.document))) == digest(spec)


def _left_out(sizes: list[int], spec: StudySpec) -> str:
    named = ", ".join(map(str, sizes))
    return f"not tried: batch size {named}, above the budget of {spec.budget.examples_per_trial} examples per trial"
