"""What a server process loads: neither torch nor the engine nor optuna, and nothing slow before its workers start."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("api.running", ("torch", "optuna", "tuner.engine", "sklearn")),
        ("api.serve", ("torch", "fastapi", "uvicorn", "sqlalchemy", "numpy")),
    ],
)
def test_the_server_does_not_load(module: str, heavy: tuple[str, ...]) -> None:
    code = f"import {module}, sys; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
