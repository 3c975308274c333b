"""Validation in chunks: cut by the memory of the outputs, and right for every kind of metric."""

import gc
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from engine_cases import run_until_idle, small_task, spec
from input_kinds import task_of
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from tuner.engine import Stack
from tuner.engine.paths import scores
from tuner.engine.paths.outputs import outputs_of, weighted_mean
from tuner.workloads import Task


class MeanOf:
    """Torchmetrics' protocol: the share of right answers."""

    made = 0

    def __init__(self) -> None:
        type(self).made += 1
        self.right, self.count, self.parts = torch.tensor(0.0, dtype=torch.float64), 0, 0

    def update(self, output: Tensor, target: Tensor) -> None:
        assert not output.requires_grad
        self.right = self.right + (output.argmax(1) == target).double().sum()
        self.count += len(target)
        self.parts += 1

    def compute(self) -> Tensor:
        return self.right / self.count

    def reset(self) -> None:
        self.right, self.count, self.parts = torch.zeros_like(self.right), 0, 0


def area_under_curve(output: Tensor, target: Tensor) -> Tensor:
    """How often an example of class 0 has the higher output for it: no mean over examples, so no mean over chunks."""
    own, other = output[target == 0, 0], output[target != 0, 0]
    return (own[:, None] > other[None]).double().mean()


def task(**metrics: Any) -> Task:
    base = small_task()
    return replace(base, valid=base.train, metrics={"auc": area_under_curve, **metrics})


def evaluated(task: Task) -> dict[str, float]:
    stack = Stack(task, width=1, micro_batch=4)
    stack.admit(spec(1, "sgd", lr=0.1))
    for _ in range(4):
        stack.tick()
    return stack.evaluate([0])[0]


def test_chunks_change_no_metric_and_the_loss_by_rounding_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """97 examples in chunks of 10: the last one is ragged."""
    given = {"object": MeanOf(), "class": MeanOf, "function": lambda: MeanOf()}
    whole = evaluated(task(**given))
    monkeypatch.setattr(scores, "OUTPUT_BYTES", 10 * 5 * 4 + 3)
    stack = Stack(task(**given), width=1, micro_batch=4)
    assert (stack._evaluation._scores.chunk, stack._evaluation._scores.whole) == (10, False)
    chunked = evaluated(task(**given))
    assert chunked["valid_auc"] == whole["valid_auc"]
    for name in given:
        assert chunked[f"valid_{name}"] == whole[f"valid_{name}"] == evaluated(small_accuracy())["valid_accuracy"]
    assert chunked["valid_loss"] == pytest.approx(whole["valid_loss"], rel=1e-6)


def small_accuracy() -> Task:
    base = small_task()
    return replace(base, valid=base.train)


def test_the_same_numbers_come_out_of_one_piece_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs that fit are joined: the loss is that of all examples at once, however the model is called."""
    whole = evaluated(task())
    monkeypatch.setattr(scores, "CHUNK", 16)
    assert evaluated(task()) == whole


def test_a_streaming_metric_is_fresh_in_every_evaluation_and_the_given_one_is_never_touched() -> None:
    given = MeanOf()
    rows, _ = run_until_idle(
        Stack(task(mine=given), width=2, micro_batch=4),
        [spec(key, "sgd", lr=0.1, seed=key, rungs=(100, 200)) for key in range(2)],
    )
    assert given.count == 0
    alone, _ = run_until_idle(
        Stack(task(mine=given), width=2, micro_batch=4), [spec(1, "sgd", lr=0.1, seed=1, rungs=(100, 200))]
    )
    assert [row.metrics for row in rows[1]] == [row.metrics for row in alone[1]]


class Vocabulary(nn.Module):
    """A language model whose logits are large."""

    def __init__(self, words: int, hidden: bool) -> None:
        super().__init__()
        self.embed, self.head, self.hidden = nn.Embedding(words, 2), nn.Linear(2, words), hidden

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.head(self.embed(input_ids))
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return {"loss": loss} if self.hidden else {"loss": loss, "logits": logits}


@pytest.mark.parametrize("hidden", [False, True], ids=["logits in the output", "logits kept inside"])
def test_a_vocabulary_of_50_000_words_is_evaluated_a_few_windows_at_a_time(hidden: bool) -> None:
    """128 tokens: 25.6 MB of logits per example."""
    ids = torch.randint(0, 50_000, (16, 128), generator=torch.Generator().manual_seed(0))
    data = {"input_ids": ids, "labels": ids}
    stack = Stack(Task(lambda: Vocabulary(50_000, hidden), None, data, data), width=1, micro_batch=1, path="loop")
    assert stack._evaluation._scores.chunk == scores.OUTPUT_BYTES // (128 * 50_000 * 4) == 5
    stack.admit(spec(1, "sgd", lr=0.1))
    found = stack.evaluate([0])[0]["valid_loss"]
    model = Vocabulary(50_000, hidden)
    model.load_state_dict(stack.weights(0))
    with torch.no_grad():
        assert found == pytest.approx(
            float(sum(model(part, part)["loss"] * len(part) for part in ids.split(4)) / 16), rel=1e-5
        )
    del stack, model
    gc.collect()


def test_outputs_of_parts_are_joined_along_the_dim_that_counts_examples() -> None:
    @dataclass
    class Output:
        first: Tensor
        state: tuple[Tensor, Tensor]
        loss: Tensor
        name: str

    lstm = nn.LSTM(3, 4, num_layers=2, batch_first=True)
    x = torch.randn(7, 5, 3)

    def run(part: Tensor) -> Output:
        out, state = lstm(part)
        return Output(out.flatten(0, 1), state, out.square().mean(), "lstm")

    with torch.no_grad():
        whole, parts = run(x), [run(x[:4]), run(x[4:])]
        found = outputs_of(lambda count: run(x[:count]))
    assert found.dims == [0, 1, 1, None, None]
    assert found.bytes_each == 4 * (5 * 4 + 2 * 2 * 4)
    joined = found.join(parts, [4, 3])
    torch.testing.assert_close(joined.first, whole.first)
    torch.testing.assert_close(joined.state, whole.state)
    torch.testing.assert_close(joined.loss, whole.loss)
    assert joined.name == "lstm"


def test_a_mean_over_parts_is_weighted_by_examples() -> None:
    assert float(weighted_mean([torch.tensor(1.0), torch.tensor(4.0)], [2, 1])) == 2.0


class Slope(nn.Module):
    """The derivative of a network by its input, as in physics-informed networks; it marks the input itself."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x.requires_grad_()
        y = self.net(x)
        return y, torch.autograd.grad(y.sum(), x, create_graph=True)[0]


def residual(output: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
    """Of y' = cos x."""
    return mse_loss(output[1], x.cos())


def closeness(output: tuple[Tensor, Tensor], x: Tensor) -> float:
    return float((output[0].numpy() - x.numpy()).mean())


@pytest.mark.parametrize("chunked", [False, True])
def test_a_model_that_differentiates_is_evaluated_with_gradients(
    chunked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.linspace(-2, 2, 41)[:, None]
    fields: dict[str, Any] = {"loss": residual, "train": (x, x), "valid": (x, x), "metrics": {"closeness": closeness}}
    if chunked:
        monkeypatch.setattr(scores, "OUTPUT_BYTES", 80)
    stack = Stack(Task(Slope, evaluate_with_grad=True, **fields), width=2, micro_batch=4)
    rows, ends = run_until_idle(stack, [spec(1, "adamw", lr=0.01, examples=3200)])
    assert ends[1].outcome == "finished" and not x.requires_grad
    assert stack._evaluation._scores.whole is not chunked
    assert rows[1][-1].metrics["valid_loss"] < 0.05
    stack = Stack(Task(Slope, **fields), width=2, micro_batch=4)
    _, ends = run_until_idle(stack, [spec(1, "adamw", lr=0.01, examples=32)])
    assert ends[1].outcome == "error" and "does not require grad" in str(ends[1].error)


def test_the_models_own_loss_is_required_where_no_other_is_given() -> None:
    base = task_of("dict input")
    stack = Stack(replace(base, loss=None, train=base.train[:1], valid=base.valid[:1]), width=1, micro_batch=4)
    _, ends = run_until_idle(stack, [spec(1, "sgd", lr=0.1)])
    assert "the model's output, Tensor, has no loss" in str(ends[1].error)
