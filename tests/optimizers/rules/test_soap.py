"""SOAP: Adam in a basis, the basis itself, and the authors' conventions in an independent implementation."""

import pytest
import torch
from staggered import assert_latecomers_are_alone

from tuner.optimizers import Stacked
from tuner.optimizers.maths.eigenbasis import GRADE, eigenbasis, followed


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spectrum(values, seed=0):
    """A symmetric matrix with these eigenvalues, and its eigenvectors."""
    vectors = torch.linalg.qr(random(len(values), len(values), seed=seed))[0]
    return (vectors * values) @ vectors.T, vectors


def test_a_basis_is_orthogonal_and_diagonalises():
    values = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5], dtype=torch.float64)
    matrix, _ = spectrum(values)
    basis = eigenbasis(matrix[None])[0]
    torch.testing.assert_close(basis.T @ basis, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-13)
    core = basis.T @ matrix @ basis
    torch.testing.assert_close(core.diagonal(), values, rtol=0, atol=GRADE * values.norm().item())
    assert (core - torch.diag(core.diagonal())).abs().max() < 2 * GRADE * values.norm()


def test_following_converges_to_the_eigenvectors_sorts_and_says_where_columns_came_from():
    values = torch.tensor([1.0, 0.3, 0.1, 0.03, 0.01], dtype=torch.float64)
    matrix, vectors = spectrum(values)
    basis = torch.linalg.qr(random(5, 5, seed=9))[0][None]
    for _ in range(30):
        basis, order = followed(matrix[None], basis)
    torch.testing.assert_close((basis[0] * vectors).sum(0).abs(), torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-9)
    assert order.tolist() == [[0, 1, 2, 3, 4]]
    _, order = followed(matrix[None], basis[:, :, [4, 2, 0, 1, 3]])
    assert order.tolist() == [[2, 3, 1, 4, 0]]


def test_what_the_matrix_does_not_reach_keeps_its_axes():
    thin = random(6, 2)
    basis, _ = followed((thin @ thin.T)[None], eigenbasis((thin @ thin.T)[None]))
    again, order = followed((thin @ thin.T)[None], basis)
    kept = basis[0][:, order[0]]
    torch.testing.assert_close(again[0, :, 2:].abs(), kept[:, 2:].abs(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("thread_count", "size", "most"), [(1, 7, 20), (1, 33, 9), (1, 140, 3), (2, 33, 5)])
def test_bases_have_the_same_bits_in_every_batch_beside_not_finite_ones(thread_count, size, most, threads):
    threads(thread_count)
    factors = random(most, size, size + 3).float()
    matrices = factors @ factors.mT
    matrices[1, 0, 0] = torch.nan
    bases = torch.cat([eigenbasis(matrix[None]) for matrix in matrices])
    moved = [followed(matrix[None], basis[None]) for matrix, basis in zip(matrices, bases, strict=True)]
    good = [i for i in range(most) if i != 1]
    order = torch.randperm(most, generator=torch.Generator().manual_seed(size))
    assert torch.equal(eigenbasis(matrices)[good], bases[good])
    together, columns = followed(matrices[order], bases[order])
    for row, index in enumerate(order.tolist()):
        if index != 1:
            assert torch.equal(together[row], moved[index][0][0]) and torch.equal(columns[row], moved[index][1][0])
    assert bases[1].isnan().any() and moved[1][0].isnan().any()


def test_without_bases_it_is_adam_that_starts_a_step_later():
    start, gradients = random(2, 5, 4), [random(2, 5, 4, seed=s) for s in range(20)]
    hp = {"lr": 0.05, "beta1": 0.9, "beta2": 0.95, "eps": 0.0, "weight_decay": 0.0}
    stack = Stacked("soap", {"p": start.clone()}, {**hp, "max_dim": 3})
    leaf = start.clone()
    adam = torch.optim.Adam([leaf], lr=0.05, betas=(0.9, 0.95), eps=0.0)
    for step, gradient in enumerate(gradients):
        stack.step({"p": gradient})
        if step:
            leaf.grad = gradient
            adam.step()
    torch.testing.assert_close(stack.params["p"], leaf, rtol=1e-12, atol=1e-12)
    assert not stack.state.pools


def test_a_gradient_is_diagonal_in_its_own_basis_so_the_step_is_its_polar_factor():
    values = torch.tensor([4.0, 2.0, 1.0, 0.5], dtype=torch.float64)
    u, v = (torch.linalg.qr(random(4, 4, seed=s))[0] for s in (0, 1))
    gradient = ((u * values) @ v.T)[None]
    stack = Stacked("soap", {"p": torch.zeros(1, 4, 4, dtype=torch.float64)}, {"lr": 1.0, "weight_decay": 0.0})
    stack.step({"p": gradient})
    stack.state.pools["left_basis"]["p"][0], stack.state.pools["right_basis"]["p"][0] = u, v
    before = stack.params["p"].clone()
    stack.step({"p": gradient})
    moments = stack.state.buffers["exp_avg"]["p"][0]
    assert (moments - torch.diag(moments.diagonal())).abs().max() < 1e-14
    diagonal = (u.T @ (before - stack.params["p"])[0] @ v).diagonal()
    torch.testing.assert_close(diagonal, torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-6)


def test_bases_stay_orthogonal_and_turning_them_keeps_the_momentum():
    hp = {"lr": 0.01, "refresh": 3, "beta1": 0.9}
    stack = Stacked("soap", {"p": torch.zeros(2, 9, 6, dtype=torch.float64)}, hp)
    mean = torch.zeros(2, 9, 6, dtype=torch.float64)
    for step in range(25):
        gradient = random(2, 9, 6, seed=step)
        stack.step({"p": gradient})
        mean = mean * 0.9 + gradient * 0.1 if step else mean
        left, right = (stack.state.pools[f"{side}_basis"]["p"] for side in ("left", "right"))
        for basis in (left, right):
            eye = torch.eye(basis.shape[1], dtype=torch.float64).expand_as(basis)
            torch.testing.assert_close(basis.mT @ basis, eye, rtol=0, atol=1e-13)
        torch.testing.assert_close(left @ stack.state.buffers["exp_avg"]["p"] @ right.mT, mean, rtol=0, atol=1e-12)


def test_it_is_the_authors_algorithm_where_the_first_factor_has_full_rank():
    """pytorch_optimizer 4's SOAP; it rounds bases to float32 when it turns them, so only up to the first turn."""
    from pytorch_optimizer import SOAP  # takes seconds: only where it is used

    start, gradients = random(7, 7), [random(7, 7, seed=s) for s in range(1, 11)]
    gradients[0] = 3 * torch.diag(torch.arange(7, 0, -1.0, dtype=torch.float64))  # the ramp turns no axis
    hp = {"lr": 0.02, "beta1": 0.9, "beta2": 0.95, "shampoo_beta": 0.9, "eps": 1e-6, "weight_decay": 0.1}
    stack = Stacked("soap", {"p": start.clone()[None]}, hp)
    leaf = start.clone()
    oracle = SOAP(
        [leaf], lr=0.02, betas=(0.9, 0.95), shampoo_beta=0.9, eps=1e-6, weight_decay=0.1, precondition_frequency=10
    )
    for gradient in gradients:
        stack.step({"p": gradient[None]})
        leaf.grad = gradient.clone()
        oracle.step()
    torch.testing.assert_close(stack.params["p"][0], leaf, rtol=1e-12, atol=1e-12)
    for _ in range(3):  # the first turn happened at the last step: its effect agrees to float32
        stack.step({"p": gradients[-1][None]})
        leaf.grad = gradients[-1].clone()
        oracle.step()
    torch.testing.assert_close(stack.params["p"][0], leaf, rtol=1e-4, atol=1e-5)


def test_trials_that_joined_later_go_on_as_if_alone():
    assert_latecomers_are_alone("soap", {"refresh": 2})


def test_a_convolution_is_the_matrix_of_its_flattened_kernels():
    kernels = Stacked("soap", {"p": torch.zeros(2, 4, 3, 2, 1)}, {"refresh": 2}, roles={"p": "convolution"})
    matrix = Stacked("soap", {"p": torch.zeros(2, 4, 6)}, {"refresh": 2}, roles={"p": "matrix"})
    for step in range(6):
        gradient = random(2, 4, 3, 2, 1, seed=step).float()
        kernels.step({"p": gradient})
        matrix.step({"p": gradient.flatten(2)})
    assert torch.equal(kernels.params["p"].flatten(2), matrix.params["p"])
