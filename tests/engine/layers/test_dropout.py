"""Dropout by counters: Philox's known answers, fair and independent masks, trials that do not see each other."""

import math

import pytest
import torch
from engine_cases import batches, run_until_idle, solo_model, spec
from model_kinds import CLASSES, TOKENS, VECTOR, Attention, task_for
from torch import Tensor, nn

from tuner.engine import Stack
from tuner.engine.layers.dropout import CounterDropout, install, random_words
from tuner.engine.layers.philox import philox
from tuner.engine.seeds import STOCHASTIC_LAYERS, derive

BITS = 2**32 - 1


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([BITS] * 4, [BITS] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_known_answers(counter: list[int], key: list[int], words: list[int]) -> None:
    """The published test vectors of Philox-4x32-10."""
    found = philox(tuple(torch.tensor([c]) for c in counter), tuple(torch.tensor([k]) for k in key))  # type: ignore[arg-type]
    assert [int(word) for word in found] == words


def literal_word(key: tuple[int, int], example: int, site: int, position: int) -> int:
    """One word by the paper's rounds, in Python's integers."""
    c, k = [position // 4, site, example & BITS, example >> 32], list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & BITS, (a >> 32) ^ c[3] ^ k[1], a & BITS]
        k = [(k[0] + 0x9E3779B9) & BITS, (k[1] + 0xBB67AE85) & BITS]
    return c[position % 4]


class LiteralDropout(nn.Module):
    """What the engine's dropout is meant to do, word by word."""

    def __init__(self, p: float, seed: int, layer: int) -> None:
        super().__init__()
        value = derive(seed, STOCHASTIC_LAYERS)
        self.p, self.key, self.layer, self.seen = p, (value & BITS, value >> 32), layer, 0

    def forward(self, x: Tensor) -> Tensor:
        rows = [
            [
                literal_word(self.key, self.seen + row, self.layer << 16, i) / 2**32 >= self.p
                for i in range(x[0].numel())
            ]
            for row in range(len(x))
        ]
        self.seen += len(x)
        return x * torch.tensor(rows).view(x.shape) / (1 - self.p)


def dropping(p: float = 0.5) -> nn.Module:
    return nn.Sequential(nn.Dropout(0.2), nn.Linear(7, 6), nn.Tanh(), nn.Dropout(p), nn.Linear(6, CLASSES))


@pytest.mark.parametrize(("path", "micro_batch"), [("eager", 8), ("eager", 2), ("loop", 4)])
def test_a_stack_equals_a_plain_loop_with_literal_masks(path: str, micro_batch: int) -> None:
    """Also across epochs, and whatever the micro-batch: the masks belong to the examples."""
    task = task_for(VECTOR, dropping)
    stack = Stack(task, width=3, micro_batch=micro_batch, dtype=torch.float64, path=path)
    stack.admit(spec(1, "adamw", lr=1e-2, batch_size=16, examples=10**6, seed=5))
    slot = stack.admit(spec(2, "adamw", lr=1e-2, weight_decay=0.01, batch_size=8, examples=10**6, seed=9))
    assert slot == 1
    steps = 20
    for _ in range(steps * 8 // micro_batch):
        stack.tick()
    model = solo_model(task, 9, torch.float64)
    model[0], model[3] = LiteralDropout(0.2, 9, 0), LiteralDropout(0.5, 9, 1)  # type: ignore[index, operator]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.01)
    for x, y in batches(task, 9, 8, torch.float64, steps):
        optimizer.zero_grad()
        task.loss(model(x), y).backward()
        optimizer.step()
    for name, value in stack.parameters(slot).items():
        torch.testing.assert_close(value, dict(model.named_parameters())[name].detach(), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("model", [dropping, lambda: Attention(0.3)])
def test_trials_are_isolated_and_repeatable(model: object) -> None:
    task = task_for(VECTOR if model is dropping else TOKENS, model)  # type: ignore[arg-type]
    watched = spec(100, "sgd", lr=0.05, batch_size=8, examples=160, report_every=8)
    crowd = [
        spec(1, "sgd", lr=1e39, batch_size=4, examples=400, seed=3, divergence_factor=1e30),
        spec(2, "adamw", lr=1e-2, batch_size=4, examples=40, seed=0),
    ]
    state = torch.get_rng_state()
    seen = []
    for trials in ([watched], [*crowd, watched], [crowd[0], watched, crowd[1]]):
        stack = Stack(task, width=4, micro_batch=4)
        assert stack.path == "eager"
        rows, _ = run_until_idle(stack, trials)
        seen.append([(row.step, row.metrics, row.noise) for row in rows[100]])
    assert seen[0] == seen[1] == seen[2] and len(seen[0]) == 20
    other = run_until_idle(Stack(task, width=4, micro_batch=4), [spec(100, "sgd", lr=0.05, batch_size=8, seed=1)])
    assert other[0][100][-1].metrics != seen[0][-1][1]
    assert torch.equal(state, torch.get_rng_state())


def test_evaluation_drops_nothing() -> None:
    task = task_for(VECTOR, dropping)
    stack = Stack(task, width=1, micro_batch=4, dtype=torch.float64)
    stack.admit(spec(1, "sgd", lr=0.1, seed=4))
    x, y = task.valid
    expected = task.loss(solo_model(task, 4, torch.float64).eval()(x.double()), y)
    assert stack.evaluate([0])[0]["valid_loss"] == pytest.approx(expected.item(), rel=1e-12)


def masks(p: float, rows: int, features: int, ticks: int, key: int = 1, layers: int = 1) -> Tensor:
    """Kept or not, [ticks, layers, rows, features]."""
    model = nn.ModuleList([nn.Dropout(p) for _ in range(layers)])
    install(model)
    found = []
    for tick in range(ticks):
        for layer in model:
            assert isinstance(layer, CounterDropout)
            layer.calls = 0
            layer.key, layer.examples = torch.tensor([key, 7]), torch.arange(tick * rows, (tick + 1) * rows)
            found.append(layer(torch.ones(rows, features)) > 0)
    return torch.stack(found).view(ticks, layers, rows, features).double()


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_of_dropped_elements_is_p(p: float) -> None:
    kept = masks(p, 64, 301, 10)
    deviation = math.sqrt(p * (1 - p) / kept.numel())
    assert abs(float(1 - kept.mean()) - p) < 4 * deviation
    per_row = kept.mean(-1) - (1 - p)  # every example has its own share, with the binomial's variance
    assert float(per_row.var()) == pytest.approx(p * (1 - p) / 301, rel=0.2)


def test_masks_of_examples_positions_layers_ticks_and_keys_are_uncorrelated() -> None:
    one, other = masks(0.5, 32, 64, 8, key=1, layers=2) - 0.5, masks(0.5, 32, 64, 8, key=2, layers=2) - 0.5
    pairs = {
        "keys": (one, other),
        "layers": (one[:, :1], one[:, 1:]),
        "ticks": (one[1:], one[:-1]),
        "examples": (one[:, :, 1:], one[:, :, :-1]),
        **{f"positions {k} apart": (one[..., k:], one[..., :-k]) for k in (1, 2, 3, 4, 8)},
    }
    for name, (a, b) in pairs.items():
        correlation = float((a * b).mean()) / 0.25
        assert abs(correlation) < 4 / math.sqrt(a.numel()), name


def test_words_are_uniform() -> None:
    words = random_words(torch.tensor([3, 4]), torch.arange(100), 0, 100 * 500)
    counts = torch.histc(words.double(), bins=64, min=0, max=2.0**32)
    chi_squared = float(((counts - len(words) / 64) ** 2 / (len(words) / 64)).sum())
    assert 63 - 4 * math.sqrt(126) < chi_squared < 63 + 4 * math.sqrt(126)
    assert len(set(words.tolist())) > 0.9999 * len(words)


def test_a_layer_used_twice_draws_twice_and_channels_drop_whole() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.channels = nn.Dropout(0.5), nn.Dropout2d(0.5)

    model = Twice()
    for layer in install(model).values():
        layer.key, layer.examples = torch.tensor([5, 6]), torch.arange(4)
    x = torch.ones(4, 100)
    assert not torch.equal(model.drop(x), model.drop(x))
    image = model.channels(torch.ones(4, 50, 3, 3))
    assert torch.equal(image, image[:, :, :1, :1].expand_as(image))
    assert 40 < float((image[:, :, 0, 0] > 0).sum()) < 160
    assert set(image.unique().tolist()) == {0.0, 2.0}


def test_probabilities_0_and_1_and_values_that_are_not_finite() -> None:
    none, every = nn.Dropout(0.0), nn.Dropout(1.0)
    for layer in (none, every):
        install(layer)
        layer.key, layer.examples = torch.tensor([5, 6]), torch.arange(4)  # type: ignore[assignment]
    x = torch.full((4, 9), math.inf)
    assert torch.equal(none(x), x)
    assert torch.equal(every(x), torch.zeros(4, 9))
