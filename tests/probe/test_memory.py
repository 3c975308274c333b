"""Predicted and real peaks, and how much room there is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tuner.probe import free, memory, room
from tuner.probe.memory import Footprint, predicted

MIB = 2**20

CHILD = """
import gc, json, sys
import torch
from tuner.engine import Stack
from tuner.engine.machine.allocator import give_back, keep_freed_memory
from tuner.probe.memory import fill, footprint, peak_of_stack
from tuner.workloads import load

name, path, micro_batch = sys.argv[1], sys.argv[2], int(sys.argv[3])
cpu = torch.device("cpu")
torch.set_num_threads(1)
assert keep_freed_memory()
task = load(name, {})
said = peak_of_stack(task, 64, micro_batch, path=path)
give_back(cpu)


def status(key):
    return next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key))


open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
stack = Stack(task, width=64, micro_batch=micro_batch, path=path)
fill(stack, ticks_per_step=2)
for _ in range(2):
    stack.tick()
stack.evaluate([0])
grown = status("VmHWM") - before
del stack
give_back(cpu)
real = footprint(lambda: Stack(task, width=64, micro_batch=micro_batch, path=path), cpu).peak
print(json.dumps([said, real, grown]))
"""


@pytest.mark.parametrize(("name", "path", "micro_batch"), [("digits-cnn", "eager", 8), ("text-gpt", "loop", 1)])
def test_the_peak_of_64_slots_is_predicted_from_4(name: str, path: str, micro_batch: int) -> None:
    """Within 10 % of what torch's allocator hands out; the process grows by no more than the holes in its heap."""
    command = [sys.executable, "-c", CHILD, name, path, str(micro_batch)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    said, real, grown = json.loads(answer.stdout)
    assert real > 20 * MIB and abs(said / real - 1) < 0.1
    assert 0.9 * said < grown < memory.HEAP_FACTOR * said + 4 * MIB


LORA = """
import json, sys
import torch

sys.path.insert(0, "tests/support")
torch.set_num_threads(1)
from adapters import lora_task
from tuner.engine import Stack
from tuner.engine.machine.allocator import give_back, keep_freed_memory
from tuner.probe.memory import fill, footprint, peak_of_stack

assert keep_freed_memory()
path, cpu = sys.argv[1], torch.device("cpu")
task = lora_task(1024, 1024, 1024, rank=4)


def build():
    return Stack(task, width=32, micro_batch=4, path=path)


def resident():
    return next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))


seen = footprint(build, cpu)
said = peak_of_stack(task, 32, 4, path=path)
give_back(cpu)
before = resident()
stack = build()
fill(stack, ticks_per_step=2)
for _ in range(2):
    stack.tick()
give_back(cpu)
tensors = task.build_model(0).named_parameters()
sizes = [(p.nbytes, p.requires_grad) for _, p in tensors]
base, adapters = (sum(size for size, trained in sizes if trained is wanted) for wanted in (False, True))
print(json.dumps([base, adapters, seen.held, seen.peak, said, resident() - before]))
"""


@pytest.mark.parametrize("path", ["eager", "loop"])
def test_32_slots_hold_one_frozen_base_and_their_adapters(path: str) -> None:
    """Within 10 %: parameters, sums, gradients and two moments of the adapters, and the base once."""
    command = [sys.executable, "-c", LORA, path]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    base, adapters, held, peak, said, grown = json.loads(answer.stdout)
    expected = base + 32 * (5 if path == "eager" else 4) * adapters
    assert base > 8e6 and abs(held / expected - 1) < 0.1
    assert abs(said / peak - 1) < 0.1
    assert grown < memory.HEAP_FACTOR * peak + 4 * MIB


def test_each_phase_has_a_line_of_its_own() -> None:
    """What does not grow with the width outweighs the rest in narrow stacks only."""
    narrow = [Footprint(2, (100, 20)), Footprint(4, (102, 40)), Footprint(1, (0, 9000))]
    assert predicted(narrow, 5) == 103
    assert predicted(narrow, 100) == 1000
    assert predicted(narrow[:1], 100) is None and predicted([], 1) is None
    assert narrow[1].peak == 102


def test_room_is_the_tightest_of_machine_and_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free, "PROC", tmp_path / "proc")
    monkeypatch.setattr(free, "CGROUPS", tmp_path / "cgroup")
    cpu = torch.device("cpu")
    assert room.room(cpu) is None

    def write(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    write("proc/meminfo", "MemTotal: 9 kB\nMemAvailable:   4096 kB\n")
    assert room.room(cpu) == int(0.9 * 4 * MIB)
    write("proc/self/cgroup", "5:memory:/a/b\n0::/a/b\n")
    write("cgroup/a/b/memory.max", "max\n")
    write("cgroup/a/b/memory.current", "1\n")
    assert room.room(cpu) == int(0.9 * 4 * MIB)
    write("cgroup/a/memory.max", str(3 * MIB))
    write("cgroup/a/memory.current", str(2 * MIB))
    assert room.room(cpu) == int(0.9 * MIB)
    write("cgroup/a/memory.stat", f"anon 7\ninactive_file {MIB}\n")
    assert room.room(cpu) == int(0.9 * 2 * MIB)
    write("cgroup/memory/memory.limit_in_bytes", "1000")
    write("cgroup/memory/memory.usage_in_bytes", "1100")
    assert room.room(cpu) == 0
