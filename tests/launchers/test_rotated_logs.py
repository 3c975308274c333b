"""The log of a local worker stays bounded, while its process goes on writing to it."""

from pathlib import Path

import pytest

from tuner.launchers import local
from tuner.launchers.local import LocalWorker


def test_a_long_log_moves_aside_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "MOST_LOG_BYTES", 1000)
    path = tmp_path / "worker-cpu.log"
    worker = LocalWorker("local-cpu", [], {}, path)
    with path.open("ab", buffering=0) as writing:
        writing.write(b"a" * 900)
        worker.rotate()
        assert path.stat().st_size == 900
        writing.write(b"b" * 200)
        worker.rotate()
        writing.write(b"c")
        worker.rotate()
    assert path.read_bytes() == b"c"
    assert path.with_name("worker-cpu.log.1").read_bytes() == b"a" * 900 + b"b" * 200
