"""A mistake in `--workloads` is said in one line, and nothing is started again for it."""

import sys
from pathlib import Path

import pytest
from worker_doubles import FakeDevice, FakeServer, RunningAgent, eventually

from tuner.launchers.local import LocalWorker, LocalWorkers, Mistaken
from tuner.worker import mistakes
from tuner.worker.device.device import mistake_in

FILES = {
    "syntax.py": ("def broken(:\n", "SyntaxError: invalid syntax (", "line 1)"),
    "imports.py": ("import os\nimport no_such_package_here\n", "ModuleNotFoundError: No module named", "line 2)"),
    "raises.py": ("x = 1\n\nraise ValueError('no\\nluck')\n", "ValueError: no", "line 3)"),
    "leaves.py": ("raise SystemExit(5)\n", "SystemExit: 5", "line 1)"),
}


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


@pytest.mark.parametrize("name", FILES)
def test_the_device_process_says_what_and_where(name: str, directory: Path) -> None:
    text, said, place = FILES[name]
    (directory / name).write_text(text)
    told = mistake_in([name])
    assert told is not None and told.startswith(f"--workloads {name}: {said}") and "\n" not in told
    assert told.endswith(place) and name in told.rpartition("(")[2]


def test_what_does_not_exist_is_named_without_a_place(directory: Path) -> None:
    (directory / "sound.py").write_text("import tuner\n")
    assert mistake_in(["sound.py"]) is None
    absent = mistake_in(["sound.py", "nosuch.py"])
    assert absent == "--workloads nosuch.py: tuner.errors.NotFound: no file 'nosuch.py' to load workloads from"
    assert str(mistake_in(["no.such.module"])).endswith("no module 'no.such.module' to load workloads from")


@pytest.mark.parametrize("name", ["nosuch.py", "syntax.py"])
def test_local_workers_are_not_even_started_for_a_file_that_cannot_be_read(name: str, directory: Path) -> None:
    (directory / "syntax.py").write_text(FILES["syntax.py"][0])
    workers = LocalWorkers("http://127.0.0.1:9", None, 2, directory / "log", workloads=[name])
    with pytest.raises(Mistaken, match=f"^--workloads {name}: "):
        workers.start()
    assert workers.workers == []


def worker(directory: Path, script: str) -> LocalWorker:
    return LocalWorker("w", ["sh", "-c", script], {}, directory / "worker.log")


def ended(one: LocalWorker) -> None:
    assert one.process is not None
    one.process.wait(20)


def test_a_worker_that_finds_such_a_mistake_is_not_started_again(directory: Path) -> None:
    workers = LocalWorkers("http://127.0.0.1:9", None, 2, directory)
    one = worker(directory, f"echo noise; echo '{mistakes.MARK}p.py: ValueError: no luck'; exit {mistakes.STATUS}")
    workers.workers = [one]
    one.start()
    ended(one)
    for _ in range(2):
        with pytest.raises(Mistaken, match=r"^--workloads p\.py: ValueError: no luck$"):
            workers.poll()
    assert one.starts == 1


def test_one_that_has_worked_before_leaves_the_server_alone(directory: Path) -> None:
    """Its file was changed while it was running: what is there goes on, and the log says why the worker is gone."""
    workers = LocalWorkers("http://127.0.0.1:9", None, 2, directory)
    one = worker(directory, "exit 9")
    workers.workers = [one]
    one.start()
    ended(one)
    one.command = worker(directory, f"exit {mistakes.STATUS}").command
    workers.poll()
    one.start_at = 0.0
    workers.poll()
    ended(one)
    assert [workers.poll(), workers.poll(), one.starts] == [0, 0, 2]
    assert one.mistake == f"see {directory / 'worker.log'}"


def test_the_worker_passes_the_status_on() -> None:
    device = FakeDevice()
    device.dead_at_birth, device.death = True, mistakes.STATUS
    with RunningAgent(FakeServer(), device) as running:
        eventually(lambda: running.status is not None)
        assert running.status == mistakes.STATUS and device.starts == 1
