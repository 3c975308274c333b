"""No document that was accepted may produce a trial that its own rule or schedule refuses.

From documents over proposals to construction: every optimizer, schedule and method, with ranges from one number or one
ulp to all that a rule allows.
"""

import math
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from study_documents import study_document

from tuner import schedules
from tuner.engine import TrialSpec
from tuner.optimizers import Stacked
from tuner.optimizers.catalogue import check_hyperparameters
from tuner.search.methods import propose
from tuner.search.request import AskRequest, Observation, Search
from tuner.study.catalogue import load_catalogue
from tuner.study.check import parse_study
from tuner.study.families import families
from tuner.study.hyperparameter import Hyperparameter, Scalar
from tuner.study.space import FamilySpace

CATALOGUE = load_catalogue()
METHODS = ("random", "quasirandom", "tpe")
LARGEST = sys.float_info.max


def configurations(family: FamilySpace, method: str, count: int) -> list[dict[str, Scalar]]:
    """The family's first configurations; TPE has seen half of them, some of them failed."""

    def ask(method: str, indexes: list[int], history: list[Observation]) -> list[dict[str, Scalar]]:
        search = Search(method, 0, family.optimizer, family.swept, True, 0)
        request = AskRequest(search, indexes, dict(enumerate(history)))
        return [family.configuration(chosen) for chosen in propose(request)]

    if method != "tpe":
        return ask(method, list(range(count)), [])
    seen = ask("random", list(range(count)), [])
    history = [Observation(params, None if i % 3 == 1 else float(i), i % 3 != 1) for i, params in enumerate(seen)]
    return ask("tpe", [count], history)


def construct(params: dict[str, Scalar]) -> None:
    """Do with a configuration what the engine does with it, except training."""
    name, schedule = str(params["optimizer"]), str(params["schedule"])
    own = {h.name: params[h.name] for h in CATALOGUE.optimizers[name].hyperparameters if h.name in params}
    check_hyperparameters(name, own)
    Stacked(name, {"weight": torch.zeros(1, 2, 3)}, own)
    shape = {p.name: params[p.name] for p in CATALOGUE.schedules[schedule].parameters if p.name in params}
    factor = schedules.multiplier(schedule, 3, 10, **shape)
    assert 0 <= factor <= 1
    assert TrialSpec(0, params, 0, 10**10).batch_size >= 1
    integers = [h.name for h in CATALOGUE.optimizers[name].hyperparameters if h.integer and h.name in own]
    assert all(float(own[key]).is_integer() for key in integers)


@pytest.mark.parametrize("method", METHODS)
def test_every_default_range_gives_configurations_that_can_be_trained(method: str) -> None:
    document = study_document(
        optimizers=list(CATALOGUE.optimizers), parameters={"schedule": {"values": list(CATALOGUE.schedules)}}
    )
    spec = parse_study(document, CATALOGUE, ["digits-mlp"])
    for family in families(spec, CATALOGUE):
        for params in configurations(family, method, 4):
            construct(params)


def numbers(h: Hyperparameter) -> st.SearchStrategy[float]:
    """Numbers that the hyperparameter allows: usual ones, and those next to its bounds."""
    low = -LARGEST if math.isinf(h.low) else (math.nextafter(h.low, math.inf) if h.low_open else h.low)
    high = LARGEST if math.isinf(h.high) else (math.nextafter(h.high, -math.inf) if h.high_open else h.high)
    if h.integer:
        # Counts that fix shapes: larger ones are legal, and would make large states.
        return st.integers(int(max(low, -50)), int(min(high, 50)))
    usual = st.floats(max(low, -10.0), min(high, 10.0))
    return usual | st.sampled_from([low, high, math.nextafter(low, high), math.nextafter(high, low)])


@st.composite
def written(draw: st.DrawFn, h: Hyperparameter) -> Any:
    """A value, a list or a range of a hyperparameter, as a document writes it."""
    if h.choices:
        return draw(st.lists(st.sampled_from(h.choices), min_size=1, max_size=3))
    form = draw(st.sampled_from(["value", "values", "range", "point", *["ulp"] * (not h.integer)]))
    one, other = draw(numbers(h)), draw(numbers(h))
    if form == "value":
        return one
    if form == "values":
        return [one, other]
    if form == "point":
        other = one
    if form == "ulp":
        other = math.nextafter(one, other)
    low, high = min(one, other), max(one, other)
    allowed = ["linear"] + ["log"] * (low > 0) + ["reverse_log"] * (high < 1)
    return {"min": low, "max": high, "scaling": draw(st.sampled_from(allowed))}


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A document of one optimizer and some schedules, with many of their numbers written out."""
    info = CATALOGUE.optimizers[draw(st.sampled_from(sorted(CATALOGUE.optimizers)))]
    own = draw(st.lists(st.sampled_from(info.hyperparameters), max_size=4, unique_by=lambda h: h.name))
    chosen = draw(st.lists(st.sampled_from(sorted(CATALOGUE.schedules)), min_size=1, max_size=2, unique=True))
    shapes = {p.name: p for name in chosen for p in CATALOGUE.schedules[name].parameters}
    parameters = {
        name: draw(written(shapes[name])) for name in draw(st.sets(st.sampled_from(sorted(shapes)), max_size=2))
    }
    return study_document(
        optimizers=[{"name": info.name, **{h.name: draw(written(h)) for h in own}}],
        parameters={**parameters, "schedule": chosen, "batch_size": draw(st.lists(st.integers(1, 640), min_size=1))},
    )


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=60)
@given(document=documents())
def test_every_accepted_document_gives_configurations_that_can_be_trained(
    method: str, document: dict[str, Any]
) -> None:
    spec = parse_study(document, CATALOGUE, ["digits-mlp"])
    (family,) = families(spec, CATALOGUE)
    for params in configurations(family, method, 4):
        construct(params)
