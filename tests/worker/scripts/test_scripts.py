"""Script trials against the real server: values, reports, output, and every way in which a script ends."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from over_http import wait_for
from own_studies import own_study

from tuner.client import Client
from tuner.errors import InvalidInput
from tuner.study.states import TERMINAL, StudyState, TrialState
from tuner.wire.views import TrialView
from tuner.worker.agent.agent import Agent

Work = Callable[..., Agent]


def script(tmp_path: Path, code: str, arguments: str = "") -> str:
    """Write a script; return the command that runs it."""
    (tmp_path / "script.py").write_text(code)
    return f"{sys.executable} {tmp_path / 'script.py'} {arguments}"


def ended(tuned: Client, number: int = 0, timeout_s: float = 80) -> TrialView:
    wait_for(lambda: _known(tuned, number) and tuned.trial("own", number).state in TERMINAL, timeout_s)
    return tuned.trial("own", number)


def _known(tuned: Client, number: int) -> bool:
    return len(list(tuned.trials("own"))) > number


def test_values_arrive_as_single_arguments_in_the_environment_and_in_a_file(
    tuned: Client, work: Work, tmp_path: Path
) -> None:
    evil = "a b; touch gone $(touch gone) `x` \"'"
    parameters = {"lr": 1e-05, "kind": evil, "flag": True, "n of layers": 3}
    own_study(tuned, run_cap=1, parameters=parameters)
    code = """
import json, os, sys
told = json.load(open(os.environ["TUNER_TRIAL"]))
seen = [sys.argv[1:], {k: v for k, v in os.environ.items() if k.startswith("TUNER_PARAM")}, told, os.getcwd()]
json.dump(seen, open(os.path.join(told["checkpoint_dir"], "seen"), "w"))
open(os.environ["TUNER_REPORTS"], "a").write(json.dumps({"step": 4, "examples": 64, "loss": 0.5}) + "\\n")
"""
    work(script(tmp_path, code, "--lr {lr} --kind={kind} {flag} {{x}} '{n of layers} layers' {trial} {seed} {study}"))
    found = ended(tuned)
    assert (found.state, found.value, found.step, found.examples) == (TrialState.COMPLETED, 0.5, 4, 64), found.error
    (place,) = (tmp_path / "checkpoints").rglob("seen")
    arguments, environment, told, _ = json.loads(place.read_text())
    assert arguments == ["--lr", "1e-05", f"--kind={evil}", "true", "{x}", "3 layers", "0", "0", "own"]
    assert environment["TUNER_PARAM_LR"] == "1e-05" and environment["TUNER_PARAM_KIND"] == evil
    assert environment["TUNER_PARAM_N_OF_LAYERS"] == "3"
    assert told["params"] == parameters and (told["study"], told["number"], told["attempt"]) == ("own", 0, 1)
    assert not Path("gone").exists()
    assert found.program is not None and found.program["path"] == "script"


def test_a_script_reports_by_tuner_report_and_knows_its_trial(tuned: Client, work: Work, tmp_path: Path) -> None:
    own_study(tuned, run_cap=3)
    code = """
import tuner
trial = tuner.trial()
for step in range(1, 4):
    tuner.report(step=step, loss=trial.params.x / step, other=step)
print("kind is", trial.params["kind"])
"""
    work(script(tmp_path, code), places=2)
    wait_for(lambda: tuned.study("own").state == StudyState.COMPLETED)
    for number in range(3):
        trial = tuned.trial("own", number)
        assert trial.value == pytest.approx(float(trial.params["x"]) / 3) and trial.attempt == 1
        assert tuned.curve("own", number).step == [1, 2, 3]
        log = tuned.log("own", number)
        assert log.text == f"kind is {trial.params['kind']}\n" and log.written == len(log.text)


@pytest.mark.parametrize(
    ("code", "state", "words"),
    [
        ("print('before'); raise ValueError('bad luck')", TrialState.FAILED, "ValueError: bad luck"),
        ("import sys; print('out of data'); sys.exit(3)", TrialState.FAILED, "exit status 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", TrialState.FAILED, "signal 11"),
        ("print('done')", TrialState.FAILED, "reported no 'loss'"),
        ("import tuner; tuner.report(loss=float('nan'))", TrialState.INFEASIBLE, "loss is nan"),
    ],
)
def test_how_a_script_ends_is_how_its_trial_ends(
    tuned: Client, work: Work, tmp_path: Path, code: str, state: TrialState, words: str
) -> None:
    own_study(tuned, run_cap=1, retry={"max": 1})
    work(script(tmp_path, code))
    found = ended(tuned)
    assert found.state == state and words in f"{found.reason} {found.error}"
    if "before" in code:
        assert tuned.log("own", 0).text.startswith("before\nTraceback") and "bad luck" in tuned.log("own", 0, 1).text
        assert found.error is not None and "before" in found.error


def test_a_command_that_cannot_be_run_says_why(tuned: Client, work: Work) -> None:
    own_study(tuned, run_cap=1, retry={"max": 0})
    work("/no/such/program {x}")
    found = ended(tuned)
    assert found.state == TrialState.FAILED and "/no/such/program: No such file" in str(found.error)


def test_a_name_that_no_trial_has_says_so(tuned: Client, work: Work) -> None:
    own_study(tuned, run_cap=1, retry={"max": 0})
    work("true {lr}")
    assert "names {lr}; the trial has study, seed, attempt, trial, checkpoint_dir, x, kind" in str(ended(tuned).error)


HANGS = """
import os, subprocess, sys, time, signal, tuner
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(tuner.trial().checkpoint_dir / "pids", "w").write(f"{os.getpid()} {child.pid}")
tuner.report(step=1, loss=1.0)
while True:
    time.sleep(0.05)
"""


def pids(tmp_path: Path) -> list[int]:
    found = [file.read_text().split() for file in (tmp_path / "checkpoints").rglob("pids")]
    return [int(pid) for pair in found for pid in pair]


def all_gone(tmp_path: Path) -> bool:
    return not any(psutil.pid_exists(pid) and _alive(pid) for pid in pids(tmp_path))


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("deaf", ["", "deaf"])
def test_a_stop_ends_the_whole_process_group(tuned: Client, work: Work, tmp_path: Path, deaf: str) -> None:
    own_study(tuned, run_cap=1)
    work(script(tmp_path, HANGS, deaf))
    wait_for(lambda: _known(tuned, 0) and tuned.trial("own", 0).step == 1)
    assert len(pids(tmp_path)) == 2 and not all_gone(tmp_path)
    tuned.stop_trial("own", 0)
    wait_for(lambda: all_gone(tmp_path))
    assert ended(tuned).state == TrialState.CANCELLED


def test_a_script_that_takes_too_long_is_ended(tuned: Client, work: Work, tmp_path: Path) -> None:
    own_study(tuned, run_cap=1, retry={"max": 0})
    work(script(tmp_path, HANGS), timeout_s=8.0)
    found = ended(tuned)
    assert found.state == TrialState.FAILED and "ran longer than 8 s (--timeout)" in str(found.error)
    assert all_gone(tmp_path) and len(pids(tmp_path)) == 2


def test_a_drained_worker_ends_its_scripts_and_gives_the_trials_back(tuned: Client, work: Work, tmp_path: Path) -> None:
    own_study(tuned, run_cap=1)
    agent = work(script(tmp_path, HANGS))
    wait_for(lambda: _known(tuned, 0) and tuned.trial("own", 0).step == 1)
    agent.stop()
    wait_for(lambda: tuned.trial("own", 0).state == TrialState.QUEUED)
    wait_for(lambda: all_gone(tmp_path))
    work(script(tmp_path, "import tuner; t = tuner.trial(); tuner.report(loss=len(list(t.checkpoint_dir.iterdir())))"))
    assert ended(tuned).value == 1.0 and tuned.trial("own", 0).attempt == 2, "its folder is there again"


def test_a_flood_of_output_harms_nobody(tuned: Client, work: Work, tmp_path: Path) -> None:
    own_study(tuned, run_cap=1)
    code = "import tuner\nfor i in range(3000): print('x' * 9999)\nprint('the end')\ntuner.report(loss=1)"
    work(script(tmp_path, code))
    assert ended(tuned).state == TrialState.COMPLETED
    log = tuned.log("own", 0)
    assert log.written == 30_000_008 and len(log.text) == 65_536 and log.text.endswith("x\nthe end\n")


def test_output_is_there_while_a_script_runs(
    tuned: Client, work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuner.worker.scripts.place.LOG_EVERY_S", 0.2)
    own_study(tuned, run_cap=1)
    work(script(tmp_path, "print('begun', flush=True)\n" + HANGS))
    wait_for(lambda: _known(tuned, 0) and tuned.log("own", 0).text == "begun\n")
    assert tuned.trial("own", 0).state == TrialState.RUNNING


def test_what_cannot_be_read_is_said_once(tuned: Client, work: Work, tmp_path: Path) -> None:
    own_study(tuned, run_cap=1)
    code = """
import os
with open(os.environ["TUNER_REPORTS"], "a") as file:
    for line in ("nonsense", "[1]", '{"loss": "high"}', '{"step": -1, "loss": 1}', '{"loss": 0.5}'):
        file.write(line + "\\n")
"""
    work(script(tmp_path, code))
    assert ended(tuned).value == 0.5
    assert tuned.log("own", 0).text.count("tuner: this report cannot be read") == 1


def test_scripts_see_no_secrets(tuned: Client, work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TUNER_TOKEN", "TUNER_HEADERS", "TUNER_TOKEN_FILE"):
        monkeypatch.setitem(os.environ, name, "hunter2")
    own_study(tuned, run_cap=1)
    work(script(tmp_path, "import os, tuner; print(sorted(os.environ.values())); tuner.report(loss=1)"))
    assert ended(tuned).state == TrialState.COMPLETED
    assert "hunter2" not in tuned.log("own", 0).text


@pytest.mark.parametrize(("command", "words"), [("", "is empty"), ("python 'train.py", "No closing quotation")])
def test_a_command_that_is_none_is_refused(command: str, words: str) -> None:
    from tuner.worker.scripts.command import words_of

    with pytest.raises(InvalidInput, match=words):
        words_of(command)


def test_outside_a_trial_a_script_runs_by_itself(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import subprocess

    import tuner

    code = "import tuner; tuner.report(loss=1); tuner.report(loss=2); print(tuner.trial())"
    environment: dict[str, Any] = {**os.environ, "PYTHONPATH": str(Path(tuner.__path__[0]).parent)}
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout == "None\n" and said.stderr.count("nothing is reported") == 1
