"""Workloads with one peculiarity each, for the check-up."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout, mse_loss

import tuner
from tuner.workloads import Task

X = torch.randn(40, 7, generator=torch.Generator().manual_seed(1))
Y = torch.arange(40) % 3


def task(model: Any, loss: Any = cross_entropy, **more: Any) -> Task:
    return Task(model, loss, **{"train": (X, Y), "valid": (X, Y)} | more)


def plain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 3))


class Own(nn.Module):
    """A body and a head, with something more that a test gives."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.out = nn.Linear(7, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.body(x)))  # type: ignore[no-any-return]


class Unused(Own):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Parameter(torch.ones(2))


class FunctionalDropout(Own):
    def forward(self, x: Tensor) -> Tensor:
        return self.out(dropout(self.body(x), 0.5, self.training))  # type: ignore[no-any-return]


class Positions(Own):
    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(3, 7))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.positions.mean(0))


class Experts(Own):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 7))
        self.experts = nn.Parameter(torch.zeros(4, 7, 7))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + torch.einsum("bi,eio->bo", x, self.experts) + self.token[0])


class Untrainable(Own):
    """Works as long as nothing was learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("start", self.out.weight.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        if not torch.equal(self.start, self.out.weight):
            raise RuntimeError("it has learnt something")
        return super().forward(x)


class Recurrent(Own):
    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.GRU(7, 7, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.memory(x[:, None])[0][:, 0])


class HeadFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.body = nn.Linear(6, 3), nn.Linear(7, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(x)))  # type: ignore[no-any-return]


class OnlyOnce(torch.autograd.Function):
    """The identity, without a second derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            raise RuntimeError("no second derivative")
        return gradient


class FirstOrder(Own):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(OnlyOnce.apply(self.body.weight.sum() * 0 + x))


@tuner.workload("check-sound")
def sound(hidden: int = 6) -> Task:
    """Nothing is wrong with it."""
    return task(lambda: nn.Sequential(nn.Linear(7, hidden), nn.Dropout(0.1), nn.Tanh(), nn.Linear(hidden, 3)))


@tuner.workload("check-sum")
def summed() -> Task:
    return task(plain, lambda output, target: cross_entropy(output, target, reduction="sum"))


@tuner.workload("check-foreign")
def foreign() -> Task:
    centre = nn.Linear(3, 2)
    return task(plain, lambda output, target: cross_entropy(output, target) + mse_loss(centre(output), output[:, :2]))


@tuner.workload("check-unused")
def unused() -> Task:
    return task(Unused)


@tuner.workload("check-random")
def random() -> Task:
    return task(FunctionalDropout)


@tuner.workload("check-random-loss")
def random_loss() -> Task:
    return task(plain, lambda output, target: cross_entropy(output + torch.randn_like(output), target))


@tuner.workload("check-draws")
def own_draws() -> Task:
    return task(plain, lambda output, target: cross_entropy(output + tuner.draws.normal_like(output), target))


@tuner.workload("check-positions")
def positions() -> Task:
    return task(Positions)


@tuner.workload("check-positions-told")
def positions_told() -> Task:
    return task(Positions, roles={"positions": "embedding"})


@tuner.workload("check-untrainable")
def untrainable() -> Task:
    return task(Untrainable)


@tuner.workload("check-experts")
def experts() -> Task:
    return task(Experts)


@tuner.workload("check-experts-told")
def experts_told() -> Task:
    return task(Experts, roles={"experts": "matrix"})


@tuner.workload("check-recurrent")
def recurrent() -> Task:
    return task(Recurrent)


@tuner.workload("check-head")
def head() -> Task:
    return task(HeadFirst)


@tuner.workload("check-first-order")
def first_order() -> Task:
    return task(FirstOrder)


@tuner.workload("check-infinite")
def infinite() -> Task:
    return task(plain, lambda output, target: cross_entropy(output, target) / (target * 0).sum())


@tuner.workload("check-batch-norm")
def batch_norm() -> Task:
    return task(lambda: nn.Sequential(nn.Linear(7, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)))


@tuner.workload("check-shapes")
def shapes() -> Task:
    return task(lambda: nn.Sequential(nn.Linear(7, 6), nn.Tanh(), nn.Linear(5, 3)))


@tuner.workload("check-metric")
def metric() -> Task:
    def broken(output: Tensor, target: Tensor) -> Tensor:
        return output.argmax(1) == wanted(target)

    return task(plain, metrics={"accuracy": broken})


def wanted(target: Tensor) -> Tensor:
    raise KeyError("no such class")


@tuner.workload("check-loading")
def loading(directory: str) -> Task:
    return task(plain, train=(torch.load(directory + "/x.pt"), Y))
