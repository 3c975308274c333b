"""The wheel of the optimizers alone: built from the tree, installed and used where nothing else can be imported."""

import json
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

USE = '''
import json
import sys
from importlib.machinery import ModuleSpec
from importlib.metadata import distribution

PLACE, BLOCKED = sys.argv[1], set(json.loads(sys.argv[2]))


class Blocker:
    """Refuses to load packages that the wheel does not require; torch may ask where they are."""

    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name.partition(".")[0] in BLOCKED else None

    def create_module(self, spec):
        raise ModuleNotFoundError(f"{spec.name} is blocked", name=spec.name)

    def exec_module(self, module):
        pass


# An editable installation of the tree would give what the wheel lacks.
sys.meta_path = [Blocker(), *(f for f in sys.meta_path if not getattr(f, "__module__", "").startswith("__editable__"))]
sys.path.insert(0, PLACE)

import importlib.util
import pkgutil

import tuner

assert tuner.__file__.startswith(PLACE), tuner.__file__
for package in ("optimizers", "schedules", "noise"):
    whole = importlib.import_module(f"tuner.{package}")
    for module in pkgutil.walk_packages(whole.__path__, f"tuner.{package}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)

import torch
from torch import nn

model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
x, y = torch.randn(16, 4), torch.randn(16, 3)
stepped = []
for name in tuner.optimizers.catalogue():
    optimizer = tuner.optimizers.build(name, model)

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        if name != "newton_cg":
            loss.backward()
        return loss

    optimizer.step(closure)
    stepped.append(name)
assert all(torch.isfinite(p).all() for p in model.parameters())
factor = tuner.schedules.multiplier("cosine", 50, 100)
assert tuner.draws.normal_like(x).shape == x.shape
meter = tuner.noise.NoiseScale()
try:
    tuner.Client
except AttributeError as error:
    missing = str(error)
assert all(name in sys.modules or importlib.util.find_spec(name) is None for name in ("tuner.client", "tuner.engine"))
ours = sorted(name for name in sys.modules if name.startswith("tuner."))
needs = distribution("tuner-optim").requires
print(json.dumps({"stepped": stepped, "factor": float(factor), "missing": missing, "ours": ours, "needs": needs}))
'''


def pip(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-index", "--disable-pip-version-check", "-w", str(place), str(ROOT / "wheels/light"))
    (found,) = place.iterdir()
    return found


def blocked() -> list[str]:
    """What Tuner as a whole requires, by the names that are imported, without torch and numpy."""
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {line.partition(">")[0].replace("-", "_") for line in required} - {"torch", "numpy", "fsspec"}
    imported = {"scikit_learn": "sklearn", "pyyaml": "yaml"}
    return sorted({imported.get(name, name) for name in names} | {"httpx", "starlette", "cmaes", "api", "storage"})


def test_every_optimizer_steps_where_only_torch_and_numpy_are(wheel: Path, tmp_path: Path) -> None:
    place = tmp_path / "installed"
    pip("install", "--no-deps", "--no-index", "--disable-pip-version-check", "--target", str(place), str(wheel))
    assert {"pydantic", "optuna", "fastapi", "sqlalchemy", "scipy", "sklearn"} <= set(blocked())
    done = subprocess.run(
        [sys.executable, "-I", "-c", USE, str(place), json.dumps(blocked())],
        **{"capture_output": True, "text": True, "timeout": 200, "cwd": tmp_path},
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    from tuner.optimizers import catalogue

    assert told["stepped"] == list(catalogue())
    assert told["factor"] == pytest.approx(0.5, abs=0.05)
    assert told["needs"] == ["numpy>=2.0", "torch>=2.11"]
    assert told["missing"] == "tuner.Client is not part of tuner-optim; install tuner-hpo for it"
    assert not {"tuner.workloads", "tuner.engine", "tuner.client", "tuner.study.spec"} & set(told["ours"])


def test_it_holds_the_trees_own_files_and_no_others(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as found:
        names = found.namelist()
        for name in names:
            if not name.startswith("tuner_optim-"):
                assert found.read(name) == (ROOT / name).read_bytes(), name
        assert found.testzip() is None
    assert names.count("tuner/optimizers/catalogue.json") == 1 and "tuner/py.typed" in names
    tops = {name.split("/")[1] for name in names if name.startswith("tuner/")}
    assert tops == {"__init__.py", "draws.py", "errors.py", "py.typed", "study", "optimizers", "schedules", "noise"}
    assert [name for name in names if name.startswith("tuner/study/")] == [
        "tuner/study/__init__.py",
        "tuner/study/hyperparameter.py",
        "tuner/study/layer_depth.py",
        "tuner/study/parameter_groups.py",
    ]


def test_the_same_tree_gives_the_same_bytes(wheel: Path, tmp_path: Path) -> None:
    pip("wheel", "--no-deps", "--no-index", "-w", str(tmp_path), str(ROOT / "wheels/light"))
    (again,) = tmp_path.iterdir()
    assert again.read_bytes() == wheel.read_bytes() and again.name == wheel.name
