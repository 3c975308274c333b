"""Powers agree with Python's and do not depend on the position."""

import pytest
import torch

from tuner.optimizers.maths.power import power


def test_powers_equal_pythons():
    base = torch.tensor([[0.9, 0.999, 0.0, 0.5], [0.0, 0.99999, 0.95, 1.0]], dtype=torch.float64)
    exponent = torch.tensor([3, 1000, 0, 70_000], dtype=torch.float64)
    for row, results in zip(base.tolist(), power(base, exponent).tolist(), strict=True):
        assert results == [pytest.approx(b**n, rel=1e-14) for b, n in zip(row, exponent.tolist(), strict=True)]


def test_position_and_batch_do_not_matter():
    generator = torch.Generator().manual_seed(0)
    base = 1 - 0.3 * torch.rand((2, 200), generator=generator, dtype=torch.float64)
    exponent = torch.randint(1, 5000, (200,), generator=generator).double()
    everything = power(base, exponent)
    for size in (1, 2, 7, 15, 16, 17, 63, 64, 65, 130):
        assert torch.equal(power(base[:, -size:], exponent[-size:]), everything[:, -size:])
    alone = torch.cat([power(base[:, i : i + 1], exponent[i : i + 1]) for i in range(200)], dim=1)
    assert torch.equal(alone, everything)
