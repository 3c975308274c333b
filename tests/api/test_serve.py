"""Running the server: signals that end it, and those that must not; what it leaves behind when it cannot start.

In a process of its own, since signals are.
"""

import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

SERVE = """
import signal, sys
from pathlib import Path
from api.serve import serve
from api.settings import Settings
# Whoever runs the tests may have been started by nohup.
signal.signal(signal.SIGHUP, signal.SIG_IGN if sys.argv[2] == "nohup" else signal.SIG_DFL)
settings = Settings(data_dir=Path(sys.argv[1]), port=0, local_workers=False)
sys.exit(serve(settings, lambda url: print(url, flush=True)))
"""


@contextmanager
def serving(tmp_path: Path, how: str = "") -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A server that answers requests, and its address."""
    server = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(tmp_path), how], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert server.stdout is not None
        yield server, server.stdout.readline().strip()
    finally:
        server.kill()
        server.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_server_in_order(tmp_path: Path, number: signal.Signals) -> None:
    with serving(tmp_path) as (server, _):
        server.send_signal(number)
        assert server.wait(20) == 0


def test_a_closed_terminal_does_not_end_a_server_that_nohup_started(tmp_path: Path) -> None:
    with serving(tmp_path, "nohup") as (server, url):
        server.send_signal(signal.SIGHUP)
        with urllib.request.urlopen(f"{url}/readyz", timeout=20) as answer:
            assert answer.status == 200
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0


def test_a_server_that_cannot_open_its_database_leaves_no_worker(tmp_path: Path) -> None:
    (tmp_path / "tuner.sqlite").write_bytes(b"no database" * 100)
    code = SERVE.replace("local_workers=False", "local_workers=True")
    server = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), ""], stderr=subprocess.PIPE, text=True)
    _, said = server.communicate(timeout=60)
    assert server.returncode == 1 and "DatabaseUnusable" in said
    assert list((tmp_path / "logs").glob("worker-*.log"))  # one had been started
    mark = ["--parent", str(server.pid)]
    commands = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    assert not [command for command in commands if mark in (command[i : i + 2] for i in range(len(command)))]
