"""The names of the CPU or GPU and of the compiler: kernels round the same way only if these are equal."""

import os
import platform
import subprocess
from functools import cache

import torch

CPU_INFO = "/proc/cpuinfo"


def hardware(device: torch.device) -> str:
    """Return the name of a device, e.g. `AMD EPYC 9575F 64-Core Processor, AVX512` or `NVIDIA H200`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}"


@cache
def _processor() -> str:
    """Return the CPU's model name if the system reports it, or else the architecture."""
    try:
        with open(CPU_INFO, encoding="utf-8", errors="replace") as lines:
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


@cache
def compiler() -> str:
    """Return the version line of the C++ compiler that Inductor would call; empty if there is none."""
    try:
        command = [os.environ.get("CXX") or "g++", "--version"]
        said = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return said.stdout.partition("\n")[0].strip()
