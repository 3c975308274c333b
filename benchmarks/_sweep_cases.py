"""The studies that `sweep.py` times: documents as a user writes them, and what each is compared with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from _stacking_side import write_digits

from tuner.study.catalogue import load_catalogue
from tuner.study.families import families
from tuner.study.space import Choices, Fixed
from tuner.study.spec import StudySpec
from tuner.terminal.demo import DEMO_DOCUMENT

OWN = str(Path(__file__).with_name("_sweep_own.py"))
CLOCK = str(Path(__file__).with_name("_sweep_clock.py"))


@dataclass(frozen=True)
class Case:
    """A study, its peer, and the least ratio of the peer's time to that of the second study."""

    name: str
    document: dict[str, Any]
    least: float
    least_first: float = 0.9
    peer: Literal["optuna", "loop"] = "optuna"
    workloads: tuple[str, ...] = ()
    images: bool = False
    """Whether the workload reads synthetic images from a directory."""
    large: bool = False
    """Whether one process of the peer uses all cores; with small models it is several times faster with one thread."""

    def spec(self) -> StudySpec:
        """Return the study with its defaults."""
        return StudySpec(name=self.name, **self.document)


def _adamw(workload: Any, trials: int, steps: int, batch: int, **more: Any) -> dict[str, Any]:
    budget = {"examples_per_trial": steps * batch}
    return {"workload": workload, "optimizers": ["adamw"], "parameters": {"batch_size": batch}, "method": "random",
            "run_cap": trials, "budget": budget, **more}  # fmt: skip


def _own(workload: str, trials: int, **more: Any) -> dict[str, Any]:
    return {"workload": workload, "optimizers": ["adamw"], "run_cap": trials, **more}


DEMO = {key: value for key, value in DEMO_DOCUMENT.items() if key != "name"}
WIDE = {"name": "mlp-images", "params": {"hidden": 2048, "layers": 2}}
FEW = {"examples_per_trial": 5000}
CASES = (
    Case("digits-mlp", _adamw("digits-mlp", 128, 625, 32), least=6.0, least_first=2.0),
    Case("demo", DEMO, least=5.0),
    Case("digits-cnn", _adamw("digits-cnn", 64, 150, 32), least=1.7),
    Case("text-gpt", _adamw("text-gpt", 8, 80, 8, evaluations=4), least=1.0),
    Case("fills-the-machine", _adamw(WIDE, 4, 80, 128, evaluations=5), least=0.97, images=True, large=True),
    Case("own-resnet", _own("own-resnet", 4, budget=FEW), least=0.97, peer="loop", workloads=(OWN,), large=True),
    Case("own-mlp", _own("own-mlp", 32), least=3.0, peer="loop", workloads=(OWN,)),
)
QUICK = Case("digits-mlp", _adamw("digits-mlp", 32, 100, 32), least=6.0, least_first=2.0)


def prepared(case: Case, folder: Path) -> Case:
    """Return the case with its images written to `folder`."""
    if not case.images:
        return case
    folder.mkdir(parents=True)
    write_digits(folder)
    workload = case.document["workload"]
    params = {**workload["params"], "directory": str(folder)}
    return Case(**{**vars(case), "document": {**case.document, "workload": {**workload, "params": params}}})


def spaces(spec: StudySpec) -> dict[str, dict[str, Any]]:
    """Return the search space of each optimizer as plain values, for the peer."""
    return {family.optimizer: _domains(family) for family in families(spec, load_catalogue())}


def _domains(family: Any) -> dict[str, Any]:
    defaults = {name: value for found in family.schedule_defaults.values() for name, value in found.items()}
    found: dict[str, Any] = {name: {"value": value} for name, value in defaults.items()}
    for name, domain in family.domains.items():
        if isinstance(domain, Fixed):
            found[name] = {"value": domain.value}
        elif isinstance(domain, Choices):
            found[name] = {"values": list(domain.values)}
        else:
            found[name] = vars(domain)
    return found
