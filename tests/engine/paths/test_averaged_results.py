"""Rules whose result is an average, and rules with state of other shapes: evaluated, kept and moved rightly."""

import copy
import itertools
from typing import Any

import pytest
import schedulefree
import torch
from engine_cases import batches, run_until_idle, small_task, solo_model, spec
from test_checkpoint import interrupted, key_of, resume
from torch import Tensor, nn

from tuner.engine import Stack, TrialSpec
from tuner.engine.checkpoint import decode, decode_tensors, encode
from tuner.engine.paths.recalibration import BATCHES
from tuner.workloads import Task

AVERAGED = {
    "schedule_free_adamw": {"lr": 0.02, "weight_decay": 0.01, "warmup_steps": 5},
    "schedule_free_sgd": {"lr": 0.5, "weight_decay": 0.01, "warmup_steps": 5},
}
STATEFUL = {**AVERAGED, "prodigy": {"d0": 1e-3}, "adafactor": {"lr": 0.02}}
STEPS, BATCH = 30, 16


def trial(name: str, key: int = 7, **params: Any) -> TrialSpec:
    return spec(key, name, **{**STATEFUL[name], "examples": STEPS * BATCH, **params})


def package(name: str, params: Any) -> Any:
    made = {"schedule_free_adamw": schedulefree.AdamWScheduleFree, "schedule_free_sgd": schedulefree.SGDScheduleFree}
    return made[name](params, **AVERAGED[name], foreach=False)  # type: ignore[arg-type]


def normed_task() -> Task:
    task = small_task()
    layers = (nn.Linear(7, 6, bias=False), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 5))
    return Task(nn.Sequential(*layers), task.loss, task.train, task.valid, task.metrics, fresh=True)


def solo(name: str, task: Task) -> tuple[nn.Module, dict[str, Tensor]]:
    """Train as the package's authors do; return the model at the result, and the parameters it was trained at."""
    model = solo_model(task, 0, torch.float64).train()
    optimizer = package(name, model.parameters())
    optimizer.train()
    for x, y in batches(task, 0, BATCH, torch.float64, STEPS):
        optimizer.zero_grad()
        task.loss(model(x), y).backward()
        optimizer.step()
    trained = {key: param.detach().clone() for key, param in model.named_parameters()}
    optimizer.eval()
    return model, trained


def measured(task: Task, model: nn.Module) -> float:
    with torch.no_grad():
        return float(task.loss(model.eval()(task.valid[0].double()), *task.valid[1:]))


@pytest.mark.parametrize("name", AVERAGED)
def test_a_stack_trains_y_and_evaluates_and_keeps_x(name: str) -> None:
    task = small_task()
    stack = Stack(task, width=3, micro_batch=8, dtype=torch.float64)
    stack.keep_weights = True
    stack.admit(spec(1, "adamw", lr=0.1, examples=10**5))
    slot = stack.admit(trial(name))
    assert slot is not None
    for _ in range(STEPS * BATCH // 8 - 1):
        stack.tick()
    before = {key: param.clone() for key, param in stack.parameters(slot).items()}
    rows, ends = run_until_idle(stack, [], until=7)
    model, trained = solo(name, task)
    weights = ends[7].weights
    assert weights is not None
    for key, value in model.named_parameters():
        torch.testing.assert_close(weights[key], value.detach(), rtol=1e-12, atol=1e-12)
        assert not torch.allclose(trained[key], value, rtol=1e-3), "x and y must differ for this to say anything"
        assert not torch.equal(before[key], weights[key])
    assert rows[7][-1].metrics["valid_loss"] == pytest.approx(measured(task, model), rel=1e-12)


@pytest.mark.parametrize("name", AVERAGED)
def test_before_and_after_looking_a_slot_holds_y(name: str) -> None:
    task = small_task()
    stack = Stack(task, width=2, micro_batch=8, dtype=torch.float64)
    slot = stack.admit(trial(name, examples=10**5))
    assert slot is not None
    for _ in range(STEPS * BATCH // 8):
        stack.tick()
    model, trained = solo(name, task)
    (metrics,) = stack.evaluate([slot])
    assert metrics["valid_loss"] == pytest.approx(measured(task, model), rel=1e-12)
    for key, value in stack.parameters(slot).items():
        torch.testing.assert_close(value, trained[key], rtol=1e-12, atol=1e-12)
    for key, value in stack.result(slot).items():
        torch.testing.assert_close(value, dict(model.named_parameters())[key].detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "path"), [("schedule_free_adamw", "eager"), ("schedule_free_sgd", "loop")])
def test_statistics_of_batch_normalisation_are_those_of_x(name: str, path: str) -> None:
    """As the package advises: 50 batches at x in training mode, here with the plain mean over them."""
    task = normed_task()
    stack = Stack(task, width=2, micro_batch=BATCH, dtype=torch.float64, path=path)
    stack.keep_weights = True
    rows, ends = run_until_idle(stack, [trial(name)])
    model, _ = solo(name, task)
    stale = measured(task, copy.deepcopy(model))
    norm = model[1]
    norm.reset_running_stats()
    norm.momentum = None
    norm.train()
    whole = range(0, 97 // BATCH * BATCH, BATCH)
    with torch.no_grad():
        for first in itertools.islice(whole, BATCHES):
            model(task.train[0][first : first + BATCH].double())
    weights = ends[7].weights
    assert weights is not None
    for key, value in model.state_dict().items():
        torch.testing.assert_close(weights[key], value, rtol=1e-11, atol=1e-11)
    found = rows[7][-1].metrics["valid_loss"]
    assert found == pytest.approx(measured(task, model), rel=1e-11)
    assert found != pytest.approx(stale, rel=1e-5), "the trained statistics must differ for this to say anything"


def test_the_trained_statistics_go_on_as_if_nobody_had_looked() -> None:
    kept = []
    for rungs in ((), (160, 320)):
        stack = Stack(normed_task(), width=2, micro_batch=BATCH)
        slot = stack.admit(trial("schedule_free_sgd", rungs=rungs, examples=10**5))
        assert slot is not None
        for _ in range(STEPS):
            stack.tick()
        kept.append(stack.snapshot(slot).extras)
    assert all(torch.equal(kept[0][key], kept[1][key]) for key in kept[0])


def test_rules_that_do_not_average_keep_their_own_statistics() -> None:
    stack = Stack(normed_task(), width=2, micro_batch=BATCH)
    slot = stack.admit(spec(1, "sgd", lr=0.1, examples=10**5))
    assert slot is not None
    stack.tick()
    weights, own = stack.weights(slot), stack.snapshot(slot).extras
    assert all(torch.equal(weights[key], own[key]) for key in own)


@pytest.mark.parametrize("name", STATEFUL)
def test_state_moves_bit_for_bit_between_slots_and_widths(name: str) -> None:
    """From the middle of a step in the second of three slots to the last of five, beside others."""
    task, watched = small_task(), trial(name, examples=240, rungs=(90, 200), report_every=64, schedule="cosine")
    straight, _ = run_until_idle(Stack(task, width=3, micro_batch=4), [watched])
    expected = [key_of(row) for row in straight[7]]
    before, content = interrupted(task, watched, 37, "eager")
    assert before + resume(task, watched, content, 5, "eager") == expected


@pytest.mark.parametrize("name", STATEFUL)
def test_a_snapshot_does_not_depend_on_slot_width_or_neighbours(name: str) -> None:
    """Neighbours of the same rule included, so that rows of a pool differ; one of them comes and goes."""
    contents = []
    for width, others in ((2, 0), (5, 3)):
        stack = Stack(small_task(), width=width, micro_batch=4)
        for other in range(others):
            stack.admit(trial(name, key=100 + other, seed=other, examples=10**4))
        if others:
            stack.tick()
            stack.evict(1)
        slot = stack.admit(trial(name))
        assert slot == (0, 1)[bool(others)]
        for _ in range(37):
            stack.tick()
        snapshot = stack.snapshot(slot)
        contents.append(decode_tensors(encode(snapshot)))
        again = decode(encode(snapshot), trial(name))
        assert (again.pool is None) == (snapshot.pool is None)
        assert snapshot.pool is None or torch.equal(again.pool, snapshot.pool)  # type: ignore[arg-type]
    first, second = contents
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_slot_that_changes_hands_starts_from_nothing() -> None:
    """Two rules with pools and one without follow each other through one slot."""
    task, queue = small_task(), ["prodigy", "schedule_free_sgd", "adafactor", "prodigy", "sgd", "schedule_free_adamw"]
    trials = [spec(i, name, **{"lr": 0.1, **STATEFUL.get(name, {})}, examples=160) for i, name in enumerate(queue)]
    together, _ = run_until_idle(Stack(task, width=1, micro_batch=4), trials)
    for each in trials:
        alone, _ = run_until_idle(Stack(task, width=1, micro_batch=4), [each])
        assert [key_of(row) for row in alone[each.key]] == [key_of(row) for row in together[each.key]]
