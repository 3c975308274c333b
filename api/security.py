"""Access control, applied before any route runs.

- Whatever bytes a request has, they are refused with a status below 500: what cannot be read is not ours.
- Host must be one of ours: another name that points at 127.0.0.1 is a DNS rebinding attack.
- Unsafe methods must not come from a page of another origin (Origin, Sec-Fetch-Site).
- Who asks is found out here: by a bearer token, the cookie that the login page issued for one, or a trusted proxy. What
  they may do is decided by the route (`api.access.needs`).
- Body sizes are limited; every response carries the content security policy.

This is plain ASGI because a streaming response must pass through unbuffered.
"""

from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.access.needs import PRINCIPAL, REFUSAL
from api.access.principals import NOBODY, Principals
from api.access.proxies import Proxies
from api.problems import HTTP_KINDS, problem
from api.settings import LOOPBACK, Settings

CSP = (
    "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class Gate:
    """The outermost middleware."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._proxies = Proxies(settings)
        self._root = settings.root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request, note who asks, and add headers to its response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        by_cookie = False

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                if by_cookie:
                    answer["Tuner-Login"] = "cookie"  # the page offers to log out
                answer["Content-Security-Policy"] = CSP
                answer["X-Content-Type-Options"] = "nosniff"
                answer["Referrer-Policy"] = "same-origin"
            await send(message)

        refusal = self._refusal(scope, headers)
        if refusal is not None:
            status, detail = refusal
            await problem(status, HTTP_KINDS[status], detail)(scope, receive, dressed)
            return
        self._strip_root(scope)
        by_cookie = await self._identify(scope, headers)
        await self._app(scope, self._bounded(receive), dressed)

    def _strip_root(self, scope: Scope) -> None:
        """Drop the path that a proxy serves us below, if it did not do so itself."""
        if self._root and (scope["path"] == self._root or scope["path"].startswith(f"{self._root}/")):
            scope["path"] = scope["path"][len(self._root) :] or "/"
            scope["raw_path"] = scope["path"].encode()

    async def _identify(self, scope: Scope, headers: Headers) -> bool:
        """Leave in the scope who asks, or why that is not known; say whether a login cookie told."""
        principals: Principals = scope["app"].state.server.principals
        await principals.refresh()
        from_proxy = self._proxies.is_one(scope)
        if from_proxy:
            scope["scheme"] = self._proxies.scheme(headers, scope.get("scheme", "http"))
        token, cookie = given_token(headers), self._cookie(headers)
        found = principals.of_token(token) if token else None
        by_cookie = False
        if found is None and cookie is not None:
            found = principals.of_cookie(cookie)
            by_cookie = found is not None
        if found is None and from_proxy:
            found = self._proxies.person(headers)
        if found is None and principals.open:
            found = NOBODY
        if found is not None:
            scope[PRINCIPAL] = found
        else:
            what = "this is not the server's token" if token or cookie else "a token is required"
            scope[REFUSAL] = f"{what}: send `Authorization: Bearer TOKEN`, or log in on the dashboard"
        return by_cookie

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        if "\0" in scope["path"] or b"%00" in scope["query_string"] or any(b"\0" in v for _, v in scope["headers"]):
            return 400, "the request's address or headers contain a NUL character"
        host = headers.get("host", "")
        if not self._host_allowed(host):
            return 403, f"Host {host!r} is not one of this server's names; add it to TUNER_ALLOWED_HOSTS"
        if scope["method"] not in SAFE_METHODS and (why := self._foreign(headers, host)):
            return 403, why
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdecimal() and len(length) < 20):
            return 400, f"Content-Length {length[:40]!r} is not a number of bytes"
        if int(length) > self._settings.max_body_bytes:
            return 413, self._too_large(f"{length} bytes")
        return None

    def _host_allowed(self, host: str) -> bool:
        name = host_and_port(host)[0]
        allowed = {*LOOPBACK, self._settings.host, *self._settings.allowed_hosts}
        # A server that listens on all addresses cannot know its own names; its token protects it.
        return name in allowed or (name != "" and self._settings.host in ("0.0.0.0", "::"))

    def _foreign(self, headers: Headers, host: str) -> str | None:
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return f"requests from pages of {origin!r} are not allowed"
        site = headers.get("sec-fetch-site")
        if site is not None and site not in ("same-origin", "none"):
            return f"requests from other sites are not allowed (Sec-Fetch-Site: {site})"
        return None

    def _cookie(self, headers: Headers) -> str | None:
        """Return the value of the login cookie, which need not be the right one."""
        try:
            found = SimpleCookie(headers.get("cookie", "")).get(cookie_name(headers.get("host", "")))
        except CookieError:
            return None
        return found.value if found is not None else None

    def _bounded(self, receive: Receive) -> Receive:
        """Reject a body without a declared length once it grows too large."""
        seen = 0

        async def bounded() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > self._settings.max_body_bytes:
                    raise HTTPException(413, self._too_large(f"{seen} bytes or more"))
            return message

        return bounded

    def _too_large(self, size: str) -> str:
        return f"the body has {size}; at most {self._settings.max_body_bytes} are allowed"


def given_token(headers: Headers) -> str:
    """Return the token that a request carries; a header of our own leaves `Authorization` to a proxy."""
    own = headers.get("tuner-token", "").strip()
    scheme, _, given = headers.get("authorization", "").partition(" ")
    return own or (given.strip() if scheme.lower() == "bearer" else "")


def host_and_port(host: str) -> tuple[str, int]:
    """Split a Host header; the name is empty if it is not one. The default port is 80."""
    try:
        parts = urlsplit(f"//{host}")
        return parts.hostname or "", parts.port or 80
    except ValueError:
        return "", 80


def cookie_name(host: str) -> str:
    """Name the login cookie after the port: servers on one machine share a cookie jar."""
    return f"tuner_{host_and_port(host)[1]}"
