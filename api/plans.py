"""Study documents of stored studies, parsed once: at submission, or when a restarted server first needs them."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace

from storage.studies import StudyRecord
from tuner.study.catalogue import Catalogue, load_catalogue
from tuner.study.families import families
from tuner.study.space import FamilySpace
from tuner.study.spec import StudySpec


@dataclass(frozen=True)
class Plan:
    """A study document with the search spaces that follow from it."""

    spec: StudySpec
    families: list[FamilySpace]

    @property
    def minimize(self) -> bool:
        """Whether smaller values of the metric are better."""
        return self.spec.metric.goal == "minimize"

    def turns(self, indexes: Sequence[int], count: int) -> list[tuple[FamilySpace, int]]:
        """Deal the next `count` proposals: each goes to the family that has had the fewest, the first of several.

        `indexes` are of each family's next proposal. Each proposal comes as its family and its index there.
        """
        waiting = [(index, place) for place, index in enumerate(indexes)]
        heapify(waiting)
        found = []
        for _ in range(count):
            index, place = waiting[0]
            found.append((self.families[place], index))
            heapreplace(waiting, (index + 1, place))
        return found


def stack_key(spec: StudySpec) -> str:
    """Return the key of the stack that a study's trials share: workload, its parameters and the micro-batch.

    A reproducible study has a stack of its own: another study's may change its program between two trials.
    """
    own = [spec.name] if spec.reproducible else []
    identity = json.dumps([spec.workload.model_dump(), spec.micro_batch_size(), *own], sort_keys=True)
    return f"{spec.workload.name[:40]}/{spec.micro_batch_size()}/{hashlib.sha256(identity.encode()).hexdigest()[:12]}"


class Plans:
    """Plans by study id. A stored document never changes, so what was parsed stays right."""

    def __init__(self, catalogue: Catalogue | None = None) -> None:
        self._catalogue = catalogue or load_catalogue()
        self._plans: dict[int, Plan] = {}

    def keep(self, study_id: int, spec: StudySpec) -> None:
        """Take over the document of a study that was just submitted."""
        self._plans[study_id] = Plan(spec, families(spec, self._catalogue))

    def of(self, study: StudyRecord) -> Plan:
        """Return the plan of a study."""
        if study.id not in self._plans:
            self.keep(study.id, StudySpec.model_validate(study.document))
        return self._plans[study.id]

    def forget(self, study_id: int) -> None:
        """Drop the plan of a deleted study."""
        self._plans.pop(study_id, None)
