"""Proposals: pure functions of the request, even where they should be, and blind to nothing they should see."""

import json
import math

import numpy as np
import pytest

from tuner.search.feeding import Fed, Feed
from tuner.search.methods import propose
from tuner.search.request import AskRequest, Observation, Search
from tuner.study.hyperparameter import Scalar
from tuner.study.space import Choices, Domain, Range

DOMAINS: dict[str, Domain] = {
    "lr": Range(1e-4, 1.0, "log"),
    "beta1": Range(0.5, 0.98, "reverse_log"),
    "batch_size": Choices((8, 16, 32)),
    "layers": Range(1, 4, integer=True),
}


def request(method: str, indexes: list[int], history: list[Observation] | None = None, startup: int = 4) -> AskRequest:
    return AskRequest(Search(method, 3, "adamw", DOMAINS, True, startup), indexes, dict(enumerate(history or [])))


def observed(n: int) -> list[Observation]:
    """Trials whose value is best at lr = 0.01."""
    points = propose(request("quasirandom", list(range(n))))
    return [Observation(p, abs(math.log10(float(p["lr"])) + 2)) for p in points]


@pytest.mark.parametrize("method", ["random", "quasirandom", "tpe"])
def test_a_request_through_json_gives_the_same_answer_every_time(method: str) -> None:
    asked = request(method, [5, 6], observed(5))
    assert Fed().answer(Feed().message(asked)) == {"configurations": propose(asked)}
    for values in propose(asked):
        assert 1e-4 <= float(values["lr"]) <= 1
        assert 0.5 <= float(values["beta1"]) <= 0.98
        assert values["batch_size"] in (8, 16, 32)
        assert values["layers"] in (1, 2, 3, 4)


@pytest.mark.parametrize("method", ["random", "quasirandom"])
def test_even_methods_do_not_depend_on_how_many_are_asked_together(method: str) -> None:
    together = propose(request(method, list(range(6))))
    one_by_one = [propose(request(method, [i], observed(i)))[0] for i in range(6)]
    assert together == one_by_one
    assert len({json.dumps(values) for values in together}) == 6


def test_quasirandom_fills_every_eighth_of_the_learning_rates() -> None:
    rates = [float(values["lr"]) for values in propose(request("quasirandom", list(range(8))))]
    eighths = np.floor((np.log10(rates) + 4) / 4 * 8)
    assert sorted(eighths) == list(range(8))


def test_tpe_moves_towards_what_did_well() -> None:
    history = observed(40)
    asked = propose(request("tpe", list(range(40, 60)), history))
    distance = [abs(math.log10(float(values["lr"])) + 2) for values in asked]
    assert np.median(distance) < 0.6  # independent draws from the range: 1.0


def test_tpe_turns_away_from_a_region_that_only_diverges() -> None:
    """The best finite values lie just below the edge at which every trial diverges."""
    history = []
    for values in propose(request("quasirandom", list(range(40)))):
        lr = float(values["lr"])
        history.append(Observation(values, None, False) if lr > 0.1 else Observation(values, -math.log10(lr)))
    asked = propose(request("tpe", list(range(40, 70)), history))
    diverging = sum(float(values["lr"]) > 0.1 for values in asked)
    assert diverging <= 10


def test_tpe_without_any_result_falls_back_to_the_even_sequence() -> None:
    pending = [Observation(o.params, None) for o in observed(8)]
    assert propose(request("tpe", [8, 9], pending)) == propose(request("quasirandom", [8, 9]))


def test_tpe_learns_from_trials_that_lack_a_conditional_hyperparameter() -> None:
    history = [
        Observation({k: v for k, v in o.params.items() if i % 2 or k != "beta1"}, o.value)
        for i, o in enumerate(observed(20))
    ]
    assert set(propose(request("tpe", [20], history))[0]) == set(DOMAINS)


def test_nothing_to_sweep_gives_empty_choices() -> None:
    asked = AskRequest(Search("tpe", 0, "sgd", {}, True, 3), [0, 1], {})
    assert propose(asked) == [{}, {}]


SIZES = tuple(range(1, 33))


def of_sizes(values: tuple[Scalar, ...], history: list[Observation], count: int = 40) -> list[Scalar]:
    domains: dict[str, Domain] = {"batch_size": Choices(values), "lr": Range(1e-4, 1.0, "log")}
    search = Search("tpe", 3, "adamw", domains, True, 0)
    asked = AskRequest(search, list(range(50, 50 + count)), dict(enumerate(history)))
    return [chosen["batch_size"] for chosen in propose(asked)]


def test_tpe_learns_of_a_number_from_its_neighbours() -> None:
    """Of 200 sizes 40 were tried, and those near 120 did best: many of the others near 120 are tried next."""
    sizes = tuple(range(1, 201))
    tried = np.random.default_rng(0).permutation(sizes)[:40].tolist()
    history = [Observation({"batch_size": size}, abs(size - 120.0)) for size in tried]
    domains: dict[str, Domain] = {"batch_size": Choices(sizes)}
    search, shown = Search("tpe", 0, "adamw", domains, True, 0), dict(enumerate(history))
    chosen = [propose(AskRequest(search, [index], shown))[0]["batch_size"] for index in range(50, 90)]
    new = [size for size in chosen if size not in tried and abs(int(size) - 120) <= 20]
    assert len(new) >= 22  # without an order: 8 to 16


def test_the_order_in_which_numbers_are_listed_does_not_matter_to_tpe() -> None:
    history = [Observation({"batch_size": size, "lr": 0.01 * size}, abs(size - 20.0)) for size in SIZES]
    shuffled = tuple(np.random.default_rng(0).permutation(SIZES).tolist())
    assert of_sizes(shuffled, history, 5) == of_sizes(SIZES, history, 5)


def test_tpe_shown_a_value_outside_its_space_learns_from_the_rest() -> None:
    """An enqueued trial may have values that the study does not list."""
    history = observed(20)
    strange: dict[str, Scalar] = {"lr": 7.0, "beta1": 0.3, "batch_size": 12, "layers": 9, "nesterov": "yes"}
    chosen = propose(request("tpe", [20], [*history, Observation(strange, 0.5)]))[0]
    assert chosen["batch_size"] in (8, 16, 32) and 1e-4 <= float(chosen["lr"]) <= 1.0


def test_failing_configurations_are_left_alone_as_diverging_ones_are() -> None:
    """Above lr 40 of 100 the loss raises, and 10 does best: of the last 40 of 80 trials few are spent above."""
    domains: dict[str, Domain] = {"lr": Range(1e-3, 100.0, "log")}
    history: dict[int, Observation] = {}
    for index in range(80):
        (chosen,) = propose(AskRequest(Search("tpe", 1, "sgd", domains, True, 10), [index], history))
        lr = float(chosen["lr"])
        history[index] = Observation(chosen, None, False) if lr > 40 else Observation(chosen, abs(math.log10(lr) - 1))
    assert sum(not history[index].feasible for index in range(40, 80)) <= 6  # if they are not shown: 31 to 40
