"""Every request has an id: the caller's (X-Request-ID), or one of ours. It is in the response and in every log line.

So is, in log lines, the study that a request is about. An id that is not plain text of a bounded length is replaced.
"""

import re
import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tuner import logs

HEADER = "X-Request-ID"
PLAIN = re.compile(r"[A-Za-z0-9._:/+=-]{1,64}")
OF_STUDY = re.compile(r"/api/v1/studies/([a-z0-9][a-z0-9._-]{0,63})(?:/|$)")


class RequestIds:
    """The outermost middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Name a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        name = given if PLAIN.fullmatch(given) else secrets.token_hex(8)

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = name
            await send(message)

        study = OF_STUDY.search(scope["path"])
        with logs.within(request=name, **({"study": study[1]} if study else {})):
            await self._app(scope, receive, named)
