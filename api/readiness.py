"""Whether the server can do its work: what /readyz tells an orchestrator, each part with its reason."""

import shutil
from pathlib import Path

from sqlalchemy import text

from api.state import Server
from storage.database import DatabaseUnusable
from tuner.wire.views import Check, Readiness

LEAST_FREE_BYTES = 64 * 2**20
"""Below this a disk counts as full: SQLite's log and one checkpoint need some room."""
ROUNDS = 2
"""Rounds of a background task that fail in a row before it counts as broken: one may meet a passing outage."""


def readiness(server: Server) -> Readiness:
    """Look at everything that the server needs."""
    checks = [_database(server), _sampler(server), _tasks(server), *_disks(server)]
    return Readiness(checks=checks)


def _database(server: Server) -> Check:
    try:
        with server.database.read() as session:
            session.execute(text("select 1 from identity"))
    except DatabaseUnusable as error:
        return Check(name="database", ok=False, detail=str(error))
    return Check(name="database", ok=True)


def _sampler(server: Server) -> Check:
    trouble = server.asker.trouble
    return Check(name="sampler", ok=trouble is None, detail=trouble or "")


def _tasks(server: Server) -> Check:
    broken = [task for task in server.conductor.tasks if task.failures >= ROUNDS]
    said = [f"{task.name} failed {task.failures} times in a row" for task in broken]
    return Check(name="tasks", ok=not broken, detail="; ".join(said))


def _disks(server: Server) -> list[Check]:
    """Look at the folders that the server writes to: its data, and the checkpoints if they are in a folder."""
    places = {"data": server.settings.data_dir}
    if "://" not in server.settings.store_root:
        places["checkpoints"] = Path(server.settings.store_root)
    return [_disk(name, place) for name, place in places.items()]


def _disk(name: str, place: Path) -> Check:
    there = next((one for one in (place, *place.absolute().parents) if one.exists()), Path("/"))
    try:
        free = shutil.disk_usage(there).free
    except OSError as error:
        return Check(name=name, ok=False, detail=f"{place}: {(error.strerror or str(error)).lower()}")
    if free < LEAST_FREE_BYTES:
        needed = f"{LEAST_FREE_BYTES >> 20} are needed"
        return Check(name=name, ok=False, detail=f"{place}: {free >> 20} MiB are free, {needed}")
    return Check(name=name, ok=True)
