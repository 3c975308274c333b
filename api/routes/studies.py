"""Studies.

POST   /studies                    submit a study document
GET    /studies                    list, newest first
GET    /studies/{study}            one study, by name or id
POST   /studies/{study}/stop       stop it
DELETE /studies/{study}            delete it with all its data
"""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Query, Response
from sqlalchemy.orm import Session

from api.requests import CheckedRoute
from api.state import Server, Srv
from api.views import Moment, study_detail, study_view
from storage import studies
from tuner.errors import Fault, InvalidInput
from tuner.study.states import StudyState
from tuner.wire.views import Page, StudyDetail, StudyView

router = APIRouter(prefix="/studies", tags=["studies"], route_class=CheckedRoute)


@router.post("", status_code=201)
def submit(
    server: Srv,
    document: Annotated[dict[str, Any], Body(description="the study document")],
    idempotency_key: Annotated[str | None, Header()] = None,
) -> StudyDetail:
    """Submit a study. All errors in an invalid document are reported at once."""
    created = server.commands.submit(document, idempotency_key=idempotency_key)
    return _detail(server, created.id)


@router.get("")
def list_studies(
    server: Srv,
    state: StudyState | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: str | None = None,
) -> Page[StudyView]:
    """List studies, newest first."""
    with server.database.read() as session:
        found = studies.page(session, state=state, before_id=cursor_number(cursor), limit=limit + 1)
        shown = found[:limit]
        progress = studies.progress(session, study_ids=[study.id for study in shown])
        moment = _moment(server, session)
        items = [study_view(session, one, server.plans.of(one), progress.get(one.id), moment) for one in shown]
    return Page(items=items, next_cursor=str(shown[-1].id) if len(found) > limit else None)


@router.get("/{study}")
def show(server: Srv, study: str) -> StudyDetail:
    """Show one study, by name or id."""
    return _detail(server, study)


@router.post("/{study}/stop")
def stop(server: Srv, study: str) -> StudyDetail:
    """Stop a study: queued trials are cancelled, running ones end within seconds. Results are kept."""
    return _detail(server, server.commands.stop(study).id)


@router.delete("/{study}", status_code=204, response_class=Response)
def delete(server: Srv, study: str) -> None:
    """Delete a study with its trials, curves and events."""
    server.commands.delete(study)


def _detail(server: Srv, key: str | int) -> StudyDetail:
    with server.database.read() as session:
        study = studies.get(session, key)
        progress = studies.progress(session, study_ids=[study.id])
        return study_detail(session, study, server.plans.of(study), progress.get(study.id), _moment(server, session))


def _moment(server: Server, session: Session) -> Moment:
    return Moment(server.database.now(session), server.settings.lease_s, server.conductor.trouble)


def cursor_number(cursor: str | None) -> int | None:
    """Decode a cursor from an earlier page."""
    if cursor is None:
        return None
    if not (cursor.isascii() and cursor.isdecimal() and len(cursor) < 19):
        raise InvalidInput([Fault("cursor", f"{cursor!r} is not a cursor from this list")])
    return int(cursor)
