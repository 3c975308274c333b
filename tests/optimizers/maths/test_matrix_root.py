"""Inverse roots: right by both ways, in the stated accuracy, and the same bits in every batch."""

import pytest
import torch

from tuner.optimizers.maths.matrix_root import (
    FLOOR,
    finite_matrices,
    inverse_root,
    root_by_eigenvalues,
    root_by_products,
)

WAYS = [root_by_eigenvalues, root_by_products]


@pytest.fixture(params=WAYS, ids=["eigenvalues", "products"])
def way(request, monkeypatch):
    """Both ways on the CPU, whatever a device would choose."""
    monkeypatch.setattr("tuner.optimizers.maths.matrix_root.root_by_eigenvalues", request.param)
    return request.param


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def with_condition(condition, size=24, count=3):
    """Matrices 37 · Q diag(1, ..., 1 / condition) Q', and what they are made of."""
    vectors = torch.linalg.qr(random(count, size, size))[0]
    values = 37 * torch.logspace(0, -torch.log10(torch.tensor(condition)).item(), size, dtype=torch.float64)
    matrices = (vectors * values) @ vectors.mT
    return (matrices + matrices.mT) / 2, vectors, values


def none(count):
    return torch.zeros(count, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("root", [1, 2, 3, 4, 8])
def test_accuracy_is_as_stated(way, root, dtype):
    for condition in (1.0, 10.0, 1e3, 1e5) if dtype == torch.float32 else (1.0, 10.0, 1e4, 1e8, 1e12):
        matrices, vectors, values = with_condition(condition)
        expected = (vectors * values ** (-1 / root)) @ vectors.mT
        error = (inverse_root(matrices.to(dtype), root, none(3)) - expected).abs().max() / expected.abs().max()
        assert error < (condition + 100) * torch.finfo(dtype).eps / 2, condition


def test_the_root_multiplied_out_is_the_inverse_of_a_tridiagonal_matrix(way):
    size = 30
    matrix = torch.diag(torch.full((size,), 2.0)) - torch.diag(torch.ones(size - 1), 1) - torch.diag(torch.ones(29), -1)
    root = inverse_root(matrix.double()[None], 4, none(1))[0]
    product = torch.linalg.matrix_power(root, 4) @ matrix.double()
    torch.testing.assert_close(product, torch.eye(size, dtype=torch.float64), rtol=0, atol=1e-11)


def test_the_ridge_is_relative_to_the_frobenius_norm(way):
    matrices, vectors, values = with_condition(100.0)
    ridge = torch.tensor([0.0, 1e-3, 0.5], dtype=torch.float64)
    damped = values + ridge[:, None] * values.norm()
    expected = (vectors * damped.sqrt().reciprocal()[:, None]) @ vectors.mT
    torch.testing.assert_close(inverse_root(matrices, 2, ridge), expected, rtol=1e-10, atol=1e-12)


def test_a_singular_matrix_acts_as_its_pseudo_inverse_where_it_is_not_zero(way):
    thin = random(2, 12, 5)
    root = inverse_root(thin @ thin.mT, 2, none(2))
    u, _, v = torch.linalg.svd(thin, full_matrices=False)
    assert root.isfinite().all()
    assert root.abs().max() < 10 * (FLOOR[torch.float64] * (thin @ thin.mT).norm(dim=(1, 2)).min()) ** -0.5
    torch.testing.assert_close(root @ thin, u @ v, rtol=0, atol=1e-7)


def test_zero_and_not_finite_matrices_stay_in_their_place(way):
    matrices, _, _ = with_condition(10.0, count=5)
    alone = inverse_root(matrices[4:], 4, none(1))
    for index, value in enumerate((0.0, torch.nan, torch.inf, -torch.inf)):
        matrices[index, 0 if value else slice(None), :] = value
    roots = inverse_root(matrices, 4, none(5))
    assert roots[0].isfinite().all()
    assert roots[1:4].isnan().flatten(1).any(1).all()
    assert torch.equal(roots[4:], alone)
    assert finite_matrices(matrices).flatten().tolist() == [True, False, False, False, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("thread_count", "size", "most"), [(1, 7, 40), (1, 33, 9), (1, 140, 3), (2, 33, 5), (4, 20, 3)]
)
def test_a_matrix_gets_the_same_bits_in_every_batch(way, dtype, thread_count, size, most, threads):
    threads(thread_count)
    factors = random(most, size, size + 3, dtype=dtype)
    matrices = factors @ factors.mT
    ridge = torch.linspace(1e-6, 1e-2, most, dtype=torch.float64)
    alone = torch.cat([inverse_root(matrices[i : i + 1], 4, ridge[i : i + 1]) for i in range(most)])
    for count in [n for n in (2, 3, 5, 9, 40) if n <= most]:
        order = torch.randperm(most, generator=torch.Generator().manual_seed(count))[:count]
        assert torch.equal(inverse_root(matrices[order], 4, ridge[order]), alone[order])
