"""One update rule and what the slots that use it have: hyperparameters, pooled state and, compiled, scalars in advance.

A rule object steps all trials that agree in what fixes its program; whatever may differ between them is a row here.
"""

import torch
from torch import Tensor

from tuner.engine.layout import Layout
from tuner.engine.paths.compiled import MaskedUpdate
from tuner.engine.pool import Pool
from tuner.optimizers.rule import ElementwiseRule, Rule

LR_CHUNK = 512
"""Steps of a schedule, and of a rule's scalars, computed at once."""
MASKED_BYTES = 2**22
"""Up to this buffer size [width, P] one pass covers all rows in any case: a call per row costs more."""


class RuleGroup:
    """One update rule, the hyperparameters [width, H] of the slots that use it, and their pooled state."""

    def __init__(self, rule: Rule, layout: Layout, like: Tensor, compiled: bool) -> None:
        width, device = len(like), like.device
        self.rule = rule
        self.names = [h.name for h in rule.declared() if not h.fixes_program]
        self.slabs = max(len(self.buffer_names(parameter)) for parameter in rule.roles)
        """How many of the stack's slabs it uses, starting from the first."""
        self.table = torch.zeros(width, len(self.names), dtype=torch.float64, device=device)
        self.pool = Pool(rule, layout, device)
        self.masked: MaskedUpdate | None = None
        if compiled and isinstance(rule, ElementwiseRule) and rule.treatment is None:
            self.masked = MaskedUpdate(rule, like, layout.real)
        self.single: MaskedUpdate | None = None
        """The same for one row, for long rows."""
        if self.masked is not None:
            self.single = MaskedUpdate(self.masked.rule, like[:1], layout.real) if like.nbytes > MASKED_BYTES else None
            shape = (width, LR_CHUNK, len(self.masked.scalar_names))
            self.scalars = torch.zeros(shape, dtype=like.dtype, device=device)
            """Scalars of each slot's next steps, in the parameters' type."""

    def work_out(self, slot: int, steps: Tensor, lr_factor: Tensor) -> None:
        """Fill the slot's scalars for updates number `steps` [n] (float64), with lr multiplied by `lr_factor` [n]."""
        assert self.masked is not None
        hp = {name: value.expand(len(steps)) for name, value in zip(self.names, self.table[slot].cpu(), strict=True)}
        hp["lr"] = hp["lr"] * lr_factor
        found = self.masked.rule.scalars(steps, self.rule.own(hp))
        columns = torch.stack([found[name] for name in self.masked.scalar_names], 1)
        self.scalars[slot, : len(steps)].copy_(columns)

    def buffer_names(self, parameter: str) -> tuple[str, ...]:
        """Name the state tensors of a parameter, in the order of the slabs."""
        return self.rule.own_buffers(self.rule.roles[parameter])
