"""What is measured, and what is left out."""

from collections.abc import Callable

import pytest
import torch
from engine_cases import small_task

from tuner.engine import Stack
from tuner.engine.paths import path as path_module
from tuner.engine.paths.dry_run import SLOT_DEPENDENT
from tuner.probe.bench import Bench, LeftOut, Timing, allocator_room, probe, splits
from tuner.probe.choice import Cell
from tuner.probe.memory import Footprint


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")


class Crew:
    """Three processes whose stacks take 1,000 bytes per slot by one path, and 10 by the other."""

    processes, threads = 3, 2

    def __init__(self) -> None:
        self.built: list[tuple[str, int]] = []

    def measure(self, path: str, width: int) -> Timing | None:
        self.built.append((path, width))
        each = 1000 if path == "loop" else 10
        return Timing(0.5, Footprint(width, (each * width, 77))) if path != "compiled" else None


def test_what_will_not_fit_is_not_built() -> None:
    """What all processes take together counts, and the first two widths, from which it is predicted, are tried."""
    crew = Crew()
    found = list(probe(crew, widths=(1, 4, 16, 64), room=3 * 16_000 - 1))
    assert LeftOut("loop", 16, 3, 2, 16_000) in found
    assert crew.built == [(p, 1) for p in ("loop", "eager", "compiled")] + [
        ("loop", 4),
        ("eager", 4),
        ("eager", 16),
        ("eager", 64),
    ]
    assert found[-1] == Cell("eager", 64, 0.5, 3, 2, 640) and found[-1].rate == 3 * 64 / 0.5
    assert not any(isinstance(item, LeftOut) for item in probe(Crew(), widths=(1, 4, 16), room=3 * 16_000))


def test_what_has_no_memory_is_left_out_and_what_falls_back_too(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., object] = Stack.tick

    def hungry(stack: Stack) -> object:
        if stack.path == "eager" and stack.width > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return real(stack)

    monkeypatch.setattr(Stack, "tick", hungry)
    cells = list(probe(Bench(small_task(), 4, cell_s=0.0), widths=(1, 2, 4)))
    assert all(isinstance(cell, Cell) and cell.tick_s > 0 and cell.bytes for cell in cells)
    assert [(c.width, c.path) for c in cells] == [(1, "loop"), (1, "eager"), (2, "loop"), (4, "loop")]


def test_every_core_is_used_however_many_processes_there_are() -> None:
    cpu = torch.device("cpu")
    assert splits(1, cpu) == [(1, 1)]
    assert splits(2, cpu) == [(1, 2), (2, 1)]
    assert splits(6, cpu) == [(1, 6), (2, 3), (4, 1), (6, 1)]
    assert [processes for processes, _ in splits(16, torch.device("cuda"))] == [1]
    assert allocator_room(None, cpu) is None and allocator_room(170, cpu) == 100
    assert allocator_room(170, torch.device("cuda")) == 170


def test_an_eager_path_that_tells_slots_apart_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast it is."""

    def paths() -> set[str]:
        found = probe(Bench(small_task(), 4, cell_s=0.001), paths=("loop", "eager"), widths=(3,))
        return {cell.path for cell in found if isinstance(cell, Cell)}

    assert paths() == {"loop", "eager"}
    monkeypatch.setattr(path_module, "fault_of_vmap", lambda *_: SLOT_DEPENDENT)
    assert paths() == {"loop"}
