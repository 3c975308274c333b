"""Products and sums of stacks: right, and the same bits in every batch and from any memory."""

import pytest
import torch

from tuner.optimizers.maths.matrix_product import aligned, multiply, norms, sum_by_halving


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def product(left, right):
    return multiply(aligned(left), aligned(right))[:, : left.shape[1], : right.shape[2]]


@pytest.mark.parametrize("shapes", [((7, 13), (13, 5)), ((1, 1), (1, 1)), ((150, 130), (130, 140)), ((40, 3), (3, 70))])
def test_products_are_right_also_of_transposes(shapes):
    left, right = random(3, *shapes[0]), random(3, *shapes[1], seed=1)
    torch.testing.assert_close(product(left, right), left @ right, rtol=0, atol=1e-12)
    gram = multiply(aligned(left).mT, aligned(left))[:, : shapes[0][1], : shapes[0][1]]
    torch.testing.assert_close(gram, left.mT @ left, rtol=0, atol=1e-12)


def test_aligned_copies_only_what_is_not_aligned():
    whole = torch.zeros(3, 16, 32)
    assert aligned(whole).data_ptr() == whole.data_ptr()
    assert aligned(whole, own=True).data_ptr() != whole.data_ptr()
    for other in (
        torch.zeros(3, 16, 33)[:, :, 1:],
        torch.zeros(3, 32, 16).mT,
        torch.zeros(1 + 512 * 3)[1:].view(3, 16, 32),
    ):
        assert aligned(other).data_ptr() % 64 == 0 and aligned(other).is_contiguous()
    assert aligned(torch.ones(2, 5, 7)).shape == (2, 16, 16) and aligned(torch.ones(2, 5, 7)).sum() == 70


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("thread_count", "m", "k", "most"),
    [(1, 10, 32, 64), (1, 33, 65, 33), (1, 200, 150, 4), (2, 33, 65, 9), (4, 20, 9, 3), (2, 16, 512, 3)],
)
def test_a_product_has_the_same_bits_in_every_batch(dtype, thread_count, m, k, most, threads):
    threads(thread_count)
    flat = random(most, m * k + 37, dtype=dtype)
    strided = flat[:, 5 : 5 + m * k].view(most, m, k)
    for function in (lambda x: product(x, x.mT), lambda x: multiply(aligned(x), aligned(x).mT)):
        alone = torch.cat([function(strided[i : i + 1]) for i in range(most)])
        for count in [n for n in (2, 3, 5, 8, 17, 33, 64) if n <= most]:
            order = torch.randperm(most, generator=torch.Generator().manual_seed(count))[:count]
            assert torch.equal(function(strided[order]), alone[order])
            assert torch.equal(function(strided[:count]), alone[:count])


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 65, 1000, 20001])
def test_norms_are_right_and_the_same_bits_in_every_batch(size):
    x = random(5, size + 3, dtype=torch.float32)[:, 1 : 1 + size]
    torch.testing.assert_close(norms(x), x.double().norm(dim=1).float(), rtol=3e-6, atol=0)
    torch.testing.assert_close(sum_by_halving(x), x.double().sum(1).float(), rtol=1e-3, atol=1e-5)
    for index in range(5):
        assert torch.equal(norms(x[index : index + 1].clone()), norms(x)[index : index + 1])
        assert torch.equal(sum_by_halving(x[index : index + 1].clone()), sum_by_halving(x)[index : index + 1])
