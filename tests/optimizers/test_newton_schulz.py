"""Newton-Schulz: its band, its symmetries, and the same bits in every batch."""

import pytest
import torch

from tuner.optimizers.newton_schulz import newton_schulz


def random(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def with_singular_values(values, rows, columns):
    left = torch.linalg.qr(random(rows, rows))[0][:, : len(values)]
    right = torch.linalg.qr(random(columns, columns, seed=1))[0][:, : len(values)]
    return left, right, (left * values) @ right.mT


def test_singular_values_land_in_the_band():
    values = torch.logspace(-2, 0, 40, dtype=torch.float64)
    values[-1] = (1 - values[:-1].square().sum().clamp(max=0.5)).sqrt()
    values /= values.norm()
    values.clamp_(min=1e-2)
    _, _, matrix = with_singular_values(values, 40, 64)
    result = torch.linalg.svdvals(newton_schulz(matrix[None])[0])
    assert result.min() > 0.682 - 1e-3
    assert result.max() < 1.134 + 1e-3


def test_singular_vectors_stay():
    values = torch.linspace(0.1, 1, 12, dtype=torch.float64)
    left, right, matrix = with_singular_values(values, 12, 20)
    core = left.mT @ newton_schulz(matrix[None])[0] @ right
    torch.testing.assert_close(core, torch.diag(core.diagonal()), rtol=0, atol=1e-12)
    assert (core.diagonal() > 0.6).all()


@pytest.mark.parametrize("shape", [(1, 1), (7, 13), (13, 7), (32, 64), (10, 300)])
def test_the_transpose_gives_the_transpose(shape):
    matrices = random(3, *shape)
    torch.testing.assert_close(newton_schulz(matrices.mT), newton_schulz(matrices).mT, rtol=0, atol=1e-12)


def test_scale_does_not_matter():
    matrices = random(3, 16, 24)
    for scale in (1e-5, 1e6):
        torch.testing.assert_close(newton_schulz(scale * matrices), newton_schulz(matrices), rtol=1e-9, atol=1e-12)


def test_orthogonal_factors_pass_through():
    matrices = random(2, 12, 18)
    left, right = torch.linalg.qr(random(12, 12, seed=2))[0], torch.linalg.qr(random(18, 18, seed=3))[0]
    torch.testing.assert_close(newton_schulz(left @ matrices @ right), left @ newton_schulz(matrices) @ right)


def test_the_zero_matrix_stays_zero_and_a_row_becomes_a_unit_row():
    assert torch.equal(newton_schulz(torch.zeros(2, 5, 3)), torch.zeros(2, 5, 3))
    row = newton_schulz(random(1, 1, 30))[0]
    assert 0.682 < float(row.norm()) < 1.134


ISOLATION = [(1, shape, 64) for shape in [(10, 32), (32, 10), (33, 65), (7, 13)]] + [
    (1, (150, 130), 4),  # so large that each is multiplied alone
    (2, (33, 65), 9),
    (2, (150, 130), 3),
    (4, (32, 64), 6),  # more threads than matrices
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("thread_count", "shape", "most"), ISOLATION)
def test_a_matrix_gets_the_same_bits_in_every_batch(dtype, thread_count, shape, most, threads):
    """At any row of any batch, from any memory, beside NaNs."""
    threads(thread_count)
    size = shape[0] * shape[1]
    flat = random(most, size + 37, dtype=dtype)
    strided = flat[:, 5 : 5 + size].view(most, *shape)
    alone = torch.cat([newton_schulz(strided[i : i + 1]) for i in range(most)])
    for count in [n for n in (2, 3, 5, 8, 17, 33, 64) if n <= most]:
        order = torch.randperm(most, generator=torch.Generator().manual_seed(count))[:count]
        assert torch.equal(newton_schulz(strided[:count]), alone[:count])
        assert torch.equal(newton_schulz(strided[order]), alone[order])
    poisoned = strided.clone()
    poisoned[1] = torch.nan
    result = newton_schulz(poisoned)
    assert result[1].isnan().all()
    assert torch.equal(result[2:], alone[2:])
