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

from tuner.engine.applied_rule import AppliedRule
from tuner.engine.machine.out_of_memory import is_out_of_memory
from tuner.engine.paths.compiled import compile_once, first_call
from tuner.engine.pool import Pool
from tuner.engine.slots import Ints
from tuner.errors import InvalidInput
from tuner.optimizers.maths.matrix_product import threads
from tuner.optimizers.rule import State

log = logging.getLogger(__name__)

ROWS = 8
"""Most rows of a program."""


class CompiledRows:
    """One rule's step over `size` rows."""

    def __init__(self, applied: AppliedRule, pool: Pool, like: Tensor) -> None:
        """`like` is the buffer [width, P] of the parameters.

        Raises whatever the compiler raises, and `InvalidInput` where rows are not independent.
        """
        self.size = min(ROWS, len(like))
        real, rule, names = applied.layout.real.to(like.device), applied.rule, applied.names

        def step(
            params: Tensor, sums: Tensor, counts: Tensor, steps: Tensor, table: Tensor, slabs: tuple[Tensor, ...],
            pooled: tuple[Tensor, ...],
        ) -> None:  # fmt: skip
            state = State(steps, (1,) * len(params))
            applied.fill_buffers(state, slabs)
            for rows in pooled:
                pool.show(rows, state)
            hp = dict(zip(names, table.unbind(1), strict=True))
            applied.step(applied.views(sums / counts[:, None]), applied.views(params), state, hp)
            if rule.elementwise:
                for whole in (params, *slabs):
                    whole.copy_(torch.where(real, whole, 0.0))

        torch.compiler.assume_constant_result(threads)  # type: ignore[no-untyped-call]
        self._program = compile_once(step)
        self._try_out(applied, pool, like)

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

        `steps` [size] are the updates done; `table` [size, H] holds the rule's numbers (`AppliedRule.names`), lr with
        the schedule's factor, both float64; `pooled` are the rows of the rule's pool, if it has one.
        """
        with torch.no_grad():
            self._program(params, sums, counts, steps, table, tuple(slabs), () if pooled is None else (pooled,))

    def _try_out(self, applied: AppliedRule, pool: Pool, like: Tensor) -> None:
        generator = torch.Generator().manual_seed(0)
        real = applied.layout.real.to(like.dtype)

        def equal_rows() -> Tensor:
            row = torch.randn(like.shape[1], generator=generator, dtype=like.dtype) * real
            return row.to(like.device).expand(self.size, -1).clone()

        values = [float(applied.defaults[name]) for name in applied.names]
        table = torch.tensor([values] * self.size, dtype=torch.float64, device=like.device)
        slabs = [equal_rows().abs_() for _ in range(applied.slabs)]
        pooled = torch.ones(self.size, pool.size, dtype=like.dtype, device=like.device) if pool.size else None
        params, sums = equal_rows(), equal_rows()
        steps = torch.ones(self.size, dtype=torch.float64, device=like.device)
        with first_call():
            self.run(params, sums, torch.ones_like(params[:, 0]), steps, table, slabs, pooled)
        for rows in (params, *slabs, *(() if pooled is None else (pooled,))):
            if not torch.equal(rows.nan_to_num(), rows[:1].expand_as(rows).nan_to_num()):
                raise InvalidInput("its numbers depend on the row")


def compiled_rows(applied: AppliedRule, pool: Pool, like: Tensor) -> CompiledRows | None:
    """Compile a rule's step; None where that does not pay or cannot be, and, with a line in the log, where it fails.

    Classes of parameters do not pay: each is code of its own, which takes many times as long to compile.
    """
    rule = applied.rule
    if applied.classes is not None or rule.needs_loss or rule.periodic or like.device.type != "cpu":
        return None
    try:
        return CompiledRows(applied, pool, like)
    except Exception as error:  # the compiler fails with many kinds of error
        if is_out_of_memory(error):
            raise
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        log.info("a rule is not compiled", extra={"action": "rule", "rule": rule.name, "reason": reason})
        return None
