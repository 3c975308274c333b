"""Random numbers in evaluation come from the trial's seed and step: not from what ran before, beside or elsewhere."""

from typing import Any

import pytest
import torch
from engine_cases import run_until_idle, small_task, spec
from torch import Tensor, nn

from tuner.engine import Stack
from tuner.workloads import Task


class Autoencoder(nn.Module):
    """Samples its code in evaluation too, as a variational autoencoder's bound needs."""

    def __init__(self, normed: bool = False) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(7, 4), nn.Linear(2, 7)
        self.norm = nn.BatchNorm1d(2) if normed else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        mean, log_variance = self.encode(x).chunk(2, 1)
        code = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        return torch.cat([self.decode(self.norm(code)), mean, log_variance], 1)


def bound(output: Tensor, x: Tensor) -> Tensor:
    decoded, mean, log_variance = output[:, :7], output[:, 7:9], output[:, 9:]
    divergence = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(1)
    return ((decoded - x).square().sum(1) + divergence).mean()


def sampled(output: Tensor, x: Tensor) -> Tensor:
    """A metric that draws numbers itself."""
    return output[torch.randint(0, len(output), (5,))].mean()


def task(normed: bool = False) -> Task:
    x = small_task().train[0]
    assert isinstance(x, Tensor)
    return Task(lambda: Autoencoder(normed), bound, (x, x), (x[:20], x[:20]), metrics={"sampled": sampled})


def course(stack: Stack, *trials: Any) -> list[Any]:
    rows, _ = run_until_idle(stack, list(trials))
    return [row.metrics for row in rows[1]]


WATCHED = spec(1, "adamw", lr=0.01, examples=160, rungs=(48, 96))


@pytest.mark.parametrize(
    ("normed", "trial"),
    [(False, WATCHED), (True, spec(1, "schedule_free_sgd", lr=0.01, examples=160, rungs=(48, 96)))],
    ids=["a sampled code", "and statistics recomputed at an average"],
)
def test_the_same_trial_gets_the_same_bits(normed: bool, trial: Any) -> None:
    torch.manual_seed(1)
    expected = course(Stack(task(normed), width=3, micro_batch=8), trial)
    torch.manual_seed(2)
    neighbours = spec(0, "sgd", lr=0.1, seed=5, rungs=(16, 32)), spec(2, "sgd", lr=0.1, seed=6)
    assert course(Stack(task(normed), width=3, micro_batch=8), neighbours[0], trial, neighbours[1]) == expected
    assert len({row["valid_loss"] for row in expected}) == 3


def test_a_trial_that_resumes_evaluates_as_if_it_had_never_stopped() -> None:
    expected = course(Stack(task(), width=2, micro_batch=8), WATCHED)
    first, second = (Stack(task(), width=2, micro_batch=8) for _ in range(2))
    slot = first.admit(WATCHED)
    assert slot is not None
    for _ in range(9):
        first.tick()
    torch.rand(3)
    second.restore(1, first.snapshot(slot))
    assert course(second) == expected[-2:]


def test_steps_and_seeds_draw_other_numbers_and_the_processs_generator_is_left_alone() -> None:
    stack = Stack(task(), width=2, micro_batch=8)
    slots = [stack.admit(spec(seed, "sgd", lr=0.0, seed=seed, batch_size=8)) for seed in (1, 2)]
    assert None not in slots
    state = torch.get_rng_state()
    at_once = [stack.evaluate([slot])[0]["valid_sampled"] for slot in (0, 1, 0)]
    assert torch.equal(torch.get_rng_state(), state)
    assert at_once[0] == at_once[2] != at_once[1]
    stack.tick()
    assert stack.evaluate([0])[0]["valid_sampled"] != at_once[0]
