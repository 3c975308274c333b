"""Stacked: hyperparameters per trial, schedules, and every refusal."""

import pytest
import torch

from tuner import schedules
from tuner.errors import InvalidInput
from tuner.optimizers import Stacked


def params():
    return {"w": torch.ones(3, 2, 2), "b": torch.ones(3, 2)}


def test_each_trial_has_its_own_values_and_the_rest_are_defaults():
    own = params()
    stack = Stacked("sgd", own, {"lr": torch.tensor([0.0, 0.5, 1.0])})
    stack.step({"w": torch.ones(3, 2, 2), "b": torch.zeros(3, 2)})
    assert own["w"][:, 0, 0].tolist() == [1.0, 0.5, 0.0]
    assert torch.equal(own["b"], torch.ones(3, 2))
    assert stack.hp["weight_decay"].tolist() == [0.0] * 3
    assert stack.hp["lr"].dtype == torch.float64


def test_writing_into_lr_follows_a_schedule():
    peak = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    stack = Stacked("sgd", {"w": torch.zeros(3, 1, dtype=torch.float64)}, {"lr": peak})
    for t in range(10):
        stack.hp["lr"].copy_(peak * schedules.multiplier("linear", stack.state.step, 10, warmup=0.0))
        stack.step({"w": torch.ones(3, 1, dtype=torch.float64)})
        assert stack.state.step.tolist() == [t + 1.0] * 3
    torch.testing.assert_close(stack.params["w"][:, 0], -peak * 5.5, rtol=1e-14, atol=0)
    assert peak.tolist() == [0.1, 0.2, 0.3]


def test_parameters_that_require_gradients_are_stepped():
    w = torch.ones(2, 3, requires_grad=True)
    stack = Stacked("adamw", {"w": w}, {"lr": 0.1, "weight_decay": 0.0})
    w.square().sum().backward()
    stack.step({"w": w.grad})
    assert w.requires_grad
    assert w.grad_fn is None
    torch.testing.assert_close(w.detach(), torch.full((2, 3), 0.9))
    assert not stack.state.buffers["exp_avg"]["w"].requires_grad


def test_a_state_dict_is_a_copy():
    stack = Stacked("momentum", params(), {})
    snapshot = stack.state_dict()
    stack.step({"w": torch.ones(3, 2, 2), "b": torch.ones(3, 2)})
    stack.hp["lr"].fill_(0.5)
    assert snapshot["hp"]["lr"].tolist() == [0.01] * 3
    assert snapshot["step"].tolist() == [0.0] * 3
    assert not snapshot["state"]["buffers.momentum_buffer.w"].any()
    assert set(snapshot) == {"name", "structure", "step", "hp", "state"}


@pytest.mark.parametrize(
    ("message", "attempt"),
    [
        ("'adm' is not known", lambda: Stacked("adm", params(), {})),
        ("there are none", lambda: Stacked("sgd", {}, {})),
        ("params.b: its shape is \\(2, 2\\)", lambda: Stacked("sgd", {**params(), "b": torch.ones(2, 2)}, {})),
        ("params.b: its shape is \\(\\)", lambda: Stacked("sgd", {**params(), "b": torch.tensor(1.0)}, {})),
        ("its shape is \\(0, 2\\)", lambda: Stacked("sgd", {"b": torch.ones(0, 2)}, {})),
        ("params.b: its type is torch.int64", lambda: Stacked("sgd", {"b": torch.ones(3, 2).long()}, {})),
        ("lr: its shape is \\(2,\\); allowed is \\(3,\\)", lambda: Stacked("sgd", params(), {"lr": torch.ones(2)})),
        ("lr is -1.0", lambda: Stacked("sgd", params(), {"lr": torch.tensor([0.1, -1.0, 0.1])})),
        ("lr is nan", lambda: Stacked("sgd", params(), {"lr": torch.tensor([0.1, torch.nan, 0.1])})),
        ("momentum: sgd has no such", lambda: Stacked("sgd", params(), {"momentum": 0.9})),
        ("momentum: sgd has no such", lambda: Stacked("sgd", params(), {"momentum": torch.ones(3)})),
        ("roles.b: 'bias' is not a role", lambda: Stacked("sgd", params(), {}, roles={"b": "bias"})),
        ("grads.b: missing", lambda: Stacked("sgd", params(), {}).step({"w": torch.ones(3, 2, 2)})),
        ("grads.c: no such", lambda: Stacked("sgd", params(), {}).step({**params(), "c": torch.ones(3)})),
        ("grads.b: its shape is \\(3,\\)", lambda: Stacked("sgd", params(), {}).step({**params(), "b": torch.ones(3)})),
        ("grads.b: missing", lambda: Stacked("sgd", params(), {}).step({**params(), "b": None})),
        ("grads.b: is float", lambda: Stacked("sgd", params(), {}).step({**params(), "b": 1.0})),
        (
            "grads.w: is torch.sparse_coo",
            lambda: Stacked("sgd", params(), {}).step({k: g.to_sparse() for k, g in params().items()}),
        ),
        (
            "grads.w: its type is torch.float64",
            lambda: Stacked("soap", params(), {}).step({k: g.double() for k, g in params().items()}),
        ),
        (
            "the state belongs to 'sgd', this is 'adamw'",
            lambda: Stacked("adamw", params(), {}).load_state_dict(Stacked("sgd", params(), {}).state_dict()),
        ),
        (
            "state.buffers.momentum_buffer.b: no such parameter",
            lambda: Stacked("momentum", {"w": params()["w"]}, {}).load_state_dict(
                Stacked("momentum", params(), {}).state_dict()
            ),
        ),
        (
            "state.buffers.momentum_buffer.w: missing",
            lambda: Stacked("muon", params(), {}).load_state_dict(
                Stacked("muon", params(), {}, roles={"w": "head"}).state_dict()
            ),
        ),
    ],
)
def test_refusals(message, attempt):
    with pytest.raises(InvalidInput, match=message):
        attempt()


def test_a_refused_state_changes_nothing():
    stack = Stacked("momentum", params(), {"lr": 0.5})
    wrong = Stacked("momentum", {"w": torch.ones(3, 2, 2), "b": torch.ones(3, 5)}, {"lr": 0.1}).state_dict()
    wrong["step"] += 7
    with pytest.raises(InvalidInput):
        stack.load_state_dict(wrong)
    assert stack.state.step.tolist() == [0.0] * 3
    assert stack.hp["lr"].tolist() == [0.5] * 3
