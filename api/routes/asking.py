"""A user's own loop.

POST /studies/{study}/ask      open a session of one slot, which takes the trials of this study alone
"""

import secrets

from fastapi import APIRouter

from api.requests import CheckedRoute
from api.state import Server, Srv
from storage import identity, studies, workers
from storage.studies import StudyRecord
from tuner.errors import Conflict
from tuner.study.program import in_words
from tuner.wire.asking import Asked, Asking

router = APIRouter(prefix="/studies/{study}", tags=["own code"], route_class=CheckedRoute)
DEVICE = "own"


@router.post("/ask")
async def ask(server: Srv, study: str, asking: Asking | None = None) -> Asked:
    """Open a session for a loop of your own; then speak the sync protocol. The same session gives the same answer."""
    return await server.pools.commands.run(_opened, server, study, asking or Asking())


def _opened(server: Server, key: str, asking: Asking) -> Asked:
    with server.database.write() as session:
        study = studies.get(session, key)
        _check_one_program(study)
        own = asking.session or secrets.token_hex(16)
        worker_id = workers.register(
            session,
            worker_session=own,
            name=asking.name or f"own code for {study.name}",
            devices=[{"device": DEVICE, "description": "a loop of the user's own", "width": 1}],
            workloads=[],  # it takes what the study's trials are, whatever that is called
            version="",
            now=server.database.now(session),
            study_id=study.id,
        )
        database = identity.token(session)
    return Asked(
        worker=worker_id,
        session=own,
        device=DEVICE,
        lease_s=server.settings.lease_s,
        database=database,
        study=study.name,
        study_id=study.id,
        state=study.state,
    )


def _check_one_program(study: StudyRecord) -> None:
    if study.document.get("reproducible"):
        pinned = f" ({in_words(study.program)})" if study.program else ""
        raise Conflict(f"study {study.name} is reproducible: one program of the engine{pinned} trains all its trials")
