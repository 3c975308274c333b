"""One update rule and what the slots that use it have: hyperparameters, pooled state, and the way it is stepped.

A rule object steps all trials that agree in what fixes its program; whatever may differ between them is a row here.
"""

import torch
from torch import Tensor

from tuner.engine.compiled_rows import CompiledRows, compiled_rows
from tuner.engine.elementwise import ElementwiseUpdate, elementwise_update
from tuner.engine.layout import Layout
from tuner.engine.pool import Pool
from tuner.optimizers.rule import ElementwiseRule, Rule


class RuleGroup:
    """One update rule, the hyperparameters [width, H] of the slots that use it, and their pooled state."""

    def __init__(self, rule: Rule, layout: Layout, like: Tensor, compiled: bool) -> None:
        width, device = len(like), like.device
        self.rule = rule
        self.layout = layout
        """Of the parameters as the rule sees them."""
        self.names = [h.name for h in rule.declared() if not h.fixes_program]
        self.slabs = max(len(self.buffer_names(parameter)) for parameter in rule.roles)
        """How many of the stack's slabs it uses, starting from the first."""
        self.table = torch.zeros(width, len(self.names), dtype=torch.float64, device=device)
        self.pool = Pool(rule, layout, device)
        self.elementwise: ElementwiseUpdate | None = None
        """None: the rule is called with copies of the due rows."""
        self.compiled: CompiledRows | None = None
        """Such a call as a compiled program."""
        if isinstance(rule, ElementwiseRule) and rule.treatment is None:
            self.elementwise = elementwise_update(rule, layout, like, compiled)
        elif compiled:
            self.compiled = compiled_rows(rule, layout, self.pool, self.names, like)

    def work_out(self, slot: int, steps: Tensor, lr_factor: Tensor) -> None:
        """Prepare a slot's updates number `steps` [n] (float64), with lr multiplied by `lr_factor` [n]."""
        if self.elementwise is None:
            return
        hp = {name: value.expand(len(steps)) for name, value in zip(self.names, self.table[slot].cpu(), strict=True)}
        hp["lr"] = hp["lr"] * lr_factor
        self.elementwise.work_out(slot, steps, self.rule.own(hp))

    def buffer_names(self, parameter: str) -> tuple[str, ...]:
        """Name the state tensors of a parameter, in the order of the slabs."""
        return self.rule.own_buffers(self.rule.roles[parameter])
