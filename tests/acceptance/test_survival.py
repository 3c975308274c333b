"""Killing things in the middle of the demo study only delays it: nothing is lost, nothing is doubled."""

from collections.abc import Callable
from pathlib import Path

import psutil
from live_server import LiveServer, wait_for
from paced import Pace

from tuner.search.methods import propose
from tuner.search.request import AskRequest
from tuner.study.catalogue import load_catalogue
from tuner.study.check import parse_study
from tuner.study.families import families
from tuner.study.hyperparameter import Scalar
from tuner.terminal.demo import DEMO_DOCUMENT

EXAMPLES = 2400
DOCUMENT = {
    **DEMO_DOCUMENT,
    "workload": "paced",
    "run_cap": 32,
    "parallel": 16,
    "budget": {"examples_per_trial": EXAMPLES},
    "retry": {"max": 5},
}


def expected_configurations() -> list[dict[str, Scalar]]:
    """What an undisturbed study trains: the method is deterministic."""
    spec = parse_study(DOCUMENT, load_catalogue(), ["paced"])
    spaces = families(spec, load_catalogue())
    found = []
    for number in range(spec.run_cap):
        space, index = spaces[number % len(spaces)], number // len(spaces)
        ask = AskRequest(spec.method, spec.seed, space.optimizer, space.swept, [index], [], True, 3)
        found.append(space.configuration(propose(ask)[0]))
    return found


def in_the_middle(server: LiveServer, attempt: int) -> bool:
    """Whether many trials are running for at least the `attempt`-th time, neither just begun nor about to end."""
    running = server.get("/studies/demo/trials?state=running&limit=1000")["items"]
    return sum(t["attempt"] >= attempt and 0 < t["examples"] <= EXAMPLES // 2 for t in running) >= 8


def test_a_killed_worker_and_a_killed_server_only_delay_the_demo(
    live_server: Callable[..., LiveServer], tmp_path: Path
) -> None:
    pace = Pace(tmp_path)
    server = live_server(TUNER_LEASE_S="2", **pace.environment)
    server.await_worker()
    server.submit(DOCUMENT)
    wait_for(lambda: in_the_middle(server, 1), "the first trials to be under way")
    (worker,) = server.workers()
    worker.kill()
    wait_for(lambda: in_the_middle(server, 2), "them to be under way again")
    orphans = server.kill()
    pace.lift()
    psutil.wait_procs(orphans, timeout=30)
    assert not [orphan for orphan in orphans if orphan.is_running()], "workers and samplers end with their server"
    server.start()
    wait_for(lambda: server.get("/studies/demo")["state"] == "completed", "the study to complete", 200)
    trials = server.get("/studies/demo/trials?limit=1000")["items"]
    assert [trial["number"] for trial in trials] == list(range(32))
    assert [trial["params"] for trial in trials] == expected_configurations()
    assert {trial["state"] for trial in trials} <= {"completed", "infeasible"}
    assert sum(trial["state"] == "completed" for trial in trials) >= 25
    attempts = [trial["attempt"] for trial in trials]
    assert sum(attempt >= 3 for attempt in attempts) >= 8, "they were interrupted twice and ran again"
    assert attempts[16:] == [1] * 16, "what the restarted server proposed ran once"
    for trial in trials:
        if trial["state"] == "completed":
            assert trial["examples"] == trial["total_examples"]
    assert server.get("/studies/demo/batch-advice")["items"][0]["grade"] in ("C", "D")
