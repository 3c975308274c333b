"""A user's own loops as processes of their own: one is killed in the middle, and several share a study."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from live_server import LiveServer, wait_for

import tuner

LOOP = """
import sys, time, tuner
for trial in tuner.Client(sys.argv[1]).ask("own"):
    state = trial.checkpoint_dir / "step"
    begin = int(state.read_text()) if state.exists() else 0
    print(trial.number, trial.attempt, begin, flush=True)
    for step in range(begin + 1, 6):
        trial.report(step=step, loss=1.0 / step)
        state.write_text(str(step))
        while step == 3 and trial.attempt == 1 and sys.argv[2] == "hangs":
            time.sleep(0.05)
"""
RAISING = """
import sys, tuner
for trial in tuner.Client(sys.argv[1]).ask("own"):
    raise RuntimeError(f"no luck with trial {trial.number}")
"""
DOCUMENT = {
    "name": "own",
    "workload": "external",
    "metric": "loss",
    "parameters": {"x": {"min": 0.0, "max": 1.0}},
    "method": "random",
    "run_cap": 1,
}


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., "subprocess.Popen[str]"]:
    environment = {
        **os.environ,
        "TUNER_HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(Path(tuner.__path__[0]).parent),
    }

    def begin(code: str, *arguments: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return begin


def reached(server: LiveServer) -> list[int]:
    return [trial["step"] for trial in server.get("/studies/own/trials")["items"]]


def test_a_killed_loops_trial_is_leased_again_with_its_number_and_its_folder(
    live_server: Callable[..., LiveServer], start: Callable[..., "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    server = live_server("--no-worker", TUNER_LEASE_S="2")
    server.submit(DOCUMENT)
    first = start(LOOP, server.url, "hangs")
    wait_for(lambda: reached(server) == [3], "three steps", 30)
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=30)
    assert first.returncode == -signal.SIGKILL
    second = start(LOOP, server.url, "goes on")
    said, errors = second.communicate(timeout=60)
    assert second.returncode == 0, errors
    assert said.split() == ["0", "2", "3"], "the same number, the next attempt, the step that its folder remembers"
    trial = server.get("/studies/own/trials/0")
    assert (trial["state"], trial["attempt"], trial["value"]) == ("completed", 2, pytest.approx(0.2))
    assert server.get("/studies/own")["state"] == "completed"


def test_an_uncaught_exception_ends_process_and_trial(
    live_server: Callable[..., LiveServer], start: Callable[..., "subprocess.Popen[str]"]
) -> None:
    server = live_server("--no-worker")
    server.submit({**DOCUMENT, "run_cap": 2})
    process = start(RAISING, server.url)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "RuntimeError: no luck with trial 0" in errors
    trial = server.get("/studies/own/trials/0")
    assert trial["state"] == "failed" and "RuntimeError: no luck with trial 0" in trial["error"]
    assert 'raise RuntimeError(f"no luck' in trial["error"] or 'File "<string>", line 4' in trial["error"]


def test_processes_share_a_study_and_torch_is_not_loaded(
    live_server: Callable[..., LiveServer], start: Callable[..., "subprocess.Popen[str]"]
) -> None:
    server = live_server("--no-worker")
    server.submit({**DOCUMENT, "run_cap": 12})
    loops = [start(LOOP + "\nprint('torch' in sys.modules)", server.url, "goes on") for _ in range(3)]
    said = [loop.communicate(timeout=60)[0].splitlines() for loop in loops]
    assert all(lines[-1] == "False" for lines in said)
    taken = sorted(int(line.split()[0]) for lines in said for line in lines[:-1])
    assert taken == list(range(12)), "each trial once"


SCRIPT = """
import os, sys, time, tuner
trial = tuner.trial()
tuner.report(step=1, loss=1.0)
(trial.checkpoint_dir / "pid").write_text(str(os.getpid()))
while trial.attempt == 1:
    time.sleep(0.05)
"""


def test_a_killed_worker_takes_its_script_with_it_and_the_trial_comes_again(
    live_server: Callable[..., LiveServer], tmp_path: Path
) -> None:
    server = live_server("--no-worker", TUNER_LEASE_S="2")
    server.submit(DOCUMENT)
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {
        **os.environ,
        "TUNER_HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(Path(tuner.__path__[0]).parent),
    }
    command = [
        sys.executable,
        "-P",
        "-m",
        "tuner",
        "worker",
        "--server",
        server.url,
        "--study",
        "own",
        "--device",
        "cpu",
    ]
    command += ["--command", f"{sys.executable} {tmp_path / 'script.py'} --x {{x}}"]
    with open(tmp_path / "worker.log", "wb") as log:
        first = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        wait_for(lambda: reached(server) == [1], "the first report", 30)
        (place,) = (tmp_path / "home").rglob("pid")
        script = psutil.Process(int(place.read_text()))
        first.kill()
        first.wait()
        psutil.wait_procs([script], timeout=15)
        assert not script.is_running() or script.status() == psutil.STATUS_ZOMBIE
        second = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        assert second.wait(60) == 0, "it leaves when its study has ended"
    trial = server.get("/studies/own/trials/0")
    assert (trial["state"], trial["attempt"], trial["value"]) == ("completed", 2, 1.0)
