"""Weights that are kept load into the user's own model as they are: every name of its state_dict, and no other."""

import pytest
import torch
from engine_cases import run_until_idle, spec
from safetensors.torch import load as load_bytes
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tuner.engine import Stack
from tuner.engine.checkpoint import encode_tensors
from tuner.workloads import Task


class Tied(nn.Module):
    """Embedding and head share a parameter, two layers a buffer; one buffer is not part of the state."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.norm = nn.Embedding(11, 6), nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.token.weight
        self.again = nn.ModuleList([self.norm])
        self.register_buffer("positions", torch.arange(6.0), persistent=False)
        self.register_buffer("scale", torch.tensor(0.5))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.token(tokens) + self.positions * self.scale))  # type: ignore[no-any-return]


@pytest.mark.parametrize("path", ["eager", "loop"])
def test_tied_weights_come_under_all_their_names(path: str) -> None:
    tokens = torch.randint(0, 11, (40,), generator=torch.Generator().manual_seed(1))
    stack = Stack(Task(Tied, cross_entropy, (tokens, tokens), (tokens, tokens)), width=2, micro_batch=8, path=path)
    stack.keep_weights = True
    rows, ends = run_until_idle(stack, [spec(0, "adamw", lr=0.1, batch_size=8, examples=80)])
    assert ends[0].weights is not None
    model = Tied()
    model.load_state_dict(load_bytes(encode_tensors(ends[0].weights, {})))  # strict
    assert model.head.weight is model.token.weight
    with torch.no_grad():
        loss = cross_entropy(model.eval()(tokens), tokens)
    assert float(loss) == pytest.approx(rows[0][-1].metrics["valid_loss"], rel=1e-5)
