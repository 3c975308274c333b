"""What a CUDA graph is given and when it is recorded; a stand-in for the graph calls the program again."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from model_kinds import VECTOR, task_for
from torch import Tensor, nn

from tuner.engine.architecture import Architecture
from tuner.engine.paths import compiled
from tuner.engine.paths.compiled import CompiledForward
from tuner.engine.paths.replay import Replay


class StandIn:
    """A graph that runs what was recorded with `record`, into the result of the recording."""

    def __init__(self) -> None:
        self.body: Callable[[], Any] = lambda: None

    def replay(self) -> None:
        self.body()


@contextmanager
def recording(graph: StandIn) -> Iterator[None]:
    yield


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "CUDAGraph", StandIn)
    monkeypatch.setattr(torch.cuda, "graph", recording)


def replayed(program: Callable[[Sequence[Tensor]], Tensor], changing: Sequence[Tensor]) -> Replay:
    made = Replay(program, changing)
    made._graph.body = lambda: made._result.copy_(program(made._changing))  # type: ignore[attr-defined]
    return made


def test_each_call_computes_from_what_it_is_given() -> None:
    first = [torch.tensor([1.0, 2.0]), torch.tensor([3])]
    made = replayed(lambda t: t[0] * t[1], first)
    first[0].fill_(100.0)  # the graph reads tensors of its own
    assert made([torch.tensor([5.0, 6.0]), torch.tensor([2])]).tolist() == [10.0, 12.0]
    assert made([torch.tensor([7.0, 8.0]), torch.tensor([1])]).tolist() == [7.0, 8.0]


def test_a_stack_records_once_for_its_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """With dropout, so that draws and data have to find their places; the sums are those of direct calls."""
    monkeypatch.setattr(compiled, "compile_once", lambda program: program)
    recorded: list[Replay] = []

    def record(program: Callable[[Sequence[Tensor]], Tensor], changing: Sequence[Tensor]) -> Replay:
        made = Replay.__new__(Replay)
        made._changing = [tensor.clone() for tensor in changing]
        made._result = torch.zeros(3, 2, dtype=torch.float64)
        made._graph = StandIn()  # type: ignore[assignment]
        made._graph.body = lambda: made._result.copy_(program(made._changing))  # type: ignore[attr-defined]
        recorded.append(made)
        return made

    monkeypatch.setattr(compiled, "Replay", record)
    task = task_for(VECTOR, lambda: nn.Sequential(nn.Linear(7, 6), nn.Dropout(0.5), nn.Linear(6, 5)))
    architecture = Architecture(task, torch.device("cpu"), torch.float32)
    params = architecture.layout.allocate(2, torch.device("cpu"))
    forward = CompiledForward(architecture, params)
    for slot in range(2):
        architecture.layout.write(params[slot], dict(architecture.build(slot).named_parameters()))
    sums, direct, counts = torch.zeros_like(params), torch.zeros_like(params), torch.ones(2)
    for tick in range(3):
        draws = torch.tensor([[1, 2], [3, 4]]), torch.arange(4).expand(2, 4) + 4 * tick
        data = tuple(item[4 * tick : 4 * tick + 4].expand(2, *item[:4].shape) for item in task.train)
        found = forward._replayed(sums, counts, draws, data)
        assert torch.equal(found, forward._call(direct, counts, draws, data))
        assert torch.equal(sums, direct) and bool(sums.any())
    assert len(recorded) == 1
    forward._replayed(torch.zeros_like(sums), counts, draws, data)
    assert len(recorded) == 2
