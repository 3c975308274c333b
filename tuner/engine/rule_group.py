"""One update rule and what the slots that use it have: hyperparameters, pooled state, and the way it is stepped.

A rule object steps all trials that agree in what fixes its program; whatever may differ between them is a row here.
"""

import torch
from torch import Tensor

from tuner.engine.applied_rule import AppliedRule
from tuner.engine.compiled_rows import CompiledRows, compiled_rows
from tuner.engine.elementwise import ElementwiseUpdate, elementwise_update
from tuner.engine.pool import Pool
from tuner.optimizers.rule import ElementwiseRule


class RuleGroup:
    """One update rule, the numbers [width, H] of the slots that use it, and their pooled state."""

    def __init__(self, applied: AppliedRule, like: Tensor, compiled: bool) -> None:
        width, device = len(like), like.device
        self.applied = applied
        self.rule = applied.rule
        self.names = applied.names
        self.slabs = applied.slabs
        """How many of the stack's slabs it uses, starting from the first."""
        self.table = torch.zeros(width, len(self.names), dtype=torch.float64, device=device)
        self.pool = Pool(applied, device)
        self.elementwise: ElementwiseUpdate | None = None
        """None: the rule is called with copies of the due rows."""
        self.compiled: CompiledRows | None = None
        """Such a call as a compiled program."""
        rule = self.rule
        if isinstance(rule, ElementwiseRule) and rule.treatment is None and applied.classes is None:
            self.elementwise = elementwise_update(rule, applied.layout, like, compiled)
        elif compiled:
            self.compiled = compiled_rows(applied, self.pool, like)

    def work_out(self, slot: int, steps: Tensor, lr_factor: Tensor) -> None:
        """Prepare a slot's updates number `steps` [n] (float64), with lr multiplied by `lr_factor` [n]."""
        if self.elementwise is None:
            return
        hp = {name: value.expand(len(steps)) for name, value in zip(self.names, self.table[slot].cpu(), strict=True)}
        hp["lr"] = hp["lr"] * lr_factor
        self.elementwise.work_out(slot, steps, self.rule.own(hp))
