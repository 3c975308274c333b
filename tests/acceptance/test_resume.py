"""Killing the worker costs a trial what it did since its last checkpoint, and not a bit of its result."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from live_server import LiveServer, wait_for
from paced import Pace

from storage import attempts, checkpoints, reports, studies, trials
from storage.database import Database

EXAMPLES = 6400
DOCUMENT: dict[str, Any] = {
    "workload": "paced",
    "optimizers": ["adamw"],
    "parameters": {"batch_size": 32, "schedule": "cosine"},
    "method": "random",
    "micro_batch": 8,
    "run_cap": 2,
    "reproducible": True,  # otherwise another process may have found another program
    "parallel": 2,
    "budget": {"examples_per_trial": EXAMPLES},
}


def items(server: LiveServer, study: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.get(f"/studies/{study}/trials")["items"]
    return found


def well_under_way(server: LiveServer, database: Database) -> bool:
    """Whether both trials are in the middle of their training, and have rows and a checkpoint behind them."""
    running = [trial for trial in items(server, "killed") if trial["state"] == "running"]
    with database.read() as session:
        found = checkpoints.usable(session, trial_ids=[1, 2])
    stored = len(found) == 2 and all(checkpoint.step >= 10 for checkpoint in found.values())
    return stored and len(running) == 2 and all(trial["examples"] <= EXAMPLES // 2 for trial in running)


def completed(server: LiveServer, study: str) -> bool:
    return bool(server.get(f"/studies/{study}")["state"] == "completed")


def test_a_killed_workers_trials_resume_without_a_trace(live_server: Callable[..., LiveServer], tmp_path: Path) -> None:
    pace = Pace(tmp_path)
    settings = {"TUNER_LEASE_S": "2", "TUNER_CHECKPOINT_EVERY_S": "0.2", "TUNER_WIDTH": "2"}
    server = live_server(**settings, **pace.environment)
    server.await_worker()
    server.submit({**DOCUMENT, "name": "killed"})
    database = Database(f"sqlite:///{server.data_dir / 'tuner.sqlite'}")
    wait_for(lambda: well_under_way(server, database), "both trials to be under way")
    (worker,) = server.workers()
    worker.kill()
    pace.lift()
    wait_for(lambda: completed(server, "killed"), "the study to complete")
    server.submit({**DOCUMENT, "name": "straight"})
    wait_for(lambda: completed(server, "straight"), "the undisturbed study to complete")
    killed, straight = items(server, "killed"), items(server, "straight")
    assert [t["attempt"] for t in killed] == [2, 2] and [t["attempt"] for t in straight] == [1, 1]
    assert [t["params"] for t in killed] == [t["params"] for t in straight]
    assert [t["value"] for t in killed] == [t["value"] for t in straight]
    for number in (0, 1):
        check_joined(database, number)
    database.close()


def check_joined(database: Database, number: int) -> None:
    """The second attempt began at a checkpoint, and both attempts' rows make the undisturbed trial's curve."""
    with database.read() as session:
        ids = [
            trials.get(session, study_id=studies.get(session, name).id, number=number).id
            for name in ("killed", "straight")
        ]
        first, second = attempts.of_trial(session, trial_id=ids[0])
        (undisturbed,) = attempts.of_trial(session, trial_id=ids[1])
        curves = reports.effective_rows(session, trial_ids=ids)
    assert (first.outcome, first.resumed_from) == ("lost", 0)
    assert (second.outcome, second.resumed_from >= 10) == ("finished", True)
    assert second.program == undisturbed.program
    joined, straight = curves[ids[0]], curves[ids[1]]
    assert {row.attempt for row in joined} == {1, 2}
    assert all((row.attempt == 1) == (row.step <= second.resumed_from) for row in joined)
    assert [(r.step, r.metrics, r.noise) for r in joined] == [(r.step, r.metrics, r.noise) for r in straight]
    assert [r.elapsed_s for r in joined] == sorted(r.elapsed_s for r in joined)
