"""The examples of own code run: the loop and the script against a server, the callbacks beside stand-ins.

Neither Lightning nor transformers is a dependency: where one is not installed, its base class is an empty one.
"""

import importlib.util
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from in_process import client_of

import tuner
from tuner.client import Client
from tuner.document import read_document
from tuner.study.states import StudyState
from tuner.worker.agent.agent import Agent
from tuner.worker.scripts.command import words_of
from tuner.worker.scripts.place import Place, Terms

FOLDER = Path(tuner.__path__[0]).parent / "examples"


@pytest.fixture
def tuned(client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setenv("TUNER_HOME", str(tmp_path))
    own, _ = client_of(client)
    with own:
        own.submit(read_document(FOLDER / "own-loop.yaml").values)
        yield own


def test_the_loop_trains_its_study(tuned: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner, "Client", lambda url: tuned, raising=False)
    monkeypatch.setattr(sys, "argv", ["own_loop.py"])
    runpy.run_path(str(FOLDER / "own_loop.py"), run_name="__main__")
    study = tuned.study("own-loop")
    assert study.state == StudyState.COMPLETED and study.best is not None
    assert study.best.value is not None and study.best.value < 0.01, "it found how to fit the line"


def test_the_script_trains_its_study(tuned: Client, tmp_path: Path) -> None:
    command = f"{sys.executable} {FOLDER / 'own_script.py'} --lr {{lr}} --momentum {{momentum}}"
    terms = Terms(words_of(command), tmp_path, None, 1.0, lambda: "database")
    agent = Agent(tuned, [Place(f"cpu#{n}", terms, None) for n in range(2)], name="scripts", study="own-loop")
    assert agent.run() == 0, "it leaves with its study"
    study = tuned.study("own-loop")
    assert study.state == StudyState.COMPLETED and study.best is not None
    assert tuned.log("own-loop", study.best.number).text.startswith("training with lr ")


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, base: str) -> None:
    """Put an empty base class where a library is not installed."""
    if importlib.util.find_spec(name.split(".")[0]) is None:
        module = ModuleType(name)
        setattr(module, base, type(base, (), {}))
        for part in (name.split(".")[0], name):
            monkeypatch.setitem(sys.modules, part, module)


class OneTrial:
    """What the callbacks need of a trial."""

    def __init__(self) -> None:
        self.reports: list[tuple[int, dict[str, float]]] = []
        self.should_stop = False

    def report(self, step: int, **metrics: float) -> None:
        self.reports.append((step, metrics))


@pytest.fixture
def callback(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    stand_in(monkeypatch, "lightning.pytorch", "Callback")
    stand_in(monkeypatch, "transformers", "TrainerCallback")
    return lambda name: runpy.run_path(str(FOLDER / f"{name}_callback.py"))


def test_the_callback_of_lightning(callback: Callable[[str], Any], tmp_path: Path) -> None:
    scope, trial = callback("lightning"), OneTrial()
    own = scope["TunerCallback"](trial, every=2)
    trainer = SimpleNamespace(global_step=0, callback_metrics={"loss": 0.5}, should_stop=False, sanity_checking=True)
    own.on_validation_end(trainer, None)
    trainer.sanity_checking = False
    for trainer.global_step in (1, 2, 3):
        own.on_train_batch_end(trainer, None, None, None, 0)
    trainer.callback_metrics = {"valid_loss": 0.25}
    own.on_validation_end(trainer, None)
    assert trial.reports == [(2, {"loss": 0.5}), (3, {"valid_loss": 0.25})] and not trainer.should_stop
    trial.should_stop = True
    own.on_train_batch_end(trainer, None, None, None, 0)
    assert trainer.should_stop
    assert scope["newest_checkpoint"](tmp_path) is None
    (tmp_path / "last.ckpt").touch()
    assert scope["newest_checkpoint"](tmp_path) == tmp_path / "last.ckpt"


def test_the_callback_of_transformers(callback: Callable[[str], Any]) -> None:
    scope, trial = callback("transformers"), OneTrial()
    own = scope["TunerCallback"](trial)
    state, control = SimpleNamespace(global_step=7), SimpleNamespace(should_training_stop=False)
    own.on_log(None, state, control, logs={"loss": 0.5, "epoch": 1, "note": "x"})
    own.on_log(None, state, control, logs=None)
    own.on_step_end(None, state, control)
    assert trial.reports == [(7, {"loss": 0.5, "epoch": 1})] and not control.should_training_stop
    trial.should_stop = True
    own.on_step_end(None, state, control)
    assert control.should_training_stop
