"""bfloat16 training passes: near float32, the same bits beside any neighbour, everything kept in float32."""

import pytest
import torch
from engine_cases import run_until_idle, small_task, spec
from test_same_bits import rows_of
from torch import Tensor, nn

from tuner.engine import Stack
from tuner.errors import InvalidInput
from tuner.workloads import Task

WATCHED = spec(100, "adamw", lr=1e-2, batch_size=8, examples=320, seed=3, report_every=8)
CROWD = [
    spec(1, "sgd", lr=1e39, batch_size=4, examples=400, seed=3, divergence_factor=1e30),
    spec(2, "adamw", lr=1e-2, batch_size=12, examples=96, seed=7),
]


class Seen(nn.Module):
    """Notes the type in which its layers compute."""

    kinds: list[torch.dtype] = []  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(7, 9), nn.BatchNorm1d(9), nn.Tanh(), nn.Linear(9, 5))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.inner(x)
        Seen.kinds.append(output.dtype)
        return output


def task_in(precision: str) -> Task:
    base = small_task()
    return Task(Seen, base.loss, base.train, base.valid, base.metrics, precision=precision)


@pytest.mark.parametrize("path", ["eager", "loop"])
def test_bf16_is_isolated_and_near_float32(path: str) -> None:
    """The loss of each of 40 steps: nearer than 5 %, and not the same, since its products are rounded to 8 bits."""
    stack = Stack(task_in("bf16"), width=3, micro_batch=4, path=path)
    assert stack.path == path and stack.program["precision"] == "bf16"
    Seen.kinds.clear()
    found = run_until_idle(stack, [WATCHED])[0][100]
    assert set(Seen.kinds) == {torch.bfloat16, torch.float32} and Seen.kinds[-1] == torch.float32  # the evaluation
    for crowd in ([*CROWD, WATCHED], [CROWD[0], WATCHED, CROWD[1]]):
        assert rows_of(run_until_idle(stack, crowd)[0][100]) == rows_of(found)
    exact = run_until_idle(Stack(task_in("float32"), width=3, micro_batch=4, path=path), [WATCHED])[0][100]
    assert len(found) == len(exact) == 40
    for one, other in zip(found, exact, strict=True):
        assert one.metrics["train_loss"] == pytest.approx(other.metrics["train_loss"], rel=0.05)
    assert rows_of(found) != rows_of(exact)


def test_state_stays_float32() -> None:
    stack = Stack(task_in("bf16"), width=1, micro_batch=4)
    slot = stack.admit(WATCHED)
    assert slot is not None
    for _ in range(5):
        stack.tick()
    assert {tensor.dtype for tensor in stack.weights(slot).values()} == {torch.float32, torch.int64}


def test_tf32_is_a_switch_of_the_gpu_and_float32_turns_it_off() -> None:
    for precision in ("tf32", "float32"):
        stack = Stack(task_in(precision), width=1, micro_batch=4)
        assert torch.backends.cuda.matmul.allow_tf32 == (precision == "tf32")
        assert stack.program.get("precision") == (precision if precision == "tf32" else None)


def test_other_precisions_are_refused() -> None:
    with pytest.raises(InvalidInput, match="'fp8'; allowed are float32, tf32, bf16"):
        task_in("fp8")
