"""A frozen base with adapters of low rank, as users write them, and what trains one alone."""

import copy
from collections.abc import Callable
from itertools import pairwise

import torch
from engine_cases import batches, solo_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tuner.engine import TrialSpec
from tuner.workloads import Task

INPUTS, CLASSES = 7, 5


class Adapted(nn.Module):
    """A layer that is kept, plus the product of two small matrices (Hu et al. 2021)."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, base.in_features) / rank)
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.down.T @ self.up.T  # type: ignore[no-any-return]


def base_of(*sizes: int, seed: int = 0) -> list[nn.Linear]:
    """Layers of a pretrained network: the same whenever asked."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return [nn.Linear(one, other) for one, other in pairwise(sizes)]


def adapted(base: list[nn.Linear], rank: int) -> nn.Module:
    layers = [part for layer in base for part in (Adapted(layer, rank), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(base[-1].out_features, CLASSES))


def task_with(model: Callable[[], nn.Module] | nn.Module, inputs: int = INPUTS, examples: int = 96) -> Task:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(examples, inputs, generator=generator)
    y = torch.randint(0, CLASSES, (examples,), generator=generator)
    return Task(model, cross_entropy, (x, y), (x[:20], y[:20]))


def lora_task(*sizes: int, rank: int = 2, seed: int = 0) -> Task:
    """A base, and adapters with weights of each trial's own."""
    base = base_of(INPUTS, *sizes, seed=seed)
    return task_with(lambda: adapted(copy.deepcopy(base), rank))


def solo(task: Task, trial: TrialSpec, steps: int) -> nn.Module:
    """Train the workload's own module with torch's AdamW, in float64."""
    model = solo_model(task, trial.seed, torch.float64).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=float(trial.params["lr"]), weight_decay=0.01)
    for x, y in batches(task, trial.seed, trial.batch_size, torch.float64, steps):
        optimizer.zero_grad()
        task.loss_of(model(x), (y,)).backward()
        optimizer.step()
    return model
