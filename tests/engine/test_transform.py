"""Training examples changed at random where the model is: by trial, example and epoch, and by nothing else."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from engine_cases import run_until_idle, solo_model, spec
from engine_cases import small_task as any_task
from line_search import Backtracking, register
from scipy import stats
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tuner import draws as own_draws
from tuner.engine import Stack, solo
from tuner.engine.batch_dependence import depends_on_batch
from tuner.engine.data_order import Orders
from tuner.engine.layers.counted import TRANSFORM, CountedWords
from tuner.engine.layers.dropout import draws_of
from tuner.engine.partners import halves
from tuner.engine.splitting import splits
from tuner.errors import InvalidInput
from tuner.workloads import Task
from tuner.workloads.transform import ExampleDraws
from tuner.workloads.value import SlotValue

CPU = torch.device("cpu")
PATHS = ["loop", "eager", "compiled"]
ALPHA = 0.4


@pytest.fixture(autouse=True)
def unbound() -> Iterator[None]:
    yield
    own_draws.end()


def small_task() -> Task:
    """Shapes whose products have the same bits in every slot."""
    return any_task(hidden=16, classes=4)


def noisy(inputs: Tensor, targets: Tensor, draws: ExampleDraws) -> tuple[Tensor, Tensor]:
    """Noise, a random sign, numbers left out and columns in another order, for each example."""
    x = inputs + 0.1 * draws.normal(7)
    x = torch.where(draws.bernoulli(0.5, 1), x, -x) * draws.uniform(1)
    x = x.gather(1, draws.permutation(7))
    x = x * (draws.integers(3) > 0)[:, None]
    return x + 0.01 * own_draws.normal_like(x), targets


def mixup(inputs: Tensor, targets: Tensor, draws: ExampleDraws, partner: Any) -> tuple[Tensor, Tensor]:
    share = draws.beta(ALPHA, ALPHA, 1)
    other, label = partner
    labels = torch.eye(4, dtype=inputs.dtype)
    soft = share * labels[targets] + (1 - share) * labels[label]
    return share * inputs + (1 - share) * other, soft


def pair(inputs: Tensor, targets: Tensor, draws: ExampleDraws, partner: Any) -> tuple[Tensor, Tensor]:
    x, y = noisy(inputs, targets, draws)
    return mixup(x, y, draws, partner)


def task(transform: Any = pair, **more: Any) -> Task:
    """`small_task`, with a loss that takes labels and shares of labels."""
    return replace(small_task(), transform=transform, **more)


def drawn(count: int = 5000, seed: int = 0, seen: int = 0) -> ExampleDraws:
    own_draws.begin(CountedWords(draws_of(seed, seen, count, CPU), TRANSFORM))
    return ExampleDraws(torch.zeros(count))


def course(stack: Stack, trials: list[Any]) -> list[Any]:
    rows, _ = run_until_idle(stack, trials, until=100)
    return [(row.step, row.metrics, row.noise) for row in rows[100]]


WATCHED = spec(100, "adamw", lr=0.01, examples=320, report_every=16, rungs=(48, 96), seed=3)
CROWD = [
    spec(1, "sgd", lr=1e39, batch_size=16, examples=640, seed=3, divergence_factor=1e30),
    spec(2, "adamw", lr=1e-2, batch_size=8, examples=80, seed=0),
]


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (0.2, 0.2), (0.5, 0.9), (0.1, 1.0)])
def test_beta_has_its_distribution(a: float, b: float) -> None:
    drawn()
    found = ExampleDraws(torch.zeros(5000, dtype=torch.float64)).beta(a, b, 2)
    assert found.shape == (5000, 2) and 0 <= float(found.min()) and float(found.max()) <= 1
    assert stats.kstest(found.flatten().numpy(), stats.beta(a, b).cdf).pvalue > 1e-3


def test_tiny_parameters_of_beta_and_illegal_ones() -> None:
    coins = drawn().beta(1e-4, 1e-4)
    assert torch.isfinite(coins).all() and abs(float(coins.mean()) - 0.5) < 0.03
    for wrong in (0, -1.0, 1.5):
        with pytest.raises(InvalidInput, match=rf"a is {wrong}; allowed is a number in \(0, 1\]"):
            drawn().beta(wrong, 0.5)


def test_permutations_are_permutations_and_equally_likely() -> None:
    found = drawn(6000).permutation(3)
    assert torch.equal(found.sort(1).values, torch.arange(3).expand(6000, 3))
    counts = (found * torch.tensor([9, 3, 1])).sum(1).unique(return_counts=True)[1]
    assert len(counts) == 6 and stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_an_example_is_changed_in_one_way_whatever_shares_its_batch() -> None:
    orders = Orders(97, None, mixes=True)
    whole = task(valid=small_task().valid)
    numbers, partners = (torch.from_numpy(part) for part in halves(orders.of(5).take(0, 24)))
    x, y = small_task().train
    data = (x[numbers], y[numbers], x[partners], y[partners])

    def changed(part: slice) -> tuple[Tensor, Tensor]:
        key, examples = draws_of(5, 0, 24, CPU)
        own_draws.begin(CountedWords((key, examples[part]), TRANSFORM))
        inputs, targets = whole.batch_of(tuple(item[part] for item in data))
        return inputs, targets[0]

    together = changed(slice(0, 24))
    apart = [changed(slice(start, start + 6)) for start in range(0, 24, 6)]
    for place in range(2):
        assert torch.equal(torch.cat([part[place] for part in apart]), together[place])


def test_partners_are_drawn_like_examples_and_do_not_move_the_order() -> None:
    plain, mixed = Orders(10).of(3), Orders(10, None, mixes=True).of(3)
    numbers, partners = halves(mixed.take(0, 4000))
    assert (numbers == plain.take(0, 4000)).all()
    assert (halves(mixed.take(1234, 50))[1] == partners[1234:1284]).all()
    assert stats.chisquare(torch.from_numpy(partners).bincount(minlength=10).numpy()).pvalue > 1e-3
    assert abs(float((partners == numbers).mean()) - 0.1) < 0.03
    weights = torch.tensor([1.0, 0.0, 3.0]).numpy().astype(float)
    weighted = halves(Orders(3, weights, mixes=True).of(3).take(0, 4000))[1]
    assert abs(float((weighted == 2).mean()) - 0.75) < 0.03 and not (weighted == 1).any()


@pytest.mark.parametrize("path", PATHS)
def test_trials_are_isolated(path: str) -> None:
    state = torch.get_rng_state()
    seen = []
    for trials in ([WATCHED], [*CROWD, WATCHED], [CROWD[0], WATCHED, CROWD[1]]):
        stack = Stack(task(), width=4, micro_batch=8, path=path)
        assert stack.path == path
        seen.append(course(stack, trials))
    assert seen[0] == seen[1] == seen[2] and len(seen[0]) >= 20
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("path", PATHS)
def test_a_trial_resumes_bit_for_bit(path: str) -> None:
    """In the middle of a step, in another slot of another stack."""
    expected = course(Stack(task(), width=3, micro_batch=8, path=path), [WATCHED])
    first, second = (Stack(task(), width=3, micro_batch=8, path=path) for _ in range(2))
    slot = first.admit(WATCHED)
    assert slot is not None
    for _ in range(13):
        first.tick()
    second.restore(2, first.snapshot(slot))
    assert course(second, []) == expected[-len(expected) + 6 :]


def literal(seed: int, steps: int) -> dict[str, Tensor]:
    """The same training as a plain loop in float64: whole batches of 16, each with the trial's draws."""
    whole = task()
    model = solo_model(whole, seed, torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    order = Orders(97, None, mixes=True).of(seed)
    x, y = small_task().train
    x = x.double()
    for step in range(steps):
        numbers, partners = (torch.from_numpy(part) for part in halves(order.take(16 * step, 16)))
        own_draws.begin(CountedWords(draws_of(seed, 16 * step, 16, CPU), TRANSFORM))
        inputs, soft = pair(x[numbers], y[numbers], ExampleDraws(x.new_zeros(16)), (x[partners], y[partners]))
        own_draws.end()
        optimizer.zero_grad()
        cross_entropy(model(inputs), soft).backward()
        optimizer.step()
    return model.state_dict()


def test_all_paths_and_micro_batches_and_a_plain_loop_see_one_training() -> None:
    expected = literal(3, 50)
    cases = [(path, size, per_tick) for path in PATHS[:2] for size, per_tick in ((8, 1), (16, 1), (4, 2))]
    for path, size, per_tick in [*cases, ("compiled", 8, 2)]:
        stack = Stack(task(), width=2, micro_batch=size, per_tick=per_tick, path=path, dtype=torch.float64)
        assert stack.path == path
        stack.keep_weights = True
        trials = [spec(100, "momentum", lr=0.05, examples=800, seed=3), spec(1, "adamw", lr=1e-3, seed=4)]
        _, ends = run_until_idle(stack, trials)
        weights = ends[100].weights
        assert weights is not None
        for name, tensor in expected.items():
            torch.testing.assert_close(weights[name], tensor, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("path", ["loop", "eager"])
def test_data_that_is_loaded_gives_the_bits_of_data_on_the_device(path: str) -> None:
    """Also where a slot is refilled while ticks are gathered ahead."""
    seen = [
        course(Stack(task(resident=resident), width=2, micro_batch=8, path=path), [CROWD[1], WATCHED])
        for resident in (True, False)
    ]
    assert seen[0] == seen[1]


def test_partners_change_too_where_data_augments_itself() -> None:
    class Counted:
        """Examples that are zeros, or their seed."""

        def __len__(self) -> int:
            return 40

        def __getitem__(self, index: Any) -> Any:
            return torch.zeros(len(index), 1).numpy()

        def augmented(self, index: Any, seeds: Any) -> Any:
            return (seeds % 2**20).astype("float32")[:, None]

    seen: list[tuple[Tensor, Tensor]] = []

    def watch(inputs: Tensor, targets: Tensor, draws: ExampleDraws, partner: Any) -> Any:
        seen.append((inputs, partner[0]))
        return inputs, targets

    x = torch.zeros(40, 1)
    labels = torch.zeros(40).long()
    whole = Task(lambda: nn.Linear(1, 5), cross_entropy, (Counted(), labels), (x, labels), transform=watch)
    stack = Stack(whole, width=1, micro_batch=8, path="loop")
    seen.clear()
    stack.admit(spec(1, "sgd", lr=0.0, batch_size=8, examples=16))
    stack.tick()
    ((own, partner),) = seen
    assert len({*own.flatten().tolist(), *partner.flatten().tolist()}) == 16


def test_evaluation_sees_plain_examples() -> None:
    stacks = [Stack(task(transform), width=1, micro_batch=8) for transform in (None, pair)]
    for stack in stacks:
        stack.admit(WATCHED)
    assert stacks[0].evaluate([0]) == stacks[1].evaluate([0])


def test_one_that_cannot_be_vmapped_takes_the_loop() -> None:
    def asks(inputs: Tensor, targets: Tensor, draws: ExampleDraws) -> tuple[Tensor, Tensor]:
        return (inputs if float(draws.uniform()[0]) < 0.5 else -inputs), targets

    stack = Stack(task(asks), width=2, micro_batch=8)
    assert stack.path == "loop"
    expected = course(stack, [WATCHED])
    assert course(Stack(task(asks), width=3, micro_batch=8), [CROWD[1], WATCHED]) == expected


def test_a_line_search_sees_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, Backtracking)
    trial = spec(100, Backtracking.name, lr=4.0, examples=96, report_every=16, divergence_factor=1e9)
    for path in PATHS[:2]:
        rows, ends = run_until_idle(Stack(task(), width=2, micro_batch=8, path=path), [trial])
        assert ends[100].outcome == "finished" and len(rows[100]) == 6


def test_its_strength_may_be_a_number_of_each_trial() -> None:
    strength = SlotValue("strength", 0.5)

    def scaled(inputs: Tensor, targets: Tensor, draws: ExampleDraws) -> tuple[Tensor, Tensor]:
        kept = draws.bernoulli(strength, 7)
        return inputs * kept + strength * draws.normal(7), targets

    def fixed(value: float) -> Any:
        def scaled(inputs: Tensor, targets: Tensor, draws: ExampleDraws) -> tuple[Tensor, Tensor]:
            kept = draws.bernoulli(value, 7)
            return inputs * kept + value * draws.normal(7), targets

        return scaled

    values = (0.25, 0.75)
    stack = Stack(task(scaled).with_values([strength]), width=2, micro_batch=8)
    assert stack.path == "eager"
    trials = [spec(n, "sgd", lr=0.1, seed=3, **{"workload.strength": value}) for n, value in enumerate(values)]
    rows, _ = run_until_idle(stack, trials)
    for number, value in enumerate(values):
        alone, _ = run_until_idle(Stack(task(fixed(value)), width=2, micro_batch=8), [spec(1, "sgd", lr=0.1, seed=3)])
        assert [row.metrics for row in rows[number]] == [row.metrics for row in alone[1]]


def test_mixing_within_the_batch_is_found_and_mixing_with_partners_is_not() -> None:
    def within(inputs: Tensor, targets: Tensor, draws: ExampleDraws) -> tuple[Tensor, Tensor]:
        return inputs + inputs.roll(1, 0), targets

    assert depends_on_batch(task(within), CPU) and not depends_on_batch(task(), CPU)
    assert splits(task(), CPU)


def test_averages_recompute_their_statistics_on_transformed_examples() -> None:
    """The transform makes fewer columns, which is all that the model takes."""

    def cut(inputs: Tensor, targets: Tensor, draws: ExampleDraws) -> tuple[Tensor, Tensor]:
        return inputs[:, :4] * (1 + draws.uniform(1)), targets

    x, y = small_task().train
    normed = Task(
        lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 5)),
        cross_entropy,
        (x, y),
        (x[:20, :4], y[:20]),
        transform=cut,
    )
    rows, ends = run_until_idle(
        Stack(normed, width=2, micro_batch=16, batch="whole"), [spec(1, "schedule_free_sgd", lr=0.01, examples=160)]
    )
    assert ends[1].outcome == "finished" and math.isfinite(rows[1][-1].metrics["valid_loss"])


def test_a_file_that_trains_a_trial_again_changes_examples_as_the_trial_did() -> None:
    stack = Stack(task(), width=2, micro_batch=8)
    stack.keep_weights = True
    _, ends = run_until_idle(stack, [spec(1, "sgd", lr=0.1, examples=160, seed=3)])
    model = solo.model_of(task(), 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for batch in solo.batches(task(), 3, 16, 10):
        optimizer.zero_grad()
        solo.loss_of(task(), model, batch).backward()
        optimizer.step()
    weights = ends[1].weights
    assert weights is not None
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-6)


def test_named_inputs_and_several_targets_keep_their_form() -> None:
    def watch(inputs: Any, targets: Any, draws: ExampleDraws, partner: Any) -> Any:
        assert set(inputs) == set(partner[0]) == {"x", "z"} and len(targets) == len(partner[1]) == 2
        return {name: 2 * value for name, value in inputs.items()}, targets

    x = torch.ones(6, 2)
    named = Task(lambda: nn.Linear(2, 2), None, ({"x": x, "z": x}, x, 3 * x), (x,), transform=watch)
    inputs, targets = named.batch_of(named.read(torch.arange(3).numpy()))
    assert torch.equal(inputs["z"], 2 * x[:3]) and torch.equal(targets[1], 3 * x[:3]) and len(targets) == 2
    alone = Task(lambda: nn.Linear(2, 2), None, (x,), (x,), transform=lambda inputs, targets, draws: (inputs, targets))
    assert alone.batch_of((x,))[1] == []


def test_what_is_no_transform_is_refused() -> None:

    def two(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return inputs, targets

    for wrong, said in ((3, "is not a function"), (two, r"takes \(inputs.*; allowed is \(inputs, targets")):
        with pytest.raises(InvalidInput, match=f"transform: {said}"):
            task(wrong)
    whole = task(lambda inputs, targets, draws: inputs)
    with pytest.raises(InvalidInput, match=r"transform: returned Tensor; expected the pair \(inputs, targets\)"):
        whole.batch_of(small_task().train)
    assert not task(lambda inputs, targets, draws, strength=1.0: (inputs, targets)).mixes
