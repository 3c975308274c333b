"""An update rule applied to rows [n, P]: as which tensors it sees them, and which numbers per trial it takes.

Elementwise rules see a row as one tensor. Where some parameters have factors of lr or weight decay of their own, they
see it as one tensor for each run of neighbours with equal factors, and every rule is stepped class by class.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from tuner.engine.layout import Layout
from tuner.optimizers.by_class import Classes
from tuner.optimizers.members import stacks_of, told_apart
from tuner.optimizers.rule import Evaluate, Role, Rule, State, Tensors
from tuner.study.hyperparameter import Scalar
from tuner.study.parameter_groups import Partition

FLAT = "flat"
"""The name under which elementwise rules get all parameters as one tensor [n, P]."""


class AppliedRule:
    """One rule and the places of the parameters as it sees them."""

    def __init__(self, rule: Rule, layout: Layout, roles: Mapping[str, Role], partition: Partition | None) -> None:
        """`layout` and `roles` are those of the model's parameters; the rule gets its own. None: no factors."""
        self.rule = rule
        self.layout = layout
        """Of what the rule sees; of the model's parameters where it sees all as one."""
        self.classes: Classes | None = None
        self._whole = rule.elementwise and partition is None
        stacks: dict[str, int] = {}
        if rule.elementwise:
            rule.roles = {FLAT: "vector"}
            if partition is not None:
                self.layout, runs = layout.runs(partition.of)
                rule.roles, self.classes = dict.fromkeys(runs, "vector"), Classes(runs, len(partition))
            return
        if rule.sees_matrices:
            shapes = {place.name: place.shape for place in layout.places}
            stacks = {name: shapes[name][0] for name in stacks_of(roles, shapes)}
            self.layout, rule.roles = layout.apart(stacks), told_apart(roles, stacks)
        if partition is not None:
            self.classes = Classes.of_partition(partition, stacks)

    @property
    def names(self) -> list[str]:
        """The numbers per trial that it takes: hyperparameters, then the factors of each class."""
        own = [h.name for h in self.rule.declared() if not h.fixes_program]
        return own if self.classes is None else [*own, *self.classes.columns()]

    @property
    def defaults(self) -> dict[str, Scalar]:
        """One legal number for each of `names`."""
        return {name: 1.0 for name in self.names} | {h.name: h.default for h in self.rule.declared()}

    @property
    def slabs(self) -> int:
        """How many of the stack's slabs it uses, starting from the first."""
        return max(len(self.rule.own_buffers(role)) for role in self.rule.roles.values())

    def trial_state(self) -> dict[str, tuple[int, ...]]:
        """Return the state of a whole trial: name -> shape without the trial axis."""
        shapes = {place.name: place.shape for place in self.layout.places}
        return self.rule.trial_state(shapes) if self.classes is None else self.classes.trial_state(self.rule, shapes)

    def views(self, rows: Tensor) -> Tensors:
        """Return rows [n, P] as the rule sees them."""
        return {FLAT: rows} if self._whole else self.layout.views(rows)

    def flat(self, values: Tensors) -> Tensor:
        """Return what `views` returns, or a rule made of it, as rows [n, P]."""
        return values[FLAT] if self._whole else self.layout.flat(values)

    def fill_buffers(self, state: State, slabs: Sequence[Tensor]) -> None:
        """Make `state` refer to the parts of slabs [n, P] as the buffers of each parameter."""
        views = [self.views(slab) for slab in slabs]
        for parameter, role in self.rule.roles.items():
            for slab, name in zip(views, self.rule.own_buffers(role), strict=False):
                state.buffers.setdefault(name, {})[parameter] = slab[parameter]

    def step(
        self, grads: Tensors, params: Tensors, state: State, hp: Mapping[str, Tensor], evaluate: Evaluate | None = None
    ) -> None:
        """Apply one step in place, see `Rule.step`; `hp` has all of `names`."""
        if self.classes is None:
            self.rule.step(grads, params, state, hp, evaluate)
        else:
            self.classes.step(self.rule, grads, params, state, hp)

    def clear_padding(self, rows: Sequence[Tensor], padding: Tensor) -> None:
        """Set the padding of rows [n, P], its places `padding`, to zero where the rule has stepped it too."""
        if self.rule.elementwise:
            for row in rows:
                row.index_fill_(1, padding, 0.0)
