"""Random numbers by `tuner.draws`: their distributions, and that they belong to the trial and its examples."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from engine_cases import batches, run_until_idle, small_task, solo_model, spec
from line_search import Backtracking, register
from scipy import stats
from torch import Tensor, nn

from tuner import draws
from tuner.engine import Stack
from tuner.engine.layers.counted import CountedWords
from tuner.engine.layers.dropout import draws_of
from tuner.engine.splitting import splits
from tuner.errors import InvalidInput
from tuner.workloads import Task

CPU = torch.device("cpu")
PATHS = ["loop", "eager", "compiled"]
KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": draws.normal_like,
    "uniform": draws.uniform_like,
    "bernoulli": lambda x: draws.bernoulli_like(x, 0.3),
    "integers": lambda x: draws.integers_like(x, 6),
}


@pytest.fixture(autouse=True)
def unbound() -> Iterator[None]:
    yield
    draws.end()


def drawn(kind: str, x: Tensor, seed: int = 0, seen: int = 0, calls: int = 1) -> list[Tensor]:
    """The results of calls within one pass whose batch is `x`."""
    draws.begin(CountedWords(draws_of(seed, seen, len(x), CPU)))
    found = [KINDS[kind](x) for _ in range(calls)]
    draws.end()
    return found


class Autoencoder(nn.Module):
    """Draws in the model: normal and Bernoulli numbers, an odd number of each for an example."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(7, 6), nn.Linear(3, 7)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_variance = self.encode(x * draws.bernoulli_like(x, 0.8)).chunk(2, 1)
        code = mean + draws.normal_like(mean) * (log_variance / 2).exp()
        return torch.cat([self.decode(code), mean, log_variance], 1)


def bound(output: Tensor, x: Tensor) -> Tensor:
    """Draws in the loss as well."""
    decoded, mean, log_variance = output[:, :7], output[:, 7:10], output[:, 10:]
    divergence = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(1)
    return ((decoded - x - 0.1 * draws.uniform_like(x)).square().sum(1) + divergence).mean()


def task() -> Task:
    x = small_task().train[0]
    return Task(Autoencoder, bound, (x, x), (x[:20], x[:20]))


WATCHED = spec(100, "adamw", lr=0.01, examples=320, report_every=16, rungs=(48, 96), seed=3)
CROWD = [
    spec(1, "sgd", lr=1e39, batch_size=16, examples=640, seed=3, divergence_factor=1e30),
    spec(2, "adamw", lr=1e-2, batch_size=8, examples=80, seed=0),
]


def course(stack: Stack, trials: list[Any]) -> list[Any]:
    rows, _ = run_until_idle(stack, trials, until=100)
    return [(row.step, row.metrics, row.noise) for row in rows[100]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_have_their_distributions(dtype: torch.dtype) -> None:
    x = torch.zeros(300, 101, dtype=dtype)
    normal, uniform, coin, dice = (drawn(kind, x)[0] for kind in KINDS)
    assert normal.dtype == uniform.dtype == coin.dtype == dtype and normal.shape == x.shape
    assert stats.kstest(normal.flatten().numpy(), "norm").pvalue > 1e-3
    assert stats.kstest(uniform.flatten().numpy(), "uniform").pvalue > 1e-3
    moments = [float((normal.double() ** k).mean()) for k in (1, 2, 3, 4)]
    assert moments == pytest.approx([0, 1, 0, 3], abs=5 * math.sqrt(96 / x.numel()))
    assert set(coin.unique().tolist()) == {0.0, 1.0}
    assert abs(float(coin.mean()) - 0.3) < 4 * math.sqrt(0.21 / x.numel())
    assert dice.dtype == torch.int64 and dice.shape == x.shape
    assert stats.chisquare(dice.flatten().bincount(minlength=6).numpy()).pvalue > 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_types_stay_below_one(dtype: torch.dtype) -> None:
    x = torch.zeros(100, 1000, dtype=dtype)
    assert 0 <= float(drawn("uniform", x)[0].min()) and float(drawn("uniform", x)[0].max()) < 1
    assert float(drawn("normal", x)[0].float().std()) == pytest.approx(1, abs=0.02)


def test_examples_elements_calls_and_trials_are_uncorrelated() -> None:
    x = torch.zeros(200, 100)
    first, second = drawn("normal", x, calls=2)
    pairs = {
        "calls": (first, second),
        "trials": (first, drawn("normal", x, seed=1)[0]),
        "examples": (first[1:], first[:-1]),
        **{f"elements {k} apart": (first[:, k:], first[:, :-k]) for k in (1, 2, 3, 4, 50)},
    }
    for name, (a, b) in pairs.items():
        for power in (1, 2):
            one, other = a**power - (power - 1), b**power - (power - 1)
            limit = 4.5 * power / math.sqrt(a.numel())
            assert abs(float((one * other).mean())) < limit, (name, power)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("each", [1, 3, 8, 33])
def test_a_number_belongs_to_its_example_and_no_bit_depends_on_slots_or_batches(kind: str, each: int) -> None:
    x = torch.zeros(24, each)
    whole = drawn(kind, x, seed=5, calls=2)[1]
    parts = [drawn(kind, x[:6], seed=5, seen=seen, calls=2)[1] for seen in range(0, 24, 6)]
    assert torch.equal(torch.cat(parts), whole)

    def second(key: Tensor, examples: Tensor) -> Tensor:
        draws.begin(CountedWords((key, examples)))
        KINDS[kind](x)
        result = KINDS[kind](x)
        draws.end()
        return result

    for width in (1, 3, 8):
        keys = torch.stack([draws_of(seed, 0, 24, CPU)[0] for seed in range(5, 5 + width)])
        stacked = torch.func.vmap(second, in_dims=(0, None))(keys, torch.arange(24))
        for place in range(width):
            assert torch.equal(stacked[place], drawn(kind, x, seed=5 + place, calls=2)[1])


@pytest.mark.parametrize("path", PATHS)
def test_trials_are_isolated_and_evaluate_from_their_seed(path: str) -> None:
    state = torch.get_rng_state()
    seen = []
    for trials in ([WATCHED], [*CROWD, WATCHED], [CROWD[0], WATCHED, CROWD[1]]):
        stack = Stack(task(), width=4, micro_batch=8, path=path)
        assert stack.path == path
        seen.append(course(stack, trials))
    assert seen[0] == seen[1] == seen[2] and len(seen[0]) >= 20
    assert torch.equal(state, torch.get_rng_state())


def test_the_paths_the_micro_batches_and_a_plain_loop_see_one_training() -> None:
    """Float64: all paths, one and two micro-batches per tick, and a loop of one's own with the trial's numbers."""
    trials = [spec(100, "momentum", lr=1e-3, examples=800, seed=3), spec(1, "adamw", lr=1e-3, examples=320, seed=4)]
    model = solo_model(task(), 3, torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    for step, (x, _) in enumerate(batches(task(), 3, 16, torch.float64, 50)):
        optimizer.zero_grad()
        draws.begin(CountedWords(draws_of(3, 16 * step, 16, CPU)))
        bound(model(x), x).backward()
        draws.end()
        optimizer.step()
    cases = [(path, size, per_tick) for path in PATHS[:2] for size, per_tick in ((8, 1), (16, 1), (4, 2), (8, 2))]
    cases += [("compiled", 8, 1), ("compiled", 4, 2)]
    for path, size, per_tick in cases:
        stack = Stack(task(), width=2, micro_batch=size, per_tick=per_tick, path=path, dtype=torch.float64)
        assert stack.path == path
        stack.keep_weights = True
        _, ends = run_until_idle(stack, trials)
        weights = ends[100].weights
        assert weights is not None
        for name, expected in model.state_dict().items():
            torch.testing.assert_close(weights[name], expected, rtol=1e-12, atol=1e-12)


def test_compiled_is_eager_to_rounding() -> None:
    rows = [course(Stack(task(), width=2, micro_batch=8, path=path), [WATCHED]) for path in ("eager", "compiled")]
    for one, other in zip(*rows, strict=True):
        assert dict(other[1]) == pytest.approx(dict(one[1]), rel=1e-4)
    losses = [each[0][1]["train_loss"] for each in rows]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


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


@pytest.mark.parametrize("path", ["loop", "eager"])
def test_a_line_search_sees_one_function(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule compares the gradients of its evaluations with those of its step."""
    register(monkeypatch, Backtracking)
    trial = spec(100, Backtracking.name, lr=4.0, examples=96, report_every=16, divergence_factor=1e9)
    stack = Stack(task(), width=2, micro_batch=8, path=path)
    rows, ends = run_until_idle(stack, [trial])
    assert ends[100].outcome == "finished" and len(rows[100]) == 6


def test_micro_batches_may_be_computed_side_by_side() -> None:
    assert splits(task(), CPU)


@pytest.mark.parametrize(("shape", "seen"), [((3, 2), "is 3"), ((), "is missing")])
def test_a_tensor_whose_first_dim_is_not_the_batch_is_refused(shape: tuple[int, ...], seen: str) -> None:
    draws.begin(CountedWords(draws_of(0, 0, 4, CPU)))
    for draw in KINDS.values():
        with pytest.raises(InvalidInput, match=f"dim 0 {seen}; allowed is the batch, 4 examples"):
            draw(torch.zeros(shape))
    assert draws.normal_like(torch.zeros(8, 2)).shape == (8, 2)  # two rows of each example


def test_what_cannot_be_drawn_is_refused() -> None:
    for name in ("normal_like", "uniform_like"):
        with pytest.raises(InvalidInput, match=f"{name}: the tensor is int64"):
            getattr(draws, name)(torch.zeros(4, dtype=torch.int64))
    with pytest.raises(InvalidInput, match=r"p is 1.5; allowed is a probability in \[0, 1\]"):
        draws.bernoulli_like(torch.zeros(4), 1.5)
    for high in (0, 2**31 + 1):
        with pytest.raises(InvalidInput, match=f"high is {high}; allowed is a whole number from 1 to 2147483648"):
            draws.integers_like(torch.zeros(4), high)


def test_a_script_of_ones_own_draws_from_torchs_generator() -> None:
    x = torch.zeros(5, 3)
    torch.manual_seed(1)
    found = draws.normal_like(x), draws.uniform_like(x)
    torch.manual_seed(1)
    assert torch.equal(found[0], torch.randn_like(x)) and torch.equal(found[1], torch.rand_like(x))
    assert set(draws.bernoulli_like(torch.zeros(50), 0.5).tolist()) == {0.0, 1.0}
    assert set(draws.integers_like(torch.zeros(50), 2).tolist()) == {0, 1}


def test_evaluation_draws_the_same_however_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for chunk, most in ((4096, 2**27), (7, 2**27), (7, 1)):
        monkeypatch.setattr("tuner.engine.paths.scores.CHUNK", chunk)
        monkeypatch.setattr("tuner.engine.paths.scores.OUTPUT_BYTES", most if most > 1 else 7 * 13 * 8)
        stack = Stack(task(), width=1, micro_batch=8, dtype=torch.float64)
        stack.admit(WATCHED)
        found.append(stack.evaluate([0])[0]["valid_loss"])
    assert found[1] == pytest.approx(found[0], rel=1e-12) and found[2] == pytest.approx(found[0], rel=1e-12)


@pytest.mark.parametrize("path", PATHS)
def test_every_evaluation_of_a_trial_draws_the_same(path: str) -> None:
    """With a learning rate of zero two evaluations differ by luck alone: there is none. Seeds differ."""
    still = [spec(n, "sgd", lr=0.0, examples=64, seed=seed, rungs=(16, 32)) for n, seed in ((1, 0), (2, 0), (3, 1))]
    stack = Stack(task(), width=4, micro_batch=8, path=path)
    assert stack._evaluation.rows == (4 if path == "compiled" else 1)
    rows, _ = run_until_idle(stack, still)
    values = {key: {row.metrics.get("valid_loss") for row in each} - {None} for key, each in rows.items()}
    assert [len(values[key]) for key in (1, 2, 3)] == [1, 1, 1]
    assert values[1] == values[2] != values[3]
