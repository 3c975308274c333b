"""What vmap cannot take runs slot by slot, found by a dry run and said in the log."""

import logging

import pytest
import torch
from engine_cases import run_until_idle, small_task, spec
from model_kinds import frozen
from torch import Tensor, nn
from torch.nn.functional import dropout

from tuner.engine import Stack
from tuner.errors import InvalidInput
from tuner.workloads import Task


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(7, 6, batch_first=True)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x[:, None])[0][:, -1])  # type: ignore[no-any-return]


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) if x.sum().item() > 0 else self.linear(-x)  # type: ignore[no-any-return]


class FunctionalDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(dropout(x, 0.5, self.training))  # type: ignore[no-any-return]


MODELS = {"functional dropout": FunctionalDropout, "lstm": Recurrent, "branch": Branching}


@pytest.mark.parametrize("name", MODELS)
def test_models_that_vmap_cannot_take_run_in_a_loop(name: str, caplog: pytest.LogCaptureFixture) -> None:
    base = small_task()
    task = Task(MODELS[name], base.loss, base.train, base.valid)
    with caplog.at_level(logging.WARNING):
        stack = Stack(task, width=2, micro_batch=4)
    assert stack.path == "loop" and stack.program["path"] == "loop"
    assert "runs slot by slot" in caplog.text
    trials = [spec(key, "adamw", lr=1e-2, examples=160, report_every=32) for key in (1, 2)]
    rows, ends = run_until_idle(stack, trials)
    assert [ends[key].outcome for key in (1, 2)] == ["finished", "finished"]
    # The same seed gives the same numbers in both slots, dropout masks and running statistics included.
    assert [(r.step, r.metrics, r.noise) for r in rows[1]] == [(r.step, r.metrics, r.noise) for r in rows[2]]


def test_other_seeds_draw_other_masks() -> None:
    base = small_task()
    task = Task(MODELS["functional dropout"], base.loss, base.train, base.valid)
    state = torch.get_rng_state()
    trials = [spec(key, "sgd", lr=0.0, examples=160, report_every=16) for key in (1, 2)]
    rows, _ = run_until_idle(Stack(task, width=2, micro_batch=16), trials)
    repeated = run_until_idle(Stack(task, width=1, micro_batch=16), trials[:1])[0]
    assert [r.metrics["train_loss"] for r in rows[1]] == [r.metrics["train_loss"] for r in repeated[1]]
    # 97 examples: the second epoch's masks differ from the first's, so equal data would still give unequal losses.
    assert len({r.metrics["train_loss"] for r in rows[1]}) == len(rows[1])
    assert torch.equal(state, torch.get_rng_state())


def test_frozen_parameters_stay(caplog: pytest.LogCaptureFixture) -> None:
    base = small_task()
    stack = Stack(Task(frozen, base.loss, base.train, base.valid), width=1, micro_batch=4)
    assert stack.admit(spec(1, "adamw", lr=0.1, weight_decay=0.5)) == 0
    assert set(stack.parameters(0)) == {"2.weight", "2.bias"}


def test_a_model_without_parameters_is_refused() -> None:
    base = small_task()
    with pytest.raises(InvalidInput, match="no parameters"):
        Stack(Task(nn.Flatten, base.loss, base.train, base.valid), width=1, micro_batch=4)


def test_a_loss_that_is_no_mean_is_refused() -> None:
    base = small_task()
    task = Task(base.model, nn.CrossEntropyLoss(reduction="none"), base.train, base.valid)
    stack = Stack(task, width=1, micro_batch=4)
    _, ends = run_until_idle(stack, [spec(1, "sgd", lr=0.1)])
    assert ends[1].outcome == "error" and "expected one number" in str(ends[1].error)
