"""Login to the dashboard, and health checks.

POST /api/v1/login     exchange the token for a cookie
POST /api/v1/logout    drop the cookie
GET  /healthz          the process responds
GET  /readyz           the database responds too
"""

from fastapi import APIRouter, Request, Response
from pydantic import Field
from sqlalchemy import text

import tuner
from api.requests import CheckedRoute
from api.security import cookie_name, cookie_value, same_secret
from api.state import Srv
from tuner.errors import NotAllowed
from tuner.wire.message import Message
from tuner.wire.views import Health

router = APIRouter(tags=["session"], route_class=CheckedRoute)


class Login(Message):
    """The token to log in with."""

    token: str = Field(max_length=1000)


@router.post("/api/v1/login", status_code=204)
def login(server: Srv, request: Request, response: Response, body: Login) -> None:
    """Exchange the token for a cookie that scripts cannot read and other sites cannot send."""
    token = server.settings.token.get_secret_value() if server.settings.token else None
    if token is not None and not same_secret(body.token, token):
        raise NotAllowed("this is not the server's token")
    name = cookie_name(request.headers.get("host", ""))
    if token is not None:
        secure = request.url.scheme == "https"
        response.set_cookie(
            name, cookie_value(token), max_age=30 * 24 * 3600, httponly=True, samesite="strict", secure=secure
        )


@router.post("/api/v1/logout", status_code=204)
def logout(request: Request, response: Response) -> None:
    """Drop the cookie."""
    response.delete_cookie(cookie_name(request.headers.get("host", "")), httponly=True, samesite="strict")


@router.get("/healthz")
def healthz() -> Health:
    """Report that the process responds."""
    return Health(status="ok", service="tuner", version=tuner.__version__)


@router.get("/readyz")
def readyz(server: Srv) -> Health:
    """Report that the database responds too."""
    with server.database.read() as session:
        session.execute(text("select 1"))
    return healthz()
