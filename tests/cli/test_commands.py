"""Commands that change something, exit codes, and the one line that each error is."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_server import FakeServer, answer, problem, study, study_view, trial
from typer.testing import Result

import tuner as package
from tuner import cli
from tuner.wire.views import StudyView

Run = Callable[..., Result]
ROOT = Path(package.__file__).parent.parent
COMMANDS = ["demo", "serve", "worker", "submit", "watch", "studies", "trials", "trial", "best", "leaderboard", "advice"]
COMMANDS += ["stop", "delete", "catalogue", "workers", "pause", "resume", "edit", "clone", "enqueue", "retry"]


def tuner_process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-P", "-m", "tuner", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=60, check=False)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(tuner: Run, command: str) -> None:
    result = tuner(command, "--help")
    assert result.exit_code == 0
    assert f"tuner {command}" in result.stdout.partition("Example")[2]
    assert command in tuner("--help").stdout


def test_help_loads_nothing_heavy() -> None:
    code = "import sys, runpy; sys.argv = ['tuner', '--help']\n"
    code += "try: runpy.run_module('tuner', run_name='__main__')\n"
    code += "except SystemExit as end: assert end.code == 0\n"
    code += (
        "print(sorted(m for m in ('torch', 'optuna', 'sqlalchemy', 'fastapi', 'httpx2', 'api') if m in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_version_and_wrong_usage(tuner: Run) -> None:
    assert tuner("--version").stdout == f"tuner {package.__version__}\n"
    for arguments in (["nonsense"], ["best"], ["trials", "demo", "--limit", "0"], ["serve", "--port", "70000"]):
        assert tuner(*arguments).exit_code == 2


def test_nobody_there_is_one_line_and_code_3(tuner: Run) -> None:
    for arguments in (["studies"], ["best", "demo"], ["watch", "demo"], ["stop", "demo"], ["catalogue", "--json"]):
        result = tuner(*arguments, "--server", "http://127.0.0.1:9")
        assert result.exit_code == 3
        assert result.stdout == ""
        expected = "error: no server at http://127.0.0.1:9: connection refused; start one with 'tuner serve'\n"
        assert result.stderr == expected


@pytest.mark.parametrize(
    ("sent", "code", "line"),
    [
        (problem(404, "tuner:not-found", "no study 'demo'"), 1, "error: no study 'demo'"),
        (problem(409, "tuner:conflict", "the study has ended"), 1, "error: the study has ended"),
        (
            problem(401, "tuner:not-allowed", "a token is required"),
            1,
            "error: a token is required (set TUNER_TOKEN, or give --token-file",
        ),
        ((200, "text/html", b"<html>"), 3, "error: http://127.0.0.1:"),
        (problem(500, "about:blank", "a [bold]defect[/]\x1b[2J"), 1, "error: http://127.0.0.1:"),
    ],
)
def test_errors_of_the_server_are_one_line(
    tuner: Run, server: FakeServer, sent: tuple[int, str, bytes], code: int, line: str
) -> None:
    server.set("/api/v1/studies/demo/stop", sent, "POST")
    result = tuner("stop", "demo")
    assert result.exit_code == code
    assert result.stderr.startswith(line)
    assert result.stderr.count("\n") == 1
    assert "\x1b" not in result.stderr


def test_submit_sends_the_document_and_says_how_to_follow_it(tuner: Run, server: FakeServer, tmp_path: Path) -> None:
    server.set("/api/v1/studies", answer(study(), 201), "POST")
    file = tmp_path / "s.yaml"
    file.write_text("workload: digits-mlp\nlr: 1e-3\n")
    result = tuner("submit", str(file))
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "submitted demo: 64 trials of digits-mlp\nfollow it: tuner watch demo\n"
    assert tuner("submit", "-", input='{"workload": "digits-mlp", "lr": 0.001}').exit_code == 0
    assert [json.loads(body) for *_, body in server.asked] == [{"workload": "digits-mlp", "lr": 0.001}] * 2
    assert json.loads(tuner("submit", str(file), "--json").stdout)["name"] == "demo"


def test_faults_of_a_document_are_a_line_each_with_file_and_line(
    tuner: Run, server: FakeServer, tmp_path: Path
) -> None:
    errors = [{"field": "optimizers[1].lr.min", "message": "is -1"}, {"field": "method", "message": "is missing"}]
    server.set("/api/v1/studies", problem(422, "tuner:invalid-input", "2 faults", errors), "POST")
    file = tmp_path / "s.yaml"
    file.write_text("optimizers:\n  - sgd\n  - name: muon\n    lr:\n      min: -1\n")
    result = tuner("submit", str(file))
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        f"error: {file}:5: optimizers[1].lr.min: is -1",
        f"error: {file}: method: is missing",
    ]
    file.write_text("a: [1")
    result = tuner("submit", str(file))
    assert (result.exit_code, result.stderr) == (2, f"error: {file}:1: expected ',' or ']', but got '<stream end>'\n")


def test_a_file_that_is_not_there_or_a_folder(tuner: Run, tmp_path: Path) -> None:
    result = tuner("submit", str(tmp_path / "none.yaml"))
    assert (result.exit_code, result.stderr) == (1, f"error: {tmp_path}/none.yaml: no such file or directory\n")
    result = tuner("submit", str(tmp_path))
    assert (result.exit_code, result.stderr) == (1, f"error: {tmp_path}: is a directory\n")


def stream_of(server: FakeServer, *views: dict[str, object]) -> None:
    """Let the study change with every look, and announce each change."""
    waiting = list(views)

    def look(body: bytes) -> tuple[int, str, bytes]:
        return answer(waiting.pop(0) if len(waiting) > 1 else waiting[0])

    events = "".join(f"id: {view['revision']}\nevent: change\ndata: {{}}\n\n" for view in views)
    server.set("/api/v1/studies/demo", look)
    server.set("/api/v1/studies/1", look)
    server.set("/api/v1/studies/1/events", (200, "text/event-stream", events.encode()))


def test_watch_follows_to_the_end(tuner: Run, server: FakeServer) -> None:
    running = study(state="running", revision=1, counts={"running": 4}, best=None)
    stream_of(server, running, study(revision=2))
    result = tuner("watch", "demo")
    assert result.exit_code == 0
    last = result.stderr.splitlines()[-1]
    assert last.startswith("demo completed: 64/64 trials")
    assert "best valid_loss 0.08123 by trial 7: muon lr=0.0213" in last
    stream_of(server, running, study(revision=2))
    lines = [json.loads(line) for line in tuner("watch", "demo", "--json").stdout.splitlines()]
    assert [line["state"] for line in lines] == ["running", "completed"]


@pytest.mark.parametrize("state", ["stopped", "failed"])
def test_watching_a_study_that_did_not_complete_fails(tuner: Run, server: FakeServer, state: str) -> None:
    stream_of(server, study(state=state, reason="max_failed reached"))
    result = tuner("watch", "demo", "--json")
    assert result.exit_code == 1
    assert result.stderr == f"error: study demo {state}: max_failed reached\n"


def test_watching_a_study_without_a_result_fails_with_what_its_trials_said(tuner: Run, server: FakeServer) -> None:
    needs = "no trial has completed, 8 failed: 8 x KeyError: 'x' (see trial 0)"
    nothing = study(run_cap=8, counts={"failed": 8}, best=None, notice=needs)
    stream_of(server, nothing)
    result = tuner("watch", "demo")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        f"demo completed: 8/8 trials, 8 failed, {needs}",
        f"error: study demo has no result: {needs}",
    ]
    stream_of(server, nothing)
    server.set("/api/v1/studies", answer(study(state="running"), 201), "POST")
    assert tuner("submit", "-", "--watch", input="name: demo").exit_code == 1


def test_states_print_as_their_names() -> None:
    view = StudyView.model_validate(study_view())
    assert str(view.counts) == "{'completed': 62, 'infeasible': 2}"
    assert "state='completed'" in str(view)


def test_stop_of_a_study_or_a_trial(tuner: Run, server: FakeServer) -> None:
    server.set("/api/v1/studies/demo/stop", answer(study(state="stopped")), "POST")
    server.set("/api/v1/studies/demo/trials/7/stop", answer(trial(state="cancelled", value=None)), "POST")
    assert tuner("stop", "demo").stderr == "study demo is stopped\n"
    assert tuner("stop", "demo", "--trial", "7").stderr == "trial 7 of demo is cancelled\n"


def test_delete_wants_a_yes(tuner: Run, server: FakeServer) -> None:
    server.set("/api/v1/studies/demo", answer(study()))
    server.set("/api/v1/studies/demo", (204, "", b""), "DELETE")
    result = tuner("delete", "demo")
    assert (result.exit_code, result.stderr) == (
        2,
        "error: deleting demo needs --yes without a terminal\n",
    )
    assert [method for method, *_ in server.asked] == ["GET"]
    assert tuner("delete", "demo", "--yes").stderr == "deleted demo\n"
    assert [method for method, *_ in server.asked] == ["GET", "DELETE"]


def test_the_token_reaches_the_server(
    tuner: Run, server: FakeServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("given\n")
    server.set("/api/v1/studies", answer({"items": [study_view()], "next_cursor": None}))
    tuner("studies", "--token-file", str(tmp_path / "token"))
    monkeypatch.setenv("TUNER_TOKEN", "from-environment")
    tuner("studies")
    assert [headers["Authorization"] for _, _, headers, _ in server.asked] == [
        "Bearer given",
        "Bearer from-environment",
    ]


def test_an_interrupt_ends_with_130(tuner: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tuner.terminal.read_commands.connect", interrupted)
    result = tuner("studies")
    assert (result.exit_code, result.output) == (130, "")


def test_a_pipe_that_closes_early_is_no_error(server: FakeServer) -> None:
    items = [study_view(name=f"study-{number}") for number in range(3000)]
    server.set("/api/v1/studies", answer({"items": items, "next_cursor": None}))
    command = f"set -o pipefail; {sys.executable} -P -m tuner studies | head -n 1"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TUNER_SERVER": server.url}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=env, timeout=60, check=False)
    assert done.stderr == ""
    assert done.stdout.split()[0] == "study"


def test_a_terminal_without_unicode_is_served_too(server: FakeServer) -> None:
    server.set("/api/v1/studies", answer({"items": [study_view(metric="µ-loss")], "next_cursor": None}))
    done = tuner_process("studies", TUNER_SERVER=server.url, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "?-loss" in done.stdout
    assert done.stdout.isascii()


BUSY = "BUSY"


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "words"),
    [
        (["--port", BUSY], {}, 1, ("cannot listen on 127.0.0.1:", "in use", "--port")),
        (["--data-dir", "/proc/none"], {}, 1, ("cannot write to the data directory /proc/none", "--data-dir")),
        (["--host", "0.0.0.0"], {}, 2, ("TUNER_TOKEN",)),
        (["--host", "203.0.113.1"], {"TUNER_TOKEN": "x" * 16}, 1, ("cannot listen on 203.0.113.1",)),
        ([], {"TUNER_TOKEN": "short"}, 2, ("TUNER_TOKEN: ", "16 characters")),
        ([], {"TUNER_PROT": "1"}, 2, ("TUNER_PROT", "did you mean TUNER_PORT?")),
        ([], {"TUNER_PORT": "many"}, 2, ("--port (TUNER_PORT): ",)),
        ([], {"TUNER_ALLOWED_HOSTS": "a"}, 2, ("allowed_hosts", "JSON")),
        (["--db", "mysql://x"], {}, 2, ("--db (TUNER_DATABASE_URL): mysql given", "postgresql", "sqlite")),
        (["--workloads", "nosuch.py"], {}, 2, ("--workloads: nosuch.py: no such file",)),
        (["--workloads", "no_such_module.x"], {}, 2, ("--workloads: no module 'no_such_module'",)),
        ([], {"TUNER_WORKLOADS": '["/dev/null.py"]'}, 2, ("--workloads: /dev/null.py: ",)),
        (["--db", "nonsense"], {}, 2, ("--db (TUNER_DATABASE_URL): not a URL given",)),
        (["--db", "postgresql+psycopg2://h/x"], {}, 1, ("psycopg2",)),
        (["--db", "postgresql+psycopg://nobody@127.0.0.1:1/x"], {}, 1, ("nobody@127.0.0.1:1/x", "refused")),
    ],
)
def test_a_server_says_in_one_line_why_it_does_not_start(
    tuner: Run,
    server: FakeServer,
    tmp_path: Path,
    arguments: list[str],
    environment: dict[str, str],
    code: int,
    words: tuple[str, ...],
) -> None:
    arguments = [str(server.server_address[1]) if word == BUSY else word for word in arguments]
    environment = {"TUNER_DATA_DIR": str(tmp_path), **environment}
    result = tuner("serve", "--no-worker", *arguments, env=environment)
    assert result.exit_code == code, result.output
    assert all(word in result.stderr for word in words), result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: ")
    assert result.stdout == ""


def test_a_foreign_api_package_is_not_run(tmp_path: Path) -> None:
    foreign = tmp_path / "api"
    foreign.mkdir()
    (foreign / "__init__.py").write_text("raise SystemExit('ran')")
    done = tuner_process("serve", PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]))
    assert done.returncode == 1
    assert done.stderr.startswith("error: the package 'api' next to Tuner")
    assert str(foreign) in done.stderr
    assert done.stderr.count("\n") == 1


def test_exit_codes_are_told_apart() -> None:
    assert (cli.FAILED, cli.USAGE, cli.NO_SERVER) == (1, 2, 3)
