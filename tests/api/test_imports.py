"""What a server process loads: neither torch nor the engine nor optuna."""

import subprocess
import sys


def test_the_server_loads_neither_torch_nor_samplers() -> None:
    code = (
        "import api.serve, sys; print([m for m in ('torch', 'optuna', 'tuner.engine', 'sklearn') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
