"""The names of the processor or GPU and of the compiler: equal kernels round equally only where these are equal."""

import os
import platform
import subprocess
from functools import cache

import torch

CPU_INFO = "/proc/cpuinfo"


def hardware(device: torch.device) -> str:
    """Name what a device is, e.g. `AMD EPYC 9575F 64-Core Processor, AVX512` or `NVIDIA H200`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}"


@cache
def _processor() -> str:
    """Return the processor's model name, where the system tells it, else the architecture."""
    try:
        with open(CPU_INFO) as lines:
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


@cache
def compiler() -> str:
    """Return what the C++ compiler that Inductor would call says of its version; empty where there is none."""
    try:
        command = [os.environ.get("CXX") or "g++", "--version"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return said.stdout.partition("\n")[0].strip()
