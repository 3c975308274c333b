"""Study documents of stored studies, parsed once: at submission, or when a restarted server first needs them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from heapq import heapify, heapreplace
from math import ceil
from typing import Any

from storage.studies import StudyRecord
from tuner.study.catalogue import Catalogue, load_catalogue
from tuner.study.families import families
from tuner.study.micro_batch import Group
from tuner.study.space import FamilySpace
from tuner.study.spec import StudySpec


@dataclass(frozen=True)
class Plan:
    """A study document with what follows from it: the search spaces, and the groups that its study was given."""

    spec: StudySpec
    families: list[FamilySpace]
    groups: list[Group]

    @property
    def minimize(self) -> bool:
        """Whether smaller values of the metric are better."""
        return self.spec.metric.goal == "minimize"

    def startup(self, count: int) -> int:
        """Return how many first proposals of one of `count` families look at no result."""
        return min(10, max(3, self.spec.run_cap // count // 3))

    @cached_property
    def stacks(self) -> list[str]:
        """The keys of all stacks that the study's trials can be in."""
        return list(dict.fromkeys(self._key(group.micro_batch) for group in self.groups))

    def group(self, batch_size: int) -> Group:
        """Return the group of a trial."""
        return self._groups[batch_size]

    def stack(self, batch_size: int) -> str:
        """Return the key of the stack that a trial shares: workload, its parameters and the micro-batch.

        A reproducible study has stacks of its own: another study's may change their program between two trials.
        """
        return self._key(self._groups[batch_size].micro_batch)

    def here(self, stack: str, count: int, devices: int) -> int:
        """Return how many of `count` trials of the study to expect in a stack on one of a worker's devices.

        A method that learns may want all of them in one stack; others deal their batch sizes out alike. Where a study
        has fewer stacks than the worker has devices, several devices share one.
        """
        sizes = {key: 0 for key in self.stacks}
        for group in self.groups:
            sizes[self._key(group.micro_batch)] += len(group.batch_sizes)
        share = 1.0 if self.spec.learns else sizes.get(stack, 1) / sum(sizes.values())
        return max(1, ceil(count * share / max(1, devices // len(sizes))))

    @cached_property
    def _groups(self) -> Mapping[int, Group]:
        return {size: group for group in self.groups for size in group.batch_sizes}

    def _key(self, micro_batch: int) -> str:
        own = [self.spec.name] if self.spec.reproducible else []
        workload = self.spec.workload
        identity = json.dumps([workload.model_dump(), micro_batch, *own], sort_keys=True)
        return f"{workload.name[:40]}/{micro_batch}/{hashlib.sha256(identity.encode()).hexdigest()[:12]}"

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


def stored(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Return groups as a study's row has them."""
    return [asdict(group) for group in groups]


class Plans:
    """Plans by study id. A stored document never changes, so what was parsed stays right."""

    def __init__(self, catalogue: Catalogue | None = None) -> None:
        self._catalogue = catalogue or load_catalogue()
        self._plans: dict[int, Plan] = {}

    def keep(self, study_id: int, spec: StudySpec, groups: Sequence[Group]) -> None:
        """Take over the document of a study that was just submitted."""
        self._plans[study_id] = Plan(spec, families(spec, self._catalogue), list(groups))

    def of(self, study: StudyRecord) -> Plan:
        """Return the plan of a study."""
        if study.id not in self._plans:
            groups = [Group(each["micro_batch"], tuple(each["batch_sizes"])) for each in study.batch_groups]
            self.keep(study.id, StudySpec.model_validate(study.document), groups)
        return self._plans[study.id]

    def forget(self, study_id: int) -> None:
        """Drop the plan of a deleted study."""
        self._plans.pop(study_id, None)
