"""Ctrl-C stops everything that was started, open pages included, and `tuner serve` afterwards goes on."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil
from live_server import LiveServer, free_port, wait_for


@contextmanager
def running_demo(port: int, data_dir: Path, log_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run `tuner demo` as a terminal would, in a session of its own.

    A shell that runs the tests in the background has them ignore SIGINT, and a child would inherit that.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TUNER_")}
    command = [sys.executable, "-P", "-m", "tuner", "demo", "--port", str(port), "--data-dir", str(data_dir)]
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with open(log_path, "wb") as log:
            demo = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    finally:
        signal.signal(signal.SIGINT, ours)
    try:
        yield demo
    finally:
        if demo.poll() is None:
            demo.terminate()
            demo.wait(30)


class Page(threading.Thread):
    """An open page: follows a study's events until the server closes the stream."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url, self.lines, self.opened = url, [""], threading.Event()

    def run(self) -> None:
        try:
            with httpx2.stream("GET", f"{self.url}/events", timeout=60) as stream:
                for line in stream.iter_lines():
                    self.opened.set()
                    self.lines.append(line)
        except httpx2.HTTPError as error:
            self.lines.append(repr(error))


def examples_seen(trials: dict[str, Any]) -> int:
    return sum(trial["examples"] for trial in trials.get("items", ()))


def test_ctrl_c_on_the_demo_stops_all_and_loses_nothing(tmp_path: Path) -> None:
    port, data_dir = free_port(), tmp_path / "demo"
    url = f"http://127.0.0.1:{port}/api/v1/studies/demo"
    with running_demo(port, data_dir, tmp_path / "demo.log") as demo:

        def under_way() -> bool:
            assert demo.poll() is None, (tmp_path / "demo.log").read_text()
            try:
                return examples_seen(httpx2.get(f"{url}/trials?limit=1000", timeout=5).json()) > 0
            except httpx2.HTTPError:
                return False

        wait_for(under_way, "trials of the demo to report")
        page = Page(url)
        page.start()
        assert page.opened.wait(30)
        started = psutil.Process(demo.pid).children(recursive=True)
        assert len(started) >= 3, "a server, a worker and its device process"
        os.killpg(demo.pid, signal.SIGINT)
        demo.wait(30)
    psutil.wait_procs(started, timeout=10)
    assert not [process for process in started if process.is_running()]
    page.join(10)
    assert "event: closing" in page.lines
    server = LiveServer(data_dir)
    try:
        server.start()
        path = "/studies/demo/trials?limit=1000"
        before = examples_seen(server.get(path))
        assert before > 0
        wait_for(lambda: examples_seen(server.get(path)) > before, "the study to go on")
    finally:
        server.stop()
