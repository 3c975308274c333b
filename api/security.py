"""Access control, applied before any route runs.

- Host must be one of ours: another name that points at 127.0.0.1 is a DNS rebinding attack.
- Unsafe methods must not come from a page of another origin (Origin, Sec-Fetch-Site).
- If a token is set, the API and /metrics require it as a bearer token, or the cookie that the login page issued for it.
- Body sizes are limited; every response carries the content security policy.

This is plain ASGI because a streaming response must pass through unbuffered.
"""

import hashlib
import hmac
from http.cookies import SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import problem
from api.settings import LOOPBACK, Settings

CSP = (
    "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
GUARDED = ("/api/", "/metrics")
PUBLIC = ("/healthz", "/readyz", "/api/v1/login")


class Gate:
    """The outermost middleware."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._token = settings.token.get_secret_value() if settings.token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request, and add headers to its response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                answer["Content-Security-Policy"] = CSP
                answer["X-Content-Type-Options"] = "nosniff"
                answer["Referrer-Policy"] = "same-origin"
            await send(message)

        refusal = self._refusal(scope, headers)
        if refusal is not None:
            status, detail = refusal
            kind = "tuner:too-large" if status == 413 else "tuner:not-allowed"
            await problem(status, kind, detail)(scope, receive, dressed)
            return
        await self._app(scope, self._bounded(receive), dressed)

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if not self._host_allowed(host):
            return 403, f"Host {host!r} is not one of this server's names; add it to TUNER_ALLOWED_HOSTS"
        if scope["method"] not in SAFE_METHODS and (why := self._foreign(headers, host)):
            return 403, why
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self._settings.max_body_bytes:
            return 413, f"the body has {length} bytes; at most {self._settings.max_body_bytes} are allowed"
        path = scope["path"]
        if self._token is not None and path.startswith(GUARDED) and path not in PUBLIC:
            if not self._authorised(headers):
                return 401, "a token is required: `Authorization: Bearer TOKEN`, or log in on the dashboard"
        return None

    def _host_allowed(self, host: str) -> bool:
        name = urlsplit(f"//{host}").hostname or ""
        allowed = {*LOOPBACK, self._settings.host, *self._settings.allowed_hosts}
        # A server that listens on all addresses cannot know its own names; its token protects it.
        return name in allowed or self._settings.host in ("0.0.0.0", "::")

    def _foreign(self, headers: Headers, host: str) -> str | None:
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return f"requests from pages of {origin!r} are not allowed"
        site = headers.get("sec-fetch-site")
        if site is not None and site not in ("same-origin", "none"):
            return f"requests from other sites are not allowed (Sec-Fetch-Site: {site})"
        return None

    def _authorised(self, headers: Headers) -> bool:
        assert self._token is not None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token.encode()):
            return True
        cookie = SimpleCookie(headers.get("cookie", "")).get(cookie_name(headers.get("host", "")))
        return cookie is not None and hmac.compare_digest(cookie.value, cookie_value(self._token))

    def _bounded(self, receive: Receive) -> Receive:
        """Reject a body without a declared length once it grows too large."""
        seen = 0

        async def bounded() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > self._settings.max_body_bytes:
                    return {"type": "http.disconnect"}
            return message

        return bounded


def cookie_name(host: str) -> str:
    """Name the login cookie after the port: servers on one machine share a cookie jar."""
    return f"tuner_{urlsplit(f'//{host}').port or 80}"


def cookie_value(token: str) -> str:
    """Derive what the cookie holds, so that the token itself is not stored in the browser."""
    return hashlib.sha256(b"tuner login cookie:" + token.encode()).hexdigest()
