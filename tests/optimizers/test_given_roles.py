"""What a workload says of its parameters' roles counts, in a stack and in a user's own loop alike."""

import pytest
import torch
from engine_cases import run_until_idle, spec
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tuner.engine import Stack
from tuner.errors import InvalidInput
from tuner.optimizers import build
from tuner.optimizers.roles import infer_roles, roles_of_model
from tuner.workloads import Task

X = torch.randn(24, 7, generator=torch.Generator().manual_seed(1))
Y = torch.arange(24) % 3


class Positions(nn.Module):
    """A table that no layer owns, so that its shape alone would make it a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.linspace(-1, 1, 21).view(3, 7).clone())
        self.body, self.out = nn.Linear(7, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.body(x + self.table.mean(0)))  # type: ignore[no-any-return]


def test_of_several_patterns_the_last_counts_and_the_rest_is_inferred() -> None:
    model = Positions()
    given = roles_of_model(model, {"*": "vector", "*.weight": "matrix", "table": "embedding"})
    assert given == {
        "table": "embedding",
        "body.weight": "matrix",
        "body.bias": "vector",
        "out.weight": "matrix",
        "out.bias": "vector",
    }
    assert roles_of_model(model, {"table": "embedding"}) == {**infer_roles(model), "table": "embedding"}
    assert roles_of_model(model) == infer_roles(model)


def test_every_wrong_pattern_is_named() -> None:
    with pytest.raises(InvalidInput) as caught:
        roles_of_model(Positions(), {"tabel*": "embedding", "table": "embeding", "*.bias": "head"})
    assert [fault.field for fault in caught.value.faults] == [
        "roles.tabel*",
        "roles.table",
        "roles.body.bias",
        "roles.out.bias",
    ]


def trained(roles: dict[str, str] | None) -> Tensor:
    task = Task(Positions, cross_entropy, (X, Y), (X, Y), roles=roles)
    stack = Stack(task, width=2, micro_batch=8)
    stack.keep_weights = True
    _, ends = run_until_idle(stack, [spec(0, "muon", examples=48)])
    weights = ends[0].weights
    assert weights is not None
    return weights["table"]


def test_a_stack_steps_by_the_roles_of_its_task() -> None:
    """Muon leaves embeddings to AdamW, so the table ends elsewhere than as a matrix."""
    assert not torch.allclose(trained(None), trained({"table": "embedding"}), atol=1e-3)
    assert torch.equal(trained(None), trained({"tab*": "matrix"}))


def test_a_task_with_a_wrong_role_is_refused_with_the_pattern() -> None:
    with pytest.raises(InvalidInput, match=r"roles\.nowhere\*"):
        trained({"nowhere*": "matrix"})


def test_an_own_loop_takes_the_same_patterns() -> None:
    optimizer = build("muon", Positions(), roles={"tab*": "embedding"})
    named = dict(zip(optimizer.param_groups[0]["param_names"], optimizer.param_groups[0]["roles"], strict=True))
    assert named["table"] == "embedding" and named["body.weight"] == "matrix"
    with pytest.raises(InvalidInput, match="nowhere"):
        build("muon", Positions(), roles={"nowhere*": "matrix"})
