"""A worker and a server killed in the middle of a pause: the study waits, goes on, and ends with the same bits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from live_server import LiveServer, wait_for
from paced import Pace
from test_resume import DOCUMENT, completed, items, well_under_way

from storage.database import Database


def act(server: LiveServer, what: str) -> None:
    answer = server.client.post(f"/api/v1/studies/killed/{what}", timeout=30)
    assert answer.status_code == 200, answer.text


def counts(server: LiveServer) -> dict[str, int]:
    found: dict[str, int] = server.get("/studies/killed")["counts"]
    return found


def curves(server: LiveServer, study: str) -> list[Any]:
    at = f"/studies/{study}/trials"
    found = [server.get(f"{at}/{n}/curve?points=1000&metric={m}") for n in (0, 1) for m in ("train_loss", "valid_loss")]
    return [(one["step"], one["value"]) for one in found]


def test_a_pause_outlasts_its_worker_and_its_server(live_server: Callable[..., LiveServer], tmp_path: Path) -> None:
    pace = Pace(tmp_path)
    settings = {"TUNER_LEASE_S": "2", "TUNER_CHECKPOINT_EVERY_S": "0.2", "TUNER_WIDTH": "2"}
    server = live_server(**settings, **pace.environment)
    server.await_worker()
    server.submit({**DOCUMENT, "name": "killed", "retry": {"max": 0}})
    database = Database(f"sqlite:///{server.data_dir / 'tuner.sqlite'}")
    wait_for(lambda: well_under_way(server, database), "both trials to be under way")
    database.close()
    act(server, "pause")
    (worker,) = server.workers()
    worker.kill()
    wait_for(lambda: counts(server) == {"paused": 2}, "both trials to be paused")
    server.kill()
    server.start()
    assert (server.get("/studies/killed")["state"], counts(server)) == ("paused", {"paused": 2})
    server.await_worker()
    act(server, "resume")
    wait_for(lambda: counts(server) == {"running": 2}, "both trials to run again")
    act(server, "pause")
    wait_for(lambda: counts(server) == {"paused": 2}, "both trials to be paused")
    assert [trial["attempt"] for trial in items(server, "killed")] == [2, 2]
    act(server, "resume")
    pace.lift()
    wait_for(lambda: completed(server, "killed"), "the study to complete")
    server.submit({**DOCUMENT, "name": "straight"})
    wait_for(lambda: completed(server, "straight"), "the undisturbed study to complete")
    killed, straight = items(server, "killed"), items(server, "straight")
    assert [trial["attempt"] for trial in killed] == [3, 3]
    assert [trial["value"] for trial in killed] == [trial["value"] for trial in straight]
    assert curves(server, "killed") == curves(server, "straight")
