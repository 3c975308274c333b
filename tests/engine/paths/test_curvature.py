"""Second derivatives in the stack, and the rules that search with the full batch, on built-in problems."""

import numpy as np
import pytest
import torch
from engine_cases import batches, run_until_idle, small_task, solo_model, spec
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.autograd.functional import hessian
from torch.func import functional_call
from torch.nn.functional import binary_cross_entropy_with_logits

from tuner.engine import Stack
from tuner.optimizers.rule import Curvature
from tuner.workloads import Task
from tuner.workloads.logistic_regression import logistic_regression
from tuner.workloads.rosenbrock import rosenbrock

SEARCHES = ["gd_exact", "gd_armijo", "gd_wolfe", "coordinate_descent", "bfgs", "lbfgs", "newton_cg"]


@pytest.mark.parametrize("path", ["eager", "loop"])
def test_products_are_with_the_hessian_of_the_steps_own_examples(path: str) -> None:
    """Two trials of different batch sizes, in steps of two and three micro-batches, beside one that is not due."""
    task = small_task(hidden=3, inputs=4, classes=3)
    stack = Stack(task, width=3, micro_batch=4, dtype=torch.float64, path=path)
    trials = [spec(i, "gd_wolfe", batch_size=size, seed=i) for i, size in enumerate((8, 12, 8))]
    slots = [stack.admit(trial) for trial in trials]
    assert stack.path == path and all(slot is not None for slot in slots)
    due = np.array([slots[1], slots[0]])
    evaluate = stack._reevaluation.for_slots(due)
    assert isinstance(evaluate, Curvature)
    params = {name: value[due].clone() for name, value in stack._architecture.layout.views(stack._params).items()}
    generator = torch.Generator().manual_seed(2)
    vectors = {n: torch.randn(v.shape, generator=generator, dtype=torch.float64) for n, v in params.items()}
    found = evaluate.hessian_vector(params, vectors)
    for row, trial in enumerate((trials[1], trials[0])):
        model = solo_model(task, trial.seed, torch.float64)
        ((x, y),) = batches(task, trial.seed, trial.batch_size, torch.float64, 1)
        names = [name for name, _ in model.named_parameters()]

        def loss(*values: Tensor, net: nn.Module = model, data: tuple[Tensor, ...] = (x, y)) -> Tensor:
            named = dict(zip(dict(net.named_parameters()), values, strict=True))
            return task.loss(functional_call(net, named, (data[0],)), data[1])

        dense = hessian(loss, tuple(p.detach() for p in model.parameters()))
        for i, name in enumerate(names):
            expected = sum(
                torch.tensordot(dense[i][j], vectors[other][row], vectors[other][row].dim())
                for j, other in enumerate(names)
            )
            torch.testing.assert_close(found[name][row], expected, rtol=1e-10, atol=1e-12)


def test_a_trial_that_uses_curvature_keeps_its_bits_beside_others() -> None:
    watched = spec(100, "newton_cg", batch_size=8, examples=32, report_every=8, divergence_factor=1e9)
    others = [
        spec(1, "sgd", lr=1e39, batch_size=4, examples=400, divergence_factor=1e30),
        spec(2, "newton_cg", batch_size=16, examples=32, seed=4, divergence_factor=1e9),
        spec(3, "bfgs", batch_size=8, examples=32, seed=5, divergence_factor=1e9),
        spec(4, "lbfgs", batch_size=4, examples=16, seed=6, divergence_factor=1e9),
        spec(5, "coordinate_descent", batch_size=4, examples=16, seed=7, divergence_factor=1e9),
    ]
    found = []
    for trials in ([watched], [*others, watched], [*others[3:], watched, *others[:3]]):
        rows, _ = run_until_idle(Stack(small_task(), width=6, micro_batch=4), trials)
        found.append([(row.step, row.metrics) for row in rows[100]])
    assert found[0] == found[1] == found[2] and len(found[0]) == 4


@pytest.mark.parametrize("name", ["bfgs", "lbfgs"])
def test_snapshots_of_trials_with_a_memory_continue_bit_for_bit(name: str) -> None:
    task, watched = small_task(), spec(100, name, batch_size=8, examples=96, divergence_factor=1e9)
    (expected,) = run_until_idle(Stack(task, width=3, micro_batch=4), [watched])[0].values()
    first, second = (Stack(task, width=3, micro_batch=4) for _ in range(2))
    slot = first.admit(watched)
    assert slot is not None
    for _ in range(11):
        first.tick()
    second.restore(2, first.snapshot(slot))
    rows = run_until_idle(second, [])[0][100]
    assert rows[-1].metrics["valid_loss"] == expected[-1].metrics["valid_loss"]


def test_the_valleys_bottom_is_found_in_the_stack() -> None:
    steps = 40
    trials = [spec(i, name, batch_size=1, examples=steps) for i, name in enumerate(("bfgs", "lbfgs", "newton_cg"))]
    rows, ends = run_until_idle(Stack(rosenbrock(), width=3, micro_batch=1, dtype=torch.float64), trials)
    assert all(end.outcome == "finished" for end in ends.values())
    assert all(rows[i][-1].metrics["valid_loss"] < 1e-8 for i in range(3))


def test_every_search_finds_the_minimum_of_a_logistic_regression() -> None:
    """Built-in data, 3 features, some labels turned so that the classes overlap; scipy says where the minimum is."""
    data = logistic_regression()
    x, y = data.train[0][:100, [0, 1, 4]].double(), data.train[1][:100].clone()
    y[::5] = 1 - y[::5]
    task = Task(lambda: nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)), binary_cross_entropy_with_logits, (x, y), (x, y))

    def value(p: np.ndarray) -> tuple[float, np.ndarray]:
        leaf = torch.tensor(p, requires_grad=True)
        loss = binary_cross_entropy_with_logits(x @ leaf[:3] + leaf[3], y.double())
        return float(loss.detach()), torch.autograd.grad(loss, leaf)[0].numpy()

    least = minimize(value, np.zeros(4), jac=True, method="BFGS", options={"gtol": 1e-9}).fun
    steps, slower = 30, {"gd_armijo": 1e-6, "gd_wolfe": 1e-6, "coordinate_descent": 1e-6}
    trials = [spec(i, name, batch_size=100, examples=steps * 100) for i, name in enumerate(SEARCHES)]
    rows, _ = run_until_idle(Stack(task, width=len(SEARCHES), micro_batch=100, dtype=torch.float64), trials)
    for i, name in enumerate(SEARCHES):
        assert 0 <= rows[i][-1].metrics["valid_loss"] - least + 1e-12 < slower.get(name, 1e-9), name
