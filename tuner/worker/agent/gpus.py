"""The GPUs of this machine, found without loading torch into this process."""

import os
import shutil
import subprocess

TIMEOUT_S = 10.0


def visible_gpus() -> list[str]:
    """Return a CUDA_VISIBLE_DEVICES entry per usable GPU, e.g. `["0", "1"]`; empty if there is none."""
    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    if asked is not None and asked.strip() in ("", "-1", "NoDevFiles"):
        return []
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, "--query-gpu=index", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    present = [line.strip() for line in answer.stdout.splitlines() if line.strip().isdigit()]
    if answer.returncode != 0 or asked is None:
        return present if answer.returncode == 0 else []
    # Entries may also be UUIDs, which nvidia-smi's indices do not cover: they are used unchanged.
    entries = [entry.strip() for entry in asked.split(",") if entry.strip()]
    return [entry for entry in entries if not entry.isdigit() or entry in present]
