"""The sampler process holds exactly the history that it is asked after, however it came to hold it."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.search import feeding
from tuner.search.feeding import Fed, Feed
from tuner.search.methods import propose
from tuner.search.request import AskRequest, Observation, Search
from tuner.study.space import Choices, Range

SEARCH = Search(
    "tpe", 5, "adamw", {"lr": Range(1e-4, 1.0, "log"), "batch_size": Choices((8, 16, 32))}, True, 1, study=3
)

observations = st.builds(
    lambda lr, size, value, feasible: Observation({"lr": lr, "batch_size": size}, value, feasible),
    st.floats(1e-4, 1.0) | st.just(7.0),  # 7 is outside the space
    st.sampled_from([8, 16, 32]),
    st.none() | st.floats(-10, 10),
    st.booleans(),
).filter(lambda seen: seen.feasible or seen.value is None)
histories = st.dictionaries(st.integers(0, 7), observations, max_size=8)
steps = st.lists(st.tuples(histories, st.sampled_from(["", "", "", "restart", "lost", "other family", "garbled"])))


def exchange(feed: Feed, fed: Fed, request: AskRequest) -> list[dict[str, Any]]:
    """What the asker does; a history is told in whole at the second try."""
    for _ in range(2):
        answer = fed.answer(feed.message(request))
        if "configurations" in answer:
            return list(answer["configurations"])
        feed.lost(request.search)
    raise AssertionError("not taken in")


@settings(max_examples=40)
@given(steps)
def test_a_proposal_depends_on_its_request_and_not_on_what_was_fed_before(found: list[tuple[Any, str]]) -> None:
    feed, fed = Feed(), Fed()
    for index, (history, accident) in enumerate(found):
        request = AskRequest(SEARCH, [index + 1, index + 2], history)
        if accident == "restart":
            fed = Fed()  # the server may not have noticed
        if accident == "lost":
            feed.message(replace(request, history={99: Observation({}, 1.0)}))  # never arrives
        if accident == "other family":
            exchange(feed, fed, replace(request, search=replace(SEARCH, family="sgd")))
        if accident == "garbled":
            message = json.loads(feed.message(replace(request, history={98: Observation({}, 1.0)})))
            message["told"] = [[98, {}, 2.0, True]]
            assert fed.answer(json.dumps(message)) == {"lost": True}
        assert exchange(feed, fed, request) == propose(request)


def test_only_what_changed_is_sent() -> None:
    feed, fed = Feed(), Fed()
    history = {n: Observation({"lr": 0.1, "batch_size": 8}, float(n)) for n in range(50)}
    exchange(feed, fed, AskRequest(SEARCH, [50], history))
    del history[7]
    history[20] = Observation({"lr": 0.2, "batch_size": 8}, 1.0)
    history[50] = Observation({"lr": 0.3, "batch_size": 8}, None)
    line = feed.message(AskRequest(SEARCH, [51], history))
    message = json.loads(line)
    assert [number for number, *_ in message["told"]] == [20, 50] and message["gone"] == [7]
    assert fed.answer(line) == {"configurations": propose(AskRequest(SEARCH, [51], history))}


def test_the_order_of_telling_does_not_matter_where_values_are_equal() -> None:
    history = {n: Observation({"lr": 0.5**n, "batch_size": 8}, float(n % 2)) for n in range(12)}
    request = AskRequest(SEARCH, [40, 41], history)
    assert propose(request) == propose(replace(request, history=dict(reversed(history.items()))))


def test_both_ends_hold_a_bounded_number_of_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeding, "KEPT", 2)
    feed, fed = Feed(), Fed()
    for round_ in range(2):
        for study in range(4):
            request = AskRequest(replace(SEARCH, study=study), [9], {round_: Observation({"lr": 0.1}, 1.0)})
            assert exchange(feed, fed, request) == propose(request)
    assert len(feed._held) == len(fed._kept) == 2
