"""The step of a rule that is not a plain elementwise one, compiled: for a fixed number of rows at a time.

Matrix rules, treated ones and averages cost some hundred small operations per step, which a compiled program makes few.
The due rows are gathered as in the uncompiled step, and padded by repeating one of them. Invariants:

- A trial's first step is uncompiled: rules may look at the count of steps to begin, and programs see no counts.
- A row's bits do not depend on the others: tried out when it is built, with equal rows.
"""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tuner.engine.layout import Layout
from tuner.engine.machine.out_of_memory import is_out_of_memory
from tuner.engine.paths.compiled import compile_once, first_call
from tuner.engine.pool import Pool
from tuner.engine.slots import Ints
from tuner.errors import InvalidInput
from tuner.optimizers.maths.matrix_product import threads
from tuner.optimizers.rule import Rule, State, Tensors

log = logging.getLogger(__name__)

ROWS = 8
"""Most rows of a program."""
FLAT = "flat"
"""The name under which elementwise rules get all parameters as one tensor [n, P]."""


class CompiledRows:
    """One rule's step over `size` rows."""

    def __init__(self, rule: Rule, layout: Layout, pool: Pool, names: Sequence[str], like: Tensor) -> None:
        """`like` is the buffer [width, P] of the parameters; `names` are those of the hyperparameters' columns.

        Raises whatever the compiler raises, and `InvalidInput` where rows are not independent.
        """
        self.size = min(ROWS, len(like))
        real = layout.real.to(like.device)

        def step(
            params: Tensor, sums: Tensor, counts: Tensor, steps: Tensor, table: Tensor, slabs: tuple[Tensor, ...],
            pooled: tuple[Tensor, ...],
        ) -> None:  # fmt: skip
            views = flat_view if rule.elementwise else layout.views
            state = State(steps, (1,) * len(params))
            fill_buffers(state, rule, [views(slab) for slab in slabs])
            for rows in pooled:
                pool.show(rows, state)
            hp = dict(zip(names, table.unbind(1), strict=True))
            rule.step(views(sums / counts[:, None]), views(params), state, hp)
            if rule.elementwise:
                for whole in (params, *slabs):
                    whole.copy_(torch.where(real, whole, 0.0))

        torch.compiler.assume_constant_result(threads)  # type: ignore[no-untyped-call]
        self._program = compile_once(step)
        self._try_out(rule, layout, pool, names, like)

    def padded(self, due: Ints) -> Ints:
        """Return at most `size` slots as exactly so many, the first one repeated."""
        return np.concatenate([due, np.repeat(due[:1], self.size - len(due))])

    def run(
        self,
        params: Tensor,
        sums: Tensor,
        counts: Tensor,
        steps: Tensor,
        table: Tensor,
        slabs: Sequence[Tensor],
        pooled: Tensor | None,
    ) -> None:
        """Step rows [size, P] in place with the mean sums / counts.

        `steps` [size] are the updates done; `table` [size, H] holds the hyperparameters, lr with the schedule's factor,
        both float64; `pooled` are the rows of the rule's pool, if it has one.
        """
        with torch.no_grad():
            self._program(params, sums, counts, steps, table, tuple(slabs), () if pooled is None else (pooled,))

    def _try_out(self, rule: Rule, layout: Layout, pool: Pool, names: Sequence[str], like: Tensor) -> None:
        generator = torch.Generator().manual_seed(0)
        real = layout.real.to(like.dtype)

        def equal_rows() -> Tensor:
            row = torch.randn(like.shape[1], generator=generator, dtype=like.dtype) * real
            return row.to(like.device).expand(self.size, -1).clone()

        values = {h.name: float(h.default) for h in rule.declared() if not h.fixes_program}
        table = torch.tensor([[values[name] for name in names]] * self.size, dtype=torch.float64, device=like.device)
        slabs = [equal_rows().abs_() for _ in range(max(len(rule.own_buffers(role)) for role in rule.roles.values()))]
        pooled = torch.ones(self.size, pool.size, dtype=like.dtype, device=like.device) if pool.size else None
        params, sums = equal_rows(), equal_rows()
        steps = torch.ones(self.size, dtype=torch.float64, device=like.device)
        with first_call():
            self.run(params, sums, torch.ones_like(params[:, 0]), steps, table, slabs, pooled)
        for rows in (params, *slabs, *(() if pooled is None else (pooled,))):
            if not torch.equal(rows.nan_to_num(), rows[:1].expand_as(rows).nan_to_num()):
                raise InvalidInput("its numbers depend on the row")


def compiled_rows(rule: Rule, layout: Layout, pool: Pool, names: Sequence[str], like: Tensor) -> CompiledRows | None:
    """Compile a rule's step; None, and one line in the log, where that fails or cannot be."""
    if rule.needs_loss or rule.periodic or like.device.type != "cpu":
        return None
    try:
        return CompiledRows(rule, layout, pool, names, like)
    except Exception as error:  # the compiler fails with many kinds of error
        if is_out_of_memory(error):
            raise
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        log.info("a rule is not compiled", extra={"action": "rule", "rule": rule.name, "reason": reason})
        return None


def flat_view(rows: Tensor) -> Tensors:
    """Return all parameters as one."""
    return {FLAT: rows}


def fill_buffers(state: State, rule: Rule, slabs: Sequence[Tensors]) -> None:
    """Make `state` refer to the slabs' parts as the buffers of each parameter."""
    for parameter, role in rule.roles.items():
        for slab, name in zip(slabs, rule.own_buffers(role), strict=False):
            state.buffers.setdefault(name, {})[parameter] = slab[parameter]
