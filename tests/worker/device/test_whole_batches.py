"""A model whose loss depends on the batch is trained in whole batches, as the user's own script trains it."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from engine_cases import batches, solo_model
from model_kinds import task_of
from torch import nn
from worker_doubles import assignment

from tuner import workloads
from tuner.worker.channel import Json
from tuner.worker.device.runner import Runner
from tuner.worker.device.stack_choice import Given
from tuner.workloads import Task, registry

LR, EXAMPLES = 0.05, 192


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As workloads of which trials were evaluated before: not one of them begins alone."""
    monkeypatch.setattr(workloads, "is_built_in", lambda name: True)
    before = dict(registry._factories)
    registry.workload("normed")(normed)
    registry.workload("plain")(plain)
    yield
    registry._factories.clear()
    registry._factories.update(before)


def normed() -> Task:
    return task_of("batch norm")


def plain() -> Task:
    return task_of("layer norm")


def job(trial: int, batch_size: int, workload: str = "normed", **changes: Any) -> Json:
    params = {"optimizer": "sgd", "lr": LR, "batch_size": batch_size}
    given = {"workload": workload, "stack": workload, "params": params, "examples": EXAMPLES, "report_every": 10**6}
    return assignment(trial, **{**given, **changes}).model_dump()


def run(*jobs: Json, width: int = 8) -> tuple[dict[int, Json], dict[int, float], list[Json]]:
    """The programs and last validation losses by trial, and all messages."""
    sent: list[Json] = []
    runner = Runner(sent.append, "cpu", Given(width, 1))
    for one in jobs:
        runner.assign(one)
    while runner.busy:
        runner.step()
    ended = [message["ended"] for message in sent if "ended" in message]
    assert {end["outcome"] for end in ended} == {"finished"} and len(ended) == len(jobs)
    rows = [message["row"] for message in sent if "row" in message]
    losses = {row["trial"]: row["metrics"]["valid_loss"] for row in rows}
    return {message["started"][0]: message["program"] for message in sent if "started" in message}, losses, sent


def script(task: Task, batch_size: int) -> float:
    """The user's own loop with torch.optim."""
    model = solo_model(task, 0, torch.float32).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    for x, y in batches(task, 0, batch_size, torch.float32, EXAMPLES // batch_size):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    x, y = task.valid
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model.eval()(x), y))


def test_trials_of_every_batch_size_end_where_the_users_script_does() -> None:
    sizes = [16, 32, 48, 16, 32, 48]
    programs, losses, _ = run(*(job(trial, size) for trial, size in enumerate(sizes)))
    for trial, size in enumerate(sizes):
        assert losses[trial] == pytest.approx(script(normed(), size), rel=1e-4)
        assert (programs[trial]["micro_batch"], programs[trial]["batch_dependent"]) == ("whole", True)


def test_those_of_one_size_train_together_in_a_stack_as_wide_as_they_are_many() -> None:
    """Sizes and other studies train side by side: nobody waits for another's end."""
    order = [16, 32, 16, 32, 32]
    jobs = [job(trial, size) for trial, size in enumerate(order)]
    programs, _, sent = run(*jobs, job(9, 16, "plain", study_id=2), job(5, 16))
    assert [programs[trial]["width"] for trial in (0, 2, 5, 1, 3, 4)] == [3, 3, 3, 3, 3, 3]
    assert programs[9]["width"] == 8
    assert {"normed": 8, "plain": 8} in [message["stacks"] for message in sent if "stacks" in message]
    first_end = next(index for index, message in enumerate(sent) if "ended" in message)
    assert {message["started"][0] for message in sent[:first_end] if "started" in message} == {0, 1, 2, 3, 4, 5, 9}


def test_no_more_of_them_train_at_once_than_the_width_says() -> None:
    """A stack is opened for what fits beside those that train; the rest waits."""
    programs, _, sent = run(*(job(trial, 16 * (1 + trial % 3)) for trial in range(9)), width=4)
    running = most = 0
    for message in sent:
        running += ("started" in message) - ("ended" in message)
        most = max(most, running)
    assert most == 4 and {program["width"] for program in programs.values()} <= {1, 2, 3}


def test_a_micro_batch_that_the_document_asks_for_is_used_and_said() -> None:
    programs, losses, _ = run(*(job(trial, 16 * (trial + 1), micro_batch_asked=True) for trial in range(2)))
    assert [programs[trial]["micro_batch"] for trial in (0, 1)] == [4, 4]
    assert [programs[trial]["batch_dependent"] for trial in (0, 1)] == [True, True]
    assert losses[0] != pytest.approx(script(normed(), 16), rel=1e-3)


def test_other_models_keep_their_micro_batch_and_measure_noise() -> None:
    programs, _, sent = run(*(job(trial, 16 * (trial + 1), "plain") for trial in range(2)))
    assert [(programs[trial]["micro_batch"], programs[trial]["width"]) for trial in (0, 1)] == [(4, 8), (4, 8)]
    assert "batch_dependent" not in programs[0]
    assert all(message["row"]["noise"]["n"] > 0 for message in sent if "row" in message)


def test_a_reproducible_study_has_one_program_for_all_batch_sizes() -> None:
    first, losses, _ = run(job(0, 16, reproducible=True))
    pinned = [job(trial, size, reproducible=True, program=first[0]) for trial, size in enumerate((16, 32, 16))]
    programs, again, _ = run(*pinned)
    assert programs == {0: first[0], 1: first[0], 2: first[0]} and first[0]["width"] == 8
    assert again[0] == again[2] == losses[0]
