"""Sums of a trial's elements: right, and the same bits for any number of trials, threads and strides."""

import pytest
import torch

from tuner.optimizers.sums import column_squares, norm, row_squares, total, total_square

LENGTHS = (1, 7, 513, 1025, 4096, 40001)
MATRICES = ((1, 1), (3, 5), (70, 300), (2, 20000), (20000, 2), (300, 1025))


def beside_others(rows: torch.Tensor) -> list[torch.Tensor]:
    """Some rows as they may be found: alone, among others, inside a longer row."""
    flat = torch.zeros(len(rows), 5 + rows[0].numel(), dtype=rows.dtype)
    view = flat[:, 3 : 3 + rows[0].numel()].view(rows.shape)
    return [rows.clone(), view.copy_(rows)]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_trials_sum_has_the_same_bits_beside_any_others(dtype, count, threads):
    threads(count)
    generator = torch.Generator().manual_seed(0)
    for length in LENGTHS:
        rows = torch.randn(14, length, generator=generator, dtype=dtype)
        squares, sums = total_square(rows), total(rows.clone())
        torch.testing.assert_close(squares, rows.double().square().sum(1), rtol=1e-6, atol=0)
        torch.testing.assert_close(sums, rows.double().sum(1), rtol=1e-4, atol=1e-4)
        assert torch.equal(norm(rows), squares.sqrt())
        for chosen in ([5], [13, 1, 2], list(range(9))):
            for some in beside_others(rows[chosen]):
                assert torch.equal(total_square(some), squares[chosen])
                assert torch.equal(total(some.clone()), sums[chosen])


@pytest.mark.parametrize("count", [1, 2])
def test_rows_and_columns_have_the_same_bits_beside_any_others(count, threads):
    threads(count)
    generator = torch.Generator().manual_seed(0)
    for shape in MATRICES:
        matrices = torch.randn(6, *shape, generator=generator)
        rows, columns = row_squares(matrices), column_squares(matrices)
        torch.testing.assert_close(rows.double(), matrices.double().square().sum(2), rtol=2e-6, atol=0)
        torch.testing.assert_close(columns.double(), matrices.double().square().sum(1), rtol=2e-6, atol=0)
        for chosen in ([5], [3, 5], [4, 1, 2]):
            for some in beside_others(matrices[chosen]):
                assert torch.equal(row_squares(some), rows[chosen])
                assert torch.equal(column_squares(some), columns[chosen])
    assert torch.equal(row_squares(torch.ones(2, 4, 3, 5)), torch.full((2, 4, 3), 5.0))
    assert torch.equal(column_squares(torch.ones(2, 4, 3, 5)), torch.full((2, 4, 5), 3.0))
