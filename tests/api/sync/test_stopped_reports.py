"""What a trial had reported before its worker heard that it must stop is kept."""

import shutil
from pathlib import Path

from sync_world import World

from storage import reports
from storage.database import Database
from tuner.study.states import TrialState


def test_rows_that_cross_with_a_stop_are_kept(sqlite_template: Path, tmp_path: Path) -> None:
    database = Database(f"sqlite:///{shutil.copy(sqlite_template, tmp_path / 'tuner.sqlite')}")
    world = World(database, str(tmp_path / "store"))
    world.submit("one", 1)
    world.conduct()
    worker = world.workers[0]
    world.sync(worker)
    (key,) = worker.device.running
    world.commands.stop("one")
    parcel, request = worker.holdings.outbox.parcel(), world.request(worker)
    row = {"trial": key[0], "attempt": key[1], "step": 5, "examples": 80, "elapsed_s": 1.0, "noise": None}
    worker.holdings.listen(worker.device, {"row": {**row, "metrics": {"valid_loss": 0.25}}})
    reply = world.serve(worker, request)
    assert reply is not None and [(stop.trial, stop.attempt) for stop in reply.stop] == [key]
    worker.holdings.answered(parcel, request, 0.0)
    world.obey(worker, reply)
    assert key not in worker.device.running
    world.sync(worker)
    world.sync(worker)
    (trial,) = world.trials()
    assert (trial.state, trial.step, trial.examples) == (TrialState.CANCELLED, 5, 80)
    with database.read() as session:
        rows = reports.effective_rows(session, trial_ids=[trial.id], with_noise=False)[trial.id]
    assert [(one.step, one.metrics) for one in rows] == [(5, {"valid_loss": 0.25})]
    assert not worker.holdings.held([]), "it is held no longer than that"
    database.close()
