"""Killing things in the middle of the demo study only delays it: nothing is lost, nothing is doubled."""

from collections.abc import Callable
from pathlib import Path

import psutil
from live_server import LiveServer, wait_for
from paced import Pace
from small_demo import DOCUMENT, expected_configurations, in_the_middle


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
    assert [trial["params"] for trial in trials] == expected_configurations(32)
    assert {trial["state"] for trial in trials} <= {"completed", "infeasible"}
    assert sum(trial["state"] == "completed" for trial in trials) >= 25
    attempts = [trial["attempt"] for trial in trials]
    assert sum(attempt >= 3 for attempt in attempts) >= 8, "they were interrupted twice and ran again"
    assert attempts[16:].count(1) >= 8, "what the restarted server proposed ran once"
    for trial in trials:
        if trial["state"] == "completed":
            assert trial["examples"] == trial["total_examples"]
    assert server.get("/studies/demo/batch-advice")["items"][0]["grade"] in ("C", "D")
