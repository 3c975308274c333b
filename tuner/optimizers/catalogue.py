"""The optimizers, by name, and the check of their hyperparameters.

`python -m tuner.optimizers` writes catalogue.json next to this file, from which the server, which does not load torch,
knows optimizers and schedules. A test checks that it matches the code.
"""

import json
from collections.abc import Hashable, Mapping
from pathlib import Path

from tuner import schedules
from tuner.errors import Fault, InvalidInput
from tuner.optimizers.rule import Role, Rule
from tuner.optimizers.rules.adafactor import Adafactor
from tuner.optimizers.rules.adagrad import Adagrad
from tuner.optimizers.rules.adam import Adam
from tuner.optimizers.rules.adamw import AdamW
from tuner.optimizers.rules.ademamix import AdEMAMix
from tuner.optimizers.rules.amsgrad import AMSGrad
from tuner.optimizers.rules.bfgs import BFGS
from tuner.optimizers.rules.coordinate_descent import CoordinateDescent
from tuner.optimizers.rules.gd import GradientDescent
from tuner.optimizers.rules.gd_armijo import GradientDescentArmijo
from tuner.optimizers.rules.gd_exact import GradientDescentExact
from tuner.optimizers.rules.gd_wolfe import GradientDescentWolfe
from tuner.optimizers.rules.lamb import LAMB
from tuner.optimizers.rules.lars import LARS
from tuner.optimizers.rules.lbfgs import LBFGS
from tuner.optimizers.rules.lion import Lion
from tuner.optimizers.rules.momentum import Momentum
from tuner.optimizers.rules.muon import Muon
from tuner.optimizers.rules.nadam import NAdam
from tuner.optimizers.rules.nadamw import NAdamW
from tuner.optimizers.rules.nesterov import Nesterov
from tuner.optimizers.rules.newton_cg import NewtonCG
from tuner.optimizers.rules.prodigy import Prodigy
from tuner.optimizers.rules.psgd_kron import PSGDKron
from tuner.optimizers.rules.rmsprop import RMSprop
from tuner.optimizers.rules.schedule_free_adamw import ScheduleFreeAdamW
from tuner.optimizers.rules.schedule_free_sgd import ScheduleFreeSGD
from tuner.optimizers.rules.scion import Scion
from tuner.optimizers.rules.sgd import SGD
from tuner.optimizers.rules.shampoo import Shampoo
from tuner.optimizers.rules.signum import Signum
from tuner.optimizers.rules.soap import SOAP
from tuner.optimizers.rules.steepest import Steepest
from tuner.optimizers.treatment import treatment_of
from tuner.study.hyperparameter import OptimizerInfo, Scalar, to_json

_RULES: dict[str, type[Rule]] = {
    rule.name: rule
    for rule in (
        SGD,
        Momentum,
        Nesterov,
        Adagrad,
        RMSprop,
        Adam,
        AMSGrad,
        AdamW,
        NAdam,
        NAdamW,
        AdEMAMix,
        Lion,
        Signum,
        Muon,
        Adafactor,
        LAMB,
        LARS,
        ScheduleFreeSGD,
        ScheduleFreeAdamW,
        Prodigy,
        Scion,
        Shampoo,
        SOAP,
        PSGDKron,
        Steepest,
        GradientDescent,
        GradientDescentExact,
        GradientDescentArmijo,
        GradientDescentWolfe,
        CoordinateDescent,
        BFGS,
        LBFGS,
        NewtonCG,
    )
}

JSON_PATH = Path(__file__).with_name("catalogue.json")


def catalogue() -> dict[str, OptimizerInfo]:
    """Return the catalogue entry of every optimizer, by name, simplest first."""
    return {name: rule.info() for name, rule in _RULES.items()}


def rule_class(name: str) -> type[Rule]:
    """Find an update rule by name.

    Raises:
        InvalidInput: no rule has that name.
    """
    if name not in _RULES:
        raise InvalidInput([Fault("optimizer", f"{name!r} is not known; known are {', '.join(_RULES)}")])
    return _RULES[name]


def check_hyperparameters(name: str, values: Mapping[str, object]) -> None:
    """Reject unknown names and illegal values; hyperparameters may be left out.

    Raises:
        InvalidInput: one fault per unknown or illegal hyperparameter, or no rule is called `name`.
    """
    declared = {h.name: h for h in rule_class(name).declared()}
    faults = []
    for key, value in values.items():
        if key not in declared:
            faults.append(Fault(key, f"{name} has no such hyperparameter; it has {', '.join(declared)}"))
        elif message := declared[key].fault(value):
            faults.append(Fault(key, message))
    if faults:
        raise InvalidInput(faults)


def defaults(name: str) -> dict[str, Scalar]:
    """Return every hyperparameter's default value."""
    return {h.name: h.default for h in rule_class(name).declared()}


def vector_names(name: str) -> list[str]:
    """Return the hyperparameters that are vectors [T] with one number per trial: all that do not fix the program."""
    return [h.name for h in rule_class(name).declared() if not h.fixes_program]


def make_rule(name: str, roles: Mapping[str, Role], values: Mapping[str, Scalar]) -> Rule:
    """Return the rule for trials with these (checked) hyperparameter values; those left out take their defaults."""
    kind = rule_class(name)
    return kind(roles, _structure(kind, values), treatment_of(values, kind.decay))


def program_key(name: str, values: Mapping[str, Scalar]) -> Hashable:
    """Return the values that trials must share to be stepped by one rule object."""
    kind = rule_class(name)
    return name, tuple(_structure(kind, values).items()), treatment_of(values, kind.decay)


def _structure(kind: type[Rule], values: Mapping[str, Scalar]) -> dict[str, Scalar]:
    structure = {}
    for h in kind.declared():
        if h.fixes_program:
            value = values.get(h.name, h.default)
            structure[h.name] = int(value) if h.integer else value
    return structure


def catalogue_json() -> str:
    """Return the text of catalogue.json."""
    document = {
        "optimizers": [to_json(info) for info in catalogue().values()],
        "schedules": [to_json(info) for info in schedules.catalogue().values()],
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json() -> None:
    """Write catalogue.json next to this file."""
    JSON_PATH.write_text(catalogue_json(), encoding="utf-8")


if __name__ == "__main__":
    write_json()
