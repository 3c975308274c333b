"""Killing things in the middle of the demo study only delays it: nothing is lost, nothing is doubled."""

from collections.abc import Callable

import psutil
from live_server import LiveServer, wait_for

from tuner.search.methods import propose
from tuner.search.request import AskRequest
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


def in_the_middle(server: LiveServer, first: int) -> bool:
    """Whether many trials from number `first` on are running, neither just begun nor about to end."""
    running = server.get("/studies/demo/trials?state=running&limit=1000")["items"]
    return sum(trial["number"] >= first and 300 <= trial["examples"] <= 4000 for trial in running) >= 8


def test_a_killed_worker_and_a_killed_server_only_delay_the_demo(live_server: Callable[..., LiveServer]) -> None:
    server = live_server(TUNER_LEASE_S="6")
    server.submit(DOCUMENT)
    wait_for(lambda: in_the_middle(server, 0), "the first trials to be under way")
    (worker,) = server.workers()
    worker.kill()
    wait_for(lambda: in_the_middle(server, 32), "the second half to be under way")
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
    for half in (trials[:32], trials[32:]):
        assert max(trial["attempt"] for trial in half) >= 2, "some trial was interrupted and ran again"
    for trial in trials:
        if trial["state"] == "completed":
            assert trial["examples"] == trial["total_examples"]
    assert server.get("/studies/demo/batch-advice")["items"][0]["grade"] in ("C", "D")
