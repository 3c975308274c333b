"""A PostgreSQL server that dies under a running study only delays it, and requests hear of it meanwhile."""

from collections.abc import Callable
from pathlib import Path

from live_server import LiveServer, wait_for
from paced import Pace
from postgresql import postgresql_server
from small_demo import DOCUMENT, expected_configurations, in_the_middle

from tuner.wire.sync import SyncRequest

RUNS = 20
SYNC = SyncRequest(session="s" * 16, seq=1).model_dump(mode="json")
REQUESTS = (
    ("GET", "/api/v1/studies", None),
    ("GET", "/api/v1/studies/demo/trials", None),
    ("GET", "/api/v1/studies/demo/batch-advice", None),
    ("GET", "/api/v1/studies/demo/events", None),
    ("POST", "/api/v1/studies", {**DOCUMENT, "name": "another"}),
    ("POST", "/api/v1/studies/demo/stop", None),
    ("DELETE", "/api/v1/studies/demo", None),
    ("POST", "/api/v1/workers/1/sync", SYNC),
    ("GET", "/metrics", None),
    ("GET", "/readyz", None),
)


def test_a_killed_database_only_delays_a_study(live_server: Callable[..., LiveServer], tmp_path: Path) -> None:
    pace = Pace(tmp_path)
    with postgresql_server() as database:
        server = live_server(TUNER_DATABASE_URL=database.url, **pace.environment)
        server.await_worker()
        server.submit({**DOCUMENT, "run_cap": RUNS, "retry": {"max": 0}})
        wait_for(lambda: in_the_middle(server, 1), "the first trials to be under way")
        with server.client.stream("GET", "/api/v1/studies/demo/events", timeout=60) as follower:
            database.kill()
            for method, path, body in REQUESTS:
                answer = server.client.request(method, path, json=body, timeout=30)
                assert (answer.status_code, "Retry-After" in answer.headers) == (503, True), (path, answer.text)
            wait_for(lambda: "no sync" in server.worker_log(), "the worker to hear of it")
            pace.lift()
            database.start()
            wait_for(lambda: server.get("/studies/demo")["state"] == "completed", "the study to complete")
            assert any("study.completed" in line for line in follower.iter_lines()), "who follows misses nothing"
        trials = server.get("/studies/demo/trials?limit=1000")["items"]
        assert [trial["number"] for trial in trials] == list(range(RUNS))
        assert [trial["params"] for trial in trials] == expected_configurations(RUNS)
        assert [trial["attempt"] for trial in trials] == [1] * RUNS, "nobody trained one twice"
        assert {trial["state"] for trial in trials} <= {"completed", "infeasible"}
        assert all(t["examples"] == t["total_examples"] for t in trials if t["state"] == "completed")
        assert "Traceback" not in server.log() + server.worker_log(), "an outage is said in a line"
        server.stop()
