"""Devices that hold several stacks: what each is granted, and how a worker's devices share the trials of a stack."""

from collections import Counter
from typing import Any

import pytest
from fake_worker import FakeWorker
from fastapi.testclient import TestClient
from over_http import submit, wait_for

from tuner.wire.sync import SyncReply


def queue(client: TestClient, name: str, count: int, **changes: Any) -> None:
    """Submit a study and wait until all its trials are queued."""
    submit(client, **{"name": name, "run_cap": count, "parallel": count, **changes})
    wait_for(lambda: client.get(f"/api/v1/studies/{name}").json()["counts"] == {"queued": count})


def entry(free: int, stack: str | None = None, device: str = "cpu") -> dict[str, Any]:
    return {"device": device, "stack": stack, "free": free}


def granted(reply: SyncReply) -> dict[tuple[str, str], int]:
    """How many trials of each study each device was given."""
    return dict(Counter((one.device, one.study) for one in reply.assign))


EXAMPLES = {"examples_per_trial": 20_000}


class Devices(FakeWorker):
    """A worker with two devices, `cpu:0` and `cpu:1`."""

    names = ("cpu:0", "cpu:1")


@pytest.fixture
def worker(client: TestClient) -> FakeWorker:
    return FakeWorker(client, width=8)


def test_entries_get_trials_of_their_stacks_and_the_other_one_opens_one_more(
    client: TestClient, worker: FakeWorker
) -> None:
    queue(client, "one", 9, micro_batch=4)
    (held,) = worker.sync(capacity=[entry(1)]).assign
    queue(client, "two", 9, micro_batch=8)
    queue(client, "three", 9, micro_batch=2)
    reply = worker.sync(capacity=[entry(2, held.stack), entry(3)])
    assert granted(reply) == {("cpu", "one"): 2, ("cpu", "two"): 3}
    stacks = {one.study: one.stack for one in reply.assign}
    full = worker.sync(capacity=[entry(1, stacks["one"]), entry(1, stacks["two"])])
    assert granted(full) == {("cpu", "one"): 1, ("cpu", "two"): 1}, "no third stack: the device opens none"
    assert {one.in_flight for one in full.assign} == {9}


def test_what_was_granted_and_is_not_held_counts_and_opens_nothing_else(client: TestClient, worker: FakeWorker) -> None:
    for name, size in (("one", 4), ("two", 8), ("three", 2)):
        queue(client, name, 9, micro_batch=size)
    (first,) = worker.sync(capacity=[entry(1)]).assign
    body = worker.body(capacity=[entry(3, first.stack), entry(3)])
    assert granted(worker.post({**body, "seq": 10})) == {("cpu", "one"): 3, ("cpu", "two"): 3}
    again = worker.post({**body, "seq": 11})
    assert granted(again) == {("cpu", "one"): 3, ("cpu", "two"): 3}, "the reply was lost; nothing is added"
    wider = worker.body(capacity=[entry(3, first.stack), entry(5)])
    assert granted(worker.post({**wider, "seq": 12})) == {("cpu", "one"): 3, ("cpu", "two"): 5}


def test_the_trials_of_a_stack_are_dealt_evenly_over_the_devices_of_a_worker(client: TestClient) -> None:
    queue(client, "small", 4)
    worker = Devices(client, width=8)
    reply = worker.sync(capacity=[entry(9, device=name) for name in worker.names])
    assert granted(reply) == {("cpu:0", "small"): 2, ("cpu:1", "small"): 2}
    queue(client, "next", 7)
    (stack,) = {one.stack for one in reply.assign}
    reply = worker.sync(capacity=[entry(1, stack, "cpu:0"), entry(7, stack, "cpu:1")])
    assert granted(reply) == {("cpu:0", "next"): 1, ("cpu:1", "next"): 6}, "as far as there is room"


def test_two_studies_on_two_idle_devices_have_one_each_and_stay_there(client: TestClient) -> None:
    queue(client, "one", 9, micro_batch=4)
    queue(client, "two", 9, micro_batch=8)
    worker = Devices(client, width=8)
    reply = worker.sync(capacity=[entry(2, device=name) for name in worker.names])
    assert granted(reply) == {("cpu:0", "one"): 2, ("cpu:1", "two"): 2}
    stacks = [one.stack for one in sorted(reply.assign, key=lambda one: one.device)][::2]
    entries = [entry(0, stack, name) for stack, name in zip(stacks, worker.names, strict=True)]
    more = [entry(2, device=name) for name in worker.names]
    assert granted(worker.sync(capacity=[*entries, *more])) == {}, "neither device would be better shared"
    queue(client, "three", 9, micro_batch=2)
    assert granted(worker.sync(capacity=[*entries, *more])) == {("cpu:0", "three"): 2}


def test_a_device_learns_how_many_trials_of_a_stack_it_may_ever_have(client: TestClient, worker: FakeWorker) -> None:
    for name, parallel, method in (("given", 3, "random"), ("open", None, "random"), ("learns", None, "tpe")):
        submit(client, name=name, run_cap=40, parallel=parallel, method=method, priority=2)
        wait_for(lambda name=name: client.get(f"/api/v1/studies/{name}").json()["counts"].get("queued", 0) >= 3)
    found = {one.study: one.in_flight for one in worker.sync(capacity=[entry(9)]).assign}
    assert found == {"given": 3, "open": 40, "learns": 5}
    views = client.get("/api/v1/studies").json()["items"]
    assert {view["name"]: view["parallel"] for view in views} == {"given": 3, "open": "automatic", "learns": 5}
    assert {view["priority"] for view in views} == {2.0}
    last = next(held for held in worker.held.values() if held["study"] == "open")
    worker.finish(last)
    again = worker.sync(capacity=[entry(30, last["stack"])]).assign
    assert {one.in_flight for one in again if one.study == "open"} == {39}, "one has ended"


def test_devices_that_share_a_stack_divide_the_trials_to_expect(client: TestClient) -> None:
    queue(client, "alone", 40)
    worker = Devices(client, width=8)
    reply = worker.sync(capacity=[entry(2, device=name) for name in worker.names])
    assert {(one.in_flight, one.slots, one.remaining) for one in reply.assign} == {(40, 20, 20)}


def test_a_stack_is_expected_to_fill_with_its_share_of_the_batch_sizes(client: TestClient) -> None:
    queue(client, "wide", 90, parameters={"batch_size": {"values": [16, 64, 256, 1024, 2048]}}, budget=EXAMPLES)
    worker = Devices(client, width=8)
    reply = worker.sync(capacity=[entry(90, device=name) for name in worker.names])
    found = {one.micro_batch: (one.in_flight, one.slots, one.remaining) for one in reply.assign}
    assert found and set(found.values()) <= {(90, 18, 18), (90, 36, 36)}, "two of the five sizes share a stack"


def test_the_stacks_of_one_study_are_spread_over_the_devices_and_not_doubled(client: TestClient) -> None:
    queue(client, "wide", 90, parameters={"batch_size": {"values": [16, 64, 256]}})
    worker = Devices(client, width=4)
    reply = worker.sync(capacity=[entry(4, device=name) for name in worker.names])
    held = {name: [one.stack for one in reply.assign if one.device == name] for name in worker.names}
    assert {name: len(stacks) for name, stacks in held.items()} == {"cpu:0": 4, "cpu:1": 4}
    (first,), (second,) = (set(stacks) for stacks in held.values())
    assert first != second
    full = [entry(0, first, "cpu:0"), entry(0, second, "cpu:1")]
    reply = worker.sync(capacity=[*full, *(entry(4, device=name) for name in worker.names)])
    ((device, third),) = {(one.device, one.stack) for one in reply.assign}
    assert (device, len(reply.assign)) == ("cpu:0", 4) and third not in (first, second)
    full.append(entry(0, third, "cpu:0"))
    assert worker.sync(capacity=[*full, *(entry(4, device=name) for name in worker.names)]).assign == []


def test_a_study_that_comes_late_gets_the_next_slots_and_a_stack_of_its_own_at_once(
    client: TestClient, worker: FakeWorker
) -> None:
    """While another study has filled the device and has hundreds of trials waiting."""
    queue(client, "first", 300)
    full = worker.take(8)
    queue(client, "late", 9, priority=3)
    queue(client, "other", 9, micro_batch=2)
    reply = worker.sync(capacity=[entry(0, full[0]["stack"]), entry(2)])
    assert granted(reply) == {("cpu", "other"): 2}
    for held in full[:6]:
        worker.finish(held)
    reply = worker.sync(capacity=[entry(6, full[0]["stack"]), entry(0, reply.assign[0].stack)])
    assert granted(reply) == {("cpu", "late"): 6}, "three of four slots of the stack are its due"
    assert {(one.study, one.priority) for one in reply.assign} == {("late", 3.0)}
