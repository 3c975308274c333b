"""One update as Python source: the function `update(loss_of, batch)`, as a trial of the stack makes it.

`loss_of(batch)` is the model's mean loss on a batch, a tuple of tensors. A step of a rule that needs the loss again,
mixed precision, micro-batches (only where the loss depends on which examples share one), clipping, and the schedule's
step are written where they belong.
"""

from collections.abc import Mapping

from tuner.handover.optimizer_code import OptimizerCode
from tuner.study.hyperparameter import OptimizerInfo, Scalar

Program = Mapping[str, Scalar | None]


def update_code(
    info: OptimizerInfo, optimizer: OptimizerCode, program: Program, batch_size: Scalar, scheduled: bool
) -> list[str]:
    """Write the function's lines."""
    parts = _micro_batch(program)
    body = [
        "def update(loss_of, batch):",
        f'    """Make one update with {batch_size} examples; loss_of(batch) is the mean loss of the model on them."""',
    ]
    if info.needs_loss:
        lines = _gradient(program, parts, backward=not info.needs_curvature)
        closed = ["def closure():", *(f"    {line}" for line in [*lines, "return loss"])]
        body += [f"    {line}" if line else "" for line in ["", *closed, "", "loss = optimizer.step(closure)"]]
    else:
        lines = [*_gradient(program, parts, backward=True), *_clipping(optimizer), "optimizer.step()"]
        body += [f"    {line}" for line in lines]
    return [*body, *["    scheduler.step()"] * scheduled, "    return loss.detach()"]


def _micro_batch(program: Program) -> Scalar | None:
    """Return the examples that share a micro-batch, where that is part of what is trained."""
    size = program.get("micro_batch")
    return size if program.get("batch_dependent") and size != "whole" else None


def _gradient(program: Program, parts: Scalar | None, *, backward: bool) -> list[str]:
    """Write the mean loss and its gradient."""
    autocast = "with torch.autocast(batch[0].device.type, torch.bfloat16):"
    rounded = program.get("precision") == "bf16"

    def loss(text: str, of: str) -> list[str]:
        line = f"{text} = loss_of({of})"
        return [autocast, f"    {line}"] if rounded else [line]

    if parts is None:
        return ["optimizer.zero_grad()", *loss("loss", "batch"), *["loss.backward()"] * backward]
    each = [
        *loss("part_loss", "part"),
        *["(part_loss / len(parts)).backward()"] * backward,
        f"loss = loss + part_loss{'.detach()' if backward else ''} / len(parts)",
    ]
    return [
        "optimizer.zero_grad()",
        f"parts = list(zip(*(tensor.split({parts}) for tensor in batch)))  # the loss depends on what shares a batch",
        "loss = 0",
        "for part in parts:",
        *(f"    {line}" for line in each),
    ]


def _clipping(optimizer: OptimizerCode) -> list[str]:
    lines = []
    if optimizer.clip_value:
        lines.append(f"torch.nn.utils.clip_grad_value_(model.parameters(), {optimizer.clip_value!r})")
    if optimizer.clip_norm:
        lines.append(f"torch.nn.utils.clip_grad_norm_(model.parameters(), {optimizer.clip_norm!r})")
    return lines
