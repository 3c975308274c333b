"""Killing things in the middle of the demo study only delays it: nothing is lost, nothing is doubled."""

from collections.abc import Callable

import psutil
from live_server import LiveServer, wait_for

from tuner.search.ask import AskRequest, propose
from tuner.study.catalogue import load_catalogue
from tuner.study.check import parse_study
from tuner.study.families import families
from tuner.study.hyperparameter import Scalar
from tuner.terminal.demo import DEMO_DOCUMENT

DOCUMENT = {**DEMO_DOCUMENT, "budget": {"examples_per_trial": 6000}}


def expected_configurations() -> list[dict[str, Scalar]]:
    """What an undisturbed study trains: the method is deterministic."""
    spec = parse_study(DOCUMENT, load_catalogue(), ["digits-mlp"])
    spaces = families(spec, load_catalogue())
    found = []
    for number in range(spec.run_cap):
        space, index = spaces[number % len(spaces)], number // len(spaces)
        ask = AskRequest(spec.method, spec.seed, space.optimizer, space.swept, [index], [], True, 3)
        found.append(space.configuration(propose(ask)[0]))
    return found


def ended(server: LiveServer) -> int:
    """How many trials have ended."""
    counts = server.get("/studies/demo")["counts"]
    return sum(count for state, count in counts.items() if state not in ("queued", "running"))


def test_a_killed_worker_and_a_killed_server_only_delay_the_demo(live_server: Callable[..., LiveServer]) -> None:
    server = live_server(TUNER_LEASE_S="6")
    server.submit(DOCUMENT)
    wait_for(lambda: ended(server) >= 5, "the first trials to end")
    (worker,) = server.workers()
    worker.kill()
    before = ended(server)
    wait_for(lambda: ended(server) >= before + 10, "trials to end after the worker was killed")
    orphans = server.kill()
    psutil.wait_procs(orphans, timeout=30)
    assert not [orphan for orphan in orphans if orphan.is_running()], "workers and samplers end with their server"
    server.start()
    wait_for(lambda: server.get("/studies/demo")["state"] == "completed", "the study to complete", 200)
    trials = server.get("/studies/demo/trials?limit=1000")["items"]
    assert [trial["number"] for trial in trials] == list(range(64))
    assert [trial["params"] for trial in trials] == expected_configurations()
    assert {trial["state"] for trial in trials} <= {"completed", "infeasible"}
    assert sum(trial["state"] == "completed" for trial in trials) >= 50
    assert max(trial["attempt"] for trial in trials) >= 2, "some trial was interrupted and ran again"
    for trial in trials:
        if trial["state"] == "completed":
            assert trial["examples"] == trial["total_examples"]
    assert server.get("/studies/demo/batch-advice")["items"][0]["grade"] in ("C", "D")
