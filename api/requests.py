"""Request bodies: JSON, parsed once and strictly, for every route (`tuner.wire.strict_json` says what may enter)."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from tuner.wire.strict_json import parse_json


class CheckedRequest(Request):
    """A request whose JSON has been parsed."""

    parsed: Any = None

    async def json(self) -> Any:
        """Return the body's value."""
        return self.parsed


class CheckedRoute(APIRoute):
    """A route that refuses a body before its handler runs. Give it to a router as `route_class`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler."""
        handler = super().get_route_handler()
        if self.body_field is None:
            return handler

        async def checked(request: Request) -> Response:
            inner = CheckedRequest(request.scope, request.receive)
            try:
                body = await inner.body()
            except ClientDisconnect as error:
                raise HTTPException(400, "the request ended before its body did") from error
            if body:
                inner.parsed = parse_json(body)
            return await handler(inner)

        return checked
