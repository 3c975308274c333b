"""Login to the dashboard, and health checks.

POST /api/v1/login     exchange a token for a cookie
POST /api/v1/logout    drop the cookie
GET  /api/v1/session   who asks, and what they may do
GET  /api/openapi.json the description of all routes
GET  /healthz          the process responds
GET  /readyz           what the server needs is there
"""

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

import tuner
from api.access.needs import PRINCIPAL
from api.access.principals import Principal, cookie_of
from api.problems import RETRY_AFTER_S, problem
from api.readiness import readiness
from api.requests import CheckedRoute
from api.security import cookie_name
from api.state import Srv
from tuner.errors import Fault, Forbidden, NotAllowed
from tuner.wire.access import Role, SessionView
from tuner.wire.message import Message
from tuner.wire.views import Health, Readiness

router = APIRouter(tags=["session"], route_class=CheckedRoute)


class Login(Message):
    """The token to log in with."""

    token: str = Field(max_length=1000)


@router.post("/api/v1/login", status_code=204)
def login(server: Srv, request: Request, response: Response, body: Login) -> None:
    """Exchange a token for a cookie that scripts cannot read and other sites cannot send."""
    server.principals.reload()
    principal = server.principals.of_token(body.token)
    if principal is None:
        if server.principals.open:
            return
        raise NotAllowed("this is not the server's token")
    if principal.role == Role.WORKER:
        raise Forbidden("this is a worker's token, which opens no page; log in with another one")
    response.set_cookie(
        cookie_name(request.headers.get("host", "")),
        cookie_of(body.token),
        max_age=30 * 24 * 3600,
        path=server.settings.root_path or "/",
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )


@router.post("/api/v1/logout", status_code=204)
def logout(server: Srv, request: Request, response: Response) -> None:
    """Drop the cookie."""
    name, path = cookie_name(request.headers.get("host", "")), server.settings.root_path or "/"
    response.delete_cookie(name, path=path, httponly=True, samesite="strict")


@router.get("/api/v1/session")
async def who(request: Request) -> SessionView:
    """Tell who asks, and what their role is."""
    principal: Principal = request.scope[PRINCIPAL]
    return principal.view


@router.get("/api/openapi.json", include_in_schema=False)
async def openapi(request: Request) -> JSONResponse:
    """Describe the API."""
    return JSONResponse(request.app.openapi())


@router.get("/healthz")
def healthz() -> Health:
    """Report that the process responds."""
    return Health(status="ok", service="tuner", version=tuner.__version__)


@router.get("/readyz", response_model=Readiness)
def readyz(server: Srv) -> Readiness | Response:
    """Report whether the server can do its work: database, sampler, background tasks, disks. 503 if it cannot."""
    found = readiness(server)
    faults = tuple(Fault(check.name, check.detail) for check in found.checks if not check.ok)
    if not faults:
        return found
    answer = problem(503, "tuner:not-ready", "; ".join(map(str, faults)), faults)
    answer.headers["Retry-After"] = RETRY_AFTER_S
    return answer
