"""Study documents of stored studies, parsed once per edition: at submission, or when a server first needs them."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from heapq import heapify, heapreplace
from math import ceil, prod
from typing import Any

from storage.studies import StudyRecord
from tuner.study.catalogue import Catalogue, load_catalogue
from tuner.study.families import families
from tuner.study.hyperparameter import PREFIX, Scalar
from tuner.study.micro_batch import Group
from tuner.study.space import Choices, Domain, FamilySpace, Fixed
from tuner.study.spec import StudySpec

MANY = 1_000_000
"""Values of a range that is not of whole numbers: each is a shape of its own."""


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
    def stacks(self) -> list[str] | None:
        """The keys of all stacks that the study's trials can be in; None where models of several shapes are searched.

        Then they are told from the trials.
        """
        if self._shaping:
            return None
        return list(dict.fromkeys(self._key({}, group.micro_batch) for group in self.groups))

    def group(self, params: Mapping[str, Scalar]) -> Group:
        """Return the group of a trial."""
        return self.groups[0] if self.spec.external else self._groups[int(params["batch_size"])]

    def stack(self, params: Mapping[str, Scalar]) -> str:
        """Return the key of the stack that a trial shares: workload, its parameters and the micro-batch.

        The trial's own workload parameters are among those, for another shape is another program; values are not. A
        reproducible study has stacks of its own: another study's may change their program between two trials. So has an
        external one, whose trials share nothing but their queue.
        """
        return self._key(self.shape(params), self.group(params).micro_batch)

    def length(self, params: Mapping[str, Scalar]) -> tuple[int, int]:
        """Return a trial's steps and examples; 0 for what only its own code knows."""
        budget, batch_size = self.spec.budget.examples_per_trial or 0, int(params.get("batch_size", 0))
        steps = budget // batch_size if batch_size else 0
        return steps, budget if self.spec.external else steps * batch_size

    def shape(self, params: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """Return the workload parameters of a trial that fix the shape of its model, without those of the study."""
        own = {name.removeprefix(PREFIX): value for name, value in params.items() if name.startswith(PREFIX)}
        return {name: value for name, value in own.items() if name not in self.spec.workload.values}

    def population(self, params: Mapping[str, Scalar]) -> frozenset[str]:
        """Return the keys of the stacks of trials that train a model of the same shape, at any batch size."""
        return frozenset(self._key(self.shape(params), group.micro_batch) for group in self.groups)

    def at_once(self, params: Mapping[str, Scalar], count: int, devices: int) -> int:
        """Return how many of `count` trials in flight to expect in a trial's stack on one of a worker's devices.

        A method that learns may want all of them in one stack; others deal their batch sizes and shapes out alike.
        Where a study has fewer stacks than the worker has devices, several devices share one.
        """
        share = 1.0 if self.spec.learns else self._share(params) / self._shapes
        return self._each(count * share, devices)

    def in_all(self, params: Mapping[str, Scalar], count: int, devices: int) -> int:
        """Return how many of `count` trials to come to expect in a trial's stack on one of a worker's devices.

        Also a method that learns tries several shapes first, and which it comes to like is not known.
        """
        share = 1.0 if self.spec.learns else self._share(params)
        return self._each(count * share / self._shapes, devices)

    def _each(self, count: float, devices: int) -> int:
        stacks = len({group.micro_batch for group in self.groups}) * self._shapes
        return max(1, ceil(count / max(1, devices // stacks)))

    def _share(self, params: Mapping[str, Scalar]) -> float:
        """Return the share of the batch sizes that train with a trial's micro-batch."""
        if self.spec.external:
            return 1.0
        own = Counter(group.micro_batch for group in self._groups.values())
        return own[self.group(params).micro_batch] / own.total()

    @cached_property
    def _groups(self) -> Mapping[int, Group]:
        return {size: group for group in self.groups for size in group.batch_sizes}

    @cached_property
    def _shapes(self) -> int:
        """How many shapes the models of an optimizer's trials can have, at most."""
        return max((prod(map(_count, domains)) for domains in self._shaping), default=1)

    @cached_property
    def _shaping(self) -> list[list[Domain]]:
        """The domains of each family that enter the keys of stacks; families without any are left out."""
        values = {PREFIX + name for name in self.spec.workload.values}
        found = [
            [domain for name, domain in family.domains.items() if name.startswith(PREFIX) and name not in values]
            for family in self.families
        ]
        return [domains for domains in found if domains]

    def _key(self, shape: Mapping[str, Scalar], micro_batch: int) -> str:
        own: list[object] = [self.spec.name] if self.spec.reproducible or self.spec.external else []
        workload = self.spec.workload
        if workload.values:
            own.append({"values": workload.values})
        identity = json.dumps(
            [{"name": workload.name, "params": {**workload.params, **shape}}, micro_batch, *own], sort_keys=True
        )
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


def _count(domain: Domain) -> int:
    """Count the values of a domain."""
    if isinstance(domain, Fixed):
        return 1
    if isinstance(domain, Choices):
        return len(domain.values)
    return int(domain.max - domain.min) + 1 if domain.integer else MANY


def stored(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Return groups as a study's row has them."""
    return [asdict(group) for group in groups]


class Plans:
    """Plans by study id. A document that was changed, by whichever server, has another edition, and is parsed anew."""

    def __init__(self, catalogue: Catalogue | None = None) -> None:
        self._catalogue = catalogue or load_catalogue()
        self._plans: dict[int, tuple[int, Plan]] = {}
        """With the edition that each is of."""

    def made(self, spec: StudySpec, groups: Sequence[Group]) -> Plan:
        """Return the plan of a document that is not stored yet."""
        return Plan(spec, families(spec, self._catalogue), list(groups))

    def keep(self, study_id: int, plan: Plan) -> None:
        """Take over the plan of a study that was just submitted."""
        self._plans[study_id] = 0, plan

    def of(self, study: StudyRecord) -> Plan:
        """Return the plan of a study as its record has it."""
        edition, plan = self._plans.get(study.id, (-1, None))
        if plan is None or edition != study.edition:
            groups = [Group(each["micro_batch"], tuple(each["batch_sizes"])) for each in study.batch_groups]
            plan = self.made(StudySpec.model_validate(study.document), groups)
            if study.edition > edition:  # a reader with an older record leaves the newer one to the others
                self._plans[study.id] = study.edition, plan
        return plan

    def forget(self, study_id: int) -> None:
        """Drop the plan of a deleted study."""
        self._plans.pop(study_id, None)
