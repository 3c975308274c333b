"""The catalogue: honest ranges, clear refusals, a JSON equal to the code, no dependency but torch."""

import subprocess
import sys

import pytest

from tuner import optimizers, schedules
from tuner.errors import InvalidInput
from tuner.optimizers import catalogue
from tuner.optimizers.catalogue import JSON_PATH, catalogue_json, check_hyperparameters, defaults, rule_class
from tuner.study.catalogue import load_catalogue

RULES = list(catalogue())


def test_the_json_equals_the_code():
    assert JSON_PATH.read_text(encoding="utf-8") == catalogue_json(), "run `python -m tuner.optimizers`"


def test_the_server_reads_back_what_the_rules_say():
    load_catalogue.cache_clear()
    assert load_catalogue().optimizers == catalogue()
    assert load_catalogue().schedules == schedules.catalogue()


@pytest.mark.parametrize("name", RULES)
def test_every_range_is_legal_and_says_where_it_comes_from(name):
    for h in catalogue()[name].hyperparameters:
        assert h.fault(h.default) is None
        assert h.description
        if h.fixes_program:
            continue
        assert h.search is not None
        assert h.fault(h.search.min) is None
        assert h.fault(h.search.max) is None
        assert h.search.min < h.search.max
        assert h.search.source
        if h.search.scaling == "log":
            assert h.search.min > 0
        if h.search.scaling == "reverse_log":
            assert h.search.max < 1


@pytest.mark.parametrize("name", RULES)
def test_every_optimizer_sweeps_its_learning_rate_and_allows_0(name):
    info = catalogue()[name]
    lr = info.hyperparameter("lr")
    assert lr is not None
    assert lr.search is not None
    assert lr.search.swept
    assert lr.search.scaling == "log"
    assert lr.search.min <= lr.default <= lr.search.max
    assert lr.fault(0.0) is None
    assert info.name == name
    assert info.summary
    assert info.formula
    assert info.reference


def test_defaults_and_checks():
    treatments = {"clip_value": 0.0, "clip_norm": 0.0, "moment_warmup": 0.0}
    decay = {"weight_decay": 0.0, "weight_decay_mode": "l2", "weight_decay_roles": "all"}
    assert defaults("momentum") == {"lr": 0.01, "momentum": 0.9, "dampening": 0.0, **decay, **treatments}
    check_hyperparameters("momentum", {"lr": 0, "momentum": 0.99})
    with pytest.raises(InvalidInput) as caught:
        check_hyperparameters("adamw", {"lr": "fast", "beta1": 1.0, "gamma": 1, "eps": 0.0})
    assert [fault.field for fault in caught.value.faults] == ["lr", "beta1", "gamma"]
    with pytest.raises(InvalidInput, match="'adm' is not known; known are sgd, momentum, nesterov"):
        rule_class("adm")


def test_the_public_names():
    assert optimizers.__all__ == ["Stacked", "build", "catalogue", "infer_roles"]
    assert all(callable(getattr(optimizers, name)) for name in optimizers.__all__)


def test_it_imports_where_only_torch_is_installed():
    program = """
import sys
for absent in ("pydantic", "optuna", "fastapi", "sqlalchemy", "sklearn", "scipy", "plotly"):
    sys.modules[absent] = None
import torch
from tuner import schedules
from tuner.optimizers import Stacked
stack = Stacked("muon", {"w": torch.ones(1, 2, 2)}, {})
stack.step({"w": torch.ones(1, 2, 2)})
assert schedules.multiplier("cosine", 0, 10, warmup=0.0) == 1.0
print("done")
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "done", result.stderr
