"""A workload that does not load is the device's trouble: its trials go back with the reason, and others are trained."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from engine_cases import small_task
from worker_doubles import FakeDevice, assignment

from tuner.errors import InvalidInput
from tuner.worker.agent.holdings import Holdings
from tuner.worker.channel import Json
from tuner.worker.device.loading import Loading
from tuner.worker.device.runner import Runner
from tuner.worker.device.stack_choice import Given
from tuner.workloads import Task, registry


def no_data() -> Task:
    raise FileNotFoundError("no file /data/train.bin")


def no_package() -> Task:
    import a_package_that_is_not_here  # type: ignore[import-not-found]  # noqa: F401

    return small_task()


def no_pretrained_weights() -> Task:
    task = small_task()
    return Task(lambda: torch.load("/nowhere/weights.pt"), task.loss, task.train, task.valid)


def odd_parameter() -> Task:
    raise InvalidInput("workload.params.hidden: is 0; allowed is an integer in [1, 9]")


def broken_model() -> Task:
    task = small_task()
    return Task(lambda: torch.nn.Linear(7, 5, bias=no_such_name), task.loss, task.train, task.valid)  # type: ignore # noqa: F821


@pytest.fixture
def registered() -> Iterator[None]:
    before = dict(registry._factories)
    for factory in (no_data, no_package, no_pretrained_weights, odd_parameter, broken_model, small_task):
        registry.workload(factory.__name__)(factory)
    yield
    registry._factories.clear()
    registry._factories.update(before)


def run(*assignments: Json) -> list[Json]:
    sent: list[Json] = []
    runner = Runner(sent.append, "cpu", Given(2, 1))
    for one in assignments:
        runner.assign(one)
    while runner.busy:
        runner.step()
    return sent


def job(trial: int, factory: Callable[..., Task], **changes: Any) -> Json:
    name = factory.__name__
    return assignment(trial, workload=name, stack=f"{name}/4", **changes).model_dump()


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        (no_data, "workload 'no_data' does not load here: FileNotFoundError: no file /data/train.bin"),
        (no_package, "workload 'no_package' does not load here: ModuleNotFoundError: No module named"),
        (no_pretrained_weights, "workload 'no_pretrained_weights' does not load here: FileNotFoundError: [Errno 2]"),
    ],
)
@pytest.mark.usefixtures("registered")
def test_trials_of_a_workload_that_does_not_load_go_back(factory: Callable[..., Task], reason: str) -> None:
    sent = run(job(1, factory), job(2, small_task), job(3, factory))
    ended = {e["trial"]: e for message in sent if "ended" in message for e in [message["ended"]]}
    assert {trial: end["outcome"] for trial, end in ended.items()} == {1: "displaced", 2: "finished", 3: "displaced"}
    assert ended[1]["error"].startswith(reason) and ended[3]["error"] == ended[1]["error"]
    assert [message["cannot_load"] for message in sent if "cannot_load" in message] == [f"{factory.__name__}/4"]


@pytest.mark.parametrize("factory", [odd_parameter, broken_model])
@pytest.mark.usefixtures("registered")
def test_what_would_fail_on_every_machine_is_the_trials_error(factory: Callable[..., Task]) -> None:
    """In the same words at every attempt, so that the server can tell that trying again is of no use."""
    sent = run(job(1, factory))
    assert [message["ended"]["outcome"] for message in sent if "ended" in message] == ["error"]
    assert not [message for message in sent if "cannot_load" in message]
    again = run(job(1, factory, attempt=2), job(2, small_task))
    errors = [message["ended"]["error"] for message in [*sent, *again] if "ended" in message]
    assert errors[0] == errors[1] and errors[0].startswith("Traceback")


@pytest.mark.usefixtures("registered")
def test_a_metric_that_the_workload_does_not_report_is_noticed_before_training() -> None:
    sent = run(job(1, small_task, metric="valid_Accuracy"), job(2, small_task, metric="valid_accuracy"))
    ended = {e["trial"]: e for message in sent if "ended" in message for e in [message["ended"]]}
    assert (ended[1]["outcome"], ended[1]["step"], ended[2]["outcome"]) == ("error", 0, "finished")
    assert "'valid_Accuracy'; the workload reports train_loss, valid_loss, valid_accuracy" in ended[1]["error"]
    assert {message["row"]["trial"] for message in sent if "row" in message} == {2}


def test_the_agent_states_it_until_the_process_starts_again() -> None:
    device = FakeDevice()
    holdings = Holdings([device])
    device.keep_running(lambda one, message: holdings.listen(one, message) and None)
    device.say({"cannot_load": "no_data/4"})
    assert holdings.capacity()[0].cannot_load == ["no_data/4"]
    device.die(1)
    assert holdings.capacity()[0].cannot_load == []


@pytest.mark.usefixtures("registered")
def test_the_first_trial_of_an_own_workload_runs_alone_until_it_was_evaluated() -> None:
    """It makes the mistakes that all would make."""
    sent: list[Json] = []
    runner = Runner(sent.append, "cpu", Given(2, 1))
    for trial in (1, 2, 3):
        runner.assign(job(trial, small_task, metric="valid_Accuracy" if trial == 1 else None, rungs=[160]))
    while runner.busy:
        runner.step()
    told = [m for m in sent if m.keys() & {"started", "ended", "row", "stacks"}]
    course = [next(iter(m)) + str(m.get("started", [""])[0]) for m in told]
    first_row = course.index("row")
    assert [c for c in course[:first_row] if c.startswith("started")] == ["started1", "started2"], (
        "the first one failed"
    )
    assert "started3" in course[first_row:]
    widths = [m["stacks"]["small_task/4"] for m in told if m.get("stacks")]
    assert widths == [1, 2]


def of_shape(values: list[str], **own: object) -> Json:
    params = {"optimizer": "sgd", **{f"workload.{name}": value for name, value in own.items()}}
    head: Json = {"workload": "digits-mlp", "workload_params": {}, "workload_values": values, "params": params}
    return head


def test_a_task_is_loaded_for_each_shape_and_for_all_its_values() -> None:
    loading = Loading(torch.device("cpu"))
    first = loading.load(of_shape(["dropout"], hidden=8, dropout=0.1), ())
    assert loading.known(of_shape(["dropout"], hidden=8, dropout=0.4)) is first
    assert (first.params, first.values) == ({"hidden": 8}, ("dropout",))
    wider = loading.load(of_shape(["dropout"], hidden=16, dropout=0.1), {first.address})
    plain = loading.load(of_shape([], hidden=8, dropout=0.1), {first.address, wider.address})
    assert plain.params == {"hidden": 8, "dropout": 0.1}
    assert (
        len({one.address for one in (first, wider, plain)}) == len({id(one.task) for one in (first, wider, plain)}) == 3
    )
    assert {one.family for one in (first, wider, plain)} == {first.family}
