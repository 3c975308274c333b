"""HTTP requests to a Tuner server: sending, retrying, and turning responses into values or errors.

Invariants:
- A caller sees only `tuner.errors`: a problem+json response becomes the error that the server raised; anything else
  that is not a well-formed response of a Tuner server becomes `Unreachable`, with one line that gives the address, what
  happened and the remedy.
- Only requests that are safe to repeat are retried: GETs, and requests whose connection was never made.
- The token is sent only in the Authorization header, or in Tuner-Token where a proxy needs that one; neither it nor a
  password in the address appears in a message.
"""

import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx2
from pydantic import BaseModel, ValidationError

from tuner.errors import (
    Conflict,
    Fault,
    Forbidden,
    InvalidInput,
    NameTaken,
    NotAllowed,
    NotFound,
    TunerError,
    Unreachable,
)

M = TypeVar("M", bound=BaseModel)

RETRY_DELAYS_S = (0.1, 0.3)
"""Pauses before the second and third try: long enough for a dropped connection, too short to annoy."""

BUSY_STATUS = frozenset({502, 503, 504})
"""A proxy without its server, or a server that is starting or stopping: worth a retry."""

REFUSED = "connection refused"
EXACT = {"Cache-Control": "no-cache"}
"""Code acts on what it reads: it takes no result that is a few seconds behind its study, as an open page does."""
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class Connection:
    """Sends requests to one server.

    `url` is the server's root, such as `http://127.0.0.1:8700`; `transport` replaces the network (for tests); `headers`
    are sent with every request.
    Raises `InvalidInput` when the address is not an http(s) URL. Safe to share between threads.
    """

    def __init__(
        self,
        url: str,
        token: str | None,
        timeout_s: float,
        transport: httpx2.BaseTransport | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        url = url.strip().rstrip("/")
        shown = re.sub("//[^/@]*@", "//***@", url)
        try:
            parsed = httpx2.URL(url)
        except httpx2.InvalidURL:
            parsed = httpx2.URL("")
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise InvalidInput([Fault("server", f"{shown!r} is not an address such as http://127.0.0.1:8700")])
        self.url = shown
        if token is not None and not (token.isascii() and token.isprintable()):
            raise InvalidInput([Fault("token", "contains characters that no token has; copy it again")])
        self._http = httpx2.Client(
            base_url=url,
            headers={**EXACT, **_credentials(token, headers or {}), **(headers or {})},
            timeout=httpx2.Timeout(timeout_s, connect=min(timeout_s, 5.0)),
            # uvicorn closes an idle connection after five seconds; close it earlier, so that no request hits a closing
            # one.
            limits=httpx2.Limits(max_connections=20, keepalive_expiry=3.0),
            # A proxy cannot reach this machine's own loopback.
            trust_env=parsed.host not in LOOPBACK,
            transport=transport,
        )
        self._timeout_s = timeout_s

    def close(self) -> None:
        """Close the sockets."""
        self._http.close()

    def fetch(self, kind: type[M], method: str, path: str, **options: Any) -> M:
        """Send a request and parse the response as a `kind`. `options` as for `send`."""
        response = self.send(method, path, **options)
        try:
            return kind.model_validate_json(response.content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            answer = f"unexpected content ({where + ': ' if where else ''}{first['msg']})"
            raise self._foreign(f"{method} {path}", answer) from error

    def send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int | None] | None = None,
        body: object = None,
        timeout_s: float | None = None,
        media_type: str = "application/json",
        once: str | None = None,
    ) -> httpx2.Response:
        """Send a request; return the response if it is a success of this type (or 204), raise its error otherwise.

        `query` entries that are None are left out. `body` is a pydantic value or plain JSON values. `timeout_s` is how
        long to wait for the response. `once` is an idempotency key: the request may be repeated, as reads are. Raises
        the errors of `tuner.errors`.
        """
        headers = {} if once is None else {"Idempotency-Key": once}
        content = body.model_dump_json().encode() if isinstance(body, BaseModel) else _encode(body)
        response = self._try(
            lambda: self._http.request(
                method,
                path,
                params={key: value for key, value in (query or {}).items() if value is not None},
                content=content,
                headers=headers | ({"Content-Type": "application/json"} if content is not None else {}),
                timeout=httpx2.USE_CLIENT_DEFAULT if timeout_s is None else httpx2.Timeout(timeout_s, connect=5.0),
            ),
            repeatable=method == "GET" or once is not None,
        )
        if not response.is_success:
            raise self._meaning(response, f"{method} {path}")
        if response.status_code != 204 and not _is(media_type, response):
            raise self._foreign(f"{method} {path}", _describe(response))
        return response

    @contextmanager
    def events(self, path: str, last_id: int, silence_s: float) -> Iterator[Iterator[httpx2.ServerSentEvent]]:
        """Open a stream of server-sent events after `last_id`; the stream ends when nothing arrives for `silence_s`.

        Raises `Unreachable` if the server cannot be reached (also from the iterator, if the stream breaks), and the
        error that the response stands for if it is not a stream.
        """
        timeout = httpx2.Timeout(self._timeout_s, connect=min(self._timeout_s, 5.0), read=silence_s)
        try:
            with self._http.sse(path, headers={"Last-Event-ID": str(last_id)}, timeout=timeout) as source:
                if not source.response.is_success:
                    source.response.read()
                    meaning = self._meaning(source.response, f"GET {path}")
                    is_foreign = isinstance(meaning, Unreachable) and source.response.status_code not in BUSY_STATUS
                    raise NotAStream(str(meaning)) if is_foreign else meaning
                if not source.response.headers.get("content-type", "").startswith("text/event-stream"):
                    raise NotAStream(f"{self.url} answered GET {path} with {_describe(source.response)}")
                yield self._until_silence(source)
        except httpx2.TransportError as error:
            raise self._no_answer(error) from error

    def _until_silence(self, source: httpx2.EventSource) -> Iterator[httpx2.ServerSentEvent]:
        try:
            yield from source
        except httpx2.ReadTimeout:
            return
        except httpx2.TransportError as error:
            raise self._no_answer(error) from error

    def _try(self, request: Any, repeatable: bool) -> httpx2.Response:
        for delay in (*RETRY_DELAYS_S, None):
            try:
                response: httpx2.Response = request()
            except httpx2.TransportError as error:
                again = repeatable or isinstance(error, httpx2.ConnectError)
                if delay is None or not again or isinstance(error, httpx2.TimeoutException):
                    raise self._no_answer(error) from error
            except httpx2.RequestError as error:
                raise self._foreign("the request", str(error)) from error
            else:
                if delay is None or not repeatable or response.status_code not in BUSY_STATUS:
                    return response
            time.sleep(delay)
        raise AssertionError("the last try returns or raises")

    def _no_answer(self, error: httpx2.TransportError) -> Unreachable:
        why = _reason(error)
        if isinstance(error, httpx2.TimeoutException):
            return Unreachable(f"no response from {self.url}: {why}; check the server's log, or --server")
        if isinstance(error, httpx2.ConnectError | httpx2.UnsupportedProtocol | httpx2.ProxyError):
            remedy = "start one with 'tuner serve'" if why == REFUSED else "check --server (or TUNER_SERVER)"
            return Unreachable(f"no server at {self.url}: {why}; {remedy}")
        return Unreachable(f"{self.url} closed the connection: {why}; try again, or check the server's log or --server")

    def _foreign(self, request: str, answer: str) -> Unreachable:
        remedy = "it is not a Tuner server of this version; check --server (or TUNER_SERVER)"
        return Unreachable(f"{self.url} answered {request} with {answer}: {remedy}")

    def _meaning(self, response: httpx2.Response, request: str) -> TunerError:
        problem = _problem(response)
        if problem is None:
            return self._foreign(request, _describe(response))
        detail = str(problem.get("detail") or problem.get("title") or f"status {response.status_code}")
        match response.status_code:
            case 404:
                return NotFound(detail)
            case 409:
                return NameTaken(detail) if problem.get("type") == "tuner:name-taken" else Conflict(detail)
            case 400 | 413 | 422:
                return InvalidInput(_faults(problem) or detail)
            case 401:
                return NotAllowed(f"{detail} (set TUNER_TOKEN, or give --token-file)")
            case 403:
                return Forbidden(detail)
            case status if status in BUSY_STATUS:
                return Unreachable(f"{self.url} cannot answer now ({status}): {detail}")
            case status:
                return TunerError(f"{self.url} answered {request} with {status}: {detail}")


class NotAStream(Unreachable):
    """Something between client and server does not forward server-sent events."""


def _credentials(token: str | None, headers: Mapping[str, str]) -> dict[str, str]:
    if token is None:
        return {}
    taken = any(name.lower() == "authorization" for name in headers)
    return {"Tuner-Token": token} if taken else {"Authorization": f"Bearer {token}"}


def _encode(body: object) -> bytes | None:
    if body is None:
        return None
    try:
        return json.dumps(body, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"the document cannot be written as JSON: {error}") from error


def _is(wanted: str, response: httpx2.Response) -> bool:
    media_type = response.headers.get("content-type", "").partition(";")[0].strip()
    return media_type == wanted or (wanted == "application/json" and media_type.endswith("+json"))


def _describe(response: httpx2.Response) -> str:
    media_type = response.headers.get("content-type", "").partition(";")[0].strip()
    return f"{response.status_code} {media_type or 'and no content'}"


def _problem(response: httpx2.Response) -> dict[str, Any] | None:
    if not response.headers.get("content-type", "").startswith("application/problem+json"):
        return None
    try:
        problem = json.loads(response.content)
    except ValueError:
        return None
    return problem if isinstance(problem, dict) else None


def _faults(problem: dict[str, Any]) -> list[Fault]:
    errors = problem.get("errors")
    if not isinstance(errors, list):
        return []
    return [Fault(str(e.get("field", "")), str(e.get("message", ""))) for e in errors if isinstance(e, dict)]


def _reason(error: httpx2.TransportError) -> str:
    """Describe briefly what went wrong, without the operating system's error numbers."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionRefusedError):
            return REFUSED
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror[0].lower() + cause.strerror[1:]
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx2.TimeoutException):
        return "it took too long"
    return str(error).rstrip(".") or type(error).__name__
