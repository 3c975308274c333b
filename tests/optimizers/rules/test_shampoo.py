"""Shampoo: the closed forms of its first step, what grafting keeps, blocks, and when roots are renewed."""

import pytest
import torch
from staggered import assert_latecomers_are_alone

from tuner.errors import InvalidInput
from tuner.optimizers import Stacked
from tuner.optimizers.maths.newton_schulz import polar

BARE = {"lr": 1.0, "beta1": 0.0, "beta2": 0.0, "weight_decay": 0.0, "eps": 0.0, "graft": "none", "refresh": 1}


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def steps_of(hp, gradients, roles=None):
    """The movements -Δp of a stack over a list of gradients."""
    stack = Stacked("shampoo", {"p": torch.zeros_like(gradients[0])}, hp, roles=roles)
    moved = []
    for gradient in gradients:
        before = stack.params["p"].clone()
        stack.step({"p": gradient})
        moved.append(before - stack.params["p"])
    return moved


def test_without_accumulation_both_sides_at_a_quarter_give_the_polar_factor():
    gradient = random(3, 8, 8)
    u, _, v = torch.linalg.svd(gradient)
    for hp in (BARE, {**BARE, "accumulation": "sum"}):  # in the first step a sum holds one gradient as well
        torch.testing.assert_close(steps_of(hp, [gradient])[0], u @ v, rtol=0, atol=1e-10)
    # That is Muon's step with an exact polar factor.
    torch.testing.assert_close(steps_of(BARE, [gradient])[0], polar(gradient), rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5)])
def test_the_shorter_side_alone_at_a_half_gives_the_polar_factor(shape):
    gradient = random(2, *shape)
    u, _, v = torch.linalg.svd(gradient, full_matrices=False)
    moved = steps_of({**BARE, "sides": "shorter", "root": 2}, [gradient])[0]
    torch.testing.assert_close(moved, u @ v, rtol=0, atol=1e-10)


def test_both_sides_at_a_half_invert_the_singular_values():
    gradient = random(2, 6, 6)
    u, s, v = torch.linalg.svd(gradient)
    moved = steps_of({**BARE, "root": 2}, [gradient])[0]
    torch.testing.assert_close(moved, u @ torch.diag_embed(1 / s) @ v, rtol=1e-8, atol=1e-9)


def test_no_accumulation_forgets_earlier_gradients():
    first, second = random(2, 6, 6), random(2, 6, 6, seed=1)
    torch.testing.assert_close(steps_of(BARE, [first, second])[1], steps_of(BARE, [second])[0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("accumulation", ["sum", "average"])
def test_diagonal_gradients_make_it_adagrad_or_rmsprop(accumulation):
    diagonals = random(4, 2, 7, seed=3)
    moved = steps_of({**BARE, "accumulation": accumulation, "beta2": 0.9}, [torch.diag_embed(d) for d in diagonals])
    square = torch.zeros(2, 7, dtype=torch.float64)
    for t, (d, step) in enumerate(zip(diagonals, moved, strict=True), start=1):
        square = square + d**2 if accumulation == "sum" else 0.9 * square + 0.1 * d**2
        corrected = square if accumulation == "sum" else square / (1 - 0.9**t)
        torch.testing.assert_close(step, torch.diag_embed(d / corrected.sqrt()), rtol=1e-9, atol=1e-10)


TORCH = {
    "sgd": lambda p, hp: torch.optim.SGD([p], lr=hp["lr"]),
    "rmsprop": lambda p, hp: torch.optim.RMSprop([p], lr=hp["lr"], alpha=hp["beta2"], eps=hp["graft_eps"]),
    "adam": lambda p, hp: torch.optim.Adam([p], lr=hp["lr"], betas=(hp["beta1"], hp["beta2"]), eps=hp["graft_eps"]),
}


@pytest.mark.parametrize("graft", list(TORCH))
def test_preconditioning_that_never_starts_is_the_grafted_rule(graft):
    start, gradients = random(1, 5, 4), [random(1, 5, 4, seed=s) for s in range(20)]
    hp = {"lr": 0.1, "beta1": 0.8 if graft == "adam" else 0.0, "beta2": 0.95, "graft_eps": 1e-3, "weight_decay": 0.0}
    stack = Stacked("shampoo", {"p": start.clone()}, {**hp, "graft": graft, "start": 1000})
    leaf = start[0].clone()
    oracle = TORCH[graft](leaf, hp)
    for gradient in gradients:
        stack.step({"p": gradient})
        leaf.grad = gradient[0]
        oracle.step()
    torch.testing.assert_close(stack.params["p"][0], leaf, rtol=1e-12, atol=1e-12)


def test_a_graft_gives_each_tensor_the_length_of_the_grafted_step_from_start_on():
    gradients = [random(3, 12, 7, seed=s) for s in range(4)]
    hp = {"lr": 0.1, "beta1": 0.7, "beta2": 0.9, "weight_decay": 0.0, "refresh": 2, "block_size": 5}
    grafted = steps_of({**hp, "start": 1000}, gradients)
    moved = steps_of({**hp, "start": 2}, gradients)
    for index, (own, other) in enumerate(zip(moved, grafted, strict=True)):
        torch.testing.assert_close(own.norm(dim=(1, 2)), other.norm(dim=(1, 2)), rtol=1e-12, atol=0)
        assert torch.equal(own, other) == (index < 2)


def test_blocks_are_matrices_of_their_own_and_one_block_is_all():
    gradients = [random(2, 8, 12, seed=s) for s in range(3)]
    hp = {**BARE, "beta1": 0.5, "beta2": 0.9, "eps": torch.tensor([1e-3, 0.1])}  # each trial keeps its own ridge
    blocked = steps_of({**hp, "block_size": 6}, gradients)  # 2 x 2 blocks of 4 x 6
    for rows in (slice(0, 4), slice(4, 8)):
        for columns in (slice(0, 6), slice(6, 12)):
            apart = steps_of(hp, [gradient[:, rows, columns].contiguous() for gradient in gradients])
            for whole, part in zip(blocked, apart, strict=True):
                torch.testing.assert_close(whole[:, rows, columns], part, rtol=0, atol=1e-11)
    for large in (12, 1000):
        assert torch.equal(steps_of({**hp, "block_size": large}, gradients)[2], steps_of(hp, gradients)[2])


def test_blocks_that_do_not_fill_the_edge_leave_the_rest_alone():
    gradient = random(2, 7, 7)
    moved = steps_of({**BARE, "beta2": 0.9, "eps": 1e-6, "block_size": 5}, [gradient])[0]  # 4 + 3, filled up to 4
    corner = steps_of({**BARE, "beta2": 0.9, "eps": 1e-6}, [gradient[:, 4:, 4:].contiguous()])[0]
    torch.testing.assert_close(moved[:, 4:, 4:], corner, rtol=0, atol=1e-10)


def test_roots_are_renewed_at_the_first_step_and_then_every_refresh():
    stack = Stacked("shampoo", {"p": torch.zeros(2, 6, 4)}, {"refresh": 3})
    changed = []
    for step in range(7):
        before = [stack.state.pools[side]["p"].clone() for side in ("left_root", "right_root")]
        stack.step({"p": random(2, 6, 4, seed=step).float()})
        after = [stack.state.pools[side]["p"] for side in ("left_root", "right_root")]
        changed.append([not torch.equal(old, new) for old, new in zip(before, after, strict=True)])
    assert changed == [[step % 3 == 0] * 2 for step in range(7)]


def test_a_convolution_is_the_matrix_of_its_flattened_kernels():
    gradients = [random(3, 8, 3, 2, 1, seed=s) for s in range(3)]
    kernels = steps_of({}, gradients, {"p": "convolution"})
    matrix = steps_of({}, [gradient.flatten(2) for gradient in gradients], {"p": "matrix"})
    assert torch.equal(kernels[2].flatten(2), matrix[2])


@pytest.mark.parametrize("role", ["embedding", "vector"])
def test_other_roles_are_adamw(role):
    start, gradients = random(3, 4, 6), [random(3, 4, 6, seed=s) for s in range(1, 6)]
    moments = {"beta1": 0.8, "beta2": 0.9, "weight_decay": 0.3}
    hp = {"lr": 0.1, "fallback_lr_ratio": 0.25, "graft_eps": 1e-6, **moments}
    shampoo = Stacked("shampoo", {"p": start.clone()}, hp, roles={"p": role})
    adamw = Stacked("adamw", {"p": start.clone()}, {"lr": 0.025, "eps": 1e-6, **moments})
    for gradient in gradients:
        shampoo.step({"p": gradient})
        adamw.step({"p": gradient})
    assert torch.equal(shampoo.params["p"], adamw.params["p"])


@pytest.mark.parametrize("more", [{}, {"block_size": 4, "graft": "sgd", "start": 2}, {"sides": "shorter", "root": 2}])
def test_trials_that_joined_later_go_on_as_if_alone(more):
    assert_latecomers_are_alone("shampoo", {"refresh": 3, **more})


@pytest.mark.parametrize("illegal", [{"root": 0}, {"root": 1.5}, {"block_size": 0}, {"graft": "lamb"}, {"refresh": 0}])
def test_illegal_structure_is_refused(illegal):
    with pytest.raises(InvalidInput, match=next(iter(illegal))):
        Stacked("shampoo", {"p": torch.zeros(2, 3, 3)}, illegal)
