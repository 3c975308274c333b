"""Values (`tuner.Value`): one number per slot, with the results of a trial whose workload has that plain number."""

import dataclasses
import math
from collections.abc import Sequence

import pytest
import torch
from engine_cases import batches, run_until_idle, small_task, solo_model, spec
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import tuner
from tuner import workloads
from tuner.engine import Stack, TrialSpec
from tuner.engine.checkpoint import decode, encode
from tuner.errors import InvalidInput
from tuner.optimizers.one_pass import has_compiler
from tuner.workloads import Task
from tuner.workloads.registry import workload
from tuner.workloads.value import SlotValue

NAMES = ("dropout", "penalty", "smoothing", "temperature")
OPTIMIZER = {"lr": 0.05, "momentum": 0.8}
NUMBERS = [
    {"dropout": 0.3, "penalty": 0.01, "smoothing": 0.1, "temperature": 2.0},
    {"dropout": 0.0, "penalty": 0.0, "smoothing": 0.25, "temperature": 0.5},
    {"dropout": 0.75, "penalty": 0.1, "smoothing": 0.0},
]
"""Of three trials; the last has no temperature."""
PATHS = ["loop", "eager", pytest.param("compiled", marks=pytest.mark.skipif(not has_compiler(), reason="no compiler"))]


@workload("valued")
def valued(
    dropout: tuner.Value = 0.2,
    penalty: tuner.Value = 0.0,
    smoothing: tuner.Value = 0.0,
    temperature: tuner.Value = 1.5,
    width: int = 9,
) -> Task:
    """Values in a layer, in the loss on either side of an operator, and in functions of torch."""

    def loss(output: Tensor, target: Tensor) -> Tensor:
        scaled = output / temperature
        likely = cross_entropy(scaled, target)
        even = -scaled.log_softmax(1).mean()
        return torch.lerp(likely, even, smoothing) + penalty * scaled.square().mean()

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(7, width), nn.Tanh(), nn.Dropout(dropout), nn.Linear(width, 5))

    return dataclasses.replace(small_task(), model=model, loss=loss)


def trial(key: int, numbers: dict[str, float], seed: int = 0) -> TrialSpec:
    own = {f"workload.{name}": number for name, number in numbers.items()}
    return spec(key, "momentum", seed=seed, batch_size=8, examples=8 * 40, **OPTIMIZER, **own)


def stack_of(path: str, width: int = 3, dtype: torch.dtype = torch.float64, per_tick: int = 1) -> Stack:
    task = workloads.load("valued", {}, NAMES)
    stack = Stack(task, width=width, micro_batch=4, path=path, dtype=dtype, per_tick=per_tick)
    assert stack.path == path
    return stack


def trained(stack: Stack, trials: Sequence[TrialSpec], ticks: int) -> list[dict[str, Tensor]]:
    slots = [stack.admit(one) for one in trials]
    for _ in range(ticks):
        stack.tick()
    return [stack.weights(slot) for slot in slots if slot is not None]


@pytest.mark.parametrize("per_tick", [1, 2])
@pytest.mark.parametrize("path", PATHS)
def test_a_stack_of_values_is_each_trial_alone_with_plain_numbers(path: str, per_tick: int) -> None:
    stack = stack_of(path, per_tick=per_tick)
    found = trained(stack, [trial(i, numbers, i) for i, numbers in enumerate(NUMBERS)], 60 // per_tick)
    metrics = stack.evaluate([0, 1, 2])
    for i, numbers in enumerate(NUMBERS):
        alone = Stack(workloads.load("valued", numbers), width=1, micro_batch=4, path="loop", dtype=torch.float64)
        plain = spec(0, "momentum", seed=i, batch_size=8, examples=8 * 40, **OPTIMIZER)
        (expected,) = trained(alone, [plain], 60)
        for name, tensor in expected.items():
            torch.testing.assert_close(found[i][name], tensor, rtol=1e-10, atol=1e-12)
        assert metrics[i] == pytest.approx(alone.evaluate([0])[0], rel=1e-10)


@pytest.mark.parametrize("path", PATHS[:2])
def test_without_dropout_it_is_a_plain_loop_of_torch(path: str) -> None:
    numbers = [{**one, "dropout": 0.0} for one in NUMBERS]
    found = trained(stack_of(path), [trial(i, one, i) for i, one in enumerate(numbers)], 60)
    for i, one in enumerate(numbers):
        task = workloads.load("valued", one)
        model = solo_model(task, i, torch.float64)
        optimizer = torch.optim.SGD(model.parameters(), **OPTIMIZER)
        for x, y in batches(task, i, 8, torch.float64, 30):
            optimizer.zero_grad()
            task.loss(model(x), y).backward()
            optimizer.step()
        for name, tensor in model.state_dict().items():
            torch.testing.assert_close(found[i][name], tensor, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("path", PATHS)
def test_a_trials_bits_depend_on_no_neighbours_values(path: str) -> None:
    together = trained(stack_of(path, dtype=torch.float32), [trial(i, one) for i, one in enumerate(NUMBERS)], 30)
    apart = stack_of(path, dtype=torch.float32)
    for i, one in reversed(list(enumerate(NUMBERS))):
        slot = apart.admit(trial(i, one))
        neighbour = apart.admit(trial(9, {"dropout": 0.5, "temperature": float("nan")}))
        assert slot is not None and neighbour is not None
        for _ in range(30):
            apart.tick()
        found = apart.weights(slot)
        assert all(torch.equal(found[name], tensor) for name, tensor in together[i].items())
        apart.evict(slot)
        if apart.slot_of(9) is not None:
            apart.evict(neighbour)


@pytest.mark.parametrize("path", PATHS)
def test_a_checkpoint_has_the_values(path: str) -> None:
    first, second = (stack_of(path, dtype=torch.float32) for _ in range(2))
    trained(first, [trial(0, NUMBERS[0])], 13)
    content = encode(first.snapshot(0))
    second.admit(trial(1, NUMBERS[1]))
    slot = second.resume(decode(content, trial(0, NUMBERS[0])))
    for _ in range(17):
        first.tick()
        second.tick()
    assert slot == 1 and all(torch.equal(second.weights(1)[name], tensor) for name, tensor in first.weights(0).items())


def test_trials_with_values_finish_and_report() -> None:
    stack = stack_of("eager", width=2, dtype=torch.float32)
    rows, ends = run_until_idle(stack, [trial(i, one) for i, one in enumerate(NUMBERS)])
    assert {key: (end.outcome, end.infeasible) for key, end in ends.items()} == dict.fromkeys(
        range(3), ("finished", None)
    )
    assert len({rows[key][-1].metrics["valid_loss"] for key in rows}) == 3


@pytest.mark.parametrize("number", [-0.1, 1.1, "much", True])
def test_a_dropout_that_is_no_probability_is_refused(number: object) -> None:
    stack = stack_of("eager")
    with pytest.raises(InvalidInput, match=r"workload\.dropout"):
        stack.admit(trial(0, {"dropout": number}))  # type: ignore[dict-item]
    assert stack.free == 3


@workload("valued-badly")
def valued_badly(p: tuner.Value, kind: str = "model") -> Task:
    """A value where a plain number is needed."""
    task = small_task()
    if kind == "decides":
        return task if p > 0.5 else small_task(hidden=3)
    if kind == "number":
        return dataclasses.replace(task, loss=lambda output, target: math.exp(p) * cross_entropy(output, target))
    return dataclasses.replace(task, loss=lambda output, target: cross_entropy(output, target, label_smoothing=p))


def test_a_value_does_not_decide_how_a_model_is_built() -> None:
    with pytest.raises(InvalidInput, match=r"workload\.p.*cannot decide"):
        workloads.load("valued-badly", {"kind": "decides"}, ["p"])


@pytest.mark.parametrize("kind", ["number", "smoothing"])
def test_where_a_plain_number_is_needed_slots_are_computed_one_by_one(kind: str) -> None:
    stack = Stack(workloads.load("valued-badly", {"kind": kind}, ["p"]), width=2, micro_batch=4, dtype=torch.float64)
    assert stack.path == "loop"
    found = trained(stack, [spec(i, "sgd", lr=0.1, **{"workload.p": p}) for i, p in enumerate((0.1, 0.4))], 20)
    for p, weights in zip((0.1, 0.4), found, strict=True):
        task = workloads.load("valued-badly", {"kind": kind, "p": p})
        (expected,) = trained(Stack(task, width=1, micro_batch=4, dtype=torch.float64), [spec(0, "sgd", lr=0.1)], 20)
        for name, tensor in expected.items():
            torch.testing.assert_close(weights[name], tensor, rtol=1e-10, atol=1e-12)


def test_a_trial_without_a_number_is_refused_where_there_is_no_default() -> None:
    stack = Stack(workloads.load("valued-badly", {"kind": "number"}, ["p"]), width=1, micro_batch=4, path="loop")
    with pytest.raises(InvalidInput, match=r"workload\.p.*is missing"):
        stack.admit(spec(0, "sgd", lr=0.1))


def test_what_is_not_annotated_as_a_value_stays_a_shape() -> None:
    with pytest.raises(InvalidInput, match=r"workload\.width.*tuner\.Value.*dropout, penalty"):
        workloads.load("valued", {}, ["width"])
    with pytest.raises(InvalidInput, match="unknown"):
        workloads.load("valued", {}, ["depth"])


def test_a_number_in_the_workloads_params_is_the_default_of_a_value() -> None:
    task = workloads.load("valued", {"temperature": 3.0}, ["temperature"])
    assert [(value.name, value.default) for value in task.values] == [("temperature", 3.0)]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (lambda v: v + 1, 3.0), (lambda v: 1 + v, 3.0), (lambda v: v - 1, 1.0), (lambda v: 1 - v, -1.0),
        (lambda v: v * 3, 6.0), (lambda v: 3 * v, 6.0), (lambda v: v / 4, 0.5), (lambda v: 4 / v, 2.0),
        (lambda v: v**3, 8.0), (lambda v: 3**v, 9.0), (lambda v: -v, -2.0), (lambda v: v + v, 4.0),
        (lambda v: v < 3, True), (lambda v: v > 3, False), (lambda v: v <= 2, True), (lambda v: v >= 3, False),
        (lambda v: torch.tensor(3.0) * v, 6.0), (lambda v: torch.stack([v, v]).sum(), 4.0),
        (lambda v: torch.where(torch.tensor(5.0) > v, 1.0, 0.0), 1.0),
    ],
)  # fmt: skip
def test_a_handle_is_a_number_in_arithmetic(expression: object, expected: float) -> None:
    value = SlotValue("v")
    value.now = torch.tensor(2.0)
    assert float(expression(value)) == expected  # type: ignore[operator]
