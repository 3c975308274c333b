"""The dashboard's files.

GET /static/...                          modules and styles
GET /static/plotly-{version}.min.js      Plotly's own bundle, cached for good under its version
GET /, /studies/..., /workers            the shell; its router shows the page
"""

from functools import cache
from pathlib import Path

from fastapi import APIRouter, FastAPI, Response
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from plotly import __version__ as plotly_version
from plotly.offline import get_plotlyjs

STATIC = Path(__file__).parent.parent / "static"
router = APIRouter(include_in_schema=False)


@cache
def _bundle() -> bytes:
    source: str = get_plotlyjs()
    return source.encode()


@router.get(f"/static/plotly-{plotly_version}.min.js")
def plotly_bundle() -> Response:
    """Serve the bundle that the Python package carries, so that figures and script always match."""
    headers = {"Cache-Control": "public, max-age=31536000, immutable"}
    return Response(_bundle(), media_type="text/javascript", headers=headers)


@router.get("/", response_class=HTMLResponse)
@router.get("/studies/{rest:path}", response_class=HTMLResponse)
@router.get("/workers", response_class=HTMLResponse)
def shell() -> HTMLResponse:
    """Serve the shell."""
    page = (STATIC / "index.html").read_text().replace("plotly-VERSION", f"plotly-{plotly_version}")
    return HTMLResponse(page, headers={"Cache-Control": "no-cache"})


def install(app: FastAPI) -> None:
    """Add the dashboard's routes and files."""
    app.include_router(router)
    app.mount("/static", StaticFiles(directory=STATIC))
