"""Failures: which of them are evidence about a configuration, and when a study gives up."""

from typing import Any

import pytest

from tuner.study.failure import Attempts, gives_up, own_failure, same_way
from tuner.study.states import TrialState as T


def traceback(last: str) -> str:
    return f'Traceback (most recent call last):\n  File "loss.py", line 3, in loss\n    raise\n{last}\n'


@pytest.mark.parametrize(
    ("attempts", "own"),
    [
        ([("error", traceback("ValueError: lr too high"))] * 4, "ValueError: lr too high"),
        ([("error", traceback(f"ValueError: at step {n}")) for n in (3, 17)], "ValueError: at step 17"),
        ([("error", traceback("ValueError: once"))], "ValueError: once"),
        ([("error", traceback("ValueError: a")), ("error", traceback("KeyError: 'b'"))], None),
        ([("error", traceback("ValueError: a")), ("lost", None)], None),
        ([("crashed", None), *[("error", traceback("ValueError: twice"))] * 2], "ValueError: twice"),
        ([*[("error", traceback("ValueError: twice"))] * 2, ("crashed", None)], None),
        ([("crashed", "killed by signal 9")] * 4, None),
        ([("lost", None)] * 4, None),
        ([("error", None)] * 2, None),
        ([], None),
    ],
)
def test_only_an_exception_that_repeats_is_the_configurations_own(attempts: Attempts, own: str | None) -> None:
    assert own_failure(attempts) == own


def told(path: str = "/home/a/loss.py", line: int = 3, message: str = "ValueError: <Batch at 0x7f21bc>") -> str:
    return f'Traceback (most recent call last):\n  File "{path}", line {line}, in loss\n    raise error\n{message}\n'


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"message": "ValueError: <Batch at 0x10FF>"}, True),
        ({"path": "/srv/b/venv/loss.py"}, True),
        ({"path": r"C:\Users\b\loss.py"}, True),
        ({"path": "/home/a/model.py"}, False),
        ({"line": 4}, False),
        ({"message": "ValueError: <Batch of 3>"}, False),
        ({"message": "TypeError: <Batch at 0x7f21bc>"}, False),
    ],
)
def test_two_failures_are_the_same_but_for_addresses_and_directories(changes: dict[str, Any], same: bool) -> None:
    assert same_way(told(**changes), told()) == same


def test_two_failures_in_temporary_directories_can_be_the_same() -> None:
    texts = [told(f"/tmp/tmp{n}/loss.py", message=f"OSError: no /tmp/tmp{n}/cache-{n}") for n in ("a8x", "b7y")]
    assert same_way(*texts)
    assert not same_way(None, None) and not same_way("", "")


@pytest.mark.parametrize(
    ("counts", "over", "reason"),
    [
        ({T.FAILED: 10, T.RUNNING: 3}, False, "the first 10 trials all failed (budget.max_failed is 10): boom"),
        ({T.FAILED: 12}, False, "the first 12 trials all failed (budget.max_failed is 10): boom"),
        ({T.FAILED: 9, T.RUNNING: 1}, False, None),
        ({T.FAILED: 4}, True, "all 4 trials failed: boom"),
        ({T.FAILED: 1, T.CANCELLED: 3}, True, "the only trial failed: boom"),
        ({T.FAILED: 30, T.COMPLETED: 1}, True, None),
        ({T.FAILED: 30, T.INFEASIBLE: 1}, False, None),
        ({T.FAILED: 30, T.PRUNED: 1}, False, None),
        ({T.CANCELLED: 4}, True, None),
        ({}, True, None),
    ],
)
def test_a_study_gives_up_when_all_of_its_first_trials_failed(
    counts: dict[T, int], over: bool, reason: str | None
) -> None:
    assert gives_up(counts, 10, over=over, reasons=["odd", "boom", "boom"]) == reason
