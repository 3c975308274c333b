"""The app: all wiring in one place."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio.to_thread
from fastapi import FastAPI
from starlette.middleware.gzip import GZipMiddleware

import tuner
from api import problems
from api.access.principals import Principals
from api.metrics import Metrics, Watcher
from api.pools import PLAIN
from api.request_ids import RequestIds
from api.routes import asking, catalogue, dashboard, events, results, session, studies, tokens, trials, workers
from api.routes import metrics as metrics_route
from api.security import Gate
from api.settings import Settings
from api.state import build_server
from api.waits import Waits
from storage.database import Database
from storage.migrate import upgrade
from tuner.errors import TunerError

API = "/api/v1"


def open_database(settings: Settings) -> Database:
    """Open the database and upgrade it to the newest schema.

    Raises:
        DatabaseUnusable: the database cannot be opened or written.
    """
    database = Database(settings.url, readers=settings.database_connections, synchronous=settings.sqlite_synchronous)
    try:
        database.claim()
        upgrade(database)
    except TunerError:
        database.close()
        raise
    return database


def create_app(
    settings: Settings, database: Database, waits: Waits | None = None, *, principals: Principals | None = None
) -> FastAPI:
    """Build the app; the app closes the database at shutdown."""
    known = principals or Principals(database, settings)
    streams: list[object] = []
    metrics = Metrics(database, lease_s=settings.lease_s, event_streams=lambda: len(streams))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        server = build_server(settings, database, known, metrics, waits or Waits())
        app.state.server, app.state.streams = server, streams
        server.hub.bind(asyncio.get_running_loop())
        server.waiting.bind(asyncio.get_running_loop())
        anyio.to_thread.current_default_thread_limiter().total_tokens = PLAIN
        if server.link is not None:
            server.link.start()
        conducting = app.state.conducting = asyncio.create_task(server.conductor.run())
        try:
            yield
        finally:
            server.hub.close()
            server.asker.close()
            server.pools.close()
            await asyncio.wait([conducting])  # `serve` reports its exception, if any
            if server.link is not None:
                await asyncio.to_thread(server.link.close)
            database.close()

    app = FastAPI(
        title="Tuner",
        version=tuner.__version__,
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(GZipMiddleware, minimum_size=1024)
    app.add_middleware(Gate, settings=settings)
    app.add_middleware(Watcher, metrics=metrics, prefix=API)
    app.add_middleware(RequestIds)
    problems.install(app, lambda status: dashboard.page(status, settings.root_path))
    for module in (
        workers,
        studies,
        trials,
        asking,
        results,
        events,
        catalogue,
        tokens,
    ):  # syncs are most requests: they match first
        app.include_router(module.router, prefix=API)
    app.include_router(session.router)
    app.include_router(metrics_route.router)
    dashboard.install(app)
    return app
