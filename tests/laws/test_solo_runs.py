"""The engine's promise of numbers: in float64 every trial of a stack is the same training alone, to 1e-12.

For every built-in workload, with an independent optimizer (`torch.optim`; a plain loop for the line search), and in
micro-batches, so that batch normalisation sees what it sees in the stack. Compared are the final weights and buffers,
the validation loss and the noise sums of all steps, with admissions, evictions and NaN slots in between.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from built_in_tasks import LR, NAMES, sort, task_of
from line_search import SHRINK, SLOPE, TRIES, Backtracking, register
from oracles_torch import polar_by_newton_schulz
from torch import Tensor, nn

from tuner.engine import Ended, Row, Stack, TrialSpec
from tuner.engine.data_order import DataOrder
from tuner.engine.seeds import INITIALISATION, derive
from tuner.noise.sums import NoiseSums
from tuner.optimizers.roles import infer_roles
from tuner.workloads import Task

MICRO_BATCH = 4
STEPS = {"digits-autoencoder": 30, "digits-cnn": 20, "mlp-images": 25, "resnet-images": 6, "text-gpt": 12}
ALL_STEPS = 80
"""Where a step is cheap, which is everywhere else."""
SEARCHES = 10
"""A line search takes eight times a step's work, so it makes fewer."""
EPS = 1e-3
"""Some gradients are zero but for rounding (the bias of attention's keys): a small eps would make steps of them."""


@pytest.fixture(autouse=True, scope="module")
def oracles() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as monkeypatch:
        register(monkeypatch, Backtracking)
        monkeypatch.setattr(torch.optim._muon, "_zeropower_via_newtonschulz", polar_by_newton_schulz)
        yield
    torch.set_num_threads(before)


def trials(name: str) -> list[TrialSpec]:
    """Steps of 1, 2 and 3 micro-batches."""
    lr, steps = LR.get(name, 0.05), STEPS.get(name, ALL_STEPS)
    chosen: list[tuple[int, int, dict[str, Any]]] = [
        (2, steps, {"optimizer": "momentum", "lr": lr / 4, "momentum": 0.8, "weight_decay": 1e-3}),
        (1, steps, {"optimizer": "adamw", "lr": 1e-3, "beta2": 0.99, "weight_decay": 0.1, "eps": EPS}),
        (3, steps, {"optimizer": "muon", "lr": 2e-3, "weight_decay": 0.1, "eps": EPS}),
        (2, min(steps, SEARCHES), {"optimizer": Backtracking.name, "lr": 64 * lr}),
    ]
    return [
        TrialSpec(key, {**params, "batch_size": k * MICRO_BATCH}, key, n * k * MICRO_BATCH, (), 10**9, 1e9)
        for key, (k, n, params) in enumerate(chosen)
    ]


@dataclass
class Alone:
    """One model and the sums of its steps."""

    task: Task
    model: nn.Module
    spec: TrialSpec
    order: DataOrder
    noise: NoiseSums = field(default_factory=NoiseSums)

    @classmethod
    def of(cls, task: Task, spec: TrialSpec) -> "Alone":
        model = task.build_model(derive(spec.seed, INITIALISATION)).double().train()
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        return cls(task, model, spec, DataOrder(spec.seed, task.examples))

    def losses(self, step: int) -> Iterator[Tensor]:
        """Yield the loss of each micro-batch of a step."""
        for start in range(step * self.spec.batch_size, (step + 1) * self.spec.batch_size, MICRO_BATCH):
            index = torch.from_numpy(self.order.take(start, MICRO_BATCH))
            inputs, *targets = (as_double(item[index]) for item in self.task.train)
            yield self.task.loss(self.model(inputs), *targets)

    def collect(self, step: int) -> None:
        """Leave the step's mean gradient in `grad`."""
        params, count = list(self.model.parameters()), self.spec.batch_size // MICRO_BATCH
        small = 0.0
        for p in params:
            p.grad.zero_()  # type: ignore[union-attr]
        for loss in self.losses(step):
            for p, g in zip(params, torch.autograd.grad(loss, params), strict=True):
                p.grad += g / count  # type: ignore[operator]
                small += float((g * g).sum()) / count
        if count > 1:
            big = sum(float((p.grad * p.grad).sum()) for p in params)  # type: ignore[operator]
            self.noise += NoiseSums.of_step(small, big, MICRO_BATCH, count)

    @torch.no_grad()
    def loss_again(self, step: int) -> float:
        """Return the mean loss of the step's examples; buffers stay as they are."""
        kept = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        found = [float(loss) for loss in self.losses(step)]
        for name, buffer in self.model.named_buffers():
            buffer.copy_(kept[name])
        return sum(found) / len(found)

    @torch.no_grad()
    def search(self, step: int) -> None:
        """Make one step of the backtracking line search."""
        start = [(p, p.clone(), p.grad) for p in self.model.parameters()]
        first, slope = self.loss_again(step), sum(float((p.grad**2).sum()) for p in self.model.parameters())  # type: ignore[operator]
        size = float(self.spec.params["lr"])
        for _ in range(TRIES):
            for p, value, grad in start:
                p.copy_(value - size * grad)  # type: ignore[operator]
            if self.loss_again(step) <= first - SLOPE * size * slope:
                return
            size *= SHRINK
        for p, value, grad in start:
            p.copy_(value - size * grad)  # type: ignore[operator]

    def train(self) -> None:
        """Train to the end."""
        step_with = stepper(self)
        for step in range(self.spec.total_steps):
            self.collect(step)
            step_with(step)
        self.model.eval()


def stepper(alone: Alone) -> Callable[[int], None]:
    """Return what makes step number t from the gradients."""
    params = dict(alone.spec.params)
    name, own = str(params.pop("optimizer")), alone.model
    params.pop("batch_size")
    if name == Backtracking.name:
        return alone.search
    optimizers: list[torch.optim.Optimizer] = []
    if name == "momentum":
        optimizers.append(torch.optim.SGD(own.parameters(), **params))  # type: ignore[arg-type]
    elif name == "adamw":
        betas = (0.9, params.pop("beta2"))
        optimizers.append(torch.optim.AdamW(own.parameters(), betas=betas, **params))  # type: ignore[arg-type]
    else:
        optimizers += muon(own, float(params["lr"]), float(params["weight_decay"]))
    return lambda _: [optimizer.step() for optimizer in optimizers] and None


def muon(model: nn.Module, lr: float, decay: float) -> list[torch.optim.Optimizer]:
    """Torch's Muon for matrices and convolutions (flattened views of them: it takes 2-D ones alone), AdamW beside."""
    roles, flat, rest = infer_roles(model), [], []
    for name, p in model.named_parameters():
        if roles[name] not in ("matrix", "convolution"):
            rest.append(p)
            continue
        leaf = p.detach().flatten(1)
        leaf.grad = p.grad.flatten(1)  # type: ignore[union-attr]
        flat.append(leaf)
    optimizers: list[torch.optim.Optimizer] = []
    if flat:
        optimizers.append(torch.optim.Muon(flat, lr=lr, weight_decay=decay))
    if rest:
        optimizers.append(torch.optim.AdamW(rest, lr=0.3 * lr, betas=(0.9, 0.95), eps=EPS, weight_decay=decay))
    return optimizers


def as_double(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value


def stacked(task: Task, waiting: list[TrialSpec]) -> tuple[dict[Any, list[Row]], dict[Any, Ended]]:
    """Train in three slots, refilled as they become free; one neighbour after another overflows or is evicted."""
    stack = Stack(task, width=3, micro_batch=MICRO_BATCH, dtype=torch.float64)
    stack.keep_weights = True
    rows: dict[Any, list[Row]] = {}
    ends: dict[Any, Ended] = {}
    queue, wanted, tick = list(waiting), {spec.key for spec in waiting}, 0
    while not wanted <= ends.keys():
        tick += 1
        slot = stack.slot_of("guest")
        if slot is not None and tick % 5 == 0:
            stack.evict(slot)
        elif stack.free and tick % 7 == 0 and slot is None:
            params = {"optimizer": "adamw", "lr": 1e200 if tick % 2 else 1e-3, "batch_size": 2 * MICRO_BATCH}
            stack.admit(TrialSpec("guest", params, tick, 10**6, divergence_factor=1e300))
        while queue and stack.free:
            stack.admit(queue.pop(0))
        sort(stack.tick(), rows, ends)
    return rows, ends


@pytest.mark.parametrize("name", NAMES)
def test_a_trial_of_the_stack_is_the_same_training_alone(name: str) -> None:
    task = task_of(name)
    rows, ends = stacked(task, trials(name))
    for spec in trials(name):
        alone = Alone.of(task, spec)
        start = {key: value.clone() for key, value in alone.model.state_dict().items()}
        alone.train()
        end, expected = ends[spec.key], alone.model.state_dict()
        assert (end.outcome, end.infeasible, end.step) == ("finished", None, spec.total_steps)
        assert end.weights is not None and set(end.weights) == set(expected)
        for key, value in end.weights.items():
            torch.testing.assert_close(value, expected[key], rtol=1e-12, atol=1e-12, msg=f"{spec.params} {key}")
        assert any(not torch.equal(start[key], expected[key]) for key, _ in alone.model.named_parameters())
        inputs, *targets = (as_double(item) for item in task.valid)
        with torch.no_grad():
            loss = float(task.loss(alone.model(inputs), *targets))
        (last,) = rows[spec.key]
        assert last.metrics["valid_loss"] == pytest.approx(loss, rel=1e-11, abs=1e-13)
        found = NoiseSums() if last.noise is None else last.noise
        scale = max(abs(value) for value in alone.noise.values)
        assert found.values == pytest.approx(alone.noise.values, rel=1e-9, abs=1e-12 * scale)
        assert found.n == (spec.total_steps if spec.batch_size > MICRO_BATCH else 0)
