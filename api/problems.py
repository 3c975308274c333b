"""Errors as RFC 9457 problem documents: one table from exceptions to status and type."""

from collections.abc import Callable
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from storage.database import DatabaseUnusable
from tuner.errors import Conflict, Fault, Forbidden, InvalidInput, NameTaken, NotAllowed, NotFound, TunerError

TABLE: list[tuple[type[TunerError], int, str]] = [
    (NotFound, 404, "tuner:not-found"),
    (NameTaken, 409, "tuner:name-taken"),
    (Conflict, 409, "tuner:conflict"),
    (InvalidInput, 422, "tuner:invalid-input"),
    (Forbidden, 403, "tuner:not-allowed"),
    (NotAllowed, 401, "tuner:not-allowed"),
    (DatabaseUnusable, 503, "tuner:storage-unusable"),
    (TunerError, 500, "tuner:error"),
]
HTTP_KINDS = {
    400: "tuner:malformed",
    401: "tuner:not-allowed",
    403: "tuner:not-allowed",
    404: "tuner:not-found",
    413: "tuner:too-large",
}
"""Errors that Starlette, FastAPI or the gate answer before a handler runs."""

RETRY_AFTER_S = "2"


def problem(status: int, kind: str, detail: str, faults: tuple[Fault, ...] = ()) -> JSONResponse:
    """Write one problem document."""
    body = {
        "type": kind,
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "errors": [{"field": fault.field, "message": fault.message} for fault in faults],
    }
    return JSONResponse(body, status_code=status, media_type="application/problem+json")


def install(app: FastAPI, page: Callable[[int], Response]) -> None:
    """Return every error as a problem document; `page` answers a reader who opens an address that does not exist."""

    @app.exception_handler(TunerError)
    async def _ours(request: Request, error: TunerError) -> JSONResponse:
        status, kind = next((status, kind) for cls, status, kind in TABLE if isinstance(error, cls))
        answer = problem(status, kind, str(error), error.faults if isinstance(error, InvalidInput) else ())
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            answer.headers["Retry-After"] = RETRY_AFTER_S
        return answer

    @app.exception_handler(RequestValidationError)
    async def _malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        faults = tuple(Fault(_field(e["loc"]), _message(e)) for e in error.errors())
        return problem(422, "tuner:invalid-input", "; ".join(map(str, faults)), faults)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404 and _is_reader(request):
            return page(404)
        return problem(error.status_code, HTTP_KINDS.get(error.status_code, "about:blank"), str(error.detail))

    @app.exception_handler(Exception)
    async def _unexpected(request: Request, error: Exception) -> JSONResponse:
        # Starlette itself logs the traceback.
        return problem(500, "tuner:error", "the server failed on this request; see its log for the traceback")


def _is_reader(request: Request) -> bool:
    """Whether a person opened the address in a browser."""
    is_page = not request.url.path.startswith(("/api/", "/static/"))
    return request.method == "GET" and is_page and "text/html" in request.headers.get("accept", "")


def _field(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location[1:]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path or str(location[0])


def _message(error: dict[str, object]) -> str:
    if error["type"] in ("missing", "json_invalid"):
        return str(error["msg"]).lower()
    seen, message = repr(error.get("input")), str(error["msg"])
    return f"{seen if len(seen) <= 100 else seen[:97] + '...'} given; {message[:1].lower()}{message[1:]}"
