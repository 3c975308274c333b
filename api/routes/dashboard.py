"""The dashboard's files.

GET /static/...                          modules and styles
GET /static/plotly-{version}.min.js      Plotly's own bundle, cached permanently under its version
GET /, /studies/..., /workers            the shell; its router shows the page
"""

import gzip
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Header, Response
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from plotly import __version__ as plotly_version
from plotly.offline import get_plotlyjs

from api.state import Srv

STATIC = Path(__file__).parent.parent / "static"
router = APIRouter(include_in_schema=False)


@cache
def _bundle(compressed: bool) -> bytes:
    source: str = get_plotlyjs()
    return gzip.compress(source.encode(), 6) if compressed else source.encode()


@router.get(f"/static/plotly-{plotly_version}.min.js")
def plotly_bundle(accept_encoding: Annotated[str, Header()] = "") -> Response:
    """Serve the bundle from the Python package, so that figures and script always match."""
    compressed = "gzip" in accept_encoding
    headers = {"Cache-Control": "public, max-age=31536000, immutable", "Vary": "Accept-Encoding"}
    if compressed:
        headers["Content-Encoding"] = "gzip"
    return Response(_bundle(compressed), media_type="text/javascript", headers=headers)


class Files(StaticFiles):
    """Files that a browser must revalidate each time: after an upgrade no page may run the old modules."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """Return the file, or 304 if it has not changed."""
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


@router.get("/", response_class=HTMLResponse)
@router.get("/studies/{rest:path}", response_class=HTMLResponse)
@router.get("/workers", response_class=HTMLResponse)
def shell(server: Srv) -> HTMLResponse:
    """Serve the shell."""
    return page(200, server.settings.root_path)


def page(status: int, root: str) -> HTMLResponse:
    """Return the shell, with `root` before its own addresses; with status 404 it says that there is no such page."""
    text = (STATIC / "index.html").read_text("utf-8").replace("plotly-VERSION", f"plotly-{plotly_version}")
    text = text.replace("ROOT", root)
    return HTMLResponse(text, status, headers={"Cache-Control": "no-cache"})


def install(app: FastAPI) -> None:
    """Add the dashboard's routes and files."""
    app.include_router(router)
    app.mount("/static", Files(directory=STATIC))
