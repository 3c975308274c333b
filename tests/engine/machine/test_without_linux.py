"""What only Linux and glibc have is optional: each is taken away, and training goes on."""

import ctypes
import os
from pathlib import Path

import pytest
import torch
from engine_cases import run_until_idle, spec

from tuner.engine import Stack
from tuner.engine.machine import allocator, hardware
from tuner.probe import choice, free, room
from tuner.worker.run import split
from tuner.workloads import load

CPU = torch.device("cpu")


def test_without_proc_and_control_groups_the_room_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free, "PROC", tmp_path / "none")
    monkeypatch.setattr(free, "CGROUPS", tmp_path / "none")
    assert room.room(CPU) is None


def test_without_affinity_every_core_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert choice.cores() == os.cpu_count()
    assert split("cpu", None, None, None)[0] >= 1


@pytest.mark.parametrize("loads", [True, False])
def test_without_mallopt_memory_is_left_to_the_allocator(monkeypatch: pytest.MonkeyPatch, loads: bool) -> None:
    def library(name: object) -> object:
        if not loads:
            raise OSError("no such library")
        return object()

    monkeypatch.setattr(ctypes, "CDLL", library)
    assert not allocator.keep_freed_memory()
    assert not allocator.return_freed_memory()
    allocator.give_back(CPU)


def test_a_stack_trains_where_none_of_them_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "CPU_INFO", str(tmp_path / "none"))
    monkeypatch.setattr(free, "PROC", tmp_path / "none")
    monkeypatch.setattr(allocator, "_function", lambda name: None)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    hardware._processor.cache_clear()
    stack = Stack(load("digits-mlp", {}), width=2, micro_batch=8)
    rows, ends = run_until_idle(stack, [spec(0, "sgd", examples=64, seed=0, lr=0.1, batch_size=16)])
    assert rows[0] and ends[0].infeasible is None
    hardware._processor.cache_clear()
