"""The demo: its child process, its choice of a name, and what it prints."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from fake_server import FakeServer, answer, problem, study, study_view, trial
from typer.testing import Result

from tuner.errors import TunerError, Unreachable
from tuner.study.catalogue import load_catalogue
from tuner.study.check import parse_study
from tuner.terminal import server_process
from tuner.terminal.demo import DEMO_DOCUMENT, demo_yaml
from tuner.terminal.server_process import ServerProcess

Run = Callable[..., Result]
NOTE_PID = "import os, sys; open(sys.argv[1], 'a').write(f'{os.getpid()}\\n')\n"
SLEEP = NOTE_PID + "import time; time.sleep(60)"
STUBBORN = NOTE_PID + (
    "import signal, subprocess, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    "open(sys.argv[1], 'a').write(f'{child.pid}\\n'); time.sleep(60)"
)


class Answering:
    """Stands for a client whose server answers once the process has noted its id."""

    def __init__(self, pids: Path, lines: int = 1) -> None:
        self._pids, self._lines = pids, lines

    def health(self) -> None:
        if not self._pids.exists() or len(self._pids.read_text().splitlines()) < self._lines:
            raise Unreachable("not yet")


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def pids(tmp_path: Path) -> Path:
    return tmp_path / "pids"


def process(pids: Path, script: str, said: Callable[[str], None] = lambda text: None) -> ServerProcess:
    return ServerProcess([sys.executable, "-c", script, str(pids)], pids.parent / "log" / "server.log", said)


def test_the_child_has_its_own_group_and_is_gone_afterwards(pids: Path) -> None:
    with process(pids, SLEEP) as server:
        server.wait_until_ready(Answering(pids))  # type: ignore[arg-type]
        assert server.pid is not None
        assert os.getpgid(server.pid) == server.pid != os.getpgid(0)
    assert not is_alive(server.pid)


def test_a_child_that_will_not_end_is_killed_with_its_children(pids: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_process, "STOP_S", 0.2)
    with process(pids, STUBBORN) as server:
        server.wait_until_ready(Answering(pids, lines=2))  # type: ignore[arg-type]
    started = [int(line) for line in pids.read_text().splitlines()]
    until(lambda: not any(map(is_alive, started)))


def test_a_child_that_is_killed_is_started_again_until_it_is_hopeless(pids: Path) -> None:
    said: list[str] = []
    with process(pids, SLEEP, said.append) as server:
        server.wait_until_ready(Answering(pids))  # type: ignore[arg-type]
        for number in range(1, server_process.RESTARTS + 2):
            server.check()
            until(lambda number=number: len(pids.read_text().splitlines()) == number)
            os.kill(int(pids.read_text().splitlines()[-1]), signal.SIGKILL)
        with pytest.raises(TunerError, match="the server keeps exiting"):
            until(lambda: server.check() is not None)
    assert len(said) == server_process.RESTARTS


def test_a_child_that_cannot_start_gives_its_last_words(pids: Path) -> None:
    failing = process(pids, "import sys; sys.exit('error: cannot listen on 127.0.0.1:80')")
    with failing, pytest.raises(TunerError, match=r"^the server ended with code 1: cannot listen on 127.0.0.1:80$"):
        failing.wait_until_ready(Answering(pids))  # type: ignore[arg-type]


def test_a_server_ends_with_its_parent(tmp_path: Path) -> None:
    child = "import os, sys, time; from tuner.terminal.serving import end_with; end_with(int(sys.argv[1]))\n"
    child += "print(os.getpid(), flush=True); time.sleep(60)"
    parent = f"import os, subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}, str(os.getpid())])\n"
    parent += "import time; time.sleep(60)"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True, env=env) as started:
        assert started.stdout is not None
        pid = int(started.stdout.readline())
        assert is_alive(pid)
        started.kill()
    until(lambda: not is_alive(pid))


def test_the_demos_study_is_valid_and_can_be_printed(tuner: Run) -> None:
    spec = parse_study(DEMO_DOCUMENT, load_catalogue(), ["digits-mlp"])
    assert (spec.run_cap, spec.parallel, len(spec.optimizers)) == (64, None, 5)
    assert yaml.safe_load(demo_yaml()) == DEMO_DOCUMENT
    assert tuner("demo", "--show").stdout == demo_yaml()


@pytest.fixture
def tuner_server(server: FakeServer) -> FakeServer:
    """A healthy server on which `demo` is taken and `demo-2` will be submitted."""
    ended = study(name="demo-2", id=2)
    server.set("/healthz", answer({"status": "ok", "service": "tuner", "version": "0.1.0"}))
    server.set("/api/v1/studies", answer({"items": [study_view(state="running")], "next_cursor": None}))
    server.set("/api/v1/studies", answer(ended, 201), "POST")
    for path in ("/api/v1/studies/2", "/api/v1/studies/demo-2"):
        server.set(path, answer(ended))
    best = {"trial": trial(), "grade": "D", "interval": None, "evidence": "Grade D: one seed", "snippet": "x = 1\n"}
    server.set("/api/v1/studies/demo-2/best", answer(best))
    board = {"study": "demo-2", "metric": "valid_loss", "goal": "minimize", "rows": [], "grade": "D", "evidence": "e"}
    server.set("/api/v1/studies/demo-2/leaderboard", answer(board))
    server.set("/api/v1/studies/demo-2/batch-advice", answer({"study": "demo-2", "items": []}))
    return server


def demo(tuner: Run, server: FakeServer, tmp_path: Path) -> Result:
    return tuner("demo", "--exit", "--port", str(server.server_address[1]), "--data-dir", str(tmp_path))


def test_a_healthy_server_is_used_and_the_next_free_name(tuner: Run, tuner_server: FakeServer, tmp_path: Path) -> None:
    result = demo(tuner, tuner_server, tmp_path)
    assert result.exit_code == 0, result.output
    posted = [json.loads(body) for method, *_, body in tuner_server.asked if method == "POST"]
    assert posted == [{**DEMO_DOCUMENT, "name": "demo-2"}]
    page = f"{tuner_server.url}/studies/demo-2"
    assert f"using the server already running at {tuner_server.url}\ndashboard  {page}\n" in result.stderr
    parts = ["muon reaches valid_loss 0.08123", "D: one seed", "Leaderboard", "Batch size", "To paste", "x = 1", page]
    places = [result.stdout.index(part) for part in parts]
    assert places == sorted(places)
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_was_taken_meanwhile_is_passed_over(tuner: Run, tuner_server: FakeServer, tmp_path: Path) -> None:
    names: list[str] = []

    def create(body: bytes) -> tuple[int, str, bytes]:
        names.append(json.loads(body)["name"])
        if names == ["demo-2"]:
            return problem(409, "tuner:name-taken", "taken")
        return answer(study(name="demo-2", id=2), 201)

    tuner_server.set("/api/v1/studies", create, "POST")
    assert demo(tuner, tuner_server, tmp_path).exit_code == 0
    assert names == ["demo-2", "demo-3"]


def test_a_study_that_does_not_complete_is_a_failure(tuner: Run, tuner_server: FakeServer, tmp_path: Path) -> None:
    tuner_server.set("/api/v1/studies/2", answer(study(name="demo-2", id=2, state="stopped")))
    assert demo(tuner, tuner_server, tmp_path).exit_code == 1


def test_a_port_that_belongs_to_another_program(tuner: Run, server: FakeServer, tmp_path: Path) -> None:
    server.set("/healthz", (200, "text/html", b"<html>"))
    result = demo(tuner, server, tmp_path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"error: {server.url} is in use by another program; choose a free port with --port\n"
