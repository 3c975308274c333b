"""A program names what decides the rounding: hardware and compiler, and not which of two equal devices it was."""

from pathlib import Path

import pytest
import torch
from engine_cases import small_task

from tuner.engine import Stack
from tuner.engine.machine import hardware


@pytest.fixture(autouse=True)
def ask_again() -> None:
    hardware._processor.cache_clear()
    hardware.compiler.cache_clear()


def test_the_processor_is_named_where_the_system_tells_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = tmp_path / "cpuinfo"
    told.write_text("processor: 0\nmodel name\t: Some CPU @ 2 GHz\nprocessor: 1\nmodel name\t: Some CPU @ 2 GHz\n")
    monkeypatch.setattr(hardware, "CPU_INFO", str(told))
    capability = torch.backends.cpu.get_cpu_capability()
    assert hardware.hardware(torch.device("cpu")) == f"Some CPU @ 2 GHz, {capability}"
    hardware._processor.cache_clear()
    monkeypatch.setattr(hardware, "CPU_INFO", str(tmp_path / "absent"))
    name = hardware.hardware(torch.device("cpu"))
    assert name.endswith(f", {capability}") and not name.startswith((",", "Some CPU"))


def test_the_program_of_a_stack() -> None:
    program = Stack(small_task(), width=2, micro_batch=4, path="eager").program
    assert program["device"] == "cpu" and program["path"] == "eager" and "compiler" not in program
    assert program["hardware"] == hardware.hardware(torch.device("cpu"))


def test_the_compilers_version_is_its_first_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "cc"
    script.write_text("#!/bin/sh\necho 'cc (Test) 1.2'\necho more\n")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    assert hardware.compiler() == "cc (Test) 1.2"
    hardware.compiler.cache_clear()
    monkeypatch.setenv("CXX", str(tmp_path / "absent"))
    assert hardware.compiler() == ""
