"""Ctrl-C stops everything that was started, open pages included, and `tuner serve` afterwards goes on."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import httpx2
import psutil
from live_server import LiveServer, free_port, wait_for


def test_ctrl_c_on_the_demo_stops_all_and_loses_nothing(tmp_path: Path, live_server: Callable[..., LiveServer]) -> None:
    port, data_dir = free_port(), tmp_path / "demo"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TUNER_")}
    command = [sys.executable, "-P", "-m", "tuner", "demo", "--port", str(port), "--data-dir", str(data_dir)]
    with open(tmp_path / "demo.log", "wb") as log:
        demo = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    url = f"http://127.0.0.1:{port}/api/v1/studies/demo"

    def some_trial_ended() -> bool:
        assert demo.poll() is None, (tmp_path / "demo.log").read_text()
        try:
            return "completed" in httpx2.get(url, timeout=5).json().get("counts", {})
        except httpx2.HTTPError:
            return False

    wait_for(some_trial_ended, "a trial of the demo to end")
    opened, lines = threading.Event(), []

    def follow() -> None:
        try:
            with httpx2.stream("GET", f"{url}/events", timeout=60) as stream:
                for line in stream.iter_lines():
                    opened.set()
                    lines.append(line)
        except httpx2.HTTPError as error:
            lines.append(repr(error))

    page = threading.Thread(target=follow)
    page.start()
    assert opened.wait(30)
    started = psutil.Process(demo.pid).children(recursive=True)
    assert len(started) >= 3, "a server, a worker and its device process"
    os.killpg(demo.pid, signal.SIGINT)
    demo.wait(30)
    psutil.wait_procs(started, timeout=10)
    assert not [process for process in started if process.is_running()]
    page.join(10)
    assert "event: closing" in lines
    server = LiveServer(data_dir)
    try:
        server.start()
        before = server.get("/studies/demo")["counts"]["completed"]
        assert before >= 1
        wait_for(lambda: server.get("/studies/demo")["counts"]["completed"] > before, "the study to go on")
        assert server.get("/studies/demo")["state"] == "running"
    finally:
        server.stop()
