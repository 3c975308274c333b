"""Newton-Schulz: its band, its symmetries, and the same bits in every batch."""

import pytest
import torch

from tuner.optimizers.maths.newton_schulz import newton_schulz


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


def ends_of(values, coefficients, steps=5, dtype=torch.float64):
    """What becomes of singular values beside one other, in rotated 2 x 2 matrices of Frobenius norm 1."""
    pair = torch.stack([values, (1 - values.square()).clamp(min=0).sqrt()], dim=1)
    turn = torch.linalg.qr(random(2, 2))[0]
    result = newton_schulz((turn @ torch.diag_embed(pair)).to(dtype), coefficients, steps).double()
    return (turn.T @ result).diagonal(dim1=1, dim2=2)[:, 0]


BANDS = {
    "original": {1e-2: (0.682, 1.134), 5e-3: (0.682, 1.154), 1e-3: (0.470, 1.202)},
    "dion": {1e-2: (0.978, 1.032), 5e-3: (0.978, 1.112), 1e-3: (0.475, 1.145)},
    "polar_express": {1e-2: (0.859, 1.141), 5e-3: (0.859, 1.141), 1e-3: (0.847, 1.141)},
    "cubic": {1e-2: (0.075, 1.0), 5e-3: (0.037, 1.0), 1e-3: (0.007, 1.0)},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", list(BANDS))
def test_five_steps_fill_the_stated_band_of_each_set_and_do_not_leave_it(name, dtype):
    for least, (low, high) in BANDS[name].items():
        ends = ends_of(torch.logspace(torch.tensor(least).log10().item(), 0, 3000, dtype=torch.float64), name, 5, dtype)
        assert low - 1e-3 < ends.min() < low + 3e-3
        assert high - 3e-3 < ends.max() < high + 1e-3


def test_the_converging_sets_converge_and_the_original_does_not():
    values = torch.logspace(-3, 0, 500, dtype=torch.float64)
    assert (ends_of(values, "cubic", 25) - 1).abs().max() < 1e-12
    assert (ends_of(values, "exact", 20) - 1).abs().max() < 1e-12
    assert (ends_of(values, "original", 25) - 1).abs().max() > 0.1


def test_a_triple_of_ones_own_and_no_steps():
    values = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    torch.testing.assert_close(ends_of(values, (2.0, -1.5, 0.5), 1), 2 * values - 1.5 * values**3 + 0.5 * values**5)
    torch.testing.assert_close(ends_of(values, "original", 0), values)


@pytest.mark.parametrize("shape", [(7, 13), (13, 7), (33, 65)])
def test_bfloat16_products_stay_near_and_keep_every_matrix_apart(shape):
    matrices = random(9, *shape, dtype=torch.float32)
    rounded = newton_schulz(matrices, dtype=torch.bfloat16)
    assert rounded.dtype == torch.float32
    assert (rounded - newton_schulz(matrices)).norm() < 0.03 * rounded.norm()
    alone = torch.cat([newton_schulz(matrix[None], dtype=torch.bfloat16) for matrix in matrices])
    for order in ([3, 1], [8, 0, 2, 5, 7], list(range(9))):
        assert torch.equal(newton_schulz(matrices[order], dtype=torch.bfloat16), alone[order])
