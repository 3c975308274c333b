"""What every route does before its handler: it checks who asks (`api.access.needs`), then reads the body.

Bodies are JSON, parsed once and strictly (`tuner.wire.strict_json` says what may enter).
"""

import logging
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from api.access import needs
from api.access.principals import Principal
from storage.events import asked_by
from tuner.wire.strict_json import parse_json

log = logging.getLogger(__name__)


class CheckedRequest(Request):
    """A request whose JSON has been parsed."""

    parsed: Any = None

    async def json(self) -> Any:
        """Return the body's value."""
        return self.parsed


class CheckedRoute(APIRoute):
    """A route that refuses callers and bodies before its handler runs. Give it to a router as `route_class`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler."""
        handler = super().get_route_handler()
        roles = needs.needed(self.methods or (), self.path)
        noted = roles in (needs.CHANGE, needs.MANAGE)
        has_body = self.body_field is not None

        async def checked(request: Request) -> Response:
            principal = needs.allow(request.scope, roles)
            inner = await _with_body(request) if has_body else request
            with _noted(principal, request) if noted else nullcontext():
                return await handler(inner)

        return checked


async def _with_body(request: Request) -> CheckedRequest:
    inner = CheckedRequest(request.scope, request.receive)
    try:
        body = await inner.body()
    except ClientDisconnect as error:
        raise HTTPException(400, "the request ended before its body did") from error
    if body:
        inner.parsed = parse_json(body)
    return inner


def _noted(principal: Principal | None, request: Request) -> AbstractContextManager[None]:
    """Write beside the changes that a request makes who asked for them."""
    if principal is None or principal.name is None or request.method == "GET":
        return nullcontext()
    what = f"{request.method} {request.url.path}"
    log.info("%s by %s", what, principal.name, extra={"action": "asked", "by": principal.name, "role": principal.role})
    return asked_by(principal.name)
