"""Closures of a user's own loop as the loss at other parameters, differentiated once or twice."""

import pytest
import torch
from torch import nn

from tuner.errors import InvalidInput
from tuner.optimizers import build, catalogue
from tuner.optimizers.catalogue import rule_class
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


@pytest.mark.parametrize("name", ["gd_wolfe", "lbfgs", "bfgs"])
def test_in_a_search_no_gradient_is_a_gradient_of_zero(name):
    """A parameter may join late, and leave: the loss does not depend on it meanwhile."""
    runs = {}
    for zeros in (False, True):
        p, q = (nn.Parameter(torch.tensor([1.0, 2.0])) for _ in range(2))
        optimizer = build(name, [p, q])
        for used in ((p,), (p, q), (q,), (p, q)):

            def closure(p=p, q=q, used=used, optimizer=optimizer, zeros=zeros):
                optimizer.zero_grad()
                loss = sum((member**4).sum() for member in used)
                if zeros:
                    loss = loss + 0 * p.sum() + 0 * q.sum()
                loss.backward()
                return loss

            optimizer.step(closure)
        runs[zeros] = torch.cat([p.detach(), q.detach()])
    assert torch.equal(runs[False], runs[True])
    assert (runs[True] < torch.tensor([1.0, 2.0, 1.0, 2.0])).all()


class Stopped(Exception):
    pass


@pytest.mark.parametrize("name", [name for name in catalogue() if rule_class(name).needs_loss])
def test_a_closure_that_raises_in_a_search_moves_nothing(name):
    p = nn.Parameter(torch.tensor([3.0, -2.0]))
    optimizer, calls = build(name, [p]), []

    def closure():
        calls.append(p.detach().clone())
        if len(calls) == 2:
            raise Stopped
        optimizer.zero_grad()
        loss = (p**4).sum()
        if not rule_class(name).needs_curvature:
            loss.backward()
        return loss

    with pytest.raises(Stopped):
        optimizer.step(closure)
    assert not torch.equal(calls[1], calls[0])
    assert torch.equal(p.detach(), calls[0])
    torch.testing.assert_close(p.grad, 4 * calls[0] ** 3)
    optimizer.step(closure)
    assert (p.detach() ** 4).sum() < (calls[0] ** 4).sum()


@pytest.mark.parametrize("name", [name for name in catalogue() if rule_class(name).needs_loss])
def test_a_step_that_was_cut_off_is_made_again_as_if_nothing_had_happened(name):
    found = []
    for disturbed in (False, True):
        p = nn.Parameter(torch.tensor([3.0, -2.0]))
        optimizer, calls = build(name, [p]), []

        def closure(p=p, optimizer=optimizer, calls=calls):
            calls.append(1)
            if calls == [0, 1, 1]:
                raise Stopped
            optimizer.zero_grad()
            loss = (p**4).sum() + (p[0] - 1).square()
            if not rule_class(name).needs_curvature:
                loss.backward()
            return loss

        for _ in range(4):
            if disturbed:
                calls[:] = [0]
                with pytest.raises(Stopped):
                    optimizer.step(closure)
            calls[:] = []
            optimizer.step(closure)
        found.append(p.detach().clone())
    assert torch.equal(*found)


@pytest.mark.parametrize("name", [name for name in catalogue() if rule_class(name).needs_loss])
def test_a_search_asks_for_no_place_twice_and_leaves_the_first_gradient(name):
    p = nn.Parameter(torch.tensor([3.0, -2.0]))
    optimizer = build(name, [p], lr=0.5)
    for _ in range(3):
        places = []

        def closure(places=places):
            places.append(p.detach().clone())
            optimizer.zero_grad()
            loss = (p**2).sum() / 2
            if not rule_class(name).needs_curvature:
                loss.backward()
            return loss

        optimizer.step(closure)
        distinct = {tuple(place.tolist()) for place in places}
        assert len(places) == len(distinct)
        torch.testing.assert_close(p.grad, places[0])


def test_a_first_step_that_is_accepted_costs_two_calls():
    for name in ("gd_armijo", "gd_wolfe", "newton_cg"):
        p = nn.Parameter(torch.tensor([3.0, -2.0], dtype=torch.float64))
        optimizer, calls = build(name, [p], lr=1.0), []

        def closure(p=p, optimizer=optimizer, calls=calls, name=name):
            calls.append(1)
            optimizer.zero_grad()
            loss = (p**2).sum() / 2
            if name != "newton_cg":
                loss.backward()
            return loss

        optimizer.step(closure)
        assert len(calls) == 2 and (p == 0).all()
