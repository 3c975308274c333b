"""Closures of a user's own loop as the loss at other parameters, differentiated once or twice."""

import pytest
import torch
from torch import nn

from tuner.errors import InvalidInput
from tuner.optimizers import build
from tuner.optimizers.closure import ClosureLoss, CurvedClosureLoss


@pytest.fixture
def members():
    return [nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor([[3.0]]))]


def cubic(members):
    """a1³ + a1 a2 b + b²: Hessian [[6 a1, b, a2], [b, 0, a1], [a2, a1, 2]]."""
    a, b = members[0], members[1][0, 0]
    return a[0] ** 3 + a[0] * a[1] * b + b**2


def test_products_with_the_hessian_are_exact_here_and_elsewhere(members):
    evaluate = CurvedClosureLoss(lambda: cubic(members), members)
    vectors = {"0": torch.tensor([[1.0, 10.0]]), "1": torch.tensor([[[100.0]]])}
    here = {"0": members[0].detach()[None], "1": members[1].detach()[None]}
    for _ in range(2):
        found = evaluate.hessian_vector(here, vectors)
        assert found["0"].tolist() == [[6 + 30 + 200, 3 + 100]] and found["1"].tolist() == [[[2 + 10 + 200]]]
    there = {"0": torch.tensor([[0.0, 5.0]]), "1": torch.tensor([[[7.0]]])}
    found = evaluate.hessian_vector(there, vectors)
    assert found["0"].tolist() == [[70 + 500, 7]] and found["1"].tolist() == [[[5 + 200]]]
    loss, gradients = evaluate(there)
    assert loss.tolist() == [49] and gradients["0"].tolist() == [[35, 0]] and gradients["1"].tolist() == [[[14]]]
    assert members[0].tolist() == [1, 2] and members[1].tolist() == [[3]] and members[0].grad is None


def test_the_graph_is_made_once_for_products_at_one_place(members):
    calls = []
    evaluate = CurvedClosureLoss(lambda: calls.append(1) or cubic(members), members)
    here = {"0": members[0].detach()[None], "1": members[1].detach()[None]}
    for _ in range(3):
        evaluate.hessian_vector(here, here)
    evaluate(here)
    assert len(calls) == 2


def test_a_loss_without_curvature_gives_zeros(members):
    evaluate = CurvedClosureLoss(lambda: 2 * members[0].sum(), members)
    here = {"0": members[0].detach()[None], "1": members[1].detach()[None]}
    assert all((product == 0).all() for product in evaluate.hessian_vector(here, here).values())


def test_an_evaluation_leaves_parameters_and_gradients_as_they_were(members):
    members[0].grad = torch.tensor([5.0, 6.0])

    def closure():
        for member in members:
            member.grad = None
        loss = cubic(members)
        loss.backward()
        return loss

    loss, gradients = ClosureLoss(closure, members)({"0": torch.zeros(1, 2), "1": torch.ones(1, 1, 1)})
    assert loss.tolist() == [1] and gradients["1"].tolist() == [[[2]]]
    assert members[0].grad.tolist() == [5, 6] and members[1].grad is None and members[0].tolist() == [1, 2]


def test_newton_cg_takes_a_closure_that_only_returns_the_loss():
    p = nn.Parameter(torch.tensor([3.0, -2.0], dtype=torch.float64))
    optimizer = build("newton_cg", [p], forcing=0.0)
    assert float(optimizer.step(lambda: (p**2 * torch.tensor([1.0, 5.0])).sum())) == 29
    torch.testing.assert_close(p.detach(), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-14)


def test_closures_that_cannot_be_differentiated_twice_are_refused():
    p = nn.Parameter(torch.ones(2))
    optimizer = build("newton_cg", [p])

    def eager():
        loss = (p**2).sum()
        loss.backward()
        return loss

    for closure in (eager, lambda: 1.0, lambda: torch.tensor(1.0)):
        with pytest.raises(InvalidInput, match="leave backward"):
            optimizer.step(closure)


def test_searching_rules_refuse_parameters_that_join_late():
    p, q = (nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = build("gd_wolfe", [p, q])

    def closure(used=(p,)):
        optimizer.zero_grad()
        loss = sum((member**2).sum() for member in used)
        loss.backward()
        return loss

    optimizer.step(closure)
    with pytest.raises(InvalidInput, match="gradients from the first step"):
        optimizer.step(lambda: closure((p, q)))
