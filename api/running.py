"""A server that runs: uvicorn with the app, and beside it the local workers, watched until a signal arrives."""

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from api.access.principals import Principals
from api.app import create_app, open_database
from api.listener import CannotServe
from api.settings import Settings
from tuner.errors import TunerError
from tuner.launchers.local import LocalWorkers, Mistaken

WATCH_S = 0.5


def run(
    settings: Settings,
    listener: socket.socket,
    url: str,
    workers: LocalWorkers | None,
    starting: "Future[None] | None",
    ready: Callable[[str], None] | None,
    local_secret: str,
) -> int:
    """Serve on a socket until a signal arrives, and return 0.

    `starting` is the start of the workers, which know the server's `local_secret`.
    """
    database = open_database(settings)
    principals = Principals(database, settings, local_secret)
    try:
        principals.reload()
        settings.check(guarded=principals.guarded)
    except TunerError:
        database.close()
        raise
    app = create_app(settings, database, principals=principals)
    config = uvicorn.Config(
        app,
        log_level="warning",
        timeout_graceful_shutdown=2,
        timeout_keep_alive=30,
        access_log=False,
        proxy_headers=False,  # the gate decides whom to believe
    )
    return asyncio.run(_run(app, _Server(config), listener, url, workers, starting, ready))


class _Server(uvicorn.Server):
    """Uvicorn without its signal handling: workers must stop before it does."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `_run`."""
        yield


async def _run(
    app: FastAPI,
    server: _Server,
    listener: socket.socket,
    url: str,
    workers: LocalWorkers | None,
    starting: "Future[None] | None",
    ready: Callable[[str], None] | None,
) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP, and means it
            loop.add_signal_handler(number, stop.set)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.02)
    if serving.done():
        await serving
        raise CannotServe("the server could not start; see the log above")
    mistaken: Mistaken | None = None
    try:
        if starting is not None:
            await asyncio.wrap_future(starting)
    except Mistaken as error:
        mistaken = error
    if ready is not None and mistaken is None:
        ready(url)
    conducting = app.state.conducting
    while mistaken is None and not stop.is_set() and not serving.done() and not conducting.done():
        try:
            if workers is not None:
                await asyncio.to_thread(workers.poll)
        except Mistaken as error:
            mistaken = error
            continue
        try:
            await asyncio.wait_for(stop.wait(), WATCH_S)
        except TimeoutError:
            continue
    if workers is not None:
        await asyncio.to_thread(workers.stop)
    app.state.server.hub.close()
    server.should_exit = True
    await serving
    if conducting.done() and conducting.exception() is not None:
        raise CannotServe(f"the conductor failed: {conducting.exception()!r}") from conducting.exception()
    if mistaken is not None:
        raise CannotServe(str(mistaken))
    return 0
