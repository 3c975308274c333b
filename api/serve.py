"""Running the server: one process plus local workers, shut down in order.

On SIGINT, SIGTERM or SIGHUP (its terminal was closed) the workers stop first (they return their trials), then event
streams are closed and the server ends; all within five seconds.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from api.app import create_app, open_database
from api.settings import Settings
from tuner import logs
from tuner.errors import TunerError
from tuner.launchers.local import LocalWorkers, Mistaken

log = logging.getLogger(__name__)
WATCH_S = 0.5


class CannotServe(TunerError):
    """The server cannot start."""


def serve(settings: Settings, ready: Callable[[str], None] | None = None) -> int:
    """Serve until a signal arrives; `ready` is called with the server's URL once it responds.

    Raises:
        CannotServe: the port is in use or the address is not available.
        DatabaseUnusable: the database cannot be opened.
    """
    settings.check()
    logs.configure(settings.log_form)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    listener = _listen(settings)
    try:
        database = open_database(settings)
    except TunerError:
        listener.close()
        raise
    port = listener.getsockname()[1]
    shown = "127.0.0.1" if settings.host in ("0.0.0.0", "::", "localhost") else settings.host
    url = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"
    app = create_app(settings, database)
    config = uvicorn.Config(
        app,
        log_level="warning",
        timeout_graceful_shutdown=2,
        timeout_keep_alive=30,
        access_log=False,
    )
    server = _Server(config)
    try:
        return asyncio.run(_run(app, server, listener, settings, url, ready))
    finally:
        listener.close()


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
    settings: Settings,
    url: str,
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
    token = settings.token.get_secret_value() if settings.token else None
    workers = _local_workers(settings, url, token) if settings.local_workers else None
    mistaken: Mistaken | None = None
    try:
        if workers is not None:
            await asyncio.to_thread(workers.start)
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


def _local_workers(settings: Settings, url: str, token: str | None) -> LocalWorkers:
    flags = ["--checkpoint-every-s", str(settings.checkpoint_every_s), "--hang-s", str(settings.hang_s)]
    return LocalWorkers(
        url,
        token,
        settings.width,
        settings.data_dir / "logs",
        workloads=settings.workloads,
        flags=flags,
        environment={"TUNER_CHECKPOINTS": settings.store_root},  # a store's URL may hold its keys
    )


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(512)
    except OSError as error:
        listener.close()
        reason = (error.strerror or str(error)).lower()
        raise CannotServe(
            f"cannot listen on {settings.host}:{settings.port}: {reason}; choose another with --port, "
            "or stop the process that uses it"
        ) from error
    return listener
